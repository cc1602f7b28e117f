// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

static void fill_zero(float *c, size_t count)
{
#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        c[i] = 0;
    }
}

static void add_to_rows(float *c, const float *bias, size_t rows, size_t n)
{
#pragma omp parallel for if (rows * n > CPU_PARALLEL_MIN)
    for (size_t row = 0; row < rows; row++) {
#pragma omp simd
        for (size_t i = 0; i < n; i++) {
            c[row * n + i] += bias[i];
        }
    }
}

static void product(const struct kernel_matmul *shape, float *c, device_address a, device_address b)
{
    const size_t m = shape->m, n = shape->n, k = shape->k;
    if (k > 0) {
        cpu_sgemm(shape->transpose_a ? 'T' : 'N', shape->transpose_b ? 'T' : 'N', m, n, k, 1, device_cpu_pointer(a),
                  shape->transpose_a ? m : k, device_cpu_pointer(b), shape->transpose_b ? k : n,
                  shape->accumulate ? 1 : 0, c, n);
    } else if (!shape->accumulate) {
        fill_zero(c, m * n);
    }
}

void cpu_matmul_fp32(struct kernel_context *context, const struct kernel_matmul *shape, device_address c,
                     device_address a, device_address b, device_address bias, device_address gelu_input)
{
    const size_t m = shape->m, n = shape->n;
    const bool keeps_input = shape->epilogue == KERNEL_EPILOGUE_GELU && gelu_input != 0;
    device_address p = keeps_input ? gelu_input : c;

    if (m == 0 || n == 0) {
        return;
    }
    product(shape, device_cpu_pointer(p), a, b);
    if (bias != 0) {
        add_to_rows(device_cpu_pointer(p), device_cpu_pointer(bias), m, n);
    }
    if (shape->epilogue == KERNEL_EPILOGUE_GELU) {
        cpu_gelu(context, c, p, m * n);
    } else if (shape->epilogue == KERNEL_EPILOGUE_GELU_BACKWARD) {
        cpu_gelu_backward(context, c, c, gelu_input, m * n);
    }
}
