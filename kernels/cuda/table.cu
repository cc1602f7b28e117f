// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/kernels.cuh"
#include "kernels/cuda/matmul.h"

namespace
{

enum status create_fp32(struct device *device, struct stream *stream, device_address workspace,
                        struct kernel_context **context_p, struct error *error)
{
    return cuda_context_create(&kernels_cuda_fp32, device, stream, workspace, context_p, error);
}

enum status create_bf16(struct device *device, struct stream *stream, device_address workspace,
                        struct kernel_context **context_p, struct error *error)
{
    return cuda_context_create(&kernels_cuda_bf16, device, stream, workspace, context_p, error);
}

template <typename real, typename creator>
constexpr struct kernels table(enum kernel_precision precision, creator context_create)
{
    using entries = cuda_kernels<real>;
    return {
        .name = "cuda",
        .precision = precision,
        .workspace_bytes = KERNELS_CUDA_WORKSPACE_BYTES,
        .context_create = context_create,
        .context_destroy = cuda_context_destroy,
        .matmul = cuda_matmul,
        .bias_backward = entries::bias_backward,
        .convert = entries::convert,
        .relu = entries::relu,
        .relu_backward = entries::relu_backward,
        .gelu = entries::gelu,
        .gelu_backward = entries::gelu_backward,
        .add = entries::add,
        .layer_norm = entries::layer_norm,
        .layer_norm_backward = entries::layer_norm_backward,
        .embedding = entries::embedding,
        .embedding_backward = entries::embedding_backward,
        .attention = entries::attention,
        .attention_backward = entries::attention_backward,
        .attention_cached = entries::attention_cached,
        .cross_entropy = entries::cross_entropy,
        .sum_of_squares = cuda_sum_of_squares,
        .gradient_scale = cuda_gradient_scale,
        .fixed_add = cuda_fixed_add,
        .fixed_get = cuda_fixed_get,
        .fixed_add_tally = cuda_fixed_add_tally,
        .fixed_get_tally = cuda_fixed_get_tally,
        .sgd = entries::sgd,
        .adamw = entries::adamw,
    };
}

} // namespace

extern "C" constinit const struct kernels kernels_cuda_fp32 = table<float>(KERNEL_FP32, create_fp32);
extern "C" constinit const struct kernels kernels_cuda_bf16 = table<__nv_bfloat16>(KERNEL_BF16, create_bf16);
