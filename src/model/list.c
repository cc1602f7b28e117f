// SPDX-License-Identifier: Apache-2.0
#include "model/list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/layout.h"
#include "mem/range.h"
#include "mem/sanitizer.h"
#include "mem/uint64.h"
#include "model/ops.h"

void list_init(struct list *list, enum kernel_precision precision)
{
    *list = (struct list){.precision = precision, .inputs = TENSOR_NONE, .targets = TENSOR_NONE, .logits = TENSOR_NONE};
}

void list_finish(struct list *list)
{
    free(list->tensors);
    free(list->ops);
    list_init(list, list->precision);
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

tensor_id list_tensor(struct list *list, enum tensor_kind kind, enum tensor_type type, uint64_t elements,
                      const char *name)
{
    if (!grow((void **)&list->tensors, &list->tensor_capacity, list->tensor_count, sizeof(*list->tensors))) {
        list->failed = true;
        return 0;
    }
    tensor_id id = (tensor_id)list->tensor_count++;
    struct tensor *tensor = &list->tensors[id];
    *tensor = (struct tensor){.kind = kind, .type = type, .constant = kind == TENSOR_INPUT, .elements = elements};
    snprintf(tensor->name, sizeof(tensor->name), "%s", name);
    return id;
}

void list_append(struct list *list, const struct op *op)
{
    if (!grow((void **)&list->ops, &list->op_capacity, list->op_count, sizeof(*list->ops))) {
        list->failed = true;
        return;
    }
    list->ops[list->op_count] = *op;
    list->ops[list->op_count++].block = list->block;
}

tensor_id list_part(struct list *list, tensor_id whole, uint64_t first_element, uint64_t elements)
{
    if (list->failed) {
        return 0;
    }
    const struct tensor tensor = list->tensors[whole]; // list_tensor may move the array
    char name[TENSOR_NAME_MAX];
    snprintf(name, sizeof(name), "part of %.*s", TENSOR_NAME_MAX - 9, tensor.name);
    tensor_id part = list_tensor(list, TENSOR_PART, tensor.type, elements, name);
    if (!list->failed) {
        list->tensors[part].first_element = first_element;
        list->tensors[part].whole = whole;
    }
    return part;
}

tensor_id list_twin(struct list *list, tensor_id tensor)
{
    const struct tensor twin = list->tensors[tensor]; // list_tensor may move the array
    return list_tensor(list, twin.kind, twin.type, twin.elements, twin.name);
}

tensor_id list_whole(const struct list *list, tensor_id tensor)
{
    const struct tensor *t = &list->tensors[tensor];
    return t->kind == TENSOR_PART ? t->whole : tensor;
}

static uint64_t element_bytes(const struct list *list, const struct tensor *tensor)
{
    return tensor->type == TENSOR_REAL ? kernel_real_bytes(list->precision) : 4;
}

uint64_t list_tensor_bytes(const struct list *list, tensor_id tensor)
{
    const struct tensor *t = &list->tensors[tensor];
    return t->elements * element_bytes(list, t);
}

bool op_mentions(const struct op *op, tensor_id tensor)
{
    for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
        if (op->tensors[slot] == tensor) {
            return true;
        }
    }
    return false;
}

bool list_mentions(const struct list *list, tensor_id tensor, size_t first)
{
    for (size_t i = first; i < list->op_count; i++) {
        if (op_mentions(&list->ops[i], tensor)) {
            return true;
        }
    }
    return false;
}

void list_fuse(struct list *list)
{
    size_t kept = 0, forward_count = list->forward_count;
    for (size_t i = 0; i < list->op_count; i++) {
        if (kept > 0 && op_fuse(list, &list->ops[kept - 1], i)) {
            list->forward_count -= i < forward_count;
        } else {
            list->ops[kept++] = list->ops[i];
        }
    }
    list->op_count = kept;
}

// Moment i + 1 is operation i. A local tensor lives from its first mention to its last; those that fusing left without
// one take no bytes.
static void find_lifetimes(const struct list *list, struct mem_buffer *buffers)
{
    for (size_t i = 0; i < list->op_count; i++) {
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            tensor_id mentioned = list->ops[i].tensors[slot];
            if (mentioned == TENSOR_NONE) {
                continue;
            }
            tensor_id id = list_whole(list, mentioned);
            struct mem_buffer *buffer = &buffers[id];
            if (buffer->birth == 0) {
                buffer->birth = (uint32_t)i + 1;
                buffer->bytes = list->tensors[id].kind == TENSOR_LOCAL ? list_tensor_bytes(list, id) : 0;
            }
            buffer->death = (uint32_t)i + 1;
        }
    }
}

static bool has_slot(unsigned slots, size_t slot)
{
    return slots >> slot & 1;
}

// Whether the operation mentions the tensor only where it may be written over.
static bool may_be_lost(const struct op *op, tensor_id input)
{
    for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
        if (op->tensors[slot] == input && !has_slot(op->type->over.inputs, slot)) {
            return false;
        }
    }
    return true;
}

// The buffer of an input that the output of operation i, born there and needed later, may be written over; TENSOR_NONE
// if there is none.
static tensor_id find_buffer(const struct list *list, const struct mem_buffer *buffers, size_t i, tensor_id output)
{
    const struct op *op = &list->ops[i];
    const struct mem_buffer *own = &buffers[output];
    bool begins = own->bytes > 0 && own->birth == i + 1 && own->death > i + 1;
    for (size_t slot = 0; begins && slot < OP_TENSORS_MAX; slot++) {
        tensor_id input = op->tensors[slot];
        if (input == TENSOR_NONE || !has_slot(op->type->over.inputs, slot) || !may_be_lost(op, input)) {
            continue;
        }
        tensor_id buffer = list->tensors[input].buffer;
        if (buffers[buffer].birth <= i && buffers[buffer].death == i + 1 && buffers[buffer].bytes == own->bytes) {
            return buffer;
        }
    }
    return TENSOR_NONE;
}

// Tensors that are written over one another become one buffer, and all but the first have no bytes of their own.
static void join_buffers(struct list *list, struct mem_buffer *buffers)
{
    for (size_t i = 0; i < list->tensor_count; i++) {
        list->tensors[i].buffer = (tensor_id)i;
    }
    for (size_t i = 0; i < list->op_count; i++) {
        const struct op *op = &list->ops[i];
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            tensor_id output = op->tensors[slot], buffer = TENSOR_NONE;
            if (output != TENSOR_NONE && has_slot(op->type->over.outputs, slot)) {
                buffer = find_buffer(list, buffers, i, output);
            }
            if (buffer != TENSOR_NONE) {
                list->tensors[output].buffer = buffer;
                buffers[buffer].death = buffers[output].death;
                buffers[output].bytes = 0;
            }
        }
    }
}

// One after the other.
static void place_inputs(struct list *list)
{
    list->inputs_bytes = 0;
    for (size_t i = 0; i < list->tensor_count; i++) {
        if (list->tensors[i].kind == TENSOR_INPUT) {
            list->tensors[i].offset_bytes = list->inputs_bytes;
            list->inputs_bytes += uint64_round_up(list_tensor_bytes(list, (tensor_id)i), LIST_ALIGNMENT);
        }
    }
}

#define LAYOUT_WORK UINT64_C(100000000) // a tenth of a second or two, where first fit misses the lower bound

bool list_place(struct list *list)
{
    size_t count = list->tensor_count;
    if (list->failed) {
        return false;
    }
    struct mem_buffer *buffers = calloc(count, sizeof(*buffers));
    uint64_t *offsets = calloc(count, sizeof(*offsets));
    struct mem_layout layout;
    bool ok = buffers != NULL && offsets != NULL;
    if (ok) {
        const struct mem_layout_goal goal = {.work = LAYOUT_WORK};
        place_inputs(list);
        find_lifetimes(list, buffers);
        join_buffers(list, buffers);
        ok = mem_layout_place(buffers, count, LIST_ALIGNMENT, &goal, offsets, &layout);
    }
    if (ok) {
        list->locals_bytes = layout.bytes;
        list->lower_bound_bytes = layout.lower_bound_bytes;
        for (size_t i = 0; i < count; i++) {
            if (list->tensors[i].kind == TENSOR_LOCAL) {
                list->tensors[i].offset_bytes = offsets[list->tensors[i].buffer];
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
        return memory->parameters + t->first_element * kernel_real_bytes(list->precision);
    case TENSOR_GRADIENT:
        return memory->gradients + t->first_element * sizeof(float);
    case TENSOR_TALLY:
        return memory->tally;
    case TENSOR_CACHE:
        return memory->cache + t->first_element * kernel_real_bytes(list->precision);
    case TENSOR_INPUT:
        return memory->inputs + t->offset_bytes;
    case TENSOR_PART:
        return list_address(list, memory, t->whole) + t->first_element * element_bytes(list, t);
    case TENSOR_LOCAL:
        break;
    }
    return memory->locals + t->offset_bytes;
}

// For a sanitizer: all that is not data or a weight may be written.
static void tell_uses(const struct list *list, const struct op *op, const struct kernel_context *context,
                      const device_address *addresses)
{
    for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
        tensor_id id = op->tensors[slot];
        if (id != TENSOR_NONE) {
            enum tensor_kind kind = list->tensors[list_whole(list, id)].kind;
            sanitizer_access(context->device, context->stream, addresses[slot], list_tensor_bytes(list, id),
                             kind != TENSOR_INPUT && kind != TENSOR_PARAMETER, op->type->name);
        }
    }
}

static void run_kernel(const struct list *list, const struct op *op, struct kernel_context *context,
                       const struct list_memory *memory)
{
    device_address addresses[OP_TENSORS_MAX];
    for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
        addresses[slot] = list_address(list, memory, op->tensors[slot]);
    }
    tell_uses(list, op, context, addresses);
    op->type->run(op, context, addresses);
}

void list_run(const struct list *list, size_t first, size_t end, struct kernel_context *context,
              const struct list_memory *memory)
{
    for (size_t i = first; i < end; i++) {
        const struct op *op = &list->ops[i];
        range_begin(op->type->name);
        __atomic_store_n(&context->operation, op->type->name, __ATOMIC_RELAXED);
        if (op->type->move != NULL) {
            op->type->move(op, context, memory->transfers, list_address(list, memory, op->tensors[0]));
        } else {
            run_kernel(list, op, context, memory);
        }
        range_end();
    }
}

static bool is_local(const struct list *list, tensor_id tensor)
{
    return tensor != TENSOR_NONE && list->tensors[list_whole(list, tensor)].kind == TENSOR_LOCAL;
}

struct list_work list_work(const struct list *list, size_t operation)
{
    const struct op *op = &list->ops[operation];
    struct list_work work = {.operation = op->type->name, .flops = op->type->flops == NULL ? 0 : op->type->flops(op)};
    tensor_id named = op->tensors[0];
    for (size_t slot = OP_TENSORS_MAX; slot-- > 0;) {
        tensor_id id = op->tensors[slot];
        work.bytes += id == TENSOR_NONE ? 0 : list_tensor_bytes(list, id);
        named = is_local(list, id) ? id : named;
    }
    memcpy(work.tensor, list->tensors[named].name, sizeof(work.tensor));
    return work;
}

uint64_t list_flops(const struct list *list)
{
    uint64_t flops = 0;
    for (size_t i = 0; i < list->op_count; i++) {
        flops += list_work(list, i).flops;
    }
    return flops;
}
