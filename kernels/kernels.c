// SPDX-License-Identifier: Apache-2.0
#include "kernels/kernels.h"

#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"

static const struct kernels *const built_in[] = {&kernels_cpu, &kernels_reference};

const struct kernels *kernels_find(const char *name)
{
    for (size_t i = 0; i < sizeof built_in / sizeof built_in[0]; i++) {
        if (strcmp(built_in[i]->name, name) == 0) {
            return built_in[i];
        }
    }
    return NULL;
}
