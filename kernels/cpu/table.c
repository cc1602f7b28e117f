// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

#ifdef CPU_BF16
#define TABLE           kernels_cpu_bf16
#define PRECISION       KERNEL_BF16
#define OF_PRECISION(f) f##_bf16
#else
#define TABLE           kernels_cpu_fp32
#define PRECISION       KERNEL_FP32
#define OF_PRECISION(f) f##_fp32
#endif

static enum status context_create(struct device *device, struct stream *stream, device_address workspace,
                                  struct kernel_context **context_p, struct error *error)
{
    (void)workspace;
    return cpu_context_create(&TABLE, device, stream, context_p, error);
}

const struct kernels TABLE = {
    .name = "cpu",
    .precision = PRECISION,
    .context_create = context_create,
    .context_destroy = cpu_context_destroy,
    .matmul = OF_PRECISION(cpu_matmul),
    .bias_backward = cpu_bias_backward,
    .convert = cpu_convert,
    .relu = cpu_relu,
    .relu_backward = cpu_relu_backward,
    .gelu = cpu_gelu,
    .gelu_backward = cpu_gelu_backward,
    .add = cpu_add,
    .layer_norm = cpu_layer_norm,
    .layer_norm_backward = cpu_layer_norm_backward,
    .embedding = cpu_embedding,
    .embedding_backward = cpu_embedding_backward,
    .attention = OF_PRECISION(cpu_attention),
    .attention_backward = OF_PRECISION(cpu_attention_backward),
    .attention_cached = cpu_attention_cached,
    .cross_entropy = cpu_cross_entropy,
    .sum_of_squares = cpu_sum_of_squares,
    .gradient_scale = cpu_gradient_scale,
    .fixed_add = cpu_fixed_add,
    .fixed_get = cpu_fixed_get,
    .fixed_add_tally = cpu_fixed_add_tally,
    .fixed_get_tally = cpu_fixed_get_tally,
    .sgd = cpu_sgd,
    .adamw = cpu_adamw,
};
