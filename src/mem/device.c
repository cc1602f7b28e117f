// SPDX-License-Identifier: Apache-2.0
#include "mem/device.h"

#include <string.h>

#include "mem/device_cpu.h"

#ifdef HEADROOM_CUDA
#include "mem/device_cuda.h"
static const struct device_ops *const built_in[] = {&device_cpu, &device_cuda};
#else
static const struct device_ops *const built_in[] = {&device_cpu};
#endif

const struct device_ops *device_find(const char *name)
{
    for (size_t i = 0; i < sizeof(built_in) / sizeof(built_in[0]); i++) {
        if (strcmp(built_in[i]->name, name) == 0) {
            return built_in[i];
        }
    }
    return NULL;
}
