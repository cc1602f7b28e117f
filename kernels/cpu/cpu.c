// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>

enum status cpu_context_create(const struct kernels *kernels, struct device *device, struct stream *stream,
                               struct kernel_context **context_p, struct error *error)
{
    struct cpu_context *context = calloc(1, sizeof *context);
    if (context == NULL) {
        return error_out_of_host_memory(error);
    }
    context->base = (struct kernel_context){.kernels = kernels, .device = device, .stream = stream};
    *context_p = &context->base;
    return STATUS_OK;
}

void cpu_context_destroy(struct kernel_context *base)
{
    struct cpu_context *context = (struct cpu_context *)base;
    if (context != NULL) {
        free(context->scratch);
        free(context);
    }
}

float *cpu_scratch(struct kernel_context *base, size_t count)
{
    struct cpu_context *context = (struct cpu_context *)base;
    if (context->scratch_count < count) {
        free(context->scratch);
        context->scratch = malloc(count * sizeof(float));
        context->scratch_count = count;
    }
    if (context->scratch == NULL) {
        fprintf(stderr, "headroom: out of host memory\n");
        abort();
    }
    return context->scratch;
}
