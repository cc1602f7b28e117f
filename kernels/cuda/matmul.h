// SPDX-License-Identifier: Apache-2.0
//
// Matrix products by cuBLASLt, for both precisions.
#ifndef HEADROOM_KERNELS_CUDA_MATMUL_H
#define HEADROOM_KERNELS_CUDA_MATMUL_H

#include "kernels/cuda/context.h"

#ifdef __cplusplus
extern "C" {
#endif

// Makes the context's cache, NULL without host memory; the caller owns it. `destroy` accepts NULL.
struct cuda_matmul_cache *cuda_matmul_cache_create(void);
void cuda_matmul_cache_destroy(struct cuda_matmul_cache *cache);

// kernels.matmul.
void cuda_matmul(struct kernel_context *context, const struct kernel_matmul *shape, device_address c, device_address a,
                 device_address b, device_address bias, device_address gelu_input);

// c[rows, n] += bias[n] on every row, reals; for products whose bias cuBLASLt does not add.
void cuda_add_to_rows(struct cuda_context *context, device_address c, device_address bias, size_t rows, size_t n);

#ifdef __cplusplus
}
#endif

#endif
