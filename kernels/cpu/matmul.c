// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>

#include <dnnl.h>

void cpu_sgemm(char transpose_a, char transpose_b, size_t m, size_t n, size_t k, float alpha, const float *a,
               size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc)
{
    dnnl_status_t status = dnnl_sgemm(transpose_a, transpose_b, (dnnl_dim_t)m, (dnnl_dim_t)n, (dnnl_dim_t)k, alpha, a,
                                      (dnnl_dim_t)lda, b, (dnnl_dim_t)ldb, beta, c, (dnnl_dim_t)ldc);
    if (status != dnnl_success) {
        fprintf(stderr, "dnnl_sgemm %c%c %zu x %zu x %zu: status %d\n", transpose_a, transpose_b, m, n, k, (int)status);
        abort();
    }
}

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

void cpu_matmul(struct stream *stream, const struct kernel_matmul *shape, device_address c_at, device_address a_at,
                device_address b_at, device_address bias_at)
{
    (void)stream;
    const size_t m = shape->m, n = shape->n, k = shape->k;
    float *c = device_cpu_pointer(c_at);

    if (m == 0 || n == 0) {
        return;
    }
    if (k > 0) {
        cpu_sgemm(shape->transpose_a ? 'T' : 'N', shape->transpose_b ? 'T' : 'N', m, n, k, 1, device_cpu_pointer(a_at),
                  shape->transpose_a ? m : k, device_cpu_pointer(b_at), shape->transpose_b ? k : n,
                  shape->accumulate ? 1 : 0, c, n);
    } else if (!shape->accumulate) {
        fill_zero(c, m * n);
    }
    if (bias_at != 0) {
        add_to_rows(c, device_cpu_pointer(bias_at), m, n);
    }
}

// dbias[width] += the sums of `width` columns of dy[rows, n].
static void add_column_sums(float *dbias, const float *dy, size_t rows, size_t n, size_t width)
{
    double sum[CPU_COLUMN_BLOCK] = {0};

    for (size_t row = 0; row < rows; row++) {
#pragma omp simd
        for (size_t i = 0; i < width; i++) {
            sum[i] += (double)dy[row * n + i];
        }
    }
    for (size_t i = 0; i < width; i++) {
        dbias[i] += (float)sum[i];
    }
}

void cpu_bias_backward(struct stream *stream, device_address dbias_at, device_address dy_at, size_t rows, size_t n)
{
    (void)stream;
    float *dbias = device_cpu_pointer(dbias_at);
    const float *dy = device_cpu_pointer(dy_at);

#pragma omp parallel for if (rows * n > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < n; i += CPU_COLUMN_BLOCK) {
        add_column_sums(dbias + i, dy + i, rows, n, uint64_min(CPU_COLUMN_BLOCK, n - i));
    }
}

const char *kernels_library_version(char *buffer, size_t size)
{
    const dnnl_version_t *version = dnnl_version();
    snprintf(buffer, size, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
    return buffer;
}
