// SPDX-License-Identifier: Apache-2.0
#include "kernels/kernels.h"

#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"
#ifdef HEADROOM_CUDA
#include "kernels/cuda/context.h"
#endif

static const struct kernels *const built_in[] = {
    &kernels_cpu_fp32,  &kernels_cpu_bf16,  &kernels_reference_fp32, &kernels_reference_bf16,
#ifdef HEADROOM_CUDA
    &kernels_cuda_fp32, &kernels_cuda_bf16,
#endif
};

const char *kernels_library_versions(char *buffer, size_t size)
{
    int length = cpu_library_version(buffer, size);
#ifdef HEADROOM_CUDA
    cuda_library_version(buffer + length, size - (size_t)length);
#else
    (void)length;
#endif
    return buffer;
}

const struct kernels *kernels_find(const char *name, enum kernel_precision precision)
{
    for (size_t i = 0; i < sizeof built_in / sizeof built_in[0]; i++) {
        if (strcmp(built_in[i]->name, name) == 0 && built_in[i]->precision == precision) {
            return built_in[i];
        }
    }
    return NULL;
}
