// SPDX-License-Identifier: Apache-2.0
//
// The reference's backward entries against finite differences of its forward entries.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/reference/reference.h"
#include "random_bits.h"

#define SEED UINT64_C(20240917)

static struct kernel_context reference = {.kernels = &kernels_reference_fp32};

static uint64_t random_state;

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
        x[i] = (float)(scale * random_real(&random_state));
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

// y = a b + bias; a and b have gradients dy b' and a' dy.
enum { M = 5, N = 7, K = 3 };

static double matmul_loss(float *const *x, const float *weights)
{
    float y[M * N];
    const struct kernel_matmul shape = {.m = M, .n = N, .k = K};
    kernels_reference_fp32.matmul(&reference, &shape, address_of(y), address_of(x[0]), address_of(x[1]),
                                  address_of(x[2]), 0);
    return weighted_sum(y, weights, M * N);
}

static void matmul_gradient(float *const *x, const float *weights, float *const *dx)
{
    const struct kernel_matmul to_a = {.m = M, .n = K, .k = N, .transpose_b = true};
    const struct kernel_matmul to_b = {.m = K, .n = N, .k = M, .transpose_a = true};
    kernels_reference_fp32.matmul(&reference, &to_a, address_of(dx[0]), address_of(weights), address_of(x[1]), 0, 0);
    kernels_reference_fp32.matmul(&reference, &to_b, address_of(dx[1]), address_of(x[0]), address_of(weights), 0, 0);
    kernels_reference_fp32.bias_backward(&reference, address_of(dx[2]), address_of(weights), M, N);
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

// y = gelu(a b + bias), and its gradient by the epilogue of the product before it: dy = g c'.
static double matmul_gelu_loss(float *const *x, const float *weights)
{
    float y[M * N];
    const struct kernel_matmul shape = {.m = M, .n = N, .k = K, .epilogue = KERNEL_EPILOGUE_GELU};
    kernels_reference_fp32.matmul(&reference, &shape, address_of(y), address_of(x[0]), address_of(x[1]),
                                  address_of(x[2]), 0);
    return weighted_sum(y, weights, M * N);
}

static void matmul_gelu_gradient(float *const *x, const float *weights, float *const *dx)
{
    float y[M * N], p[M * N] = {0}, dp[M * N], one[] = {1};
    const struct kernel_matmul shape = {.m = M, .n = N, .k = K, .epilogue = KERNEL_EPILOGUE_GELU};
    const struct kernel_matmul back = {.m = M * N, .n = 1, .k = 1, .epilogue = KERNEL_EPILOGUE_GELU_BACKWARD};
    kernels_reference_fp32.matmul(&reference, &shape, address_of(y), address_of(x[0]), address_of(x[1]),
                                  address_of(x[2]), address_of(p));
    kernels_reference_fp32.matmul(&reference, &back, address_of(dp), address_of(weights), address_of(one), 0,
                                  address_of(p));
    matmul_gradient(x, dp, dx);
}

static void matmul_epilogues_are_gelu_and_its_gradient(void **state)
{
    (void)state;
    expect_gradient(&(struct differentiable){.name = "matmul with gelu",
                                             .loss = matmul_gelu_loss,
                                             .gradient = matmul_gelu_gradient,
                                             .counts = {M * K, K * N, N},
                                             .outputs = M * N,
                                             .scale = 1});
}

enum { ELEMENTS = 200 };

static double gelu_loss(float *const *x, const float *weights)
{
    float y[ELEMENTS];
    kernels_reference_fp32.gelu(&reference, address_of(y), address_of(x[0]), ELEMENTS);
    return weighted_sum(y, weights, ELEMENTS);
}

static void gelu_gradient(float *const *x, const float *weights, float *const *dx)
{
    kernels_reference_fp32.gelu_backward(&reference, address_of(dx[0]), address_of(weights), address_of(x[0]),
                                         ELEMENTS);
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

enum { NORM_ROWS = 5, NORM_CHANNELS = 11 };

static double layer_norm_loss(float *const *x, const float *weights)
{
    float y[NORM_ROWS * NORM_CHANNELS], mean[NORM_ROWS], rstd[NORM_ROWS];
    kernels_reference_fp32.layer_norm(&reference, address_of(y), 0, address_of(mean), address_of(rstd),
                                      address_of(x[0]), 0, address_of(x[1]), address_of(x[2]), NORM_ROWS,
                                      NORM_CHANNELS);
    return weighted_sum(y, weights, NORM_ROWS * NORM_CHANNELS);
}

static void layer_norm_gradient(float *const *x, const float *weights, float *const *dx)
{
    float y[NORM_ROWS * NORM_CHANNELS], mean[NORM_ROWS], rstd[NORM_ROWS];
    kernels_reference_fp32.layer_norm(&reference, address_of(y), 0, address_of(mean), address_of(rstd),
                                      address_of(x[0]), 0, address_of(x[1]), address_of(x[2]), NORM_ROWS,
                                      NORM_CHANNELS);
    kernels_reference_fp32.layer_norm_backward(&reference, address_of(dx[0]), address_of(dx[1]), address_of(dx[2]),
                                               address_of(weights), address_of(x[0]), address_of(mean),
                                               address_of(rstd), address_of(x[1]), NORM_ROWS, NORM_CHANNELS, true);
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
    kernels_reference_fp32.embedding(&reference, address_of(y), address_of(sentences), address_of(x[0]),
                                     address_of(x[1]), BATCH, LENGTH, CHANNELS);
    return weighted_sum(y, weights, BATCH * LENGTH * CHANNELS);
}

static void embedding_gradient(float *const *x, const float *weights, float *const *dx)
{
    (void)x;
    kernels_reference_fp32.embedding_backward(&reference, address_of(dx[0]), address_of(dx[1]), address_of(weights),
                                              address_of(sentences), BATCH, LENGTH, CHANNELS, VOCABULARY);
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
    kernels_reference_fp32.attention(&reference, address_of(y), address_of(lse), address_of(x[0]), BATCH, LENGTH,
                                     CHANNELS, HEADS);
    return weighted_sum(y, weights, BATCH * LENGTH * CHANNELS);
}

static void attention_gradient(float *const *x, const float *weights, float *const *dx)
{
    float y[BATCH * LENGTH * CHANNELS], lse[BATCH * HEADS * LENGTH];
    kernels_reference_fp32.attention(&reference, address_of(y), address_of(lse), address_of(x[0]), BATCH, LENGTH,
                                     CHANNELS, HEADS);
    kernels_reference_fp32.attention_backward(&reference, address_of(dx[0]), 0, address_of(weights), address_of(x[0]),
                                              address_of(y), address_of(lse), BATCH, LENGTH, CHANNELS, HEADS);
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

    kernels_reference_fp32.attention(&reference, address_of(y), address_of(lse), address_of(qkv), 1, LENGTH, CHANNELS,
                                     HEADS);
    qkv[4 * 3 * CHANNELS + CHANNELS] = NAN; // a key of the fifth token
    kernels_reference_fp32.attention(&reference, address_of(changed), address_of(lse), address_of(qkv), 1, LENGTH,
                                     CHANNELS, HEADS);
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
    kernels_reference_fp32.cross_entropy(&reference, address_of(&tally), address_of(x[0]), address_of(targets), ROWS,
                                         CLASSES, STRIDE, false);
    return tally.loss;
}

static void cross_entropy_gradient(float *const *x, const float *weights, float *const *dx)
{
    (void)weights;
    struct kernel_tally tally = {0};
    memcpy(dx[0], x[0], ROWS * STRIDE * sizeof(float));
    kernels_reference_fp32.cross_entropy(&reference, address_of(&tally), address_of(dx[0]), address_of(targets), ROWS,
                                         CLASSES, STRIDE, true);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(matmul_has_the_gradient_of_its_use, start),
        cmocka_unit_test_setup(matmul_epilogues_are_gelu_and_its_gradient, start),
        cmocka_unit_test_setup(gelu_has_its_gradient, start),
        cmocka_unit_test_setup(layer_norm_has_its_gradient, start),
        cmocka_unit_test_setup(embedding_has_its_gradient, start),
        cmocka_unit_test_setup(attention_has_its_gradient, start),
        cmocka_unit_test_setup(attention_does_not_look_ahead, start),
        cmocka_unit_test_setup(cross_entropy_has_its_gradient, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
