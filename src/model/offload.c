// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "mem/uint64.h"
#include "model/list.h"
#include "model/ops.h"

// The operations: a tensor begins to leave, has left, begins to come back, is back. Copies run one after the other, and
// not before what was enqueued before them. `copied` is marked anew by each, so who waits for it waits for all until
// then.

static void begin_copy(const struct kernel_context *context, const struct list_transfers *transfers)
{
    const struct device_ops *ops = context->device->ops;
    ops->event_record(context->device, transfers->computed, context->stream);
    ops->event_wait(context->device, transfers->stream, transfers->computed);
}

static void end_copy(const struct kernel_context *context, const struct list_transfers *transfers)
{
    context->device->ops->event_record(context->device, transfers->copied, transfers->stream);
}

static void move_out(const struct op *op, struct kernel_context *context, const struct list_transfers *transfers,
                     device_address address)
{
    begin_copy(context, transfers);
    context->device->ops->copy_to_host(context->device, transfers->stream, transfers->host + op->move.host_offset,
                                       address, op->move.bytes);
    end_copy(context, transfers);
}

static void move_back(const struct op *op, struct kernel_context *context, const struct list_transfers *transfers,
                      device_address address)
{
    begin_copy(context, transfers);
    context->device->ops->copy_to_device(context->device, transfers->stream, address,
                                         transfers->host + op->move.host_offset, op->move.bytes);
    end_copy(context, transfers);
}

static void wait_for_copies(const struct op *op, struct kernel_context *context, const struct list_transfers *transfers,
                            device_address address)
{
    (void)op, (void)address;
    context->device->ops->event_wait(context->device, context->stream, transfers->copied);
}

static const struct op_type offload = {.name = "offload", .move = move_out};
static const struct op_type offload_wait = {.name = "offload_wait", .move = wait_for_copies};
static const struct op_type fetch = {.name = "fetch", .move = move_back};
static const struct op_type fetch_wait = {.name = "fetch_wait", .move = wait_for_copies};

enum move { LEAVES, HAS_LEFT, COMES, IS_BACK, MOVES };

#define NOWHERE SIZE_MAX

// A tensor that the backward pass needs of the forward pass.
struct kept {
    tensor_id tensor;
    // Operations of the list before it is rewritten: it leaves after the last of the forward pass that mentions it, and
    // is back before the first of the backward pass; it has left after one between them, and comes before another.
    size_t at[MOVES];
    tensor_id twin; // that comes back; TENSOR_NONE: it stays
    uint64_t host_offset;
};

// Local tensors that both passes mention, the backward pass as wholes; answers how many. kept[tensor_count].
static size_t find_kept(const struct list *list, struct kept *kept)
{
    for (size_t i = 0; i < list->tensor_count; i++) {
        kept[i] =
            (struct kept){.tensor = (tensor_id)i, .at = {[LEAVES] = NOWHERE, [IS_BACK] = NOWHERE}, .twin = TENSOR_NONE};
    }
    for (size_t i = 0; i < list->op_count; i++) {
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            tensor_id id = list->ops[i].tensors[slot];
            struct kept *of = id == TENSOR_NONE ? NULL : &kept[list_whole(list, id)];
            if (of != NULL && i < list->forward_count) {
                of->at[LEAVES] = i;
            } else if (of != NULL) {
                of->at[IS_BACK] = of->at[IS_BACK] == NOWHERE ? i : of->at[IS_BACK];
                of->at[LEAVES] = list_whole(list, id) == id ? of->at[LEAVES] : NOWHERE;
            }
        }
    }
    size_t count = 0;
    for (size_t i = 0; i < list->tensor_count; i++) {
        if (list->tensors[i].kind == TENSOR_LOCAL && kept[i].at[LEAVES] != NOWHERE && kept[i].at[IS_BACK] != NOWHERE) {
            kept[count++] = kept[i];
        }
    }
    return count;
}

// When the next one begins to leave, and when the one before begins to be needed.
static void find_neighbours(const struct kept *kept, size_t count, struct kept *of)
{
    of->at[HAS_LEFT] = NOWHERE;
    of->at[COMES] = 0;
    for (size_t i = 0; i < count; i++) {
        if (kept[i].at[LEAVES] > of->at[LEAVES] && kept[i].at[LEAVES] < of->at[HAS_LEFT]) {
            of->at[HAS_LEFT] = kept[i].at[LEAVES];
        }
        if (kept[i].at[IS_BACK] < of->at[IS_BACK] && kept[i].at[IS_BACK] > of->at[COMES]) {
            of->at[COMES] = kept[i].at[IS_BACK];
        }
    }
}

// Those that are away while some operation runs get a place in host memory.
static void choose(struct list *list, struct kept *kept, size_t count)
{
    for (size_t i = 0; i < count && !list->failed; i++) {
        find_neighbours(kept, count, &kept[i]);
        if (kept[i].at[COMES] > 0 && kept[i].at[HAS_LEFT] < kept[i].at[COMES] - 1) {
            kept[i].twin = list_twin(list, kept[i].tensor);
            kept[i].host_offset = list->host_bytes;
            list->host_bytes += uint64_round_up(list_tensor_bytes(list, kept[i].tensor), LIST_ALIGNMENT);
        }
    }
}

// Of all that make it at operation i.
static void append_moves(struct list *list, enum move move, const struct op_type *type, size_t i,
                         const struct kept *kept, size_t count)
{
    for (size_t k = 0; k < count; k++) {
        if (kept[k].twin == TENSOR_NONE || kept[k].at[move] != i) {
            continue;
        }
        struct op op = {.type = type,
                        .move = {.host_offset = kept[k].host_offset, .bytes = list_tensor_bytes(list, kept[k].tensor)}};
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            op.tensors[slot] = TENSOR_NONE;
        }
        op.tensors[0] = move < COMES ? kept[k].tensor : kept[k].twin;
        list_append(list, &op);
    }
}

static void use_twins(struct op *op, size_t i, const struct kept *kept, size_t count)
{
    for (size_t k = 0; k < count; k++) {
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            bool replaced = op->tensors[slot] == kept[k].tensor && kept[k].at[IS_BACK] <= i;
            op->tensors[slot] = replaced && kept[k].twin != TENSOR_NONE ? kept[k].twin : op->tensors[slot];
        }
    }
}

static void rewrite(struct list *list, const struct op *ops, size_t count, const struct kept *kept, size_t kept_count)
{
    size_t forward_count = list->forward_count;
    list->op_count = 0;
    for (size_t i = 0; i < count && !list->failed; i++) {
        struct op op = ops[i];
        list->forward_count = i == forward_count ? list->op_count : list->forward_count;
        append_moves(list, IS_BACK, &fetch_wait, i, kept, kept_count);
        append_moves(list, COMES, &fetch, i, kept, kept_count);
        use_twins(&op, i, kept, kept_count);
        list_append(list, &op);
        append_moves(list, HAS_LEFT, &offload_wait, i, kept, kept_count);
        append_moves(list, LEAVES, &offload, i, kept, kept_count);
    }
}

void list_offload(struct list *list)
{
    size_t count = list->op_count;
    struct kept *kept = calloc(list->tensor_count + 1, sizeof(*kept));
    struct op *ops = calloc(count + 1, sizeof(*ops));
    if (list->failed || kept == NULL || ops == NULL) {
        list->failed = true;
    } else {
        memcpy(ops, list->ops, count * sizeof(*ops));
        size_t kept_count = find_kept(list, kept);
        choose(list, kept, kept_count);
        rewrite(list, ops, count, kept, kept_count);
    }
    free(ops);
    free(kept);
}
