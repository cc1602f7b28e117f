// SPDX-License-Identifier: Apache-2.0
//
// Sums over many rows: blocks leave partial sums in the workspace, and a second launch adds those up.
#ifndef HEADROOM_KERNELS_CUDA_REDUCE_H
#define HEADROOM_KERNELS_CUDA_REDUCE_H

#include "kernels/cuda/context.h"

#ifdef __cplusplus
extern "C" {
#endif

// first[n] += the sum of the workspace's float32 [parts, n] over parts; second[n] += that of the `parts` after them,
// where `second` is not NULL.
void cuda_add_partials(const struct cuda_context *context, float *first, float *second, size_t parts, size_t n);

#ifdef __cplusplus
}
#endif

#endif
