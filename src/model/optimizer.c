// SPDX-License-Identifier: Apache-2.0
#include "model/optimizer.h"

#include <math.h>

#include "mem/sanitizer.h"
#include "mem/uint64.h"

size_t optimizer_state_count(const struct optimizer_config *config)
{
    switch (config->kind) {
    case OPTIMIZER_SGD:
        return config->momentum == 0 ? 0 : 1;
    case OPTIMIZER_ADAMW:
        break;
    }
    return 2;
}

const char *optimizer_state_name(const struct optimizer_config *config, size_t number)
{
    static const char *const adamw[OPTIMIZER_STATES_MAX] = {"exp_avg", "exp_avg_sq"};
    return config->kind == OPTIMIZER_ADAMW ? adamw[number] : "momentum_buffer";
}

double optimizer_learning_rate(const struct optimizer_config *config, uint64_t step)
{
    if (step < config->warmup_steps) {
        return config->learning_rate * (double)(step + 1) / (double)config->warmup_steps;
    }
    if (config->schedule == SCHEDULE_CONSTANT) {
        return config->learning_rate;
    }
    if (step >= config->steps) {
        return config->final_learning_rate;
    }
    double done = (double)(step - config->warmup_steps) / (double)(config->steps - config->warmup_steps);
    double left = config->schedule == SCHEDULE_COSINE ? 0.5 * (1 + cos(M_PI * done)) : 1 - done;
    return config->final_learning_rate + left * (config->learning_rate - config->final_learning_rate);
}

static void tell_use(const struct kernel_context *context, device_address address, uint64_t bytes, bool writes,
                     const char *place)
{
    if (address != 0) {
        sanitizer_access(context->device, context->stream, address, bytes, writes, place);
    }
}

// For a sanitizer: `count` elements of each.
static void tell_step(const struct kernel_context *context, const struct optimizer_memory *memory, uint64_t count,
                      const char *place)
{
    uint64_t bytes = count * sizeof(float);
    tell_use(context, memory->gradients, bytes, false, place);
    tell_use(context, memory->scale, sizeof(float), false, place);
    tell_use(context, memory->parameters, bytes, true, place);
    tell_use(context, memory->copy, count * kernel_real_bytes(context->kernels->precision), true, place);
    for (size_t i = 0; i < OPTIMIZER_STATES_MAX; i++) {
        tell_use(context, memory->states[i], bytes, true, place);
    }
}

static void step_sgd(const struct optimizer_config *config, struct kernel_context *context,
                     const struct optimizer_memory *memory, uint64_t step, uint64_t count)
{
    struct kernel_sgd args = {
        .learning_rate = (float)optimizer_learning_rate(config, step),
        .momentum = (float)config->momentum,
        .weight_decay = (float)config->weight_decay,
    };
    tell_step(context, memory, count, "sgd");
    context->kernels->sgd(context, &args, memory->parameters, memory->copy, memory->gradients, memory->states[0],
                          memory->scale, count);
}

// `decaying` at the front decay.
static void step_adamw(const struct optimizer_config *config, struct kernel_context *context,
                       const struct optimizer_memory *memory, uint64_t step, uint64_t decaying, uint64_t count)
{
    struct kernel_adamw args = {
        .learning_rate = (float)optimizer_learning_rate(config, step),
        .beta1 = (float)config->beta1,
        .beta2 = (float)config->beta2,
        .epsilon = (float)config->epsilon,
        .weight_decay = (float)config->weight_decay,
        .step = step + 1,
        .decaying = decaying,
    };
    tell_step(context, memory, count, "adamw");
    context->kernels->adamw(context, &args, memory->parameters, memory->copy, memory->gradients, memory->states[0],
                            memory->states[1], memory->scale, count);
}

void optimizer_copy(const struct model *model, struct kernel_context *context, const struct optimizer_memory *memory)
{
    if (memory->copy != 0) {
        tell_use(context, memory->parameters, model->elements * sizeof(float), false, "convert");
        tell_use(context, memory->copy, model_copy_bytes(model), true, "convert");
        context->kernels->convert(context, memory->copy, memory->parameters, model->elements);
    }
}

void optimizer_step(const struct optimizer_config *config, const struct model *model, struct kernel_context *context,
                    const struct optimizer_memory *memory, uint64_t step, uint64_t first, uint64_t count)
{
    struct optimizer_memory part = *memory;
    uint64_t decaying = model->decaying_elements - uint64_min(model->decaying_elements, first);
    part.parameters += first * sizeof(float);
    part.gradients += first * sizeof(float);
    part.copy += part.copy == 0 ? 0 : first * kernel_real_bytes(context->kernels->precision);
    switch (config->kind) {
    case OPTIMIZER_SGD:
        step_sgd(config, context, &part, step, count);
        return;
    case OPTIMIZER_ADAMW:
        step_adamw(config, context, &part, step, uint64_min(decaying, count), count);
        return;
    }
}
