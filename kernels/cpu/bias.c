// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

// dbias[width] += the sums of `width` columns of dy[rows, n].
static void add_column_sums(float *dbias, const real *dy, size_t rows, size_t n, size_t width)
{
    double sum[CPU_COLUMN_BLOCK] = {0};

    for (size_t row = 0; row < rows; row++) {
#pragma omp simd
        for (size_t i = 0; i < width; i++) {
            sum[i] += (double)cpu_float(dy[row * n + i]);
        }
    }
    for (size_t i = 0; i < width; i++) {
        dbias[i] += (float)sum[i];
    }
}

void cpu_bias_backward(struct kernel_context *context, device_address dbias_at, device_address dy_at, size_t rows,
                       size_t n)
{
    (void)context;
    float *dbias = device_cpu_pointer(dbias_at);
    const real *dy = device_cpu_pointer(dy_at);

#pragma omp parallel for if (rows * n > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < n; i += CPU_COLUMN_BLOCK) {
        add_column_sums(dbias + i, dy + i, rows, n, uint64_min(CPU_COLUMN_BLOCK, n - i));
    }
}
