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

int cpu_library_version(char *buffer, size_t size)
{
    const dnnl_version_t *version = dnnl_version();
    return snprintf(buffer, size, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
}
