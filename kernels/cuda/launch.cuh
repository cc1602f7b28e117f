// SPDX-License-Identifier: Apache-2.0
//
// How kernels are started, and the shared memory whose size is known only then.
#ifndef HEADROOM_KERNELS_CUDA_LAUNCH_CUH
#define HEADROOM_KERNELS_CUDA_LAUNCH_CUH

#include "kernels/cuda/context.h"

// Enqueues the kernel on the context's stream. A launch that fails is found by device_ops.check.
template <typename... Parameters, typename... Arguments>
void cuda_launch(const struct cuda_context *context, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                 size_t shared_bytes, Arguments... arguments)
{
    kernel<<<grid, block, shared_bytes, context->stream>>>(arguments...);
}

// Lets every launch of the kernel have more than 48 KiB of shared memory.
template <typename... Parameters> void cuda_allow_shared(void (*kernel)(Parameters...), size_t shared_bytes)
{
    cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(shared_bytes));
}

// The launch's shared memory.
__device__ inline unsigned char *cuda_shared()
{
    extern __shared__ __align__(128) unsigned char bytes[];
    return bytes;
}

#endif
