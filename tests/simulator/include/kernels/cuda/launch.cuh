// SPDX-License-Identifier: Apache-2.0
//
// Stands in for the product's file of this name: kernels run in software.
#ifndef HEADROOM_KERNELS_CUDA_LAUNCH_CUH
#define HEADROOM_KERNELS_CUDA_LAUNCH_CUH

#include "kernels/cuda/context.h"
#include "simulator.h"

template <typename... Parameters, typename... Arguments>
void cuda_launch(const struct cuda_context *context, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                 size_t shared_bytes, Arguments... arguments)
{
    if (simt_accepts(reinterpret_cast<const void *>(kernel), grid, block, shared_bytes) &&
        simulator_load(reinterpret_cast<uintptr_t>(kernel))) {
        simulator_enqueue(context->stream, [=] {
            simt_run(__PRETTY_FUNCTION__, grid, block, shared_bytes, [=] { kernel(Parameters(arguments)...); });
        });
    }
}

template <typename... Parameters> void cuda_allow_shared(void (*kernel)(Parameters...), size_t shared_bytes)
{
    simt_allow_shared(reinterpret_cast<const void *>(kernel), shared_bytes);
}

inline unsigned char *cuda_shared()
{
    return simt_shared();
}

#endif
