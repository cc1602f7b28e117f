// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/context.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/matmul.h"
#include "kernels/cuda/reduce.h"
#include "mem/device_cuda.h"

static cudaError_t ask(struct cuda_context *context)
{
    int gpu;
    cudaError_t result = cudaGetDevice(&gpu);
    if (result == cudaSuccess) {
        result = cudaDeviceGetAttribute(&context->multiprocessors, cudaDevAttrMultiProcessorCount, gpu);
    }
    if (result == cudaSuccess) {
        result = cudaDeviceGetAttribute(&context->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, gpu);
    }
    return result;
}

enum status cuda_context_create(const struct kernels *kernels, struct device *device, struct stream *stream,
                                device_address workspace, struct kernel_context **context_p, struct error *error)
{
    struct cuda_context *context = calloc(1, sizeof(*context));
    if (context == NULL) {
        return error_out_of_host_memory(error);
    }
    context->base = (struct kernel_context){.kernels = kernels, .device = device, .stream = stream};
    context->stream = device_cuda_stream(stream);
    context->workspace = device_cuda_pointer(workspace);
    context->matmuls = cuda_matmul_cache_create();
    cudaError_t result = ask(context);
    cublasStatus_t blas = cublasLtCreate(&context->blas);
    if (context->matmuls != NULL && result == cudaSuccess && blas == CUBLAS_STATUS_SUCCESS) {
        // The one kernel that only some sizes launch: its code is loaded now, while there is memory for it.
        cuda_add_partials(context, context->workspace, NULL, 0, 1);
        *context_p = &context->base;
        return STATUS_OK;
    }
    const char *why = context->matmuls == NULL ? "out of host memory"
                      : result != cudaSuccess  ? cudaGetErrorString(result)
                                               : cublasLtGetStatusString(blas);
    enum status status = error_set(error, STATUS_ERROR, "cannot prepare the GPU's kernels: %s", why);
    cuda_context_destroy(&context->base);
    return status;
}

void cuda_library_version(char *buffer, size_t size)
{
    size_t version = cublasLtGetVersion(); // 130100 is 13.1.0
    snprintf(buffer, size, "; cuBLASLt %zu.%zu.%zu", version / 10000, version % 10000 / 100, version % 100);
}

void cuda_context_destroy(struct kernel_context *base)
{
    struct cuda_context *context = (struct cuda_context *)base;
    if (context == NULL) {
        return;
    }
    if (context->blas != NULL) {
        cublasLtDestroy(context->blas);
    }
    cuda_matmul_cache_destroy(context->matmuls);
    free(context);
}
