// SPDX-License-Identifier: Apache-2.0
//
// What only the CUDA device has: its streams as CUDA knows them, for the kernels and libraries that work on them.
#ifndef HEADROOM_MEM_DEVICE_CUDA_H
#define HEADROOM_MEM_DEVICE_CUDA_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "mem/device.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const struct device_ops device_cuda;

cudaStream_t device_cuda_stream(const struct stream *stream);

static inline void *device_cuda_pointer(device_address address)
{
    return (void *)(uintptr_t)address;
}

// The same for what is no runtime call; `text` says what went wrong.
void device_cuda_note_text(struct device *device, const char *what, const char *text);

// Keeps the first failure for device_ops.check; `what` names the call, as in "cublasLtMatmul". cudaSuccess is ignored.
void device_cuda_note(struct device *device, cudaError_t error, const char *what);

#ifdef __cplusplus
}
#endif

#endif
