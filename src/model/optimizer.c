// SPDX-License-Identifier: Apache-2.0
#include "model/optimizer.h"

#include <math.h>

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

static void step_sgd(const struct optimizer_config *config, const struct model *model, struct kernel_context *context,
                     const struct optimizer_memory *memory, uint64_t step)
{
    struct kernel_sgd args = {
        .learning_rate = (float)optimizer_learning_rate(config, step),
        .momentum = (float)config->momentum,
        .weight_decay = (float)config->weight_decay,
    };
    context->kernels->sgd(context, &args, memory->parameters, memory->copy, memory->gradients, memory->states[0],
                          memory->scale, model->elements);
}

static void step_adamw(const struct optimizer_config *config, const struct model *model, struct kernel_context *context,
                       const struct optimizer_memory *memory, uint64_t step)
{
    struct kernel_adamw args = {
        .learning_rate = (float)optimizer_learning_rate(config, step),
        .beta1 = (float)config->beta1,
        .beta2 = (float)config->beta2,
        .epsilon = (float)config->epsilon,
        .weight_decay = (float)config->weight_decay,
        .step = step + 1,
        .decaying = model->decaying_elements,
    };
    context->kernels->adamw(context, &args, memory->parameters, memory->copy, memory->gradients, memory->states[0],
                            memory->states[1], memory->scale, model->elements);
}

void optimizer_copy(const struct model *model, struct kernel_context *context, const struct optimizer_memory *memory)
{
    if (memory->copy != 0) {
        context->kernels->convert(context, memory->copy, memory->parameters, model->elements);
    }
}

void optimizer_step(const struct optimizer_config *config, const struct model *model, struct kernel_context *context,
                    const struct optimizer_memory *memory, uint64_t step)
{
    switch (config->kind) {
    case OPTIMIZER_SGD:
        step_sgd(config, model, context, memory, step);
        return;
    case OPTIMIZER_ADAMW:
        step_adamw(config, model, context, memory, step);
        return;
    }
}
