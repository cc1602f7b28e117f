// SPDX-License-Identifier: Apache-2.0
//
// The kernels: one table of functions per device, one contract for all of them.
//
// Contract, for every entry:
//   - Addresses are device addresses of float32 arrays, row-major, unless said otherwise; at least 16-byte aligned;
//     arrays do not overlap unless the entry says that it works in place.
//   - Work is enqueued on `stream` and does not block the host. Sizes of 0 are allowed; a sum over nothing is 0.
//   - "written" outputs need no earlier contents; "added to" outputs are read and increased.
//   - Gradients are sums over samples and tokens, never means.
//   - The same inputs, sizes and number of threads give the same bits.
//
// Letters: B batch, T sequence length, C channels, V vocabulary, H heads; `rows` = B*T or B; `d` = gradient.
// The table "reference" says what each entry computes, in float64 and in plain loops; the others are held to it.
#ifndef HEADROOM_KERNELS_H
#define HEADROOM_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/device.h"

// A target that does not count: no loss, no gradient.
#define KERNEL_TARGET_NONE (-1)

// What cross_entropy adds up, as float64 on the device.
struct kernel_tally {
    double loss;    // sum of the losses of targets that count, in nats
    double count;   // targets that count
    double correct; // of them, those where the largest logit (the first of equals) is the target
};

struct kernel_matmul {
    size_t m, n, k;
    bool transpose_a; // a is [k, m], else [m, k]
    bool transpose_b; // b is [n, k], else [k, n]
    bool accumulate;  // added to c, else written
};

struct kernel_sgd {
    float learning_rate, momentum, weight_decay;
    float gradient_scale; // gradients are multiplied by it first
};

struct kernel_adamw {
    float learning_rate, beta1, beta2, epsilon, weight_decay;
    float gradient_scale; // gradients are multiplied by it first
    uint64_t step;        // from 1, for the correction of the bias
};

struct kernels {
    const char *name; // "cpu", "reference"

    // c[m, n] = op(a) op(b) (+ bias[n] on every row, where bias is not 0).
    void (*matmul)(struct stream *stream, const struct kernel_matmul *shape, device_address c, device_address a,
                   device_address b, device_address bias);
    // dbias[n] is added to: the sum of dy[rows, n] over rows.
    void (*bias_backward)(struct stream *stream, device_address dbias, device_address dy, size_t rows, size_t n);

    // In place: x = max(x, 0), NaN stays. Then dx = dy where y > 0, else 0, written; y is what relu left; dx may be dy.
    void (*relu)(struct stream *stream, device_address x, size_t count);
    void (*relu_backward)(struct stream *stream, device_address dx, device_address dy, device_address y, size_t count);
    // y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), written. Then dx = dy * gelu'(x), written; dx may be dy.
    void (*gelu)(struct stream *stream, device_address y, device_address x, size_t count);
    void (*gelu_backward)(struct stream *stream, device_address dx, device_address dy, device_address x, size_t count);

    // y = a + b, written; y may be a. All of `count`.
    void (*add)(struct stream *stream, device_address y, device_address a, device_address b, size_t count);

    // y[rows, C] = (x - mean) * rstd * gamma + beta; mean[rows] and rstd[rows] = 1/sqrt(variance + 1e-5) are written.
    void (*layer_norm)(struct stream *stream, device_address y, device_address mean, device_address rstd,
                       device_address x, device_address gamma, device_address beta, size_t rows, size_t channels);
    // dx is added to if `accumulate`, else written; dgamma[C] and dbeta[C] are added to.
    void (*layer_norm_backward)(struct stream *stream, device_address dx, device_address dgamma, device_address dbeta,
                                device_address dy, device_address x, device_address mean, device_address rstd,
                                device_address gamma, size_t rows, size_t channels, bool accumulate);

    // y[B, T, C] = wte[tokens[b, t], :] + wpe[t, :], written; tokens are int32 in [0, V).
    void (*embedding)(struct stream *stream, device_address y, device_address tokens, device_address wte,
                      device_address wpe, size_t batch, size_t length, size_t channels);
    // dwte[V, C] and dwpe[T.., C] are added to.
    void (*embedding_backward)(struct stream *stream, device_address dwte, device_address dwpe, device_address dy,
                               device_address tokens, size_t batch, size_t length, size_t channels);

    // Causal self-attention. qkv[B, T, 3C] holds q, k and v side by side, each as H heads of C/H channels.
    // y[B, T, C] = softmax(q k' / sqrt(C/H)) v per head over keys up to the query's own position, written;
    // lse[B, H, T] = log of the sum of the exponentials, written. No T x T matrix is kept (Dao et al., 2022).
    void (*attention)(struct stream *stream, device_address y, device_address lse, device_address qkv, size_t batch,
                      size_t length, size_t channels, size_t heads);
    // dqkv[B, T, 3C] is written.
    void (*attention_backward)(struct stream *stream, device_address dqkv, device_address dy, device_address qkv,
                               device_address y, device_address lse, size_t batch, size_t length, size_t channels,
                               size_t heads);

    // logits[rows, stride], of which the first `classes` columns count; targets int32[rows], each in [0, classes)
    // or KERNEL_TARGET_NONE. lse[rows] = log-sum-exp, written; the kernel_tally at `tally` is added to.
    void (*cross_entropy)(struct stream *stream, device_address tally, device_address lse, device_address logits,
                          device_address targets, size_t rows, size_t classes, size_t stride);
    // In place: logits become their gradient, softmax - onehot(target); 0 where the target does not count and in
    // columns from `classes` on.
    void (*cross_entropy_backward)(struct stream *stream, device_address logits, device_address lse,
                                   device_address targets, size_t rows, size_t classes, size_t stride);

    // The sum of squares of x[count] as one float64, written at `sum`.
    void (*sum_of_squares)(struct stream *stream, device_address sum, device_address x, size_t count);

    // PyTorch's SGD: g += weight_decay * w; velocity = momentum * velocity + g; w -= learning_rate * velocity.
    // `velocity` is 0 where momentum is 0: then w -= learning_rate * g.
    void (*sgd)(struct stream *stream, const struct kernel_sgd *args, device_address weights, device_address gradients,
                device_address velocity, size_t count);
    // AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), as PyTorch's.
    void (*adamw)(struct stream *stream, const struct kernel_adamw *args, device_address weights,
                  device_address gradients, device_address first_moment, device_address second_moment, size_t count);
};

// The table for a device's name, or "reference" (which runs on the CPU device); NULL if none was built in.
const struct kernels *kernels_find(const char *name);

// The library behind the CPU's matrix products, "oneDNN 2.6.3".
const char *kernels_library_version(char *buffer, size_t size);

#endif
