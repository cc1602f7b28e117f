// SPDX-License-Identifier: Apache-2.0
#include "worker/buckets.h"

#include <stdlib.h>

#include "mem/uint64.h"
#include "model/ops.h"

static int by_place(const void *a, const void *b)
{
    const struct bucket *x = a, *y = b;
    return (x->first_element > y->first_element) - (x->first_element < y->first_element);
}

static int by_readiness(const void *a, const void *b)
{
    const struct bucket *x = a, *y = b;
    return x->ready == y->ready ? by_place(a, b) : x->ready < y->ready ? -1 : 1;
}

// The operation after which each tensor is done.
static void find_last_mentions(const struct list *list, size_t *last)
{
    for (size_t i = 0; i < list->op_count; i++) {
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            tensor_id id = list->ops[i].tensors[slot];
            if (id != TENSOR_NONE) {
                last[id] = i + 1;
            }
        }
    }
}

// One bucket for each gradient, in the order of the buffer.
static size_t one_for_each(const struct list *list, const size_t *last, struct bucket *buckets)
{
    size_t count = 0;
    for (size_t i = 0; i < list->tensor_count; i++) {
        if (list->tensors[i].kind == TENSOR_GRADIENT) {
            buckets[count++] = (struct bucket){.first_element = list->tensors[i].first_element, .ready = last[i]};
        }
    }
    qsort(buckets, count, sizeof(*buckets), by_place);
    return count;
}

// Joins neighbours until each but the last has `elements`. Gaps between parameters belong to the bucket before them.
static size_t join(struct bucket *buckets, size_t count, uint64_t elements, uint64_t buffer_elements)
{
    size_t joined = 0;
    buckets[0].first_element = 0;
    for (size_t i = 1; i < count; i++) {
        struct bucket *bucket = &buckets[joined];
        bucket->elements = buckets[i].first_element - bucket->first_element;
        if (bucket->elements < elements) {
            bucket->ready = uint64_max(bucket->ready, buckets[i].ready);
        } else {
            buckets[++joined] = buckets[i];
        }
    }
    buckets[joined].elements = buffer_elements - buckets[joined].first_element;
    return joined + 1;
}

size_t buckets_make(const struct model *model, const struct list *list, uint64_t bytes, struct bucket **buckets_p)
{
    size_t *last = calloc(list->tensor_count, sizeof(*last));
    struct bucket *buckets = calloc(list->tensor_count, sizeof(*buckets));
    if (last == NULL || buckets == NULL) {
        free(last);
        free(buckets);
        return 0;
    }
    find_last_mentions(list, last);
    size_t count = one_for_each(list, last, buckets);
    count = join(buckets, count, bytes / sizeof(float), model->elements);
    qsort(buckets, count, sizeof(*buckets), by_readiness);
    free(last);
    *buckets_p = buckets;
    return count;
}

static bool holds(const struct bucket *bucket, uint64_t element)
{
    return bucket->first_element <= element && element - bucket->first_element < bucket->elements;
}

static size_t bucket_ready(const struct bucket *bucket, const struct list *list, const size_t *last)
{
    size_t ready = 0;
    for (size_t i = 0; i < list->tensor_count; i++) {
        const struct tensor *tensor = &list->tensors[i];
        if (tensor->kind == TENSOR_GRADIENT && holds(bucket, tensor->first_element)) {
            ready = uint64_max(ready, last[i]);
        }
    }
    return ready;
}

bool buckets_ready(const struct bucket *buckets, size_t count, const struct list *list, size_t *ready)
{
    size_t *last = calloc(list->tensor_count, sizeof(*last)), done = 0;
    if (last == NULL) {
        return false;
    }
    find_last_mentions(list, last);
    for (size_t i = 0; i < count; i++) {
        done = uint64_max(done, bucket_ready(&buckets[i], list, last));
        ready[i] = done;
    }
    free(last);
    return true;
}
