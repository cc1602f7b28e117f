// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

const struct kernels kernels_cpu = {
    .name = "cpu",
    .matmul = cpu_matmul,
    .bias_backward = cpu_bias_backward,
    .relu = cpu_relu,
    .relu_backward = cpu_relu_backward,
    .gelu = cpu_gelu,
    .gelu_backward = cpu_gelu_backward,
    .add = cpu_add,
    .layer_norm = cpu_layer_norm,
    .layer_norm_backward = cpu_layer_norm_backward,
    .embedding = cpu_embedding,
    .embedding_backward = cpu_embedding_backward,
    .attention = cpu_attention,
    .attention_backward = cpu_attention_backward,
    .cross_entropy = cpu_cross_entropy,
    .cross_entropy_backward = cpu_cross_entropy_backward,
    .sum_of_squares = cpu_sum_of_squares,
    .sgd = cpu_sgd,
    .adamw = cpu_adamw,
};
