// SPDX-License-Identifier: Apache-2.0
//
// The CPU's kernels: vectorised by the compiler, threaded with OpenMP, matrix products by oneDNN. Streams of the CPU
// run on the calling thread, so a kernel has finished when it returns.
//
// Most files are compiled twice, once for each precision: `real` is how numbers are stored, float what is computed
// with. Attention and matrix products are written for float, and for bfloat16 over them.
//
// Every sum has a fixed order: threads divide outputs (rows, or columns where rows are summed), never one sum. Only
// oneDNN's matrix products may depend on the number of threads. Infinities and NaN propagate.
//
// Each entry does what kernels.h says of it.
#ifndef HEADROOM_KERNELS_CPU_H
#define HEADROOM_KERNELS_CPU_H

#include <float.h>
#include <stdint.h>

#include "kernels/bfloat16.h"
#include "kernels/kernels.h"
#include "mem/device_cpu.h"
#include "mem/uint64.h"

// Loops over fewer elements stay on the calling thread: waking the others would cost more.
#define CPU_PARALLEL_MIN 65536

// Where rows are summed, each task sums this many columns: two cache lines of every row.
#define CPU_COLUMN_BLOCK 32

struct cpu_context {
    struct kernel_context base;
    float *scratch; // of the kernel that runs, on the host
    size_t scratch_count;
};

enum status cpu_context_create(const struct kernels *kernels, struct device *device, struct stream *stream,
                               struct kernel_context **context_p, struct error *error);
void cpu_context_destroy(struct kernel_context *context);

// Room for `count` floats until the next call. Ends the program where the host's memory runs out.
float *cpu_scratch(struct kernel_context *context, size_t count);

extern const struct kernels kernels_cpu_fp32, kernels_cpu_bf16;

#ifdef CPU_BF16

typedef uint16_t real;

static inline float cpu_float(real x)
{
    return bfloat16_to_float(x);
}

static inline real cpu_real(float x)
{
    return bfloat16_from_float(x);
}

#define cpu_bias_backward       cpu_bias_backward_bf16
#define cpu_convert             cpu_convert_bf16
#define cpu_relu                cpu_relu_bf16
#define cpu_relu_backward       cpu_relu_backward_bf16
#define cpu_gelu                cpu_gelu_bf16
#define cpu_gelu_backward       cpu_gelu_backward_bf16
#define cpu_add                 cpu_add_bf16
#define cpu_layer_norm          cpu_layer_norm_bf16
#define cpu_layer_norm_backward cpu_layer_norm_backward_bf16
#define cpu_embedding           cpu_embedding_bf16
#define cpu_embedding_backward  cpu_embedding_backward_bf16
#define cpu_attention_cached    cpu_attention_cached_bf16
#define cpu_cross_entropy       cpu_cross_entropy_bf16
#define cpu_sgd                 cpu_sgd_bf16
#define cpu_adamw               cpu_adamw_bf16

#else

typedef float real;

static inline float cpu_float(real x)
{
    return x;
}

static inline real cpu_real(float x)
{
    return x;
}

#endif

void cpu_matmul_fp32(struct kernel_context *context, const struct kernel_matmul *shape, device_address c,
                     device_address a, device_address b, device_address bias, device_address gelu_input);
void cpu_matmul_bf16(struct kernel_context *context, const struct kernel_matmul *shape, device_address c,
                     device_address a, device_address b, device_address bias, device_address gelu_input);
void cpu_bias_backward(struct kernel_context *context, device_address dbias, device_address dy, size_t rows, size_t n);

void cpu_convert(struct kernel_context *context, device_address y, device_address x, size_t count);
void cpu_relu(struct kernel_context *context, device_address x, size_t count);
void cpu_relu_backward(struct kernel_context *context, device_address dx, device_address dy, device_address y,
                       size_t count);
void cpu_gelu(struct kernel_context *context, device_address y, device_address x, size_t count);
void cpu_gelu_backward(struct kernel_context *context, device_address dx, device_address dy, device_address x,
                       size_t count);
void cpu_add(struct kernel_context *context, device_address y, device_address a, device_address b, size_t count);

void cpu_layer_norm(struct kernel_context *context, device_address y, device_address sum, device_address mean,
                    device_address rstd, device_address x, device_address residual, device_address gamma,
                    device_address beta, size_t rows, size_t channels);
void cpu_layer_norm_backward(struct kernel_context *context, device_address dx, device_address dgamma,
                             device_address dbeta, device_address dy, device_address x, device_address mean,
                             device_address rstd, device_address gamma, size_t rows, size_t channels, bool accumulate);

void cpu_embedding(struct kernel_context *context, device_address y, device_address tokens, device_address wte,
                   device_address wpe, size_t batch, size_t length, size_t channels);
void cpu_embedding_backward(struct kernel_context *context, device_address dwte, device_address dwpe, device_address dy,
                            device_address tokens, size_t batch, size_t length, size_t channels, size_t vocabulary);

void cpu_attention_fp32(struct kernel_context *context, device_address y, device_address lse, device_address qkv,
                        size_t batch, size_t length, size_t channels, size_t heads);
void cpu_attention_bf16(struct kernel_context *context, device_address y, device_address lse, device_address qkv,
                        size_t batch, size_t length, size_t channels, size_t heads);
void cpu_attention_backward_fp32(struct kernel_context *context, device_address dqkv, device_address delta,
                                 device_address dy, device_address qkv, device_address y, device_address lse,
                                 size_t batch, size_t length, size_t channels, size_t heads);
void cpu_attention_backward_bf16(struct kernel_context *context, device_address dqkv, device_address delta,
                                 device_address dy, device_address qkv, device_address y, device_address lse,
                                 size_t batch, size_t length, size_t channels, size_t heads);

void cpu_attention_cached(struct kernel_context *context, device_address y, device_address cache, device_address qkv,
                          size_t rows, size_t first, size_t capacity, size_t channels, size_t heads);

void cpu_cross_entropy(struct kernel_context *context, device_address tally, device_address logits,
                       device_address targets, size_t rows, size_t classes, size_t stride, bool gradient);

void cpu_sum_of_squares(struct kernel_context *context, device_address sum, device_address x, size_t count);
void cpu_gradient_scale(struct kernel_context *context, device_address scale, device_address tally,
                        device_address squares, double clip);
void cpu_fixed_add(struct kernel_context *context, device_address sums, device_address x, size_t count, double scale,
                   int64_t limit, device_address spilled);
void cpu_fixed_get(struct kernel_context *context, device_address x, device_address sums, size_t count, double scale,
                   device_address largest);
void cpu_fixed_add_tally(struct kernel_context *context, device_address sums, device_address tally);
void cpu_fixed_get_tally(struct kernel_context *context, device_address tally, device_address sums);

void cpu_sgd(struct kernel_context *context, const struct kernel_sgd *args, device_address weights, device_address copy,
             device_address gradients, device_address velocity, device_address scale, size_t count);
void cpu_adamw(struct kernel_context *context, const struct kernel_adamw *args, device_address weights,
               device_address copy, device_address gradients, device_address first_moment, device_address second_moment,
               device_address scale, size_t count);

// One head of one sample, in float. Rows of q, k, v and their gradients are `stride` apart, those of y and dy
// `y_stride`.
struct cpu_head {
    size_t length, width, stride, y_stride;
    float scale; // of q k'
    const float *q, *k, *v, *dy;
    float *y, *lse; // written by the forward pass, read by the backward pass
    float *dq, *dk, *dv;
};

#define CPU_ATTENTION_TILE 64 // queries of a tile, and keys

// The rows of y and lse for one tile of queries from `query` on, and the gradients of a whole head.
void cpu_attention_tile(const struct cpu_head *head, size_t query);
void cpu_attention_backward_head(const struct cpu_head *head);

// The largest of `floor` and x[count]; NaN is passed over. Lanes, because not every compiler makes vector code of a
// maximum over floats.
static inline float cpu_max(const real *x, size_t count, float floor)
{
    enum { LANES = 16 };
    float max[LANES];
    size_t i = 0;

    for (size_t lane = 0; lane < LANES; lane++) {
        max[lane] = floor;
    }
    for (; i + LANES <= count; i += LANES) {
        for (size_t lane = 0; lane < LANES; lane++) {
            float value = cpu_float(x[i + lane]);
            max[lane] = value > max[lane] ? value : max[lane];
        }
    }
    for (; i < count; i++) {
        float value = cpu_float(x[i]);
        max[0] = value > max[0] ? value : max[0];
    }
    for (size_t lane = 1; lane < LANES; lane++) {
        max[0] = max[lane] > max[0] ? max[lane] : max[0];
    }
    return max[0];
}

// c = alpha op(a) op(b) + beta c, row-major, all sizes above 0; `transpose_*` is 'T' or 'N', `ld*` the distance
// between rows. Runs on one thread inside a parallel region. Where beta is 0, c is not read.
void cpu_sgemm(char transpose_a, char transpose_b, size_t m, size_t n, size_t k, float alpha, const float *a,
               size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc);

// "oneDNN 2.6.3"; answers its length.
int cpu_library_version(char *buffer, size_t size);

// e^x with a relative error below 2e-7 (below one unit in the last place of denormal results); infinities and NaN as
// in C's expf. Without branches or calls, so that loops over it become vector code.
//
// x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts so that r is exact (Cody and Waite, "Software Manual for the
// Elementary Functions", 1980, chapter 6). e^r by Taylor's polynomial of degree 7, whose remainder is below 6e-9.
// 2^n as a product of two powers of two, because n may be beyond the exponents of normal numbers.
static inline float cpu_exp(float x)
{
    const float shift = 0x1.8p23f;   // what is added to it is rounded to an integer, in the low bits of the sum
    float clamped = x > 89 ? 89 : x; // overflows; NaN stays
    clamped = clamped < -104 ? -104 : clamped; // underflows
    float shifted = clamped * 0x1.715476p+0f + shift;
    float n = shifted - shift;
    float r = clamped - n * 0x1.63p-1f;
    r = r - n * -0x1.bd0106p-13f;

    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;

    uint32_t exponents = bits_of_float(shifted) - bits_of_float(shift) + 2 * 127; // n and the bias of both
    uint32_t half = exponents / 2;
    return p * float_of_bits(half << 23) * float_of_bits((exponents - half) << 23);
}

// (1 + tanh(u)) / 2 = 1 / (1 + e^-2u) turns gelu(x) into x / (1 + e^(-x (CPU_GELU_LINEAR + CPU_GELU_CUBIC x^2))).
#define CPU_GELU_LINEAR 1.5957691216f // 2 sqrt(2 / pi)
#define CPU_GELU_CUBIC  (CPU_GELU_LINEAR * 0.044715f)

static inline float cpu_gelu_gate(float x)
{
    return 1 / (1 + cpu_exp(-x * (CPU_GELU_LINEAR + CPU_GELU_CUBIC * x * x)));
}

static inline float cpu_gelu_slope(float x)
{
    float gate = cpu_gelu_gate(x);
    return gate + x * gate * (1 - gate) * (CPU_GELU_LINEAR + 3 * CPU_GELU_CUBIC * x * x);
}

#endif
