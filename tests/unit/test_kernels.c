// SPDX-License-Identifier: Apache-2.0
//
// The reference's backward entries are held to finite differences of its forward entries, and the CPU's table to the
// reference: random inputs, odd sizes, poisoned outputs, addresses that fault when dereferenced, several threads.
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

#include "kernels/cpu/cpu.h"
#include "kernels/kernels.h"
#include "mem/device_cpu.h"

#define SEED       UINT64_C(20240917)
#define ARRAYS_MAX 9

// Sizes below, at and beyond a vector, a cache line, a tile and a block.
static const size_t odd_sizes[] = {1, 7, 33, 65, 257};
#define ODD_SIZES (sizeof odd_sizes / sizeof *odd_sizes)

// Beyond CPU_PARALLEL_MIN and odd, so that threads share it unevenly.
#define LARGE 100003

static uint64_t random_state;

static uint64_t random_bits(void)
{
    uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15); // splitmix64
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

// In [-1, 1).
static double random_real(void)
{
    return (double)(random_bits() >> 11) * 0x1p-52 - 1;
}

static device_address address_of(const void *pointer)
{
    return (device_address)(uintptr_t)pointer;
}

// At a cache line, and of the exact size, so that a sanitizer sees the first byte beyond it.
static void *allocate(size_t bytes)
{
    void *pointer;
    assert_int_equal(posix_memalign(&pointer, 64, bytes), 0);
    return pointer;
}

static float *random_floats(size_t count, double scale)
{
    float *x = allocate(count * sizeof *x);
    for (size_t i = 0; i < count; i++) {
        x[i] = (float)(scale * random_real());
    }
    return x;
}

static float *zeros(size_t count)
{
    float *x = allocate(count * sizeof *x);
    memset(x, 0, count * sizeof *x);
    return x;
}

static int start(void **state)
{
    (void)state;
    random_state = SEED;
    return 0;
}

// Parity ------------------------------------------------------------------------------------------------------------

enum role {
    INPUT,   // random, must not change
    WRITTEN, // NaN at first
    UPDATED, // random, read and changed
};

enum type {
    FLOATS,
    POSITIVE_FLOATS,
    DOUBLES,
    TOKENS,  // int32 in [0, limit)
    TARGETS, // the same, some of them KERNEL_TARGET_NONE
};

struct array {
    const char *name;
    enum role role;
    size_t count;
    double tolerance; // of the norm of the difference, relative to the norm of the reference's result
    enum type type;
    size_t limit; // of tokens and targets
    double scale; // of random floats
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
    size_t rows, columns, inner;           // of matrices; for cross_entropy inner is the stride
    size_t batch, length, channels, heads; // of sequences
    bool transpose_a, transpose_b, accumulate, has_bias;
};

typedef void run_function(const struct kernels *kernels, const struct sizes *sizes, const device_address *arrays);

struct parity {
    const char *name;
    run_function *run;
    struct sizes sizes;
    struct array arrays[ARRAYS_MAX]; // up to the first without a name
    bool threads_change_bits;
};

static size_t element_bytes(const struct array *array)
{
    return array->type == DOUBLES ? sizeof(double) : sizeof(float);
}

static void fill_element(const struct array *array, void *data, size_t i)
{
    const double value = array->role == WRITTEN ? (double)NAN : random_real() * array->scale;

    switch (array->type) {
    case FLOATS:
        ((float *)data)[i] = (float)value;
        break;
    case POSITIVE_FLOATS:
        ((float *)data)[i] = (float)fabs(value);
        break;
    case DOUBLES:
        ((double *)data)[i] = value;
        break;
    case TOKENS:
        ((int32_t *)data)[i] = (int32_t)(random_bits() % array->limit);
        break;
    case TARGETS:
        ((int32_t *)data)[i] = random_bits() % 4 == 0 ? KERNEL_TARGET_NONE : (int32_t)(random_bits() % array->limit);
        break;
    }
}

struct contents {
    void *memory[ARRAYS_MAX];
    void *data[ARRAYS_MAX]; // in `memory`
};

static struct contents contents_random(const struct parity *parity)
{
    struct contents contents = {0};
    for (size_t a = 0; parity->arrays[a].name != NULL; a++) {
        const struct array *array = &parity->arrays[a];
        contents.memory[a] = contents.data[a] = allocate(array->count * element_bytes(array));
        for (size_t i = 0; i < array->count; i++) {
            fill_element(array, contents.data[a], i);
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

// How a run sees its arrays. The contract asks for no more than 16-byte alignment.
enum view {
    PLAIN,    // at cache lines
    FAULTING, // 16 bytes beyond, at addresses that fault when dereferenced
};

static size_t view_offset(enum view view)
{
    return view == FAULTING ? 16 : 0;
}

// What the table makes of a copy of `from`.
static struct contents contents_after(const struct parity *parity, const struct contents *from,
                                      const struct kernels *kernels, enum view view)
{
    struct contents contents = {0};
    device_address addresses[ARRAYS_MAX] = {0};

    for (size_t a = 0; parity->arrays[a].name != NULL; a++) {
        const size_t bytes = parity->arrays[a].count * element_bytes(&parity->arrays[a]);
        contents.memory[a] = allocate(view_offset(view) + bytes);
        contents.data[a] = (char *)contents.memory[a] + view_offset(view);
        memcpy(contents.data[a], from->data[a], bytes);
        addresses[a] = address_of(contents.data[a]) | (view == FAULTING ? DEVICE_CPU_FAULT_BIT : 0);
    }
    parity->run(kernels, &parity->sizes, addresses);
    return contents;
}

static bool same_bits(const struct array *array, const void *a, const void *b)
{
    return memcmp(a, b, array->count * element_bytes(array)) == 0;
}

static double value_at(const struct array *array, const void *data, size_t i)
{
    return array->type == DOUBLES ? ((const double *)data)[i] : (double)((const float *)data)[i];
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
    fail_msg("%s: %s: %s %g; rows %zu columns %zu inner %zu, batch %zu length %zu channels %zu heads %zu, %d threads, "
             "seed %llu",
             parity->name, array->name, what, figure, s->rows, s->columns, s->inner, s->batch, s->length, s->channels,
             s->heads, omp_get_max_threads(), (unsigned long long)SEED);
}

static void expect_close(const struct parity *parity, const struct contents *before, const struct contents *actual,
                         const struct contents *expected)
{
    for (size_t a = 0; parity->arrays[a].name != NULL; a++) {
        const struct array *array = &parity->arrays[a];
        if (array->role == INPUT) {
            if (!same_bits(array, actual->data[a], before->data[a])) {
                fail_parity(parity, array, "changed", 0);
            }
            continue;
        }
        double difference = relative_difference(array, actual->data[a], expected->data[a]);
        if (!(difference <= array->tolerance)) {
            fail_parity(parity, array, "differs by", difference);
        }
    }
}

static void expect_same_bits(const struct parity *parity, const struct contents *actual,
                             const struct contents *expected)
{
    for (size_t a = 0; parity->arrays[a].name != NULL; a++) {
        if (!same_bits(&parity->arrays[a], actual->data[a], expected->data[a])) {
            fail_parity(parity, &parity->arrays[a], "has other bits", 0);
        }
    }
}

// The CPU's table against the reference with 1, 2 and 3 threads, once in each view. All
// runs must have the same bits, or those with as many threads.
static void expect_parity(const struct parity *parity)
{
    const struct kernels *cpu = kernels_find("cpu"), *reference = kernels_find("reference");
    struct contents before = contents_random(parity);
    struct contents expected = contents_after(parity, &before, reference, FAULTING);
    struct contents first = contents_after(parity, &before, cpu, PLAIN);
    expect_close(parity, &before, &expected, &expected); // the reference keeps its inputs and leaves no NaN

    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        struct contents plain = contents_after(parity, &before, cpu, PLAIN);
        struct contents faulting = contents_after(parity, &before, cpu, FAULTING);
        expect_close(parity, &before, &plain, &expected);
        expect_same_bits(parity, &faulting, &plain);
        if (!parity->threads_change_bits) {
            expect_same_bits(parity, &plain, &first);
        }
        contents_free(&plain);
        contents_free(&faulting);
    }
    contents_free(&first);
    contents_free(&expected);
    contents_free(&before);
}

static void run_matmul(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    const struct kernel_matmul shape = {
        .m = s->rows,
        .n = s->columns,
        .k = s->inner,
        .transpose_a = s->transpose_a,
        .transpose_b = s->transpose_b,
        .accumulate = s->accumulate,
    };
    kernels->matmul(NULL, &shape, a[0], a[1], a[2], s->has_bias ? a[3] : 0);
}

static void expect_matmul_parity(struct sizes s)
{
    const struct parity parity = {
        .name = "matmul",
        .run = run_matmul,
        .sizes = s,
        .arrays = {s.accumulate ? updated("c", s.rows * s.columns, 1, 1e-6) : written("c", s.rows * s.columns, 1e-6),
                   input("a", s.rows * s.inner, 1), input("b", s.inner * s.columns, 1), input("bias", s.columns, 1)},
        .threads_change_bits = true,
    };
    expect_parity(&parity);
}

static void matmul_matches_the_reference(void **state)
{
    (void)state;
    for (unsigned flags = 0; flags < 16; flags++) {
        for (size_t i = 0; i < ODD_SIZES; i++) {
            expect_matmul_parity((struct sizes){
                .rows = odd_sizes[i],
                .columns = odd_sizes[(i + 1 + flags) % ODD_SIZES],
                .inner = odd_sizes[(i + 2 + flags) % ODD_SIZES],
                .transpose_a = flags & 1,
                .transpose_b = flags & 2,
                .accumulate = flags & 4,
                .has_bias = flags & 8,
            });
        }
    }
}

static void matmul_over_nothing_is_the_bias(void **state)
{
    (void)state;
    expect_matmul_parity((struct sizes){.rows = 7, .columns = 33, .inner = 0, .has_bias = true});
    expect_matmul_parity((struct sizes){.rows = 7, .columns = 33, .inner = 0, .has_bias = false});
    expect_matmul_parity((struct sizes){.rows = 7, .columns = 33, .inner = 0, .has_bias = true, .accumulate = true});
}

static void run_bias_backward(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->bias_backward(NULL, a[0], a[1], s->rows, s->columns);
}

static void bias_backward_matches_the_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i < ODD_SIZES * ODD_SIZES; i++) {
        const struct sizes s = {.rows = odd_sizes[i / ODD_SIZES], .columns = odd_sizes[i % ODD_SIZES]};
        const struct parity parity = {
            .name = "bias_backward",
            .run = run_bias_backward,
            .sizes = s,
            .arrays = {updated("dbias", s.columns, 1, 1e-6), input("dy", s.rows * s.columns, 1)},
        };
        expect_parity(&parity);
    }
}

static void run_relu(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->relu(NULL, a[0], s->rows);
}

static void run_relu_backward(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->relu_backward(NULL, a[0], a[1], a[2], s->rows);
}

static void run_relu_backward_in_place(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->relu_backward(NULL, a[0], a[0], a[1], s->rows);
}

static void run_gelu(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->gelu(NULL, a[0], a[1], s->rows);
}

static void run_gelu_backward(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->gelu_backward(NULL, a[0], a[1], a[2], s->rows);
}

static void run_gelu_backward_in_place(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->gelu_backward(NULL, a[0], a[0], a[1], s->rows);
}

static void run_add(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->add(NULL, a[0], a[1], a[2], s->rows);
}

static void run_add_in_place(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->add(NULL, a[0], a[0], a[1], s->rows);
}

// The entry with its result in the first array and `inputs` others, all of `count`.
static void expect_elementwise_parity(const char *name, run_function *run, enum role role, size_t inputs,
                                      double tolerance)
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
            parity.arrays[a] = input("input", count, 4);
        }
        expect_parity(&parity);
    }
}

static void elementwise_entries_match_the_reference(void **state)
{
    (void)state;
    expect_elementwise_parity("relu", run_relu, UPDATED, 0, 0);
    expect_elementwise_parity("relu_backward", run_relu_backward, WRITTEN, 2, 0);
    expect_elementwise_parity("relu_backward in place", run_relu_backward_in_place, UPDATED, 1, 0);
    expect_elementwise_parity("gelu", run_gelu, WRITTEN, 1, 1e-6);
    // The slope of gelu crosses 0 by cancellation, and an array of one element may stand there.
    expect_elementwise_parity("gelu_backward", run_gelu_backward, WRITTEN, 2, 5e-6);
    expect_elementwise_parity("gelu_backward in place", run_gelu_backward_in_place, UPDATED, 1, 5e-6);
    expect_elementwise_parity("add", run_add, WRITTEN, 2, 0);
    expect_elementwise_parity("add in place", run_add_in_place, UPDATED, 1, 0);
}

static void run_layer_norm(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->layer_norm(NULL, a[0], a[1], a[2], a[3], a[4], a[5], s->rows, s->channels);
}

static void run_layer_norm_backward(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->layer_norm_backward(NULL, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], s->rows, s->channels,
                                 s->accumulate);
}

static void expect_layer_norm_parity(struct sizes s)
{
    const size_t count = s.rows * s.channels;
    const struct parity forward = {
        .name = "layer_norm",
        .run = run_layer_norm,
        .sizes = s,
        .arrays = {written("y", count, 1e-6), written("mean", s.rows, 1e-6), written("rstd", s.rows, 1e-6),
                   input("x", count, 1), input("gamma", s.channels, 1), input("beta", s.channels, 1)},
    };
    const struct parity backward = {
        .name = "layer_norm_backward",
        .run = run_layer_norm_backward,
        .sizes = s,
        .arrays = {s.accumulate ? updated("dx", count, 1, 1e-6) : written("dx", count, 1e-6),
                   updated("dgamma", s.channels, 1, 1e-6), updated("dbeta", s.channels, 1, 1e-6), input("dy", count, 1),
                   input("x", count, 1), input("mean", s.rows, 1), of_type(POSITIVE_FLOATS, input("rstd", s.rows, 1)),
                   input("gamma", s.channels, 1)},
    };
    expect_parity(&forward);
    expect_parity(&backward);
}

static void layer_norm_matches_the_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i < ODD_SIZES * ODD_SIZES; i++) {
        struct sizes s = {.rows = odd_sizes[i / ODD_SIZES], .channels = odd_sizes[i % ODD_SIZES]};
        expect_layer_norm_parity(s);
        s.accumulate = true;
        expect_layer_norm_parity(s);
    }
}

static void run_embedding(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->embedding(NULL, a[0], a[1], a[2], a[3], s->batch, s->length, s->channels);
}

static void run_embedding_backward(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->embedding_backward(NULL, a[0], a[1], a[2], a[3], s->batch, s->length, s->channels);
}

static void embedding_matches_the_reference(void **state)
{
    (void)state;
    const size_t vocabulary = 50;

    for (size_t i = 0; i < ODD_SIZES * ODD_SIZES; i++) {
        const struct sizes s = {.batch = 3, .length = odd_sizes[i / ODD_SIZES], .channels = odd_sizes[i % ODD_SIZES]};
        const size_t rows = s.batch * s.length;
        const struct parity forward = {
            .name = "embedding",
            .run = run_embedding,
            .sizes = s,
            .arrays = {written("y", rows * s.channels, 0), labels("tokens", TOKENS, rows, vocabulary),
                       input("wte", vocabulary * s.channels, 1), input("wpe", s.length * s.channels, 1)},
        };
        const struct parity backward = {
            .name = "embedding_backward",
            .run = run_embedding_backward,
            .sizes = s,
            .arrays = {updated("dwte", vocabulary * s.channels, 1, 0), updated("dwpe", s.length * s.channels, 1, 0),
                       input("dy", rows * s.channels, 1), labels("tokens", TOKENS, rows, vocabulary)},
        };
        expect_parity(&forward);
        expect_parity(&backward);
    }
}

static void run_attention(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->attention(NULL, a[0], a[1], a[2], s->batch, s->length, s->channels, s->heads);
    kernels->attention_backward(NULL, a[3], a[4], a[2], a[0], a[1], s->batch, s->length, s->channels, s->heads);
}

static void attention_matches_the_reference(void **state)
{
    (void)state;
    // batch, length, heads, width of a head. The lengths stand before, at and beyond tiles of 64.
    static const size_t shapes[][4] = {{1, 1, 1, 1},  {3, 7, 2, 1},    {1, 33, 3, 7}, {2, 64, 1, 33},
                                       {2, 65, 2, 8}, {1, 129, 1, 65}, {1, 257, 2, 5}};

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const size_t batch = shapes[i][0], length = shapes[i][1], heads = shapes[i][2], width = shapes[i][3];
        const size_t count = batch * length * heads * width;
        const struct parity parity = {
            .name = "attention",
            .run = run_attention,
            .sizes = {.batch = batch, .length = length, .channels = heads * width, .heads = heads},
            // Scores reach about ten; their rounding is what e^x passes on.
            .arrays = {written("y", count, 5e-6), written("lse", batch * heads * length, 5e-6),
                       input("qkv", 3 * count, 3), written("dqkv", 3 * count, 5e-6), input("dy", count, 1)},
        };
        expect_parity(&parity);
    }
}

static void run_cross_entropy(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->cross_entropy(NULL, a[0], a[1], a[2], a[3], s->rows, s->columns, s->inner);
}

static void run_cross_entropy_backward(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->cross_entropy_backward(NULL, a[0], a[1], a[2], s->rows, s->columns, s->inner);
}

static void cross_entropy_matches_the_reference(void **state)
{
    (void)state;
    // rows, classes, stride
    static const size_t shapes[][3] = {{1, 1, 1},      {7, 2, 5},       {33, 7, 7},      {65, 33, 64},
                                       {3, 257, 1000}, {9, 1025, 1030}, {23, 3001, 3008}};

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct sizes s = {.rows = shapes[i][0], .columns = shapes[i][1], .inner = shapes[i][2]};
        const struct parity forward = {
            .name = "cross_entropy",
            .run = run_cross_entropy,
            .sizes = s,
            .arrays = {of_type(DOUBLES, updated("tally", 3, 1, 1e-6)), written("lse", s.rows, 1e-6),
                       input("logits", s.rows * s.inner, 30), labels("targets", TARGETS, s.rows, s.columns)},
        };
        const struct parity backward = {
            .name = "cross_entropy_backward",
            .run = run_cross_entropy_backward,
            .sizes = s,
            .arrays = {updated("logits", s.rows * s.inner, 1, 1e-6), input("lse", s.rows, 1),
                       labels("targets", TARGETS, s.rows, s.columns)},
        };
        expect_parity(&forward);
        expect_parity(&backward);
    }
}

static void run_sum_of_squares(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    kernels->sum_of_squares(NULL, a[0], a[1], s->rows);
}

static void run_sgd(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    const struct kernel_sgd args = {.learning_rate = 0.1f, .weight_decay = 0.3f, .gradient_scale = 0.7f};
    kernels->sgd(NULL, &args, a[0], a[1], 0, s->rows);
}

static void run_sgd_with_momentum(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    const struct kernel_sgd args = {
        .learning_rate = 0.1f, .momentum = 0.9f, .weight_decay = 0.3f, .gradient_scale = 0.7f};
    kernels->sgd(NULL, &args, a[0], a[1], a[2], s->rows);
}

static void run_adamw(const struct kernels *kernels, const struct sizes *s, const device_address *a)
{
    const struct kernel_adamw args = {
        .learning_rate = 0.1f,
        .beta1 = 0.9f,
        .beta2 = 0.95f,
        .epsilon = 1e-8f,
        .weight_decay = 0.3f,
        .gradient_scale = 0.7f,
        .step = 4,
    };
    kernels->adamw(NULL, &args, a[0], a[1], a[2], a[3], s->rows);
}

static void optimizer_entries_match_the_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i <= ODD_SIZES; i++) {
        const size_t count = i < ODD_SIZES ? odd_sizes[i] : LARGE;
        const struct parity parities[] = {
            {.name = "sum_of_squares",
             .run = run_sum_of_squares,
             .arrays = {of_type(DOUBLES, written("sum", 1, 1e-12)), input("x", count, 1)}},
            {.name = "sgd",
             .run = run_sgd,
             .arrays = {updated("weights", count, 1, 1e-6), input("gradients", count, 1)}},
            {.name = "sgd with momentum",
             .run = run_sgd_with_momentum,
             .arrays = {updated("weights", count, 1, 1e-6), input("gradients", count, 1),
                        updated("velocity", count, 1, 1e-6)}},
            {.name = "adamw",
             .run = run_adamw,
             .arrays = {updated("weights", count, 1, 1e-6), input("gradients", count, 1),
                        updated("first_moment", count, 1, 1e-6),
                        of_type(POSITIVE_FLOATS, updated("second_moment", count, 1, 1e-6))}},
        };
        for (size_t p = 0; p < sizeof parities / sizeof *parities; p++) {
            struct parity parity = parities[p];
            parity.sizes.rows = count;
            expect_parity(&parity);
        }
    }
}

// Gradients against finite differences ------------------------------------------------------------------------------

#define INPUTS_MAX 3
#define DIRECTIONS 8

// A loss, the sum of weights[i] * y[i], as a function of up to three arrays. Both functions use the reference.
struct differentiable {
    const char *name;
    double (*loss)(float *const *x, const float *weights);
    void (*gradient)(float *const *x, const float *weights, float *const *dx); // dx[] are zeros before
    size_t counts[INPUTS_MAX];                                                 // of the arrays; 0: none
    size_t outputs;
    double scale; // of the inputs
};

static double weighted_sum(const float *y, const float *weights, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)y[i] * (double)weights[i];
    }
    return sum;
}

// Steps of up to 1/128 in every element: central differences then miss the third derivative by about 1e-5, and the
// float32 outputs are 1e-7 / 1e-2 = 1e-5 off. So 1e-3, of the size that a sum of terms of random sign has.
static void expect_derivative(const struct differentiable *f, float **x, size_t input, const float *weights,
                              const float *dx)
{
    const size_t count = f->counts[input];
    float *middle = x[input], *low = random_floats(count, 1.0 / 128), *high = allocate(count * sizeof *high);
    double expected = 0, size = 0;

    for (size_t i = 0; i < count; i++) {
        float step = low[i];
        high[i] = middle[i] + step;
        low[i] = middle[i] - step;
        double term = (double)dx[i] * ((double)high[i] - (double)low[i]);
        expected += term;
        size += term * term;
    }
    x[input] = high;
    double difference = f->loss(x, weights);
    x[input] = low;
    difference -= f->loss(x, weights);
    x[input] = middle;

    if (!(fabs(difference - expected) <= 1e-3 * sqrt(size))) {
        fail_msg("%s: input %zu: difference %g, gradient %g, seed %llu", f->name, input, difference, expected,
                 (unsigned long long)SEED);
    }
    free(low);
    free(high);
}

static void expect_gradient(const struct differentiable *f)
{
    float *x[INPUTS_MAX] = {0}, *dx[INPUTS_MAX] = {0};
    float *weights = random_floats(f->outputs, 1);

    for (size_t i = 0; i < INPUTS_MAX; i++) {
        x[i] = random_floats(f->counts[i], f->scale);
        dx[i] = zeros(f->counts[i]);
    }
    f->gradient(x, weights, dx);
    for (size_t i = 0; i < INPUTS_MAX && f->counts[i] > 0; i++) {
        for (size_t direction = 0; direction < DIRECTIONS; direction++) {
            expect_derivative(f, x, i, weights, dx[i]);
        }
    }
    for (size_t i = 0; i < INPUTS_MAX; i++) {
        free(x[i]);
        free(dx[i]);
    }
    free(weights);
}

static const struct kernels *reference(void)
{
    return kernels_find("reference");
}

// y = a b + bias; a and b have gradients dy b' and a' dy.
enum { M = 5, N = 7, K = 3 };

static double matmul_loss(float *const *x, const float *weights)
{
    float y[M * N];
    const struct kernel_matmul shape = {.m = M, .n = N, .k = K};
    reference()->matmul(NULL, &shape, address_of(y), address_of(x[0]), address_of(x[1]), address_of(x[2]));
    return weighted_sum(y, weights, M * N);
}

static void matmul_gradient(float *const *x, const float *weights, float *const *dx)
{
    const struct kernel_matmul to_a = {.m = M, .n = K, .k = N, .transpose_b = true};
    const struct kernel_matmul to_b = {.m = K, .n = N, .k = M, .transpose_a = true};
    reference()->matmul(NULL, &to_a, address_of(dx[0]), address_of(weights), address_of(x[1]), 0);
    reference()->matmul(NULL, &to_b, address_of(dx[1]), address_of(x[0]), address_of(weights), 0);
    reference()->bias_backward(NULL, address_of(dx[2]), address_of(weights), M, N);
}

static void matmul_has_the_gradient_of_its_use(void **state)
{
    (void)state;
    expect_gradient(&(struct differentiable){.name = "matmul",
                                             .loss = matmul_loss,
                                             .gradient = matmul_gradient,
                                             .counts = {M * K, K * N, N},
                                             .outputs = M * N,
                                             .scale = 1});
}

enum { ELEMENTS = 200 };

static double gelu_loss(float *const *x, const float *weights)
{
    float y[ELEMENTS];
    reference()->gelu(NULL, address_of(y), address_of(x[0]), ELEMENTS);
    return weighted_sum(y, weights, ELEMENTS);
}

static void gelu_gradient(float *const *x, const float *weights, float *const *dx)
{
    reference()->gelu_backward(NULL, address_of(dx[0]), address_of(weights), address_of(x[0]), ELEMENTS);
}

static void gelu_has_its_gradient(void **state)
{
    (void)state;
    expect_gradient(&(struct differentiable){.name = "gelu",
                                             .loss = gelu_loss,
                                             .gradient = gelu_gradient,
                                             .counts = {ELEMENTS},
                                             .outputs = ELEMENTS,
                                             .scale = 4});
}

// relu has a kink, so its values are known ones.
static void relu_keeps_what_is_positive(void **state)
{
    (void)state;
    const char *names[] = {"reference", "cpu"};
    for (size_t i = 0; i < 2; i++) {
        const struct kernels *kernels = kernels_find(names[i]);
        float x[] = {-2, 0, 3, NAN}, dy[] = {5, 6, 7, 8}, dx[4];
        kernels->relu(NULL, address_of(x), 4);
        kernels->relu_backward(NULL, address_of(dx), address_of(dy), address_of(x), 4);
        assert_true(x[0] == 0 && x[1] == 0 && x[2] == 3 && isnan(x[3]));
        assert_true(dx[0] == 0 && dx[1] == 0 && dx[2] == 7);
    }
}

enum { NORM_ROWS = 5, NORM_CHANNELS = 11 };

static double layer_norm_loss(float *const *x, const float *weights)
{
    float y[NORM_ROWS * NORM_CHANNELS], mean[NORM_ROWS], rstd[NORM_ROWS];
    reference()->layer_norm(NULL, address_of(y), address_of(mean), address_of(rstd), address_of(x[0]), address_of(x[1]),
                            address_of(x[2]), NORM_ROWS, NORM_CHANNELS);
    return weighted_sum(y, weights, NORM_ROWS * NORM_CHANNELS);
}

static void layer_norm_gradient(float *const *x, const float *weights, float *const *dx)
{
    float y[NORM_ROWS * NORM_CHANNELS], mean[NORM_ROWS], rstd[NORM_ROWS];
    reference()->layer_norm(NULL, address_of(y), address_of(mean), address_of(rstd), address_of(x[0]), address_of(x[1]),
                            address_of(x[2]), NORM_ROWS, NORM_CHANNELS);
    reference()->layer_norm_backward(NULL, address_of(dx[0]), address_of(dx[1]), address_of(dx[2]), address_of(weights),
                                     address_of(x[0]), address_of(mean), address_of(rstd), address_of(x[1]), NORM_ROWS,
                                     NORM_CHANNELS, true);
}

static void layer_norm_has_its_gradient(void **state)
{
    (void)state;
    expect_gradient(&(struct differentiable){.name = "layer_norm",
                                             .loss = layer_norm_loss,
                                             .gradient = layer_norm_gradient,
                                             .counts = {NORM_ROWS * NORM_CHANNELS, NORM_CHANNELS, NORM_CHANNELS},
                                             .outputs = NORM_ROWS * NORM_CHANNELS,
                                             .scale = 2});
}

enum { BATCH = 2, LENGTH = 6, HEADS = 2, CHANNELS = 6, VOCABULARY = 5 };
static const int32_t sentences[BATCH * LENGTH] = {0, 4, 4, 1, 2, 0, 3, 3, 3, 1, 4, 0};

static double embedding_loss(float *const *x, const float *weights)
{
    float y[BATCH * LENGTH * CHANNELS];
    reference()->embedding(NULL, address_of(y), address_of(sentences), address_of(x[0]), address_of(x[1]), BATCH,
                           LENGTH, CHANNELS);
    return weighted_sum(y, weights, BATCH * LENGTH * CHANNELS);
}

static void embedding_gradient(float *const *x, const float *weights, float *const *dx)
{
    (void)x;
    reference()->embedding_backward(NULL, address_of(dx[0]), address_of(dx[1]), address_of(weights),
                                    address_of(sentences), BATCH, LENGTH, CHANNELS);
}

static void embedding_has_its_gradient(void **state)
{
    (void)state;
    expect_gradient(&(struct differentiable){.name = "embedding",
                                             .loss = embedding_loss,
                                             .gradient = embedding_gradient,
                                             .counts = {VOCABULARY * CHANNELS, LENGTH * CHANNELS},
                                             .outputs = BATCH * LENGTH * CHANNELS,
                                             .scale = 1});
}

static double attention_loss(float *const *x, const float *weights)
{
    float y[BATCH * LENGTH * CHANNELS], lse[BATCH * HEADS * LENGTH];
    reference()->attention(NULL, address_of(y), address_of(lse), address_of(x[0]), BATCH, LENGTH, CHANNELS, HEADS);
    return weighted_sum(y, weights, BATCH * LENGTH * CHANNELS);
}

static void attention_gradient(float *const *x, const float *weights, float *const *dx)
{
    float y[BATCH * LENGTH * CHANNELS], lse[BATCH * HEADS * LENGTH];
    reference()->attention(NULL, address_of(y), address_of(lse), address_of(x[0]), BATCH, LENGTH, CHANNELS, HEADS);
    reference()->attention_backward(NULL, address_of(dx[0]), address_of(weights), address_of(x[0]), address_of(y),
                                    address_of(lse), BATCH, LENGTH, CHANNELS, HEADS);
}

static void attention_has_its_gradient(void **state)
{
    (void)state;
    expect_gradient(&(struct differentiable){.name = "attention",
                                             .loss = attention_loss,
                                             .gradient = attention_gradient,
                                             .counts = {BATCH * LENGTH * 3 * CHANNELS},
                                             .outputs = BATCH * LENGTH * CHANNELS,
                                             .scale = 2});
}

// What a token may see ends with itself: a later token, even one that is not a number, changes nothing before it.
static void attention_does_not_look_ahead(void **state)
{
    (void)state;
    float *qkv = random_floats(LENGTH * 3 * CHANNELS, 1);
    float y[LENGTH * CHANNELS], changed[LENGTH * CHANNELS], lse[HEADS * LENGTH];

    reference()->attention(NULL, address_of(y), address_of(lse), address_of(qkv), 1, LENGTH, CHANNELS, HEADS);
    qkv[4 * 3 * CHANNELS + CHANNELS] = NAN; // a key of the fifth token
    reference()->attention(NULL, address_of(changed), address_of(lse), address_of(qkv), 1, LENGTH, CHANNELS, HEADS);
    assert_memory_equal(changed, y, 4 * CHANNELS * sizeof *y);
    assert_true(isnan(changed[4 * CHANNELS]));
    free(qkv);
}

// The loss of cross_entropy is its own sum; the targets include one that does not count.
enum { ROWS = 4, CLASSES = 9, STRIDE = 12 };
static const int32_t targets[ROWS] = {8, KERNEL_TARGET_NONE, 0, 3};

static double cross_entropy_loss(float *const *x, const float *weights)
{
    (void)weights;
    struct kernel_tally tally = {0};
    float lse[ROWS];
    reference()->cross_entropy(NULL, address_of(&tally), address_of(lse), address_of(x[0]), address_of(targets), ROWS,
                               CLASSES, STRIDE);
    return tally.loss;
}

static void cross_entropy_gradient(float *const *x, const float *weights, float *const *dx)
{
    (void)weights;
    struct kernel_tally tally = {0};
    float lse[ROWS];
    reference()->cross_entropy(NULL, address_of(&tally), address_of(lse), address_of(x[0]), address_of(targets), ROWS,
                               CLASSES, STRIDE);
    memcpy(dx[0], x[0], ROWS * STRIDE * sizeof(float));
    reference()->cross_entropy_backward(NULL, address_of(dx[0]), address_of(lse), address_of(targets), ROWS, CLASSES,
                                        STRIDE);
}

static void cross_entropy_has_its_gradient(void **state)
{
    (void)state;
    expect_gradient(&(struct differentiable){.name = "cross_entropy",
                                             .loss = cross_entropy_loss,
                                             .gradient = cross_entropy_gradient,
                                             .counts = {ROWS * STRIDE},
                                             .outputs = 1,
                                             .scale = 3});
}

// Known values ------------------------------------------------------------------------------------------------------

static void expect_tally(const struct kernels *kernels, const float *logits, int32_t target, double loss,
                         double correct)
{
    struct kernel_tally tally = {.loss = 10, .count = 20, .correct = 30};
    float lse;
    kernels->cross_entropy(NULL, address_of(&tally), address_of(&lse), address_of(logits), address_of(&target), 1, 3,
                           3);
    assert_true(fabs(tally.loss - 10 - loss) < 1e-6);
    assert_true(tally.count == 21);
    assert_true(tally.correct == 30 + correct);
}

static void cross_entropy_takes_the_first_of_equal_logits(void **state)
{
    (void)state;
    const char *names[] = {"reference", "cpu"};
    const float logits[] = {1, 2, 2};
    const double lse = log(exp(1) + 2 * exp(2));

    for (size_t i = 0; i < 2; i++) {
        expect_tally(kernels_find(names[i]), logits, 0, lse - 1, 0);
        expect_tally(kernels_find(names[i]), logits, 1, lse - 2, 1);
        expect_tally(kernels_find(names[i]), logits, 2, lse - 2, 0);
    }
}

// A diverging run must be seen, wherever in the row the bad value stands.
static void loss_of_bad_logits_is_not_finite(void **state)
{
    (void)state;
    enum { COUNT = 2100 };
    const char *names[] = {"reference", "cpu"};
    const float bad[] = {NAN, INFINITY};
    const int32_t target = 5;
    float *logits = random_floats(COUNT, 1);

    for (size_t i = 0; i < COUNT * 4; i += 7) {
        struct kernel_tally tally = {0};
        float lse, before = logits[i % COUNT];
        logits[i % COUNT] = bad[i % 2];
        kernels_find(names[i / 2 % 2])
            ->cross_entropy(NULL, address_of(&tally), address_of(&lse), address_of(logits), address_of(&target), 1,
                            COUNT, COUNT);
        logits[i % COUNT] = before;
        assert_true(!isfinite(tally.loss));
    }
    free(logits);
}

// A logit of minus infinity is a class that cannot be, not an error, even where a row has only such for long.
static void minus_infinity_excludes_a_class(void **state)
{
    (void)state;
    enum { COUNT = 2100 };
    const char *names[] = {"reference", "cpu"};
    const int32_t target = COUNT - 2;
    float *logits = allocate(COUNT * sizeof *logits);

    for (size_t i = 0; i < COUNT; i++) {
        logits[i] = i < COUNT - 2 ? -INFINITY : 1;
    }
    for (size_t i = 0; i < 2; i++) {
        struct kernel_tally tally = {0};
        float lse;
        kernels_find(names[i])->cross_entropy(NULL, address_of(&tally), address_of(&lse), address_of(logits),
                                              address_of(&target), 1, COUNT, COUNT);
        assert_true(fabs(tally.loss - log(2)) < 1e-6);
        assert_true(tally.correct == 1);
    }
    free(logits);
}

static void sgd_takes_two_known_steps(void **state)
{
    (void)state;
    const char *names[] = {"reference", "cpu"};
    const struct kernel_sgd args = {.learning_rate = 0.1f, .momentum = 0.9f, .weight_decay = 0.1f, .gradient_scale = 2};

    for (size_t i = 0; i < 2; i++) {
        const struct kernels *kernels = kernels_find(names[i]);
        float w = 1, g = 0.25f, v = 0;
        kernels->sgd(NULL, &args, address_of(&w), address_of(&g), address_of(&v), 1);
        assert_float_equal(v, 0.6, 1e-6); // 2 * 0.25 + 0.1 * 1
        assert_float_equal(w, 0.94, 1e-6);
        kernels->sgd(NULL, &args, address_of(&w), address_of(&g), address_of(&v), 1);
        assert_float_equal(v, 1.134, 1e-6); // 0.9 * 0.6 + 0.5 + 0.094
        assert_float_equal(w, 0.8266, 1e-6);
    }
}

static void adamw_takes_two_known_steps(void **state)
{
    (void)state;
    const char *names[] = {"reference", "cpu"};
    struct kernel_adamw args = {
        .learning_rate = 0.1f, .beta1 = 0.9f, .beta2 = 0.99f, .epsilon = 1, .weight_decay = 0.5f, .gradient_scale = 2};

    for (size_t i = 0; i < 2; i++) {
        const struct kernels *kernels = kernels_find(names[i]);
        float w = 1, g = 1, m = 0, v = 0;
        args.step = 1; // m = 0.2, v = 0.04, corrected 2 and 4: 0.95 - 0.1 * 2 / (2 + 1)
        kernels->adamw(NULL, &args, address_of(&w), address_of(&g), address_of(&m), address_of(&v), 1);
        assert_float_equal(w, 0.8833333, 1e-6);
        g = -0.5f;
        args.step = 2; // m = 0.08, v = 0.0496, corrected 0.4210526 and 2.4924623
        kernels->adamw(NULL, &args, address_of(&w), address_of(&g), address_of(&m), address_of(&v), 1);
        assert_float_equal(m, 0.08, 1e-6);
        assert_float_equal(v, 0.0496, 1e-6);
        assert_float_equal(w, 0.8228389, 1e-6);
    }
}

// The bound that cpu_exp promises; float32 alone rounds by up to 6e-8.
static void exponential_is_accurate_over_the_whole_range(void **state)
{
    (void)state;
    for (int32_t i = -87300; i < 88700; i++) {
        float x = (float)i * 1e-3f;
        double exact = exp((double)x);
        double error = fabs((double)cpu_exp(x) - exact) / exact;
        if (!(error <= 2e-7)) {
            fail_msg("e^%.9g: relative error %g", (double)x, error);
        }
    }
    for (int32_t i = -110000; i < -87300; i++) { // denormal results, then 0
        float x = (float)i * 1e-3f;
        assert_true(fabs((double)cpu_exp(x) - exp((double)x)) <= 0x1p-149);
    }
    assert_true(cpu_exp(0) == 1);
    assert_true(cpu_exp(88.8f) == INFINITY && cpu_exp(1e30f) == INFINITY && cpu_exp(INFINITY) == INFINITY);
    assert_true(cpu_exp(-1e30f) == 0 && cpu_exp(-INFINITY) == 0);
    assert_true(isnan(cpu_exp(NAN)));
}

// No array is touched: every address is 0.
static void sizes_of_zero_do_nothing(void **state)
{
    (void)state;
    static const struct kernel_matmul empty = {0};
    static const struct kernel_sgd sgd = {0};
    static const struct kernel_adamw adamw = {.step = 1};
    const char *names[] = {"reference", "cpu"};

    for (size_t i = 0; i < 2; i++) {
        const struct kernels *k = kernels_find(names[i]);
        struct kernel_tally tally = {.loss = 1, .count = 2, .correct = 3};
        double sum = NAN;
        k->matmul(NULL, &empty, 0, 0, 0, 0);
        k->bias_backward(NULL, 0, 0, 0, 0);
        k->relu(NULL, 0, 0);
        k->relu_backward(NULL, 0, 0, 0, 0);
        k->gelu(NULL, 0, 0, 0);
        k->gelu_backward(NULL, 0, 0, 0, 0);
        k->add(NULL, 0, 0, 0, 0);
        k->layer_norm(NULL, 0, 0, 0, 0, 0, 0, 0, 0);
        k->layer_norm_backward(NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, false);
        k->embedding(NULL, 0, 0, 0, 0, 0, 0, 0);
        k->embedding_backward(NULL, 0, 0, 0, 0, 0, 0, 0);
        k->attention(NULL, 0, 0, 0, 0, 0, 0, 0);
        k->attention_backward(NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        k->cross_entropy(NULL, address_of(&tally), 0, 0, 0, 0, 0, 0);
        k->cross_entropy_backward(NULL, 0, 0, 0, 0, 0, 0);
        k->sum_of_squares(NULL, address_of(&sum), 0, 0);
        k->sgd(NULL, &sgd, 0, 0, 0, 0);
        k->adamw(NULL, &adamw, 0, 0, 0, 0, 0);
        assert_true(tally.loss == 1 && tally.count == 2 && tally.correct == 3);
        assert_true(sum == 0);
    }
}

static void tables_are_found_by_name(void **state)
{
    (void)state;
    assert_string_equal(kernels_find("cpu")->name, "cpu");
    assert_string_equal(kernels_find("reference")->name, "reference");
    assert_null(kernels_find("abacus"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(matmul_matches_the_reference, start),
        cmocka_unit_test_setup(matmul_over_nothing_is_the_bias, start),
        cmocka_unit_test_setup(bias_backward_matches_the_reference, start),
        cmocka_unit_test_setup(elementwise_entries_match_the_reference, start),
        cmocka_unit_test_setup(layer_norm_matches_the_reference, start),
        cmocka_unit_test_setup(embedding_matches_the_reference, start),
        cmocka_unit_test_setup(attention_matches_the_reference, start),
        cmocka_unit_test_setup(cross_entropy_matches_the_reference, start),
        cmocka_unit_test_setup(optimizer_entries_match_the_reference, start),
        cmocka_unit_test_setup(matmul_has_the_gradient_of_its_use, start),
        cmocka_unit_test_setup(gelu_has_its_gradient, start),
        cmocka_unit_test_setup(relu_keeps_what_is_positive, start),
        cmocka_unit_test_setup(layer_norm_has_its_gradient, start),
        cmocka_unit_test_setup(embedding_has_its_gradient, start),
        cmocka_unit_test_setup(attention_has_its_gradient, start),
        cmocka_unit_test_setup(attention_does_not_look_ahead, start),
        cmocka_unit_test_setup(cross_entropy_has_its_gradient, start),
        cmocka_unit_test_setup(cross_entropy_takes_the_first_of_equal_logits, start),
        cmocka_unit_test_setup(loss_of_bad_logits_is_not_finite, start),
        cmocka_unit_test_setup(minus_infinity_excludes_a_class, start),
        cmocka_unit_test_setup(sgd_takes_two_known_steps, start),
        cmocka_unit_test_setup(adamw_takes_two_known_steps, start),
        cmocka_unit_test_setup(exponential_is_accurate_over_the_whole_range, start),
        cmocka_unit_test_setup(sizes_of_zero_do_nothing, start),
        cmocka_unit_test_setup(tables_are_found_by_name, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
