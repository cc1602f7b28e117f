// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "model/list.h"
#include "model/ops.h"

// Of a tensor of the forward pass.
struct making {
    size_t first, last; // of the operations that write it
    bool again;         // all of them run again where it is needed
    tensor_id copy;     // what they made then; TENSOR_NONE: not yet
};

struct rewriting {
    struct list *list;
    const struct op *ops; // of the forward pass
    size_t count;
    struct making *makings; // of each tensor
};

static bool writes(const struct op *op, size_t slot)
{
    return op->tensors[slot] != TENSOR_NONE && (op->type->writes >> slot & 1) != 0;
}

static bool runs_again(const struct list *list, size_t i, enum list_recompute recompute)
{
    const struct op *op = &list->ops[i];
    bool ends_block = i + 1 == list->forward_count || list->ops[i + 1].block != op->block;
    return recompute == LIST_RECOMPUTE_FULL ? op->block > 0 && !ends_block : op->type->cheap;
}

static void find_makings(const struct list *list, enum list_recompute recompute, struct making *makings)
{
    for (size_t i = 0; i < list->tensor_count; i++) {
        makings[i] = (struct making){.first = SIZE_MAX, .copy = TENSOR_NONE};
    }
    for (size_t i = 0; i < list->forward_count; i++) {
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            if (writes(&list->ops[i], slot)) {
                struct making *making = &makings[list->ops[i].tensors[slot]];
                bool begins = making->first == SIZE_MAX;
                making->again = (begins || making->again) && runs_again(list, i, recompute);
                making->first = begins ? i : making->first;
                making->last = i;
            }
        }
    }
}

static tensor_id add_copy(struct list *list, tensor_id tensor)
{
    const struct tensor original = list->tensors[tensor]; // list_tensor may move the array
    return list_tensor(list, original.kind, original.type, original.elements, original.name);
}

static tensor_id find_or_make(struct rewriting *rewriting, tensor_id tensor);

static void run_again(struct rewriting *rewriting, size_t i)
{
    struct op op = rewriting->ops[i];
    for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
        if (!writes(&op, slot)) {
            op.tensors[slot] = find_or_make(rewriting, op.tensors[slot]);
            continue;
        }
        struct making *making = &rewriting->makings[op.tensors[slot]];
        if (making->copy == TENSOR_NONE) {
            making->copy = add_copy(rewriting->list, op.tensors[slot]);
        }
        op.tensors[slot] = making->copy;
    }
    list_append(rewriting->list, &op);
}

static bool makes(const struct op *op, tensor_id tensor)
{
    for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
        if (writes(op, slot) && op->tensors[slot] == tensor) {
            return true;
        }
    }
    return false;
}

// The tensor itself, or its copy, with the operations that make it appended.
static tensor_id find_or_make(struct rewriting *rewriting, tensor_id tensor)
{
    if (tensor == TENSOR_NONE || !rewriting->makings[tensor].again) {
        return tensor;
    }
    const struct making *making = &rewriting->makings[tensor];
    bool made = making->copy != TENSOR_NONE;
    for (size_t i = making->first; !made && i <= making->last; i++) {
        if (makes(&rewriting->ops[i], tensor)) {
            run_again(rewriting, i);
        }
    }
    return making->copy;
}

static void rewrite(struct rewriting *rewriting, const struct op *ops, size_t count)
{
    struct list *list = rewriting->list;
    for (size_t i = 0; i < count && !list->failed; i++) {
        struct op op = ops[i];
        for (size_t slot = 0; i >= rewriting->count && slot < OP_TENSORS_MAX; slot++) {
            op.tensors[slot] = find_or_make(rewriting, op.tensors[slot]);
        }
        list_append(list, &op);
    }
}

void list_recompute(struct list *list, enum list_recompute recompute)
{
    if (recompute == LIST_RECOMPUTE_NONE || list->failed) {
        return;
    }
    struct making *makings = malloc(list->tensor_count * sizeof(*makings));
    if (makings == NULL) {
        list->failed = true;
        return;
    }
    find_makings(list, recompute, makings);
    struct op *ops = list->ops;
    size_t count = list->op_count;
    list->ops = NULL;
    list->op_count = list->op_capacity = 0;
    rewrite(&(struct rewriting){.list = list, .ops = ops, .count = list->forward_count, .makings = makings}, ops,
            count);
    free(ops);
    free(makings);
}
