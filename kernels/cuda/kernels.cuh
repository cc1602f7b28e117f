// SPDX-License-Identifier: Apache-2.0
//
// The CUDA kernels' entries, written once for both precisions: `real` is float or __nv_bfloat16. Each entry does what
// kernels.h says of it.
//
// Every sum has a fixed order, whatever the GPU's load: no atomic additions of floating-point numbers.
#ifndef HEADROOM_KERNELS_CUDA_KERNELS_CUH
#define HEADROOM_KERNELS_CUDA_KERNELS_CUH

#include <cuda_bf16.h>

#include "kernels/cuda/launch.cuh"

template <typename real> struct cuda_kernels {
    static void bias_backward(struct kernel_context *context, device_address dbias, device_address dy, size_t rows,
                              size_t n);
    static void convert(struct kernel_context *context, device_address y, device_address x, size_t count);
    static void relu(struct kernel_context *context, device_address x, size_t count);
    static void relu_backward(struct kernel_context *context, device_address dx, device_address dy, device_address y,
                              size_t count);
    static void gelu(struct kernel_context *context, device_address y, device_address x, size_t count);
    static void gelu_backward(struct kernel_context *context, device_address dx, device_address dy, device_address x,
                              size_t count);
    static void add(struct kernel_context *context, device_address y, device_address a, device_address b, size_t count);
    static void layer_norm(struct kernel_context *context, device_address y, device_address sum, device_address mean,
                           device_address rstd, device_address x, device_address residual, device_address gamma,
                           device_address beta, size_t rows, size_t channels);
    static void layer_norm_backward(struct kernel_context *context, device_address dx, device_address dgamma,
                                    device_address dbeta, device_address dy, device_address x, device_address mean,
                                    device_address rstd, device_address gamma, size_t rows, size_t channels,
                                    bool accumulate);
    static void embedding(struct kernel_context *context, device_address y, device_address tokens, device_address wte,
                          device_address wpe, size_t batch, size_t length, size_t channels);
    static void embedding_backward(struct kernel_context *context, device_address dwte, device_address dwpe,
                                   device_address dy, device_address tokens, size_t batch, size_t length,
                                   size_t channels, size_t vocabulary);
    static void attention(struct kernel_context *context, device_address y, device_address lse, device_address qkv,
                          size_t batch, size_t length, size_t channels, size_t heads);
    static void attention_backward(struct kernel_context *context, device_address dqkv, device_address delta,
                                   device_address dy, device_address qkv, device_address y, device_address lse,
                                   size_t batch, size_t length, size_t channels, size_t heads);
    static void attention_cached(struct kernel_context *context, device_address y, device_address cache,
                                 device_address qkv, size_t rows, size_t first, size_t capacity, size_t channels,
                                 size_t heads);
    static void cross_entropy(struct kernel_context *context, device_address tally, device_address logits,
                              device_address targets, size_t rows, size_t classes, size_t stride, bool gradient);
    static void sgd(struct kernel_context *context, const struct kernel_sgd *args, device_address weights,
                    device_address copy, device_address gradients, device_address velocity, device_address scale,
                    size_t count);
    static void adamw(struct kernel_context *context, const struct kernel_adamw *args, device_address weights,
                      device_address copy, device_address gradients, device_address first_moment,
                      device_address second_moment, device_address scale, size_t count);
};

inline const struct cuda_context *cuda_of(struct kernel_context *context)
{
    return reinterpret_cast<struct cuda_context *>(context);
}

template <typename type> type *cuda_pointer(device_address address)
{
    return reinterpret_cast<type *>(address);
}

// Enough blocks for `items`, but at most `per_multiprocessor` for each: kernels stride over what is left.
inline unsigned cuda_blocks(const struct cuda_context *context, size_t items, size_t items_per_block,
                            int per_multiprocessor)
{
    const size_t needed = items / items_per_block + (items % items_per_block != 0);
    const size_t most = static_cast<size_t>(context->multiprocessors) * static_cast<size_t>(per_multiprocessor);
    return static_cast<unsigned>(needed < most ? needed : most);
}

void cuda_sum_of_squares(struct kernel_context *context, device_address sum, device_address x, size_t count);
void cuda_gradient_scale(struct kernel_context *context, device_address scale, device_address tally,
                         device_address squares, double clip);
void cuda_fixed_add(struct kernel_context *context, device_address sums, device_address x, size_t count, double scale,
                    int64_t limit, device_address spilled);
void cuda_fixed_get(struct kernel_context *context, device_address x, device_address sums, size_t count, double scale,
                    device_address largest);
void cuda_fixed_add_tally(struct kernel_context *context, device_address sums, device_address tally);
void cuda_fixed_get_tally(struct kernel_context *context, device_address tally, device_address sums);

#endif
