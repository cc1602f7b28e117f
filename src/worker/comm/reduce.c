// SPDX-License-Identifier: Apache-2.0
#include "worker/comm/reduce.h"

#include <stdio.h>
#include <string.h>

#ifdef HEADROOM_CUDA
#include <nccl.h>
#endif

const struct reduce_ops *reduce_between(const char *device_name)
{
#ifdef HEADROOM_CUDA
    if (strcmp(device_name, "cuda") == 0) {
        return &reduce_nccl;
    }
#endif
    (void)device_name;
    return NULL;
}

const char *reduce_library_versions(char *buffer, size_t size)
{
    buffer[0] = '\0';
#ifdef HEADROOM_CUDA
    int version = 0;
    ncclGetVersion(&version);
    snprintf(buffer, size, "; NCCL %d.%d.%d", version / 10000, version % 10000 / 100, version % 100);
#else
    (void)size;
#endif
    return buffer;
}
