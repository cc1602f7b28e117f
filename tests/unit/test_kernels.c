// SPDX-License-Identifier: Apache-2.0
//
// Every table of kernels against the reference of its precision: random inputs, odd sizes, poisoned outputs, memory
// around the arrays that must not change, on the CPU at addresses that fault when dereferenced and with several
// threads.
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <omp.h>

#include "kernels/bfloat16.h"
#include "kernels/kernels.h"
#include "random_bits.h"
#include "targets.h"

#define SEED       UINT64_C(20240917)
#define ARRAYS_MAX 9

// Sizes below, at and beyond a vector, a cache line, a tile and a block; the even ones take the wide paths.
static const size_t odd_sizes[] = {1, 7, 33, 64, 65, 257};
#define ODD_SIZES (sizeof odd_sizes / sizeof *odd_sizes)

// Beyond what one thread does alone and what a small GPU does at once, and odd, so that it is shared unevenly.
#define LARGE 600011

// Of a bfloat16 result: its own rounding and that of what it is made of.
#define BF16_TOLERANCE 5e-3

// The tables under test.
static struct table {
    struct target target;
    struct target reference; // on the CPU
    bool open;
} tables[2 * TARGET_DEVICES];

static const struct table *present; // that the assertions speak of

static uint64_t random_state;

static int start(void **state)
{
    (void)state;
    random_state = SEED;
    return 0;
}

static enum kernel_precision precision_of(const struct table *table)
{
    return table->target.context->kernels->precision;
}

// Runs the test on every table.
static void on_every_table(void (*test)(const struct table *table))
{
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        if (tables[i].open) {
            random_state = SEED;
            present = &tables[i];
            test(&tables[i]);
        }
    }
}

// Parity ------------------------------------------------------------------------------------------------------------

enum role {
    INPUT,   // random, must not change
    WRITTEN, // NaN at first
    UPDATED, // random, read and changed
    SCRATCH, // NaN at first, and whatever comes out
};

enum type {
    REALS, // of the table's precision
    FLOATS,
    POSITIVE_FLOATS,
    ANY_FLOATS, // of any bits
    DOUBLES,
    INTEGERS, // int64 below 2^62, of all lengths
    TOKENS,   // int32 in [0, limit)
    TARGETS,  // the same, some of them KERNEL_TARGET_NONE
};

struct array {
    const char *name;
    enum role role;
    size_t count;
    double tolerance; // of the norm of the difference, relative to the norm of the reference's result
    enum type type;
    size_t limit; // of tokens and targets
    double scale; // of random numbers
};

static struct array input(const char *name, size_t count, double scale)
{
    return (struct array){.name = name, .role = INPUT, .count = count, .scale = scale};
}

static struct array written(const char *name, size_t count, double tolerance)
{
    return (struct array){.name = name, .role = WRITTEN, .count = count, .tolerance = tolerance};
}

static struct array updated(const char *name, size_t count, double scale, double tolerance)
{
    return (struct array){.name = name, .role = UPDATED, .count = count, .scale = scale, .tolerance = tolerance};
}

static struct array labels(const char *name, enum type type, size_t count, size_t limit)
{
    return (struct array){.name = name, .role = INPUT, .type = type, .count = count, .limit = limit};
}

static struct array of_type(enum type type, struct array array)
{
    array.type = type;
    return array;
}

struct sizes {
    size_t rows, columns, inner;                       // of matrices; for cross_entropy inner is the stride
    size_t batch, length, channels, heads, vocabulary; // of sequences
    size_t first, capacity;                            // of a cache
    bool transpose_a, transpose_b, accumulate, has_bias, float_c, gradient;
    enum kernel_epilogue epilogue;
    double scale; // of fixed-point numbers
    int64_t limit;
};

typedef void run_function(struct kernel_context *context, const struct sizes *sizes, const device_address *arrays);

struct parity {
    const char *name;
    run_function *run;
    struct sizes sizes;
    struct array arrays[ARRAYS_MAX]; // up to the first without a name
    bool threads_change_bits;
    bool exact; // the same bits as the reference's
};

static size_t element_bytes(const struct array *array)
{
    switch (array->type) {
    case REALS:
        return kernel_real_bytes(precision_of(present));
    case DOUBLES:
    case INTEGERS:
        return 8;
    default:
        return 4;
    }
}

static bool is_bf16(const struct array *array)
{
    return array->type == REALS && precision_of(present) == KERNEL_BF16;
}

static int64_t random_integer(void)
{
    const uint64_t bits = random_bits(&random_state);
    const int64_t size = (int64_t)(bits >> 2 >> random_bits(&random_state) % 62);
    return bits % 2 == 0 ? size : -size;
}

static void fill_element(const struct array *array, void *data, size_t i)
{
    const bool poisoned = array->role == WRITTEN || array->role == SCRATCH;
    const double value = poisoned ? (double)NAN : random_real(&random_state) * array->scale;

    switch (array->type) {
    case REALS:
        if (is_bf16(array)) {
            ((uint16_t *)data)[i] = bfloat16_from_float((float)value);
        } else {
            ((float *)data)[i] = (float)value;
        }
        break;
    case FLOATS:
        ((float *)data)[i] = (float)value;
        break;
    case POSITIVE_FLOATS:
        ((float *)data)[i] = (float)fabs(value);
        break;
    case ANY_FLOATS:
        ((float *)data)[i] = float_of_bits((uint32_t)random_bits(&random_state));
        break;
    case DOUBLES:
        ((double *)data)[i] = value;
        break;
    case INTEGERS:
        ((int64_t *)data)[i] = random_integer();
        break;
    case TOKENS:
        ((int32_t *)data)[i] = (int32_t)(random_bits(&random_state) % array->limit);
        break;
    case TARGETS:
        ((int32_t *)data)[i] = random_bits(&random_state) % 4 == 0
                                   ? KERNEL_TARGET_NONE
                                   : (int32_t)(random_bits(&random_state) % array->limit);
        break;
    }
}

static double value_at(const struct array *array, const void *data, size_t i)
{
    if (is_bf16(array)) {
        return (double)bfloat16_to_float(((const uint16_t *)data)[i]);
    }
    if (array->type == INTEGERS) {
        return (double)((const int64_t *)data)[i];
    }
    return array->type == DOUBLES ? ((const double *)data)[i] : (double)((const float *)data)[i];
}

// Every array in host memory with a margin on each side. The front one makes it stand 16 bytes beyond a cache line: the
// contract asks for no more alignment.
#define MARGIN      272
#define MARGIN_BYTE 0xff // makes NaN, and no token

struct contents {
    uint8_t *memory[ARRAYS_MAX];
};

static size_t memory_bytes(const struct array *array)
{
    return array->count * element_bytes(array) + 2 * MARGIN;
}

static void *data_of(const struct contents *contents, size_t a)
{
    return contents->memory[a] + MARGIN;
}

static struct contents contents_random(const struct parity *parity)
{
    struct contents contents = {0};
    for (size_t a = 0; parity->arrays[a].name != NULL; a++) {
        const struct array *array = &parity->arrays[a];
        contents.memory[a] = aligned_alloc(16, (memory_bytes(array) + 15) / 16 * 16);
        memset(contents.memory[a], MARGIN_BYTE, memory_bytes(array));
        for (size_t i = 0; i < array->count; i++) {
            fill_element(array, data_of(&contents, a), i);
        }
    }
    return contents;
}

static void contents_free(struct contents *contents)
{
    for (size_t a = 0; a < ARRAYS_MAX; a++) {
        free(contents->memory[a]);
    }
}

// What the target's table makes of a copy of `from`.
static struct contents contents_after(const struct parity *parity, const struct contents *from,
                                      const struct target *where)
{
    struct target target = *where;
    struct contents contents = {0};
    device_address addresses[ARRAYS_MAX] = {0}, data[ARRAYS_MAX] = {0};

    for (size_t a = 0; parity->arrays[a].name != NULL; a++) {
        addresses[a] = target_copy_in(&target, from->memory[a], memory_bytes(&parity->arrays[a]));
        data[a] = addresses[a] + MARGIN;
    }
    parity->run(target.context, &parity->sizes, data);
    for (size_t a = 0; parity->arrays[a].name != NULL; a++) {
        contents.memory[a] = malloc(memory_bytes(&parity->arrays[a]));
        target_copy_out(&target, contents.memory[a], addresses[a], memory_bytes(&parity->arrays[a]));
    }
    return contents;
}

static bool same_bits(const struct array *array, const void *a, const void *b)
{
    return memcmp(a, b, array->count * element_bytes(array)) == 0;
}

static bool margins_kept(const struct array *array, const uint8_t *memory)
{
    const uint8_t *end = memory + memory_bytes(array) - MARGIN;
    for (size_t i = 0; i < MARGIN; i++) {
        if (memory[i] != MARGIN_BYTE || end[i] != MARGIN_BYTE) {
            return false;
        }
    }
    return true;
}

// The norm of the difference over the norm of `expected`; not a number if any value is.
static double relative_difference(const struct array *array, const void *actual, const void *expected)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < array->count; i++) {
        double e = value_at(array, expected, i), d = value_at(array, actual, i) - e;
        difference += d * d;
        size += e * e;
    }
    return difference == 0 ? 0 : sqrt(difference / size);
}

static void fail_parity(const struct parity *parity, const struct array *array, const char *what, double figure)
{
    const struct sizes *s = &parity->sizes;
    const struct kernels *kernels = present->target.context->kernels;
    fail_msg("%s %s: %s: %s: %s %g; rows %zu columns %zu inner %zu, batch %zu length %zu channels %zu heads %zu, "
             "transposes %d %d accumulate %d bias %d float %d epilogue %d, %d threads, seed %llu",
             kernels->name, kernels->precision == KERNEL_BF16 ? "bf16" : "fp32", parity->name, array->name, what,
             figure, s->rows, s->columns, s->inner, s->batch, s->length, s->channels, s->heads, s->transpose_a,
             s->transpose_b, s->accumulate, s->has_bias, s->float_c, (int)s->epilogue, omp_get_max_threads(),
             (unsigned long long)SEED);
}

static void expect_close(const struct parity *parity, const struct contents *before, const struct contents *actual,
                         const struct contents *expected)
{
    for (size_t a = 0; parity->arrays[a].name != NULL; a++) {
        const struct array *array = &parity->arrays[a];
        const void *data = data_of(actual, a);
        if (!margins_kept(array, actual->memory[a])) {
            fail_parity(parity, array, "was written beyond its end", 0);
        }
        if (array->role == INPUT && !same_bits(array, data, data_of(before, a))) {
            fail_parity(parity, array, "changed", 0);
        }
        if (array->role == WRITTEN || array->role == UPDATED) {
            bool rounded = is_bf16(array) && array->tolerance > 0;
            double difference = relative_difference(array, data, data_of(expected, a));
            if (!(difference <= (rounded ? fmax(BF16_TOLERANCE, array->tolerance) : array->tolerance))) {
                fail_parity(parity, array, "differs by", difference);
            }
        }
    }
}

static void expect_same_bits(const struct parity *parity, const struct contents *actual,
                             const struct contents *expected)
{
    for (size_t a = 0; parity->arrays[a].name != NULL; a++) {
        const struct array *array = &parity->arrays[a];
        if (array->role != SCRATCH && !same_bits(array, data_of(actual, a), data_of(expected, a))) {
            fail_parity(parity, array, "has other bits", 0);
        }
    }
}

// The present table against the reference with 1, 2 and 3 threads, twice each. All runs must have the same bits, or
// those with as many threads.
static void expect_parity(const struct parity *parity)
{
    struct contents before = contents_random(parity);
    struct contents expected = contents_after(parity, &before, &present->reference);
    struct contents first = contents_after(parity, &before, &present->target);
    expect_close(parity, &before, &expected, &expected); // the reference keeps its inputs and leaves no NaN

    bool on_cpu = strcmp(present->target.context->kernels->name, "cpu") == 0;
    for (int threads = 1; threads <= (on_cpu ? 3 : 1); threads++) {
        omp_set_num_threads(threads);
        struct contents one = contents_after(parity, &before, &present->target);
        struct contents two = contents_after(parity, &before, &present->target);
        expect_close(parity, &before, &one, &expected);
        expect_same_bits(parity, &two, &one);
        if (!parity->threads_change_bits) {
            expect_same_bits(parity, &one, &first);
        }
        if (parity->exact) {
            expect_same_bits(parity, &one, &expected);
        }
        contents_free(&one);
        contents_free(&two);
    }
    contents_free(&first);
    contents_free(&expected);
    contents_free(&before);
}

static void run_matmul(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    const struct kernel_matmul shape = {
        .m = s->rows,
        .n = s->columns,
        .k = s->inner,
        .transpose_a = s->transpose_a,
        .transpose_b = s->transpose_b,
        .accumulate = s->accumulate,
        .float_c = s->float_c,
        .epilogue = s->epilogue,
    };
    context->kernels->matmul(context, &shape, a[0], a[1], a[2], s->has_bias ? a[3] : 0,
                             s->epilogue == KERNEL_EPILOGUE_NONE ? 0 : a[4]);
}

static void expect_matmul_parity(struct sizes s)
{
    const enum type c_type = s.float_c ? FLOATS : REALS;
    const size_t count = s.rows * s.columns;
    const struct parity parity = {
        .name = "matmul",
        .run = run_matmul,
        .sizes = s,
        .arrays = {of_type(c_type, s.accumulate ? updated("c", count, 1, 1e-6) : written("c", count, 1e-6)),
                   input("a", s.rows * s.inner, 1), input("b", s.inner * s.columns, 1), input("bias", s.columns, 1),
                   s.epilogue == KERNEL_EPILOGUE_GELU ? written("gelu_input", count, 1e-6)
                                                      : input("gelu_input", count, 2)},
        .threads_change_bits = true,
    };
    expect_parity(&parity);
}

static void check_matmul(const struct table *table)
{
    (void)table;
    for (unsigned flags = 0; flags < 32; flags++) {
        for (size_t i = 0; i < ODD_SIZES; i++) {
            struct sizes s = {
                .rows = odd_sizes[i],
                .columns = odd_sizes[(i + 1 + flags) % ODD_SIZES],
                .inner = odd_sizes[(i + 2 + flags) % ODD_SIZES],
                .transpose_a = flags & 1,
                .transpose_b = flags & 2,
                .accumulate = flags & 4,
                .has_bias = (flags & 24) == 8,
                .float_c = flags & 16,
            };
            expect_matmul_parity(s);
            if (!s.accumulate && !s.float_c) {
                s.epilogue = KERNEL_EPILOGUE_GELU;
                expect_matmul_parity(s);
                s.has_bias = false;
                s.epilogue = KERNEL_EPILOGUE_GELU_BACKWARD;
                expect_matmul_parity(s);
            }
        }
    }
    // Sizes that libraries like, beyond one block of the bfloat16 product on the CPU.
    expect_matmul_parity((struct sizes){.rows = 528, .columns = 64, .inner = 520, .has_bias = true});
    expect_matmul_parity((struct sizes){.rows = 64, .columns = 528, .inner = 64, .epilogue = KERNEL_EPILOGUE_GELU});
}

static void matmul_matches_the_reference(void **state)
{
    (void)state;
    on_every_table(check_matmul);
}

static void check_matmul_over_nothing(const struct table *table)
{
    (void)table;
    expect_matmul_parity((struct sizes){.rows = 7, .columns = 33, .inner = 0, .has_bias = true});
    expect_matmul_parity((struct sizes){.rows = 7, .columns = 33, .inner = 0, .has_bias = false});
    expect_matmul_parity((struct sizes){.rows = 7, .columns = 33, .inner = 0, .has_bias = true, .accumulate = true});
    expect_matmul_parity(
        (struct sizes){.rows = 7, .columns = 33, .inner = 0, .has_bias = true, .epilogue = KERNEL_EPILOGUE_GELU});
    expect_matmul_parity((struct sizes){.rows = 7, .columns = 33, .inner = 0, .accumulate = true, .float_c = true});
}

static void matmul_over_nothing_is_the_bias(void **state)
{
    (void)state;
    on_every_table(check_matmul_over_nothing);
}

static void run_matmul_without_input(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    const struct kernel_matmul shape = {
        .m = s->rows, .n = s->columns, .k = s->inner, .transpose_b = true, .epilogue = KERNEL_EPILOGUE_GELU};
    context->kernels->matmul(context, &shape, a[0], a[1], a[2], a[3], 0);
}

// Where nothing needs the input of gelu later, it is not written.
static void check_gelu_without_input(const struct table *table)
{
    (void)table;
    for (size_t i = 0; i < ODD_SIZES; i++) {
        const struct sizes s = {.rows = 33, .columns = odd_sizes[i], .inner = 64};
        const struct parity parity = {
            .name = "matmul with gelu",
            .run = run_matmul_without_input,
            .sizes = s,
            .arrays = {written("c", s.rows * s.columns, 1e-6), input("a", s.rows * s.inner, 1),
                       input("b", s.inner * s.columns, 1), input("bias", s.columns, 1)},
            .threads_change_bits = true,
        };
        expect_parity(&parity);
    }
}

static void gelu_after_a_product_needs_no_input(void **state)
{
    (void)state;
    on_every_table(check_gelu_without_input);
}

static void run_bias_backward(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->bias_backward(context, a[0], a[1], s->rows, s->columns);
}

static void check_bias_backward(const struct table *table)
{
    (void)table;
    for (size_t i = 0; i < ODD_SIZES * ODD_SIZES; i++) {
        const struct sizes s = {.rows = odd_sizes[i / ODD_SIZES], .columns = odd_sizes[i % ODD_SIZES]};
        const struct parity parity = {
            .name = "bias_backward",
            .run = run_bias_backward,
            .sizes = s,
            .arrays = {of_type(FLOATS, updated("dbias", s.columns, 1, 1e-6)), input("dy", s.rows * s.columns, 1)},
        };
        expect_parity(&parity);
    }
}

static void bias_backward_matches_the_reference(void **state)
{
    (void)state;
    on_every_table(check_bias_backward);
}

static void run_convert(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->convert(context, a[0], a[1], s->rows);
}

static void run_relu(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->relu(context, a[0], s->rows);
}

static void run_relu_backward(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->relu_backward(context, a[0], a[1], a[2], s->rows);
}

static void run_relu_backward_in_place(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->relu_backward(context, a[0], a[0], a[1], s->rows);
}

static void run_relu_backward_over_y(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->relu_backward(context, a[0], a[1], a[0], s->rows);
}

static void run_gelu(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->gelu(context, a[0], a[1], s->rows);
}

static void run_gelu_in_place(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->gelu(context, a[0], a[0], s->rows);
}

static void run_gelu_backward(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->gelu_backward(context, a[0], a[1], a[2], s->rows);
}

static void run_gelu_backward_in_place(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->gelu_backward(context, a[0], a[0], a[1], s->rows);
}

static void run_gelu_backward_over_x(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->gelu_backward(context, a[0], a[1], a[0], s->rows);
}

static void run_add(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->add(context, a[0], a[1], a[2], s->rows);
}

static void run_add_in_place(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->add(context, a[0], a[0], a[1], s->rows);
}

static void run_add_over_b(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->add(context, a[0], a[1], a[0], s->rows);
}

static void run_add_to_itself(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->add(context, a[0], a[0], a[0], s->rows);
}

// The entry with its result in the first array and `inputs` others, all of `count`.
static void expect_elementwise_parity(const char *name, run_function *run, enum role role, enum type input_type,
                                      size_t inputs, double tolerance)
{
    for (size_t i = 0; i <= ODD_SIZES; i++) {
        const size_t count = i < ODD_SIZES ? odd_sizes[i] : LARGE;
        struct parity parity = {
            .name = name,
            .run = run,
            .sizes = {.rows = count},
            .arrays = {role == WRITTEN ? written("result", count, tolerance) : updated("result", count, 4, tolerance)},
        };
        for (size_t a = 1; a <= inputs; a++) {
            parity.arrays[a] = of_type(input_type, input("input", count, 4));
        }
        expect_parity(&parity);
    }
}

static void check_elementwise(const struct table *table)
{
    (void)table;
    expect_elementwise_parity("convert", run_convert, WRITTEN, FLOATS, 1, 0);
    expect_elementwise_parity("relu", run_relu, UPDATED, REALS, 0, 0);
    expect_elementwise_parity("relu_backward", run_relu_backward, WRITTEN, REALS, 2, 0);
    expect_elementwise_parity("relu_backward in place", run_relu_backward_in_place, UPDATED, REALS, 1, 0);
    expect_elementwise_parity("relu_backward over y", run_relu_backward_over_y, UPDATED, REALS, 1, 0);
    expect_elementwise_parity("gelu", run_gelu, WRITTEN, REALS, 1, 1e-6);
    expect_elementwise_parity("gelu in place", run_gelu_in_place, UPDATED, REALS, 0, 1e-6);
    // The slope of gelu crosses 0 by cancellation, and an array of one element may stand there.
    expect_elementwise_parity("gelu_backward", run_gelu_backward, WRITTEN, REALS, 2, 5e-6);
    expect_elementwise_parity("gelu_backward in place", run_gelu_backward_in_place, UPDATED, REALS, 1, 5e-6);
    expect_elementwise_parity("gelu_backward over x", run_gelu_backward_over_x, UPDATED, REALS, 1, 5e-6);
    expect_elementwise_parity("add", run_add, WRITTEN, REALS, 2, 0);
    expect_elementwise_parity("add in place", run_add_in_place, UPDATED, REALS, 1, 0);
    expect_elementwise_parity("add over b", run_add_over_b, UPDATED, REALS, 1, 0);
    expect_elementwise_parity("add to itself", run_add_to_itself, UPDATED, REALS, 0, 0);
}

static void elementwise_entries_match_the_reference(void **state)
{
    (void)state;
    on_every_table(check_elementwise);
}

static void run_layer_norm(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->layer_norm(context, a[0], 0, a[1], a[2], a[3], 0, a[4], a[5], s->rows, s->channels);
}

static void run_add_layer_norm(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->layer_norm(context, a[0], a[6], a[1], a[2], a[3], a[7], a[4], a[5], s->rows, s->channels);
}

static void run_layer_norm_in_place(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->layer_norm(context, a[0], 0, a[1], a[2], a[0], 0, a[3], a[4], s->rows, s->channels);
}

// y over x, and the sum over the residual; or the other way around.
static void run_add_layer_norm_in_place(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->layer_norm(context, a[0], a[5], a[1], a[2], a[0], a[5], a[3], a[4], s->rows, s->channels);
}

static void run_add_layer_norm_crosswise(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->layer_norm(context, a[5], a[0], a[1], a[2], a[0], a[5], a[3], a[4], s->rows, s->channels);
}

static void run_layer_norm_backward(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->layer_norm_backward(context, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], s->rows, s->channels,
                                          s->accumulate);
}

static void run_layer_norm_backward_over_dy(struct kernel_context *context, const struct sizes *s,
                                            const device_address *a)
{
    context->kernels->layer_norm_backward(context, a[0], a[1], a[2], a[0], a[3], a[4], a[5], a[6], s->rows, s->channels,
                                          false);
}

static void run_layer_norm_backward_over_x(struct kernel_context *context, const struct sizes *s,
                                           const device_address *a)
{
    context->kernels->layer_norm_backward(context, a[0], a[1], a[2], a[3], a[0], a[4], a[5], a[6], s->rows, s->channels,
                                          false);
}

static void expect_layer_norm_backward_parity(struct sizes s)
{
    const size_t count = s.rows * s.channels;
    const double dx_tolerance = s.channels == 1 ? 1e-4 : 1e-6; // one channel is its own mean: what is left is rounding
    const struct parity parity = {
        .name = "layer_norm_backward",
        .run = run_layer_norm_backward,
        .sizes = s,
        .arrays = {s.accumulate ? updated("dx", count, 1, dx_tolerance) : written("dx", count, dx_tolerance),
                   of_type(FLOATS, updated("dgamma", s.channels, 1, 5e-6)), // terms of both signs
                   of_type(FLOATS, updated("dbeta", s.channels, 1, 5e-6)), input("dy", count, 1), input("x", count, 1),
                   of_type(FLOATS, input("mean", s.rows, 1)), of_type(POSITIVE_FLOATS, input("rstd", s.rows, 1)),
                   input("gamma", s.channels, 1)},
    };
    expect_parity(&parity);
}

static void expect_layer_norm_parity_in_place(struct sizes s)
{
    const size_t count = s.rows * s.channels;
    struct parity forward = {
        .name = "layer_norm in place",
        .run = run_layer_norm_in_place,
        .sizes = s,
        .arrays = {updated("x and y", count, 1, 1e-6), of_type(FLOATS, written("mean", s.rows, 1e-5)),
                   of_type(FLOATS, written("rstd", s.rows, 1e-6)), input("gamma", s.channels, 1),
                   input("beta", s.channels, 1)},
    };
    struct parity backward = {
        .name = "layer_norm_backward over dy",
        .run = run_layer_norm_backward_over_dy,
        .sizes = s,
        .arrays = {updated("dx", count, 1, s.channels == 1 ? 1e-4 : 1e-6),
                   of_type(FLOATS, updated("dgamma", s.channels, 1, 5e-6)),
                   of_type(FLOATS, updated("dbeta", s.channels, 1, 5e-6)), input("x or dy", count, 1),
                   of_type(FLOATS, input("mean", s.rows, 1)), of_type(POSITIVE_FLOATS, input("rstd", s.rows, 1)),
                   input("gamma", s.channels, 1)},
    };
    expect_parity(&forward);
    forward.name = "layer_norm of a sum, in place";
    forward.run = run_add_layer_norm_in_place;
    forward.arrays[5] = updated("residual and sum", count, 1, 0);
    expect_parity(&forward);
    forward.name = "layer_norm of a sum, crosswise";
    forward.run = run_add_layer_norm_crosswise;
    forward.arrays[0] = updated("x and sum", count, 1, 0);
    forward.arrays[5] = updated("residual and y", count, 1, 1e-6);
    expect_parity(&forward);
    expect_parity(&backward);
    backward.name = "layer_norm_backward over x";
    backward.run = run_layer_norm_backward_over_x;
    expect_parity(&backward);
}

static void expect_layer_norm_parity(size_t rows, size_t channels)
{
    const size_t count = rows * channels;
    struct sizes s = {.rows = rows, .channels = channels};
    struct parity forward = {
        .name = "layer_norm",
        .run = run_layer_norm,
        .sizes = s,
        .arrays = {written("y", count, 1e-6), of_type(FLOATS, written("mean", rows, 1e-5)),
                   of_type(FLOATS, written("rstd", rows, 1e-6)), input("x", count, 1), input("gamma", channels, 1),
                   input("beta", channels, 1)},
    };
    expect_parity(&forward);
    forward.name = "layer_norm of a sum";
    forward.run = run_add_layer_norm;
    forward.arrays[6] = written("sum", count, 0);
    forward.arrays[7] = input("residual", count, 1);
    expect_parity(&forward);
    expect_layer_norm_backward_parity(s);
    expect_layer_norm_parity_in_place(s);
    s.accumulate = true;
    expect_layer_norm_backward_parity(s);
}

static void check_layer_norm(const struct table *table)
{
    (void)table;
    for (size_t i = 0; i < ODD_SIZES * ODD_SIZES; i++) {
        expect_layer_norm_parity(odd_sizes[i / ODD_SIZES], odd_sizes[i % ODD_SIZES]);
    }
    expect_layer_norm_parity(3, 768);
    expect_layer_norm_parity(2, 2051);
    expect_layer_norm_parity(19, 9000);
}

static void layer_norm_matches_the_reference(void **state)
{
    (void)state;
    on_every_table(check_layer_norm);
}

static void run_embedding(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->embedding(context, a[0], a[1], a[2], a[3], s->batch, s->length, s->channels);
}

static void run_embedding_backward(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->embedding_backward(context, a[0], a[1], a[2], a[3], s->batch, s->length, s->channels,
                                         s->vocabulary);
}

static void expect_embedding_parity(struct sizes s)
{
    const size_t rows = s.batch * s.length;
    const struct parity forward = {
        .name = "embedding",
        .run = run_embedding,
        .sizes = s,
        .arrays = {written("y", rows * s.channels, 0), labels("tokens", TOKENS, rows, s.vocabulary),
                   input("wte", s.vocabulary * s.channels, 1), input("wpe", s.length * s.channels, 1)},
    };
    const struct parity backward = {
        .name = "embedding_backward",
        .run = run_embedding_backward,
        .sizes = s,
        // The reference, too, adds thousands of rows in float32.
        .arrays = {of_type(FLOATS, updated("dwte", s.vocabulary * s.channels, 1, rows > 4096 ? 1e-5 : 1e-6)),
                   of_type(FLOATS, updated("dwpe", s.length * s.channels, 1, 1e-6)), input("dy", rows * s.channels, 1),
                   labels("tokens", TOKENS, rows, s.vocabulary)},
    };
    expect_parity(&forward);
    expect_parity(&backward);
}

static void check_embedding(const struct table *table)
{
    (void)table;
    for (size_t i = 0; i < ODD_SIZES * ODD_SIZES; i++) {
        expect_embedding_parity((struct sizes){
            .batch = 3, .length = odd_sizes[i / ODD_SIZES], .channels = odd_sizes[i % ODD_SIZES], .vocabulary = 50});
    }
    // Hardly any token twice, and one token all the time.
    expect_embedding_parity((struct sizes){.batch = 2, .length = 65, .channels = 24, .vocabulary = 5003});
    expect_embedding_parity((struct sizes){.batch = 9, .length = 257, .channels = 8, .vocabulary = 1});
    expect_embedding_parity((struct sizes){.batch = 35, .length = 257, .channels = 8, .vocabulary = 1});
}

static void embedding_matches_the_reference(void **state)
{
    (void)state;
    on_every_table(check_embedding);
}

static void run_attention(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->attention(context, a[0], a[1], a[2], s->batch, s->length, s->channels, s->heads);
    context->kernels->attention_backward(context, a[3], a[5], a[4], a[2], a[0], a[1], s->batch, s->length, s->channels,
                                         s->heads);
}

static void check_attention(const struct table *table)
{
    (void)table;
    // batch, length, heads, width of a head. The lengths stand before, at and beyond tiles of 64.
    static const size_t shapes[][4] = {{1, 1, 1, 1},   {3, 7, 2, 1},    {1, 33, 3, 7},  {2, 64, 1, 33},
                                       {2, 65, 2, 8},  {1, 129, 1, 65}, {1, 257, 2, 5}, {2, 130, 2, 64},
                                       {1, 70, 2, 32}, {1, 67, 1, 128}, {1, 65, 1, 160}};

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const size_t batch = shapes[i][0], length = shapes[i][1], heads = shapes[i][2], width = shapes[i][3];
        const size_t count = batch * length * heads * width, rows = batch * heads * length;
        const struct parity parity = {
            .name = "attention",
            .run = run_attention,
            .sizes = {.batch = batch, .length = length, .channels = heads * width, .heads = heads},
            // Scores reach about ten; their rounding is what e^x passes on.
            .arrays = {written("y", count, 5e-6), of_type(FLOATS, written("lse", rows, 5e-6)),
                       input("qkv", 3 * count, 3), written("dqkv", 3 * count, 1e-5), input("dy", count, 1),
                       of_type(FLOATS, (struct array){.name = "delta", .role = SCRATCH, .count = rows})},
        };
        expect_parity(&parity);
    }
}

static void attention_matches_the_reference(void **state)
{
    (void)state;
    on_every_table(check_attention);
}

static void run_attention_cached(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->attention_cached(context, a[0], a[1], a[2], s->length, s->first, s->capacity, s->channels,
                                       s->heads);
}

static void check_attention_cached(const struct table *table)
{
    (void)table;
    // tokens, those before them, heads, width of a head. Keys stand before, at and beyond tiles of 128.
    static const size_t shapes[][4] = {{1, 0, 1, 1},     {1, 1, 2, 3},    {1, 126, 3, 7}, {1, 127, 2, 8},
                                       {2, 127, 1, 33},  {1, 128, 2, 64}, {7, 0, 2, 5},   {130, 131, 2, 16},
                                       {1, 700, 1, 160}, {3, 257, 4, 32}};

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const size_t length = shapes[i][0], first = shapes[i][1], heads = shapes[i][2];
        const size_t channels = heads * shapes[i][3], capacity = first + length + i % 3;
        const struct parity parity = {
            .name = "attention_cached",
            .run = run_attention_cached,
            .sizes = {.length = length, .first = first, .capacity = capacity, .channels = channels, .heads = heads},
            .arrays = {written("y", length * channels, 5e-6), updated("cache", 2 * capacity * channels, 3, 0),
                       input("qkv", 3 * length * channels, 3)},
        };
        expect_parity(&parity);
    }
}

static void attention_cached_matches_the_reference(void **state)
{
    (void)state;
    on_every_table(check_attention_cached);
}

static void run_cross_entropy(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->cross_entropy(context, a[0], a[1], a[2], s->rows, s->columns, s->inner, s->gradient);
}

static void check_cross_entropy(const struct table *table)
{
    (void)table;
    // rows, classes, stride; the last rows are longer than any GPU's shared memory
    static const size_t shapes[][3] = {{1, 1, 1},           {7, 2, 5},          {33, 7, 7},       {65, 33, 64},
                                       {3, 257, 1000},      {9, 1025, 1030},    {23, 3001, 3008}, {70, 50, 56},
                                       {2, 116501, 116504}, {1, 116503, 116503}};

    for (size_t i = 0; i < 2 * sizeof shapes / sizeof *shapes; i++) {
        const size_t *shape = shapes[i / 2];
        const struct sizes s = {.rows = shape[0], .columns = shape[1], .inner = shape[2], .gradient = i % 2 == 1};
        const struct parity parity = {
            .name = "cross_entropy",
            .run = run_cross_entropy,
            .sizes = s,
            .arrays = {of_type(DOUBLES, updated("tally", 3, 1, 1e-6)),
                       s.gradient ? updated("logits", s.rows * s.inner, 10, 5e-6)
                                  : input("logits", s.rows * s.inner, 30),
                       labels("targets", TARGETS, s.rows, s.columns)},
        };
        expect_parity(&parity);
    }
}

static void cross_entropy_matches_the_reference(void **state)
{
    (void)state;
    on_every_table(check_cross_entropy);
}

static void run_sum_of_squares(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->sum_of_squares(context, a[0], a[1], s->rows);
}

static void run_sgd(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    const struct kernel_sgd args = {.learning_rate = 0.1f, .weight_decay = 0.3f};
    context->kernels->sgd(context, &args, a[0], 0, a[1], 0, a[2], s->rows);
}

static void run_sgd_with_momentum(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    const struct kernel_sgd args = {.learning_rate = 0.1f, .momentum = 0.9f, .weight_decay = 0.3f};
    context->kernels->sgd(context, &args, a[0], a[4], a[1], a[3], a[2], s->rows);
}

static void run_adamw(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    const struct kernel_adamw args = {
        .learning_rate = 0.1f,
        .beta1 = 0.9f,
        .beta2 = 0.95f,
        .epsilon = 1e-8f,
        .weight_decay = 0.3f,
        .step = 4,
        .decaying = s->rows / 3,
    };
    context->kernels->adamw(context, &args, a[0], a[5], a[1], a[3], a[4], a[2], s->rows);
}

static void check_optimizers(const struct table *table)
{
    (void)table;
    for (size_t i = 0; i <= ODD_SIZES; i++) {
        const size_t count = i < ODD_SIZES ? odd_sizes[i] : LARGE;
        const struct array weights = of_type(FLOATS, updated("weights", count, 1, 1e-6));
        const struct array gradients = of_type(FLOATS, input("gradients", count, 1));
        const struct array scale = of_type(FLOATS, input("scale", 1, 1)), copy = written("copy", count, 1e-6);
        const struct parity parities[] = {
            {.name = "sum_of_squares",
             .run = run_sum_of_squares,
             .arrays = {of_type(DOUBLES, written("sum", 1, 1e-6)), of_type(FLOATS, input("x", count, 1))}},
            {.name = "sgd", .run = run_sgd, .arrays = {weights, gradients, scale}},
            {.name = "sgd with momentum",
             .run = run_sgd_with_momentum,
             .arrays = {weights, gradients, scale, of_type(FLOATS, updated("velocity", count, 1, 1e-6)), copy}},
            {.name = "adamw",
             .run = run_adamw,
             .arrays = {weights, gradients, scale, of_type(FLOATS, updated("first_moment", count, 1, 1e-6)),
                        of_type(POSITIVE_FLOATS, updated("second_moment", count, 1, 1e-6)), copy}},
        };
        for (size_t p = 0; p < sizeof parities / sizeof *parities; p++) {
            struct parity parity = parities[p];
            parity.sizes.rows = count;
            expect_parity(&parity);
        }
    }
}

static void optimizer_entries_match_the_reference(void **state)
{
    (void)state;
    on_every_table(check_optimizers);
}

static void run_fixed_add(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->fixed_add(context, a[0], a[1], s->rows, s->scale, s->limit, a[2]);
}

static void run_fixed_get(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    context->kernels->fixed_get(context, a[0], a[1], s->rows, s->scale, a[2]);
}

static void run_fixed_add_tally(struct kernel_context *context, const struct sizes *s, const device_address *a)
{
    (void)s;
    context->kernels->fixed_add_tally(context, a[0], a[1]);
}

// Floats of any bits reach every scale, and most are beyond every limit; others are about the limit.
static void expect_fixed_parity(size_t count, double scale, int64_t limit)
{
    const struct sizes s = {.rows = count, .scale = scale, .limit = limit};
    struct parity add = {
        .name = "fixed_add",
        .run = run_fixed_add,
        .sizes = s,
        .arrays = {of_type(INTEGERS, updated("sums", count, 0, 0)), of_type(ANY_FLOATS, input("x", count, 0)),
                   of_type(INTEGERS, updated("spilled", 1, 0, 0))},
        .exact = true,
    };
    const struct parity get = {
        .name = "fixed_get",
        .run = run_fixed_get,
        .sizes = s,
        .arrays = {of_type(FLOATS, written("x", count, 0)), of_type(INTEGERS, input("sums", count, 0)),
                   of_type(FLOATS, written("largest", 1, 0))},
        .exact = true,
    };
    expect_parity(&add);
    add.arrays[1] = of_type(FLOATS, input("x", count, 2 * (double)limit / scale));
    expect_parity(&add);
    expect_parity(&get);
}

static void check_fixed(const struct table *table)
{
    (void)table;
    const struct parity tally = {
        .name = "fixed_add_tally",
        .run = run_fixed_add_tally,
        .arrays = {of_type(INTEGERS, updated("sums", 4, 0, 0)), of_type(DOUBLES, updated("tally", 3, 1e6, 0))},
        .exact = true,
    };
    for (size_t i = 0; i < ODD_SIZES; i++) {
        expect_fixed_parity(odd_sizes[i], 1, INT64_C(1) << 62);
        expect_fixed_parity(odd_sizes[i], 0x1p-64, 1000);
        expect_fixed_parity(odd_sizes[i], 0x1p20, INT64_C(1) << 40);
        expect_fixed_parity(odd_sizes[i], 0x1p128, 3);
        expect_parity(&tally);
    }
    expect_fixed_parity(LARGE, 0x1p40, INT64_C(1) << 56);
}

static void fixed_entries_have_the_bits_of_the_reference(void **state)
{
    (void)state;
    on_every_table(check_fixed);
}

// Known values ------------------------------------------------------------------------------------------------------

// Numbers for the device, as reals of the table.
static device_address reals(const struct table *table, const double *values, size_t count)
{
    struct target target = table->target;
    uint8_t data[64 * sizeof(float)];
    for (size_t i = 0; i < count; i++) {
        if (precision_of(table) == KERNEL_BF16) {
            ((uint16_t *)(void *)data)[i] = bfloat16_from_float((float)values[i]);
        } else {
            ((float *)(void *)data)[i] = (float)values[i];
        }
    }
    return target_copy_in(&target, data, count * kernel_real_bytes(precision_of(table)));
}

static void read_reals(const struct table *table, device_address address, double *values, size_t count)
{
    struct target target = table->target;
    uint8_t data[64 * sizeof(float)];
    target_copy_out(&target, data, address, count * kernel_real_bytes(precision_of(table)));
    for (size_t i = 0; i < count; i++) {
        values[i] = (double)(precision_of(table) == KERNEL_BF16 ? bfloat16_to_float(((uint16_t *)(void *)data)[i])
                                                                : ((float *)(void *)data)[i]);
    }
}

static device_address bytes(const struct table *table, const void *data, size_t size)
{
    struct target target = table->target;
    return target_copy_in(&target, data, size);
}

static void read_bytes(const struct table *table, device_address address, void *data, size_t size)
{
    struct target target = table->target;
    target_copy_out(&target, data, address, size);
}

// relu has a kink, so its values are known ones.
static void check_relu_values(const struct table *table)
{
    struct kernel_context *context = table->target.context;
    double x[] = {-2, 0, 3, NAN}, dx[4] = {0};
    device_address x_at = reals(table, x, 4), dx_at = reals(table, dx, 4),
                   dy_at = reals(table, (double[]){5, 6, 7, 8}, 4);
    context->kernels->relu(context, x_at, 4);
    context->kernels->relu_backward(context, dx_at, dy_at, x_at, 4);
    read_reals(table, x_at, x, 4);
    read_reals(table, dx_at, dx, 4);
    read_reals(table, dy_at, (double[4]){0}, 4);
    assert_true(x[0] == 0 && x[1] == 0 && x[2] == 3 && isnan(x[3]));
    assert_true(dx[0] == 0 && dx[1] == 0 && dx[2] == 7);
}

static void relu_keeps_what_is_positive(void **state)
{
    (void)state;
    on_every_table(check_relu_values);
}

static struct kernel_tally tally_of(const struct table *table, const double *logits, size_t count, int32_t target,
                                    struct kernel_tally before)
{
    struct kernel_context *context = table->target.context;
    device_address tally_at = bytes(table, &before, sizeof before), logits_at = reals(table, logits, count),
                   target_at = bytes(table, &target, sizeof target);
    double left[64];
    context->kernels->cross_entropy(context, tally_at, logits_at, target_at, 1, count, count, false);
    read_bytes(table, tally_at, &before, sizeof before);
    read_reals(table, logits_at, left, count);
    read_bytes(table, target_at, &target, sizeof target);
    return before;
}

static void check_equal_logits(const struct table *table)
{
    const double logits[] = {1, 2, 2}, lse = log(exp(1) + 2 * exp(2));
    for (int32_t target = 0; target < 3; target++) {
        struct kernel_tally tally = tally_of(table, logits, 3, target, (struct kernel_tally){10, 20, 30});
        assert_true(fabs(tally.loss - 10 - (lse - logits[(size_t)target])) < 1e-6);
        assert_true(tally.count == 21);
        assert_true(tally.correct == (target == 1 ? 31 : 30));
    }
}

static void cross_entropy_takes_the_first_of_equal_logits(void **state)
{
    (void)state;
    on_every_table(check_equal_logits);
}

// A diverging run must be seen, wherever in the row the bad value stands.
static void check_bad_logits(const struct table *table)
{
    enum { COUNT = 61 };
    const double bad[] = {(double)NAN, (double)INFINITY};
    for (size_t i = 0; i < 2 * COUNT; i += 3) {
        double logits[COUNT];
        for (size_t k = 0; k < COUNT; k++) {
            logits[k] = random_real(&random_state);
        }
        logits[i % COUNT] = bad[i % 2];
        assert_true(!isfinite(tally_of(table, logits, COUNT, 5, (struct kernel_tally){0}).loss));
    }
}

static void loss_of_bad_logits_is_not_finite(void **state)
{
    (void)state;
    on_every_table(check_bad_logits);
}

// A logit of minus infinity is a class that cannot be, not an error, even where a row has only such for long.
static void check_minus_infinity(const struct table *table)
{
    enum { COUNT = 61 };
    double logits[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        logits[i] = i < COUNT - 2 ? (double)-INFINITY : 1;
    }
    struct kernel_tally tally = tally_of(table, logits, COUNT, COUNT - 2, (struct kernel_tally){0});
    assert_true(fabs(tally.loss - log(2)) < 1e-6);
    assert_true(tally.correct == 1);
}

static void minus_infinity_excludes_a_class(void **state)
{
    (void)state;
    on_every_table(check_minus_infinity);
}

static float scale_of(const struct table *table, struct kernel_tally tally, double squares, double clip)
{
    struct kernel_context *context = table->target.context;
    float scale = -1;
    device_address scale_at = bytes(table, &scale, sizeof scale), tally_at = bytes(table, &tally, sizeof tally),
                   squares_at = bytes(table, &squares, sizeof squares);
    context->kernels->gradient_scale(context, scale_at, tally_at, squares_at, clip);
    read_bytes(table, scale_at, &scale, sizeof scale);
    read_bytes(table, tally_at, &tally, sizeof tally);
    read_bytes(table, squares_at, &squares, sizeof squares);
    return scale;
}

static void check_gradient_scale(const struct table *table)
{
    assert_float_equal(scale_of(table, (struct kernel_tally){.count = 4}, 64, 0), 0.25, 1e-7);   // not clipped
    assert_float_equal(scale_of(table, (struct kernel_tally){.count = 4}, 64, 2.5), 0.25, 1e-7); // norm 2
    assert_float_equal(scale_of(table, (struct kernel_tally){.count = 4}, 64, 1), 0.125, 1e-7);
    assert_float_equal(scale_of(table, (struct kernel_tally){0}, 64, 0), 1, 1e-7); // nothing counted
    assert_true(isnan(scale_of(table, (struct kernel_tally){.loss = (double)NAN, .count = 4}, 64, 1)));
    assert_true(isnan(scale_of(table, (struct kernel_tally){.loss = (double)INFINITY, .count = 4}, 64, 0)));
    assert_true(isnan(scale_of(table, (struct kernel_tally){.count = 4}, (double)NAN, 1)));
    assert_true(isnan(scale_of(table, (struct kernel_tally){.count = 4}, (double)INFINITY, 1)));
}

static void gradient_scale_divides_clips_and_refuses(void **state)
{
    (void)state;
    on_every_table(check_gradient_scale);
}

// What one term does.
static const struct fixed_term {
    double scale;
    int64_t limit, term;
    float x;
    bool spills;
} fixed_terms[] = {
    // ties to even
    {.x = 0.5f, .scale = 1, .limit = 9, .term = 0},
    {.x = 1.5f, .scale = 1, .limit = 9, .term = 2},
    {.x = 2.5f, .scale = 1, .limit = 9, .term = 2},
    {.x = -0.5f, .scale = 1, .limit = 9, .term = 0},
    {.x = -1.5f, .scale = 1, .limit = 9, .term = -2},
    {.x = -2.5f, .scale = 1, .limit = 9, .term = -2},
    {.x = 5, .scale = 0x1p-1, .limit = 9, .term = 2},
    {.x = 0x1.8p-30f, .scale = 0x1p30, .limit = 9, .term = 2},
    {.x = 0x1.fffffep22f, .scale = 1, .limit = INT64_MAX, .term = INT64_C(1) << 23},
    // beside ties
    {.x = 0x1.000002p-1f, .scale = 1, .limit = 9, .term = 1},
    {.x = 0x1.fffffep-2f, .scale = 1, .limit = 9, .term = 0},
    // not normal, and the least that is
    {.x = FLT_TRUE_MIN, .scale = 0x1p128, .limit = 9, .term = 0},
    {.x = 0x1.8p-128f, .scale = 0x1p128, .limit = 9, .term = 2},
    {.x = -0x1.8p-128f, .scale = 0x1p128, .limit = 9, .term = -2},
    {.x = FLT_MIN, .scale = 0x1p128, .limit = 9, .term = 4},
    // at the limit and beyond
    {.x = 9.5f, .scale = 1, .limit = 9, .spills = true},
    {.x = 10.5f, .scale = 1, .limit = 10, .term = 10},
    {.x = -10.5f, .scale = 1, .limit = 10, .term = -10},
    {.x = 10.75f, .scale = 1, .limit = 10, .spills = true},
    {.x = -11, .scale = 1, .limit = 10, .spills = true},
    {.x = -0.0f, .scale = 1, .limit = 0, .term = 0},
    {.x = 0.5f, .scale = 1, .limit = 0, .term = 0},
    {.x = 1, .scale = 1, .limit = 0, .spills = true},
    {.x = 0x1p60f, .scale = 1, .limit = (INT64_C(1) << 60) - 1, .spills = true}, // as float64 they are equal
    {.x = -0x1p60f, .scale = 1, .limit = (INT64_C(1) << 60) - 1, .spills = true},
    {.x = 0x1p60f, .scale = 1, .limit = INT64_C(1) << 60, .term = INT64_C(1) << 60},
    {.x = 0x1.fffffep62f, .scale = 1, .limit = INT64_MAX, .term = INT64_MAX - (INT64_C(1) << 39) + 1},
    {.x = 0x1p63f, .scale = 1, .limit = INT64_MAX, .spills = true},
    {.x = -0x1p63f, .scale = 1, .limit = INT64_MAX, .spills = true},
    {.x = FLT_MAX, .scale = 0x1p128, .limit = INT64_MAX, .spills = true},
    {.x = FLT_MAX, .scale = 0x1p-128, .limit = 9, .term = 1},
    {.x = -FLT_MAX, .scale = 1, .limit = INT64_MAX, .spills = true},
    // no number
    {.x = INFINITY, .scale = 0x1p-128, .limit = INT64_MAX, .spills = true},
    {.x = -INFINITY, .scale = 1, .limit = INT64_MAX, .spills = true},
    {.x = NAN, .scale = 1, .limit = INT64_MAX, .spills = true},
};

struct fixed_sum {
    int64_t sum, spilled;
};

static struct fixed_sum sum_with(const struct table *table, const struct fixed_term *term, struct fixed_sum before)
{
    struct kernel_context *context = table->target.context;
    float x = term->x;
    device_address sum = bytes(table, &before.sum, 8), spilled = bytes(table, &before.spilled, 8),
                   x_at = bytes(table, &x, 4);
    context->kernels->fixed_add(context, sum, x_at, 1, term->scale, term->limit, spilled);
    read_bytes(table, sum, &before.sum, 8);
    read_bytes(table, spilled, &before.spilled, 8);
    read_bytes(table, x_at, &x, 4);
    return before;
}

static void check_fixed_terms(const struct table *table)
{
    for (size_t i = 0; i < sizeof fixed_terms / sizeof *fixed_terms; i++) {
        const struct fixed_term *term = &fixed_terms[i];
        const struct fixed_sum before = {.sum = term->term > 0 ? -3 : 3, .spilled = INT64_C(1) << 40};
        const struct fixed_sum after = sum_with(table, term, before);
        if (after.sum != before.sum + term->term || after.spilled != before.spilled + (term->spills ? 1 : 0)) {
            fail_msg("%a times %a within %lld: adds %lld and spills %lld", (double)term->x, term->scale,
                     (long long)term->limit, (long long)(after.sum - before.sum),
                     (long long)(after.spilled - before.spilled));
        }
    }
}

static void fixed_terms_are_rounded_and_limited(void **state)
{
    (void)state;
    on_every_table(check_fixed_terms);
}

enum { GRAINS = 16, GRAIN = 1003, ORDERS = 3 };

// A permutation of the grains.
static size_t grain_at(size_t order, size_t place)
{
    const size_t backwards = GRAINS - 1 - place, strided = place * 7 % GRAINS;
    return order == 0 ? place : order == 1 ? backwards : strided;
}

struct grain_sums {
    int64_t fixed[GRAIN], spilled;
    float floats[GRAIN], plain[GRAIN]; // out of `fixed`, and added up as floats
};

static void add_grains(const struct table *table, float grains[GRAINS][GRAIN], size_t order, struct grain_sums *sums)
{
    struct kernel_context *context = table->target.context;
    memset(sums, 0, sizeof *sums);
    device_address fixed = bytes(table, sums->fixed, sizeof sums->fixed), spilled = bytes(table, &sums->spilled, 8),
                   floats = bytes(table, sums->floats, sizeof sums->floats), largest = bytes(table, &(float){0}, 4);
    for (size_t place = 0; place < GRAINS; place++) {
        float *grain = grains[grain_at(order, place)];
        device_address at = bytes(table, grain, sizeof *grains);
        context->kernels->fixed_add(context, fixed, at, GRAIN, 0x1p40, INT64_C(1) << 58, spilled);
        read_bytes(table, at, grain, sizeof *grains);
        for (size_t i = 0; i < GRAIN; i++) {
            sums->plain[i] += grain[i];
        }
    }
    context->kernels->fixed_get(context, floats, fixed, GRAIN, 0x1p40, largest);
    read_bytes(table, fixed, sums->fixed, sizeof sums->fixed);
    read_bytes(table, spilled, &sums->spilled, 8);
    read_bytes(table, floats, sums->floats, sizeof sums->floats);
    read_bytes(table, largest, &(float){0}, 4);
}

static void check_orders(const struct table *table)
{
    static float grains[GRAINS][GRAIN];
    static struct grain_sums first, other;
    for (size_t i = 0; i < GRAINS * GRAIN; i++) {
        grains[i / GRAIN][i % GRAIN] = (float)ldexp(random_real(&random_state), (int)(random_bits(&random_state) % 19));
    }
    grains[5][17] = INFINITY;
    grains[9][GRAIN - 1] = 0x1p20f;
    add_grains(table, grains, 0, &first);
    assert_int_equal(first.spilled, 2);
    for (size_t i = 0; i < GRAIN; i++) {
        assert_true(i == 17 || i == GRAIN - 1 || fabsf(first.floats[i] - first.plain[i]) <= 4);
    }
    for (size_t order = 1; order < ORDERS; order++) {
        add_grains(table, grains, order, &other);
        assert_memory_equal(other.fixed, first.fixed, sizeof first.fixed);
        assert_memory_equal(other.floats, first.floats, sizeof first.floats);
        assert_int_equal(other.spilled, first.spilled);
        assert_memory_not_equal(other.plain, first.plain, sizeof first.plain);
    }
}

static void fixed_sums_do_not_depend_on_the_order(void **state)
{
    (void)state;
    on_every_table(check_orders);
}

// Writes the floats of sums[count] over NaN; returns the largest size.
static float floats_of(const struct table *table, const int64_t *sums, float *floats, size_t count, double scale)
{
    struct kernel_context *context = table->target.context;
    int64_t left[64];
    float largest = NAN;
    for (size_t i = 0; i < count; i++) {
        floats[i] = NAN;
    }
    device_address floats_at = bytes(table, floats, count * sizeof *floats),
                   sums_at = bytes(table, sums, count * sizeof *sums), largest_at = bytes(table, &largest, 4);
    context->kernels->fixed_get(context, floats_at, sums_at, count, scale, largest_at);
    read_bytes(table, floats_at, floats, count * sizeof *floats);
    read_bytes(table, sums_at, left, count * sizeof *sums);
    read_bytes(table, largest_at, &largest, 4);
    return largest;
}

static void expect_float(const struct table *table, int64_t sum, double scale, float expected)
{
    float x;
    float largest = floats_of(table, &sum, &x, 1, scale);
    if (bits_of_float(x) != bits_of_float(expected) || bits_of_float(largest) != bits_of_float(fabsf(expected))) {
        fail_msg("%lld / %a is %a, largest %a", (long long)sum, scale, (double)x, (double)largest);
    }
}

static void check_fixed_floats(const struct table *table)
{
    expect_float(table, 0, 0x1p40, 0);
    expect_float(table, -3, 2, -1.5f);
    expect_float(table, (1 << 24) + 1, 1, 0x1p24f); // a tie
    expect_float(table, (1 << 24) + 3, 1, 0x1.000004p24f);
    expect_float(table, (INT64_C(1) << 62) + (INT64_C(1) << 38) + 1, 1, 0x1p62f); // a tie once it is a float64
    expect_float(table, (INT64_C(1) << 62) + (INT64_C(1) << 38) + 1024, 1, 0x1.000002p62f);
    expect_float(table, INT64_MAX, 0x1p40, 0x1p23f);
    expect_float(table, INT64_MIN, 0x1p40, -0x1p23f);
    expect_float(table, 3, 0x1p128, 0x1.8p-127f); // not normal
    expect_float(table, -1, 0x1p128, -0x1p-128f);
    expect_float(table, 1, 0x1p-128, INFINITY);
    expect_float(table, INT64_MIN, 0x1p-128, -INFINITY);
}

static void fixed_sums_become_the_nearest_floats(void **state)
{
    (void)state;
    on_every_table(check_fixed_floats);
}

// Wherever it stands.
static void check_largest(const struct table *table)
{
    enum { COUNT = 61 };
    for (size_t place = 0; place < COUNT; place++) {
        int64_t sums[COUNT];
        float floats[COUNT];
        for (size_t i = 0; i < COUNT; i++) {
            sums[i] = (int64_t)(random_bits(&random_state) % 1001) - 500;
        }
        sums[place] = place % 2 == 0 ? 501 : -501;
        assert_true(floats_of(table, sums, floats, COUNT, 2) == 250.5f);
        for (size_t i = 0; i < COUNT; i++) {
            assert_true(floats[i] == (float)sums[i] / 2);
        }
    }
}

static void largest_of_fixed_sums_is_found_anywhere(void **state)
{
    (void)state;
    on_every_table(check_largest);
}

// The sums with the tally, of which nothing must be left.
static struct kernel_fixed_tally with_tally(const struct table *table, struct kernel_fixed_tally sums,
                                            struct kernel_tally tally)
{
    static const struct kernel_tally nothing;
    struct kernel_context *context = table->target.context;
    device_address sums_at = bytes(table, &sums, sizeof sums), tally_at = bytes(table, &tally, sizeof tally);
    context->kernels->fixed_add_tally(context, sums_at, tally_at);
    read_bytes(table, sums_at, &sums, sizeof sums);
    read_bytes(table, tally_at, &tally, sizeof tally);
    assert_memory_equal(&tally, &nothing, sizeof tally);
    return sums;
}

// The loss is so many nats and `fraction` times 2^-32 of one.
static void expect_loss(const struct table *table, double loss, int64_t nats, int64_t fraction)
{
    const struct kernel_fixed_tally before = {-1, 10, 20, 30, 4};
    const struct kernel_fixed_tally sums =
        with_tally(table, before, (struct kernel_tally){.loss = loss, .count = 7, .correct = 5});
    assert_int_equal(sums.nats, -1 + nats);
    assert_int_equal(sums.fraction, 10 + fraction);
    assert_true(sums.count == 27 && sums.correct == 35 && sums.not_finite == 4);
}

static void expect_refused_loss(const struct table *table, double loss)
{
    const struct kernel_fixed_tally before = {-1, 10, 20, 30, 4};
    const struct kernel_fixed_tally sums =
        with_tally(table, before, (struct kernel_tally){.loss = loss, .count = 7, .correct = 5});
    assert_true(sums.nats == -1 && sums.fraction == 10);
    assert_true(sums.count == 27 && sums.correct == 35 && sums.not_finite == 5);
}

static void check_fixed_tally(const struct table *table)
{
    const int64_t one = INT64_C(1) << 32;
    expect_loss(table, 2.25, 2, one / 4);
    expect_loss(table, 0x1p-33, 0, 0); // ties
    expect_loss(table, 3 * 0x1p-33, 0, 2);
    expect_loss(table, -5 * 0x1p-33, -1, one - 2);
    expect_loss(table, 0x1.8p-1060, 0, 0);
    expect_loss(table, -0x1.8p-1060, -1, one);
    expect_loss(table, KERNEL_FIXED_LOSS_MAX, one, 0);
    expect_loss(table, -KERNEL_FIXED_LOSS_MAX, -one, 0);
    expect_refused_loss(table, nextafter(KERNEL_FIXED_LOSS_MAX, DBL_MAX));
    expect_refused_loss(table, -DBL_MAX);
    expect_refused_loss(table, (double)INFINITY);
    expect_refused_loss(table, -(double)INFINITY);
    expect_refused_loss(table, (double)NAN);
}

static void fixed_tallies_add_up_and_tell_what_is_not_finite(void **state)
{
    (void)state;
    on_every_table(check_fixed_tally);
}

static struct kernel_tally tally_from(const struct table *table, struct kernel_fixed_tally sums)
{
    struct kernel_context *context = table->target.context;
    struct kernel_tally tally = {(double)NAN, (double)NAN, (double)NAN};
    device_address sums_at = bytes(table, &sums, sizeof sums), tally_at = bytes(table, &tally, sizeof tally);
    context->kernels->fixed_get_tally(context, tally_at, sums_at);
    read_bytes(table, sums_at, &sums, sizeof sums);
    read_bytes(table, tally_at, &tally, sizeof tally);
    return tally;
}

static void check_tally_from_fixed(const struct table *table)
{
    const int64_t tie = (INT64_C(1) << 53) + 1; // as float64, to even
    struct kernel_tally tally = tally_from(table, (struct kernel_fixed_tally){-3, INT64_C(1) << 31, tie, 3, 0});
    assert_true(tally.loss == -2.5 && tally.count == 0x1p53 && tally.correct == 3);
    tally = tally_from(table, (struct kernel_fixed_tally){INT64_C(1) << 61, INT64_C(1) << 62, 1, 0, 0});
    assert_true(tally.loss == 0x1p61 + 0x1p30 && tally.count == 1 && tally.correct == 0);
    tally = tally_from(table, (struct kernel_fixed_tally){1, 1, 2, 3, 1});
    assert_true(isnan(tally.loss) && tally.count == 2 && tally.correct == 3);
}

static void tallies_come_from_fixed_ones(void **state)
{
    (void)state;
    on_every_table(check_tally_from_fixed);
}

// One weight and what belongs to it.
struct weight {
    float w, g, scale, first, second;
};

static void step_sgd(const struct table *table, const struct kernel_sgd *args, struct weight *x)
{
    struct kernel_context *context = table->target.context;
    device_address w = bytes(table, &x->w, 4), g = bytes(table, &x->g, 4), v = bytes(table, &x->first, 4),
                   scale = bytes(table, &x->scale, 4);
    context->kernels->sgd(context, args, w, 0, g, v, scale, 1);
    read_bytes(table, w, &x->w, 4);
    read_bytes(table, g, &x->g, 4);
    read_bytes(table, v, &x->first, 4);
    read_bytes(table, scale, &x->scale, 4);
}

static void check_sgd_values(const struct table *table)
{
    const struct kernel_sgd args = {.learning_rate = 0.1f, .momentum = 0.9f, .weight_decay = 0.1f};
    struct weight x = {.w = 1, .g = 0.25f, .scale = 2};
    step_sgd(table, &args, &x);
    assert_float_equal(x.first, 0.6, 1e-6); // 2 * 0.25 + 0.1 * 1
    assert_float_equal(x.w, 0.94, 1e-6);
    step_sgd(table, &args, &x);
    assert_float_equal(x.first, 1.134, 1e-6); // 0.9 * 0.6 + 0.5 + 0.094
    assert_float_equal(x.w, 0.8266, 1e-6);
    struct weight before = x;
    x.scale = NAN;
    step_sgd(table, &args, &x);
    assert_true(x.w == before.w && x.first == before.first);
}

static void sgd_takes_two_known_steps_and_refuses_a_third(void **state)
{
    (void)state;
    on_every_table(check_sgd_values);
}

static void step_adamw(const struct table *table, const struct kernel_adamw *args, struct weight *x)
{
    struct kernel_context *context = table->target.context;
    device_address w = bytes(table, &x->w, 4), g = bytes(table, &x->g, 4), m = bytes(table, &x->first, 4),
                   v = bytes(table, &x->second, 4), scale = bytes(table, &x->scale, 4);
    context->kernels->adamw(context, args, w, 0, g, m, v, scale, 1);
    read_bytes(table, w, &x->w, 4);
    read_bytes(table, g, &x->g, 4);
    read_bytes(table, m, &x->first, 4);
    read_bytes(table, v, &x->second, 4);
    read_bytes(table, scale, &x->scale, 4);
}

static void check_adamw_values(const struct table *table)
{
    struct kernel_adamw args = {.learning_rate = 0.1f,
                                .beta1 = 0.9f,
                                .beta2 = 0.99f,
                                .epsilon = 1,
                                .weight_decay = 0.5f,
                                .step = 1,
                                .decaying = 1};
    struct weight x = {.w = 1, .g = 1, .scale = 2};
    step_adamw(table, &args, &x); // m = 0.2, v = 0.04, corrected 2 and 4: 0.95 - 0.1 * 2 / (2 + 1)
    assert_float_equal(x.w, 0.8833333, 1e-6);
    x.g = -0.5f;
    args.step = 2; // m = 0.08, v = 0.0496, corrected 0.4210526 and 2.4924623
    step_adamw(table, &args, &x);
    assert_float_equal(x.first, 0.08, 1e-6);
    assert_float_equal(x.second, 0.0496, 1e-6);
    assert_float_equal(x.w, 0.8228389, 1e-6);
    struct weight before = x;
    x.scale = INFINITY;
    step_adamw(table, &args, &x);
    assert_true(x.w == before.w && x.first == before.first && x.second == before.second);
}

static void adamw_takes_two_known_steps_and_refuses_a_third(void **state)
{
    (void)state;
    on_every_table(check_adamw_values);
}

// No array is touched: every address is 0.
static void check_sizes_of_zero(const struct table *table)
{
    static const struct kernel_matmul empty = {0};
    static const struct kernel_sgd sgd = {0};
    static const struct kernel_adamw adamw = {.step = 1};
    struct kernel_context *context = table->target.context;
    const struct kernels *k = context->kernels;
    struct kernel_tally tally = {.loss = 1, .count = 2, .correct = 3};
    double sum = (double)NAN;
    float scale = 1, largest = NAN;
    int64_t spilled = 5;
    device_address tally_at = bytes(table, &tally, sizeof tally), sum_at = bytes(table, &sum, sizeof sum),
                   scale_at = bytes(table, &scale, sizeof scale), largest_at = bytes(table, &largest, sizeof largest),
                   spilled_at = bytes(table, &spilled, sizeof spilled);
    k->matmul(context, &empty, 0, 0, 0, 0, 0);
    k->bias_backward(context, 0, 0, 0, 0);
    k->convert(context, 0, 0, 0);
    k->relu(context, 0, 0);
    k->relu_backward(context, 0, 0, 0, 0);
    k->gelu(context, 0, 0, 0);
    k->gelu_backward(context, 0, 0, 0, 0);
    k->add(context, 0, 0, 0, 0);
    k->layer_norm(context, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    k->layer_norm_backward(context, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, false);
    k->embedding(context, 0, 0, 0, 0, 0, 0, 0);
    k->embedding_backward(context, 0, 0, 0, 0, 0, 0, 0, 0);
    k->attention(context, 0, 0, 0, 0, 0, 0, 1);
    k->attention_backward(context, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);
    k->attention_cached(context, 0, 0, 0, 0, 0, 0, 0, 1);
    k->cross_entropy(context, tally_at, 0, 0, 0, 0, 0, true);
    k->sum_of_squares(context, sum_at, 0, 0);
    k->fixed_add(context, 0, 0, 0, 1, 1, spilled_at);
    k->fixed_get(context, 0, 0, 0, 1, largest_at);
    k->sgd(context, &sgd, 0, 0, 0, 0, scale_at, 0);
    k->adamw(context, &adamw, 0, 0, 0, 0, 0, scale_at, 0);
    read_bytes(table, tally_at, &tally, sizeof tally);
    read_bytes(table, sum_at, &sum, sizeof sum);
    read_bytes(table, scale_at, &scale, sizeof scale);
    read_bytes(table, largest_at, &largest, sizeof largest);
    read_bytes(table, spilled_at, &spilled, sizeof spilled);
    assert_true(tally.loss == 1 && tally.count == 2 && tally.correct == 3);
    assert_true(sum == 0);
    assert_true(largest == 0 && spilled == 5);
}

static void sizes_of_zero_do_nothing(void **state)
{
    (void)state;
    on_every_table(check_sizes_of_zero);
}

static void bfloat16_rounds_to_nearest_even(void **state)
{
    (void)state;
    assert_int_equal(bfloat16_from_float(1.0f), 0x3f80);
    assert_int_equal(bfloat16_from_float(1.0f + 0x1p-8f), 0x3f80);           // half way: even
    assert_int_equal(bfloat16_from_float(1.0f + 0x1p-7f + 0x1p-8f), 0x3f82); // half way: even
    assert_int_equal(bfloat16_from_float(1.0f + 0x1.02p-8f), 0x3f81);
    assert_int_equal(bfloat16_from_float(-3.4e38f), 0xff80); // beyond the largest
    assert_int_equal(bfloat16_from_float(INFINITY), 0x7f80);
    assert_true(isnan(bfloat16_to_float(bfloat16_from_float(NAN))));
    for (uint32_t bits = 0; bits < 0x7f80; bits++) {
        assert_int_equal(bfloat16_from_float(bfloat16_to_float((uint16_t)bits)), bits);
    }
}

static void tables_are_found_by_name(void **state)
{
    (void)state;
    assert_string_equal(kernels_find("cpu", KERNEL_FP32)->name, "cpu");
    assert_int_equal(kernels_find("cpu", KERNEL_BF16)->precision, KERNEL_BF16);
    assert_string_equal(kernels_find("reference", KERNEL_BF16)->name, "reference");
    assert_null(kernels_find("abacus", KERNEL_FP32));
}

static int open_tables(void **state)
{
    (void)state;
    const enum kernel_precision precisions[] = {KERNEL_FP32, KERNEL_BF16};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        const char *device = target_devices[i / 2];
        tables[i].open = target_open(device, precisions[i % 2], device, &tables[i].target) &&
                         target_open("cpu", precisions[i % 2], "reference", &tables[i].reference);
    }
    return 0;
}

static int close_tables(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        if (tables[i].open) {
            target_close(&tables[i].reference);
            target_close(&tables[i].target);
        }
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(matmul_matches_the_reference, start),
        cmocka_unit_test_setup(matmul_over_nothing_is_the_bias, start),
        cmocka_unit_test_setup(gelu_after_a_product_needs_no_input, start),
        cmocka_unit_test_setup(bias_backward_matches_the_reference, start),
        cmocka_unit_test_setup(elementwise_entries_match_the_reference, start),
        cmocka_unit_test_setup(layer_norm_matches_the_reference, start),
        cmocka_unit_test_setup(embedding_matches_the_reference, start),
        cmocka_unit_test_setup(attention_matches_the_reference, start),
        cmocka_unit_test_setup(attention_cached_matches_the_reference, start),
        cmocka_unit_test_setup(cross_entropy_matches_the_reference, start),
        cmocka_unit_test_setup(optimizer_entries_match_the_reference, start),
        cmocka_unit_test_setup(fixed_entries_have_the_bits_of_the_reference, start),
        cmocka_unit_test_setup(relu_keeps_what_is_positive, start),
        cmocka_unit_test_setup(cross_entropy_takes_the_first_of_equal_logits, start),
        cmocka_unit_test_setup(loss_of_bad_logits_is_not_finite, start),
        cmocka_unit_test_setup(minus_infinity_excludes_a_class, start),
        cmocka_unit_test_setup(gradient_scale_divides_clips_and_refuses, start),
        cmocka_unit_test_setup(fixed_terms_are_rounded_and_limited, start),
        cmocka_unit_test_setup(fixed_sums_do_not_depend_on_the_order, start),
        cmocka_unit_test_setup(fixed_sums_become_the_nearest_floats, start),
        cmocka_unit_test_setup(largest_of_fixed_sums_is_found_anywhere, start),
        cmocka_unit_test_setup(fixed_tallies_add_up_and_tell_what_is_not_finite, start),
        cmocka_unit_test_setup(tallies_come_from_fixed_ones, start),
        cmocka_unit_test_setup(sgd_takes_two_known_steps_and_refuses_a_third, start),
        cmocka_unit_test_setup(adamw_takes_two_known_steps_and_refuses_a_third, start),
        cmocka_unit_test_setup(sizes_of_zero_do_nothing, start),
        cmocka_unit_test_setup(bfloat16_rounds_to_nearest_even, start),
        cmocka_unit_test_setup(tables_are_found_by_name, start),
    };
    return cmocka_run_group_tests(tests, open_tables, close_tables);
}
