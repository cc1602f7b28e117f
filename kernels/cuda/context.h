// SPDX-License-Identifier: Apache-2.0
//
// What CUDA kernels work with on one stream.
#ifndef HEADROOM_KERNELS_CUDA_CONTEXT_H
#define HEADROOM_KERNELS_CUDA_CONTEXT_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_matmul_cache; // of algorithms that cuBLASLt chose, matmul.c

struct cuda_context {
    struct kernel_context base;
    cudaStream_t stream;
    void *workspace;     // KERNELS_CUDA_WORKSPACE_BYTES on the device
    int multiprocessors; // of the GPU
    int shared_bytes;    // that a block may have
    cublasLtHandle_t blas;
    struct cuda_matmul_cache *matmuls;
};

extern const struct kernels kernels_cuda_fp32, kernels_cuda_bf16;

enum status cuda_context_create(const struct kernels *kernels, struct device *device, struct stream *stream,
                                device_address workspace, struct kernel_context **context_p, struct error *error);
void cuda_context_destroy(struct kernel_context *context);

// "; cuBLASLt 13.1.0"
void cuda_library_version(char *buffer, size_t size);

#ifdef __cplusplus
}
#endif

#endif
