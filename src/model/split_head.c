// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/uint64.h"
#include "model/list.h"
#include "model/ops.h"

// The operations that the logits take part in: [first, end) of the list's.
struct head {
    size_t first, end;
    size_t rows;
};

// False where one of them is not done row by row.
static bool find_head(const struct list *list, struct head *head)
{
    while (!op_mentions(&list->ops[head->first], list->logits)) {
        head->first++;
    }
    for (head->end = head->first; head->end < list->op_count && op_mentions(&list->ops[head->end], list->logits);
         head->end++) {
        struct op op = list->ops[head->end];
        if (op.type->rows == NULL) {
            return false;
        }
        head->rows = *op.type->rows(&op).count;
    }
    return !list_mentions(list, list->logits, head->end);
}

// Parts are to be as aligned as kernels want arrays, so they begin at multiples of so many rows.
static size_t row_multiple(const struct list *list, const struct head *head)
{
    size_t multiple = 1;
    for (size_t i = head->first; i < head->end; i++) {
        struct op op = list->ops[i];
        struct op_rows by_rows = op.type->rows(&op);
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            bool has_rows = (by_rows.slots >> slot & 1) != 0;
            uint64_t row_bytes = has_rows ? list_tensor_bytes(list, op.tensors[slot]) / head->rows : 0;
            while (row_bytes * multiple % KERNEL_ALIGNMENT != 0) {
                multiple *= 2;
            }
        }
    }
    return multiple;
}

// The logits are made anew in each part, the last maybe of fewer rows: one tensor holds those of any.
static tensor_id part_of(struct list *list, const struct head *head, tensor_id tensor, size_t first, size_t rows)
{
    if (tensor == list->logits) {
        return tensor;
    }
    uint64_t columns = list->tensors[tensor].elements / head->rows;
    return list_part(list, tensor, first * columns, rows * columns);
}

static void append_part(struct list *list, const struct head *head, const struct op *head_ops, size_t first,
                        size_t rows)
{
    for (size_t i = 0; i < head->end - head->first; i++) {
        struct op op = head_ops[i];
        struct op_rows by_rows = op.type->rows(&op);
        *by_rows.count = rows;
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            if ((by_rows.slots >> slot & 1) != 0) {
                op.tensors[slot] = part_of(list, head, op.tensors[slot], first, rows);
            }
        }
        list_append(list, &op);
    }
}

static void split(struct list *list, const struct head *head, const struct op *from_head, size_t count, size_t rows)
{
    size_t head_count = head->end - head->first;
    list->op_count = head->first;
    struct tensor *logits = &list->tensors[list->logits];
    logits->elements = logits->elements / head->rows * rows;
    snprintf(logits->name, sizeof(logits->name), "part of logits");
    for (size_t first = 0; first < head->rows && !list->failed; first += rows) {
        append_part(list, head, from_head, first, uint64_min(rows, head->rows - first));
    }
    list->forward_count = list->op_count;
    for (size_t i = head_count; i < count && !list->failed; i++) {
        list_append(list, &from_head[i]);
    }
}

void list_split_head(struct list *list, size_t parts)
{
    struct head head = {0};
    if (list->failed || list->logits == TENSOR_NONE || !find_head(list, &head)) {
        return;
    }
    size_t rows = uint64_round_up((head.rows + parts - 1) / parts, row_multiple(list, &head));
    size_t count = list->op_count - head.first;
    struct op *from_head = calloc(count + 1, sizeof(*from_head));
    if (from_head == NULL) {
        list->failed = true;
        return;
    }
    memcpy(from_head, list->ops + head.first, count * sizeof(*from_head));
    if (rows < head.rows) {
        split(list, &head, from_head, count, rows);
    }
    free(from_head);
}
