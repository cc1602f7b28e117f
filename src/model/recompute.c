// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "model/list.h"
#include "model/ops.h"

// The forward operations that write a tensor.
struct producers {
    size_t first, last;
    bool recomputed;         // all of them
    tensor_id recomputation; // what they wrote the second time; TENSOR_NONE: they have not run yet
};

struct pass {
    struct list *list;           // its forward pass, and as much of the backward pass as is rewritten
    struct producers *producers; // of each tensor
};

static bool writes(const struct op *op, size_t slot)
{
    return op->tensors[slot] != TENSOR_NONE && (op->type->writes >> slot & 1) != 0;
}

static bool produces(const struct op *op, tensor_id tensor)
{
    for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
        if (op->tensors[slot] == tensor && writes(op, slot)) {
            return true;
        }
    }
    return false;
}

// Blocks, from the first on, of which only what they pass on is kept.
static size_t whole_blocks(const struct list *list, enum list_recompute_mode mode)
{
    size_t blocks = 0;
    for (size_t i = 0; i < list->forward_count; i++) {
        blocks = list->ops[i].block > blocks ? list->ops[i].block : blocks;
    }
    return mode == LIST_RECOMPUTE_FULL ? blocks : mode == LIST_RECOMPUTE_HALF ? blocks / 2 : 0;
}

static bool is_recomputed(const struct list *list, size_t i, enum list_recompute_mode mode, size_t whole)
{
    const struct op *op = &list->ops[i];
    bool ends_block = i + 1 == list->forward_count || list->ops[i + 1].block != op->block;
    if (op->block > 0 && op->block <= whole) {
        return !ends_block;
    }
    return mode != LIST_RECOMPUTE_FULL && op->type->cheap;
}

static void add_producer(struct producers *producers, size_t i, bool recomputed)
{
    bool is_first = producers->first == SIZE_MAX;
    producers->first = is_first ? i : producers->first;
    producers->last = i;
    producers->recomputed = recomputed && (is_first || producers->recomputed);
}

static void find_producers(const struct list *list, enum list_recompute_mode mode, struct producers *producers)
{
    size_t whole = whole_blocks(list, mode);
    for (size_t i = 0; i < list->tensor_count; i++) {
        producers[i] = (struct producers){.first = SIZE_MAX, .recomputation = TENSOR_NONE};
    }
    for (size_t i = 0; i < list->forward_count; i++) {
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            if (writes(&list->ops[i], slot)) {
                add_producer(&producers[list->ops[i].tensors[slot]], i, is_recomputed(list, i, mode, whole));
            }
        }
    }
}

static tensor_id kept_or_recomputed(struct pass *pass, tensor_id tensor);

static void recompute(struct pass *pass, size_t i)
{
    struct op op = pass->list->ops[i];
    for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
        if (!writes(&op, slot)) {
            op.tensors[slot] = kept_or_recomputed(pass, op.tensors[slot]);
            continue;
        }
        struct producers *producers = &pass->producers[op.tensors[slot]];
        if (producers->recomputation == TENSOR_NONE) {
            producers->recomputation = list_twin(pass->list, op.tensors[slot]);
        }
        op.tensors[slot] = producers->recomputation;
    }
    list_append(pass->list, &op);
}

static tensor_id kept_or_recomputed(struct pass *pass, tensor_id tensor)
{
    if (tensor == TENSOR_NONE || !pass->producers[tensor].recomputed) {
        return tensor;
    }
    const struct producers *producers = &pass->producers[tensor];
    bool done = producers->recomputation != TENSOR_NONE;
    for (size_t i = producers->first; !done && i <= producers->last; i++) {
        if (produces(&pass->list->ops[i], tensor)) {
            recompute(pass, i);
        }
    }
    return producers->recomputation;
}

static void rewrite(struct pass *pass, const struct op *backward, size_t count)
{
    for (size_t i = 0; i < count && !pass->list->failed; i++) {
        struct op op = backward[i];
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            op.tensors[slot] = kept_or_recomputed(pass, op.tensors[slot]);
        }
        list_append(pass->list, &op);
    }
}

void list_recompute(struct list *list, enum list_recompute_mode mode)
{
    if (mode == LIST_RECOMPUTE_NONE || list->failed) {
        return;
    }
    size_t count = list->op_count - list->forward_count;
    struct producers *producers = malloc(list->tensor_count * sizeof(*producers));
    struct op *backward = malloc(count * sizeof(*backward));
    if (producers == NULL || backward == NULL) {
        list->failed = true;
    } else {
        memcpy(backward, list->ops + list->forward_count, count * sizeof(*backward));
        list->op_count = list->forward_count;
        find_producers(list, mode, producers);
        rewrite(&(struct pass){.list = list, .producers = producers}, backward, count);
    }
    free(backward);
    free(producers);
}
