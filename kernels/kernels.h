// SPDX-License-Identifier: Apache-2.0
//
// The kernels: one table of functions for each device and precision, one contract for all of them.
//
// Contract, for every entry:
//   - Addresses are device addresses of row-major arrays, multiples of KERNEL_ALIGNMENT; arrays do not overlap, except
//     that an entry may say which of them may be one and the same.
//   - An array is `real` unless said otherwise: float32 or bfloat16, by the table's precision. Sums inside a kernel
//     are float32 or wider, and reals are rounded to nearest even once, when they are written.
//   - Work is enqueued on the context's stream and does not block the host. Sizes of 0 are allowed; a sum over nothing
//     is 0.
//   - "written" outputs need no earlier contents; "added to" outputs are read and increased.
//   - Gradients are sums over samples and tokens, never means. Those of parameters are float32.
//   - The same inputs, sizes and number of threads give the same bits.
//
// Letters: B batch, T sequence length, C channels, V vocabulary, H heads; `rows` = B*T or B; `d` = gradient.
// The tables "reference" say what each entry computes, in float64 and in plain loops; the others are held to them.
#ifndef HEADROOM_KERNELS_H
#define HEADROOM_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/device.h"

#define KERNEL_ALIGNMENT 16

// A target that does not count: no loss, no gradient.
#define KERNEL_TARGET_NONE (-1)

enum kernel_precision { KERNEL_FP32, KERNEL_BF16 };

// Bytes of one real.
static inline size_t kernel_real_bytes(enum kernel_precision precision)
{
    return precision == KERNEL_BF16 ? 2 : 4;
}

struct kernels;

// What the kernels of one stream work with. Each table's own context begins with this.
struct kernel_context {
    const struct kernels *kernels;
    struct device *device;
    struct stream *stream; // there
    const char *operation; // of a list, that was enqueued last: a name that stays; other threads may read it
};

// What cross_entropy adds up, as float64 on the device.
struct kernel_tally {
    double loss;    // sum of the losses of targets that count, in nats
    double count;   // targets that count
    double correct; // of them, those where the largest logit (the first of equals) is the target
};

// A sum of tallies that does not depend on their order.
struct kernel_fixed_tally {
    int64_t nats;     // of all losses, each rounded down
    int64_t fraction; // what that left of them, times KERNEL_FIXED_LOSS_SCALE
    int64_t count, correct;
    int64_t not_finite; // tallies whose loss is not in there: not finite, or beyond +-KERNEL_FIXED_LOSS_MAX
};

#define KERNEL_FIXED_LOSS_SCALE 0x1p32
#define KERNEL_FIXED_LOSS_MAX   0x1p32 // nats of one tally; of up to 2^30 tallies neither sum overflows

enum kernel_epilogue {
    KERNEL_EPILOGUE_NONE,
    KERNEL_EPILOGUE_GELU,          // c = gelu(p); p is written at `gelu_input` where that is not 0
    KERNEL_EPILOGUE_GELU_BACKWARD, // c = p * gelu'(gelu_input)
};

struct kernel_matmul {
    size_t m, n, k;
    bool transpose_a; // a is [k, m], else [m, k]
    bool transpose_b; // b is [n, k], else [k, n]
    bool accumulate;  // added to c, else written; without an epilogue
    bool float_c;     // c is float32: a parameter's gradient; without bias and epilogue
    enum kernel_epilogue epilogue;
};

struct kernel_sgd {
    float learning_rate, momentum, weight_decay;
};

struct kernel_adamw {
    float learning_rate, beta1, beta2, epsilon, weight_decay;
    uint64_t step;     // from 1, for the correction of the bias
    uint64_t decaying; // weight decay applies to so many weights at the front
};

// The workspace of the CUDA device's: cuBLASLt's advice for Hopper; partial sums of our own kernels use the same bytes
// in turn.
#define KERNELS_CUDA_WORKSPACE_BYTES (UINT64_C(32) << 20)

struct kernels {
    const char *name; // of the device it runs on, or "reference"
    enum kernel_precision precision;

    // Device memory that the kernels of one context share, contents undefined between them; 0: none.
    uint64_t workspace_bytes;
    // Makes what kernels on `stream` work with, over workspace_bytes at `workspace`; both must outlive it. The caller
    // owns it.
    enum status (*context_create)(struct device *device, struct stream *stream, device_address workspace,
                                  struct kernel_context **context_p, struct error *error);
    // Accepts NULL.
    void (*context_destroy)(struct kernel_context *context);

    // With p[m, n] = op(a) op(b) (+ bias[n] on every row, where bias is not 0): c[m, n] = p, or what the epilogue says.
    void (*matmul)(struct kernel_context *context, const struct kernel_matmul *shape, device_address c,
                   device_address a, device_address b, device_address bias, device_address gelu_input);
    // dbias[n], float32, is added to: the sum of dy[rows, n] over rows.
    void (*bias_backward)(struct kernel_context *context, device_address dbias, device_address dy, size_t rows,
                          size_t n);

    // y = x[count], float32, rounded to the table's precision; written.
    void (*convert)(struct kernel_context *context, device_address y, device_address x, size_t count);

    // In place: x = max(x, 0), NaN stays. Then dx = dy where y > 0, else 0, written; y is what relu left; dx may be dy
    // or y.
    void (*relu)(struct kernel_context *context, device_address x, size_t count);
    void (*relu_backward)(struct kernel_context *context, device_address dx, device_address dy, device_address y,
                          size_t count);
    // y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), written; y may be x. Then dx = dy * gelu'(x), written; dx
    // may be dy or x.
    void (*gelu)(struct kernel_context *context, device_address y, device_address x, size_t count);
    void (*gelu_backward)(struct kernel_context *context, device_address dx, device_address dy, device_address x,
                          size_t count);

    // y = a + b, written; y may be a or b, or both. All of `count`.
    void (*add)(struct kernel_context *context, device_address y, device_address a, device_address b, size_t count);

    // With s[rows, C] = x + residual, written at `sum`, or s = x where `residual` and `sum` are 0:
    // y[rows, C] = (s - mean) * rstd * gamma + beta; mean[rows] and rstd[rows] = 1/sqrt(variance + 1e-5), float32, are
    // written. What is normalised is s as it is stored. y and `sum` may each be x or `residual`, but not the same one.
    void (*layer_norm)(struct kernel_context *context, device_address y, device_address sum, device_address mean,
                       device_address rstd, device_address x, device_address residual, device_address gamma,
                       device_address beta, size_t rows, size_t channels);
    // For x that was normalised: dx is added to if `accumulate`, else written; dgamma[C] and dbeta[C], float32, are
    // added to. Where it is written dx may be dy or x.
    void (*layer_norm_backward)(struct kernel_context *context, device_address dx, device_address dgamma,
                                device_address dbeta, device_address dy, device_address x, device_address mean,
                                device_address rstd, device_address gamma, size_t rows, size_t channels,
                                bool accumulate);

    // y[B, T, C] = wte[tokens[b, t], :] + wpe[t, :], written; tokens are int32 in [0, V).
    void (*embedding)(struct kernel_context *context, device_address y, device_address tokens, device_address wte,
                      device_address wpe, size_t batch, size_t length, size_t channels);
    // dwte[V, C] and dwpe[T.., C], float32, are added to.
    void (*embedding_backward)(struct kernel_context *context, device_address dwte, device_address dwpe,
                               device_address dy, device_address tokens, size_t batch, size_t length, size_t channels,
                               size_t vocabulary);

    // Causal self-attention. qkv[B, T, 3C] holds q, k and v side by side, each as H heads of C/H channels.
    // y[B, T, C] = softmax(q k' / sqrt(C/H)) v per head over keys up to the query's own position, written;
    // lse[B, H, T] = log of the sum of the exponentials, float32, written. No T x T matrix is kept (Dao et al., 2022).
    void (*attention)(struct kernel_context *context, device_address y, device_address lse, device_address qkv,
                      size_t batch, size_t length, size_t channels, size_t heads);
    // dqkv[B, T, 3C] is written; delta[B, H, T], float32, is scratch.
    void (*attention_backward)(struct kernel_context *context, device_address dqkv, device_address delta,
                               device_address dy, device_address qkv, device_address y, device_address lse,
                               size_t batch, size_t length, size_t channels, size_t heads);

    // The same for R more tokens of one sequence, without a gradient. Their k and v, of qkv[R, 3C], are written into
    // cache[2, capacity, C], k at its front, as rows `first` to first + R, at most `capacity`; y[R, C], written,
    // attends to the rows before and up to its own.
    void (*attention_cached)(struct kernel_context *context, device_address y, device_address cache, device_address qkv,
                             size_t rows, size_t first, size_t capacity, size_t channels, size_t heads);

    // logits[rows, stride], of which the first `classes` columns count; targets int32[rows], each in [0, classes)
    // or KERNEL_TARGET_NONE. The kernel_tally at `tally` is added to. With `gradient` logits become their gradient,
    // softmax - onehot(target); 0 where the target does not count and in columns from `classes` on.
    void (*cross_entropy)(struct kernel_context *context, device_address tally, device_address logits,
                          device_address targets, size_t rows, size_t classes, size_t stride, bool gradient);

    // The sum of squares of x[count], float32, as one float64, written at `sum`.
    void (*sum_of_squares)(struct kernel_context *context, device_address sum, device_address x, size_t count);
    // What the sum of gradients is multiplied by, as one float32, written at `scale`: 1 / count of the kernel_tally at
    // `tally` (1 where it is 0), times clip / norm where clip > 0 and norm = sqrt(squares) / count is more than clip;
    // not a number where the tally's loss or the norm is not finite. `squares` is what sum_of_squares wrote.
    void (*gradient_scale)(struct kernel_context *context, device_address scale, device_address tally,
                           device_address squares, double clip);

    // Sums that do not depend on the order of their terms: integers, "fixed". Every table gives the same bits, with any
    // number of threads. scale is a power of two from 2^-128 to 2^128. That sums stay within int64 is up to the caller:
    // less than 2^63 / limit terms each.
    // sums[count], int64, are added to: the integer nearest to x[i] * scale, ties to even, x float32. Where that is
    // beyond +-limit (from 0 on) or x[i] is not finite nothing is added, and the int64 at `spilled` is increased by 1.
    void (*fixed_add)(struct kernel_context *context, device_address sums, device_address x, size_t count, double scale,
                      int64_t limit, device_address spilled);
    // x[count] = sums[count] / scale, float32, written: the int64 is rounded to float64, divided exactly, then rounded
    // to float32, both to nearest even. The largest |x[i]|, 0 of nothing, is written at `largest` as float32.
    void (*fixed_get)(struct kernel_context *context, device_address x, device_address sums, size_t count, double scale,
                      device_address largest);
    // The kernel_fixed_tally at `sums` is added to: the kernel_tally at `tally`, which becomes 0. The loss is rounded
    // to nearest even; one that is not finite or beyond +-KERNEL_FIXED_LOSS_MAX adds 1 to `not_finite` in its place.
    void (*fixed_add_tally)(struct kernel_context *context, device_address sums, device_address tally);
    // The kernel_tally at `tally` is written from the kernel_fixed_tally at `sums`: each int64 rounded to float64, and
    // the loss, which is not a number where not_finite > 0.
    void (*fixed_get_tally)(struct kernel_context *context, device_address tally, device_address sums);

    // Both optimizers: g is `gradients` times the float32 at `scale`, and where that is not finite nothing changes.
    // weights[count] and the optimizer's state are float32; `copy`, where not 0, becomes the weights as reals. Tables
    // of float32 have no copies.
    // PyTorch's SGD: g += weight_decay * w; velocity = momentum * velocity + g; w -= learning_rate * velocity.
    // `velocity` is 0 where momentum is 0: then w -= learning_rate * g.
    void (*sgd)(struct kernel_context *context, const struct kernel_sgd *args, device_address weights,
                device_address copy, device_address gradients, device_address velocity, device_address scale,
                size_t count);
    // AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), as PyTorch's.
    void (*adamw)(struct kernel_context *context, const struct kernel_adamw *args, device_address weights,
                  device_address copy, device_address gradients, device_address first_moment,
                  device_address second_moment, device_address scale, size_t count);
};

#ifdef __cplusplus
extern "C" {
#endif

// The table for a device's name, or "reference" (which runs on the CPU device); NULL if none was built in.
const struct kernels *kernels_find(const char *name, enum kernel_precision precision);

// The libraries behind the tables that were built in, "oneDNN 2.6.3; cuBLASLt 13.1.0".
const char *kernels_library_versions(char *buffer, size_t size);

#ifdef __cplusplus
}
#endif

#endif
