// SPDX-License-Identifier: Apache-2.0
//
// Buckets of real models' gradients: none is added up before it is whole, all are added up once, and every rank has the
// same buckets whatever its micro-batch.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "model/ops.h"
#include "worker/buckets.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static const struct model_config configs[] = {
    {.kind = MODEL_MLP, .mlp = {.sizes = {5, 3}, .count = 2}},
    {.kind = MODEL_MLP, .mlp = {.sizes = {33, 50, 1, 10}, .count = 4, .activation = MODEL_RELU}},
    {.kind = MODEL_MLP, .mlp = {.sizes = {32, 257, 128, 10}, .count = 4, .activation = MODEL_GELU}},
    {.kind = MODEL_GPT, .gpt = {.vocab_size = 65, .seq_len = 12, .blocks = 2, .heads = 4, .channels = 32}},
    {.kind = MODEL_GPT, .gpt = {.vocab_size = 300, .seq_len = 7, .blocks = 5, .heads = 1, .channels = 17}},
};

// Of bytes: from one bucket for each gradient, over some that join a few, to a single one.
static const uint64_t sizes[] = {4, 8, 100, 1000, 5000, 20000, 100000, UINT64_C(1) << 50};

static uint64_t callocs_left = UINT64_MAX;

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);

void *__wrap_calloc(size_t count, size_t size)
{
    callocs_left -= callocs_left > 0;
    return callocs_left == 0 ? NULL : __real_calloc(count, size);
}

struct bench {
    struct model *model;
    struct list list;
    struct bucket *buckets;
    size_t count;
};

static void bench_init(struct bench *bench, const struct model_config *config, enum kernel_precision precision,
                       size_t micro_batch, uint64_t bytes)
{
    struct model_config precise = *config;
    precise.precision = precision;
    assert_int_equal(model_create(&precise, &bench->model, NULL), STATUS_OK);
    assert_true(model_list(bench->model, model_shape_max(bench->model, micro_batch), LIST_TRAIN, &bench->list));
    bench->count = buckets_make(bench->model, &bench->list, bytes, &bench->buckets);
    assert_true(bench->count > 0);
}

static void bench_finish(struct bench *bench)
{
    free(bench->buckets);
    list_finish(&bench->list);
    model_destroy(bench->model);
}

static void for_each(void (*check)(const struct bench *bench, uint64_t bytes))
{
    for (size_t i = 0; i < COUNT_OF(configs); i++) {
        for (size_t j = 0; j < COUNT_OF(sizes); j++) {
            for (enum kernel_precision precision = KERNEL_FP32; precision <= KERNEL_BF16; precision++) {
                struct bench bench;
                bench_init(&bench, &configs[i], precision, 3, sizes[j]);
                check(&bench, sizes[j]);
                bench_finish(&bench);
            }
        }
    }
}

static bool holds(const struct bucket *bucket, uint64_t element)
{
    return bucket->first_element <= element && element - bucket->first_element < bucket->elements;
}

// The bucket that holds an element of the buffer: exactly one.
static const struct bucket *bucket_of(const struct bench *bench, uint64_t element)
{
    const struct bucket *found = NULL;
    for (size_t i = 0; i < bench->count; i++) {
        if (holds(&bench->buckets[i], element)) {
            assert_null(found);
            found = &bench->buckets[i];
        }
    }
    assert_non_null(found);
    return found;
}

static void check_cover(const struct bench *bench, uint64_t bytes)
{
    (void)bytes;
    uint64_t elements = 0;
    for (size_t i = 0; i < bench->count; i++) {
        const struct bucket *bucket = &bench->buckets[i];
        assert_true(bucket->elements > 0);
        assert_ptr_equal(bucket_of(bench, bucket->first_element), bucket);
        assert_ptr_equal(bucket_of(bench, bucket->first_element + bucket->elements - 1), bucket);
        elements += bucket->elements;
    }
    assert_int_equal(elements, bench->model->elements);
    assert_int_equal(bucket_of(bench, 0)->first_element, 0);
    bucket_of(bench, bench->model->elements - 1);
}

static void test_buckets_cover_the_buffer_once(void **state)
{
    (void)state;
    for_each(check_cover);
}

// All but the one at the buffer's end are as large as was asked for, and would not be without their last gradient.
static void check_sizes(const struct bench *bench, uint64_t bytes)
{
    for (size_t i = 0; i < bench->count; i++) {
        const struct bucket *bucket = &bench->buckets[i];
        uint64_t last = 0;
        for (size_t j = 0; j < bench->model->parameter_count; j++) {
            uint64_t offset = bench->model->parameters[j].offset;
            last = holds(bucket, offset) && offset > last ? offset : last;
        }
        bool at_end = bucket->first_element + bucket->elements == bench->model->elements;
        assert_true(at_end || bucket->elements >= bytes / sizeof(float));
        assert_true(last == bucket->first_element || last - bucket->first_element < bytes / sizeof(float));
    }
}

static void test_buckets_are_as_large_as_asked_for(void **state)
{
    (void)state;
    for_each(check_sizes);
}

static void test_the_least_is_one_bucket_for_each_parameter_and_the_most_is_one(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(configs); i++) {
        struct bench bench;
        bench_init(&bench, &configs[i], KERNEL_FP32, 2, 4);
        assert_int_equal(bench.count, bench.model->parameter_count);
        for (size_t j = 0; j < bench.model->parameter_count; j++) {
            assert_int_equal(bucket_of(&bench, bench.model->parameters[j].offset)->first_element,
                             bench.model->parameters[j].offset);
        }
        bench_finish(&bench);
        bench_init(&bench, &configs[i], KERNEL_FP32, 2, UINT64_MAX);
        assert_int_equal(bench.count, 1);
        bench_finish(&bench);
    }
}

// Whether the operation mentions a gradient that lies in the bucket, in whole or in part.
static bool mentions(const struct list *list, const struct op *op, const struct bucket *bucket)
{
    for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
        if (op->tensors[slot] == TENSOR_NONE) {
            continue;
        }
        const struct tensor *tensor = &list->tensors[op->tensors[slot]];
        if (tensor->kind == TENSOR_GRADIENT && tensor->first_element < bucket->first_element + bucket->elements &&
            bucket->first_element < tensor->first_element + tensor->elements) {
            return true;
        }
    }
    return false;
}

static void check_readiness(const struct bench *bench, uint64_t bytes)
{
    (void)bytes;
    for (size_t i = 0; i < bench->count; i++) {
        const struct bucket *bucket = &bench->buckets[i];
        assert_in_range(bucket->ready, bench->list.forward_count, bench->list.op_count);
        assert_true(mentions(&bench->list, &bench->list.ops[bucket->ready - 1], bucket)); // not later than it can be
        for (size_t op = bucket->ready; op < bench->list.op_count; op++) {
            assert_false(mentions(&bench->list, &bench->list.ops[op], bucket));
        }
        assert_true(i == 0 || bench->buckets[i - 1].ready <= bucket->ready);
        assert_true(i == 0 || bench->buckets[i - 1].ready < bucket->ready ||
                    bench->buckets[i - 1].first_element < bucket->first_element);
    }
    assert_int_equal(bench->buckets[bench->count - 1].ready, bench->list.op_count); // the backward pass ends with one
}

static void test_a_bucket_is_ready_when_its_last_gradient_is_made(void **state)
{
    (void)state;
    for_each(check_readiness);
}

// What the backward pass makes first can travel while it goes on.
static void test_some_buckets_are_ready_early(void **state)
{
    (void)state;
    for (size_t i = 1; i < COUNT_OF(configs); i++) { // not the first: one layer has one backward operation
        struct bench bench;
        bench_init(&bench, &configs[i], KERNEL_FP32, 2, 1000);
        size_t middle = (bench.list.forward_count + bench.list.op_count) / 2;
        assert_true(bench.buckets[0].ready <= middle + 1);
        bench_finish(&bench);
    }
}

static void test_the_micro_batch_changes_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(configs); i++) {
        for (enum kernel_precision precision = KERNEL_FP32; precision <= KERNEL_BF16; precision++) {
            struct bench one, other;
            bench_init(&one, &configs[i], precision, 1, 1000);
            for (size_t micro_batch = 2; micro_batch < 40; micro_batch += 9) {
                bench_init(&other, &configs[i], precision, micro_batch, 1000);
                assert_int_equal(one.list.op_count, other.list.op_count);
                assert_int_equal(one.count, other.count);
                for (size_t j = 0; j < one.count; j++) {
                    assert_int_equal(one.buckets[j].first_element, other.buckets[j].first_element);
                    assert_int_equal(one.buckets[j].elements, other.buckets[j].elements);
                    assert_int_equal(one.buckets[j].ready, other.buckets[j].ready);
                }
                bench_finish(&other);
            }
            bench_finish(&one);
        }
    }
}

static bool mentions_gradient(const struct list *list, size_t operation, const struct bucket *bucket)
{
    for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
        tensor_id id = list->ops[operation].tensors[slot];
        const struct tensor *tensor = id == TENSOR_NONE ? NULL : &list->tensors[id];
        if (tensor != NULL && tensor->kind == TENSOR_GRADIENT && tensor->first_element >= bucket->first_element &&
            tensor->first_element - bucket->first_element < bucket->elements) {
            return true;
        }
    }
    return false;
}

static void check_list(const struct bench *bench, const struct list *list)
{
    size_t *ready = calloc(bench->count, sizeof(*ready));
    assert_true(ready != NULL && buckets_ready(bench->buckets, bench->count, list, ready));
    for (size_t i = 0; i < bench->count; i++) {
        assert_true(ready[i] <= list->op_count && (i == 0 || ready[i] >= ready[i - 1]));
        for (size_t k = ready[i]; k < list->op_count; k++) {
            assert_false(mentions_gradient(list, k, &bench->buckets[i]));
        }
    }
    free(ready);
}

// Levers and sizes change how many operations a list has, and so when a bucket is done.
static void test_buckets_are_ready_in_any_list(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(configs); i++) {
        struct bench bench;
        bench_init(&bench, &configs[i], KERNEL_FP32, 1, 1000);
        for (enum model_levers levers = MODEL_LEVERS_NONE; levers < MODEL_LEVERS_COUNT; levers++) {
            for (size_t samples = 1; samples < 40; samples += 3) {
                struct model_shape shape = model_shape_max(bench.model, samples);
                struct list list;
                shape.levers = levers;
                assert_true(model_list(bench.model, shape, LIST_TRAIN, &list));
                check_list(&bench, &list);
                list_finish(&list);
            }
        }
        bench_finish(&bench);
    }
}

static void test_the_hosts_memory_may_run_out(void **state)
{
    (void)state;
    struct bench bench;
    bench_init(&bench, &configs[1], KERNEL_FP32, 1, 1000);
    size_t count = 0;
    for (uint64_t failing = 1; count == 0; failing++) {
        struct bucket *buckets = NULL;
        callocs_left = failing;
        count = buckets_make(bench.model, &bench.list, 1000, &buckets);
        callocs_left = UINT64_MAX;
        assert_int_equal(buckets == NULL, count == 0);
        assert_in_range(failing, 1, 10);
        assert_true(failing > 1 || count == 0);
        free(buckets);
    }
    bench_finish(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buckets_cover_the_buffer_once),
        cmocka_unit_test(test_buckets_are_as_large_as_asked_for),
        cmocka_unit_test(test_the_least_is_one_bucket_for_each_parameter_and_the_most_is_one),
        cmocka_unit_test(test_a_bucket_is_ready_when_its_last_gradient_is_made),
        cmocka_unit_test(test_some_buckets_are_ready_early),
        cmocka_unit_test(test_the_micro_batch_changes_nothing),
        cmocka_unit_test(test_buckets_are_ready_in_any_list),
        cmocka_unit_test(test_the_hosts_memory_may_run_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
