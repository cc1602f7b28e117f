// SPDX-License-Identifier: Apache-2.0
#include "model/list.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/layout.h"
#include "model/ops.h"

void list_init(struct list *list)
{
    *list = (struct list){.inputs = TENSOR_NONE, .targets = TENSOR_NONE};
}

void list_finish(struct list *list)
{
    free(list->tensors);
    free(list->ops);
    list_init(list);
}

static bool grow(void **items, size_t *capacity, size_t count, size_t item_bytes)
{
    if (count < *capacity) {
        return true;
    }
    size_t larger = *capacity == 0 ? 64 : 2 * *capacity;
    void *moved = realloc(*items, larger * item_bytes);
    if (moved == NULL) {
        return false;
    }
    *items = moved;
    *capacity = larger;
    return true;
}

tensor_id list_tensor(struct list *list, enum tensor_kind kind, uint64_t elements, uint64_t offset_bytes,
                      const char *name)
{
    if (!grow((void **)&list->tensors, &list->tensor_capacity, list->tensor_count, sizeof(*list->tensors))) {
        list->failed = true;
        return 0;
    }
    tensor_id id = (tensor_id)list->tensor_count++;
    struct tensor *tensor = &list->tensors[id];
    *tensor = (struct tensor){.kind = kind, .elements = elements, .offset_bytes = offset_bytes};
    snprintf(tensor->name, sizeof(tensor->name), "%s", name);
    return id;
}

void list_append(struct list *list, const struct op *op)
{
    if (!grow((void **)&list->ops, &list->op_capacity, list->op_count, sizeof(*list->ops))) {
        list->failed = true;
        return;
    }
    list->ops[list->op_count++] = *op;
}

static bool in_block(const struct tensor *tensor)
{
    return tensor->kind == TENSOR_INPUT || tensor->kind == TENSOR_LOCAL;
}

// Moment 0 is the copying in of inputs, moment i + 1 is operation i. A tensor lives from its first mention to its last.
static void find_lifetimes(const struct list *list, struct mem_buffer *buffers)
{
    for (size_t i = 0; i < list->tensor_count; i++) {
        buffers[i] = (struct mem_buffer){.bytes = in_block(&list->tensors[i]) ? 4 * list->tensors[i].elements : 0};
    }
    for (size_t i = 0; i < list->op_count; i++) {
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            tensor_id id = list->ops[i].tensors[slot];
            if (id == TENSOR_NONE) {
                continue;
            }
            struct mem_buffer *buffer = &buffers[id];
            if (buffer->birth == 0 && list->tensors[id].kind != TENSOR_INPUT) {
                buffer->birth = (uint32_t)i + 1;
            }
            buffer->death = (uint32_t)i + 1;
        }
    }
}

bool list_place(struct list *list)
{
    size_t count = list->tensor_count;
    if (list->failed) {
        return false;
    }
    struct mem_buffer *buffers = calloc(count, sizeof(*buffers));
    uint64_t *offsets = calloc(count, sizeof(*offsets));
    bool ok = buffers != NULL && offsets != NULL;
    if (ok) {
        find_lifetimes(list, buffers);
        list->block_bytes = mem_layout_place(buffers, count, LIST_ALIGNMENT, offsets);
        list->lower_bound_bytes = mem_layout_lower_bound(buffers, count, LIST_ALIGNMENT);
        assert(mem_layout_valid(buffers, offsets, count, list->block_bytes));
        for (size_t i = 0; i < count; i++) {
            if (in_block(&list->tensors[i])) {
                list->tensors[i].offset_bytes = offsets[i];
            }
        }
    }
    free(buffers);
    free(offsets);
    return ok;
}

device_address list_address(const struct list *list, const struct list_memory *memory, tensor_id tensor)
{
    if (tensor == TENSOR_NONE) {
        return 0;
    }
    const struct tensor *t = &list->tensors[tensor];
    switch (t->kind) {
    case TENSOR_PARAMETER:
        return memory->parameters + t->offset_bytes;
    case TENSOR_GRADIENT:
        return memory->gradients + t->offset_bytes;
    case TENSOR_TALLY:
        return memory->tally;
    case TENSOR_INPUT:
    case TENSOR_LOCAL:
        break;
    }
    return memory->block + t->offset_bytes;
}

void list_run(const struct list *list, const struct kernels *kernels, struct stream *stream,
              const struct list_memory *memory)
{
    for (size_t i = 0; i < list->op_count; i++) {
        const struct op *op = &list->ops[i];
        device_address addresses[OP_TENSORS_MAX];
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            addresses[slot] = list_address(list, memory, op->tensors[slot]);
        }
        op->type->run(op, kernels, stream, addresses);
    }
}

uint64_t list_flops(const struct list *list)
{
    uint64_t flops = 0;
    for (size_t i = 0; i < list->op_count; i++) {
        const struct op *op = &list->ops[i];
        flops += op->type->flops == NULL ? 0 : op->type->flops(op);
    }
    return flops;
}
