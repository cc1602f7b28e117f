// SPDX-License-Identifier: Apache-2.0
//
// The optimizer: its state on the device, the learning rate's schedule, and one step over all parameters.
//
// Ranks: nothing is collective; every rank makes the same step from the same reduced gradients.
#ifndef HEADROOM_MODEL_OPTIMIZER_H
#define HEADROOM_MODEL_OPTIMIZER_H

#include "model/model.h"

enum optimizer_kind { OPTIMIZER_SGD, OPTIMIZER_ADAMW };
enum optimizer_schedule { SCHEDULE_CONSTANT, SCHEDULE_COSINE, SCHEDULE_LINEAR };

#define OPTIMIZER_STATES_MAX 2

struct optimizer_config {
    enum optimizer_kind kind;
    double learning_rate, momentum, weight_decay, beta1, beta2, epsilon;
    enum optimizer_schedule schedule;
    uint64_t warmup_steps;      // the rate rises linearly over the first of these
    uint64_t steps;             // the decay ends here
    double final_learning_rate; // where it ends
};

// Where the optimizer works. Each address has room for model->elements float32, unless said otherwise.
struct optimizer_memory {
    device_address parameters, gradients;
    device_address copy;                         // model_copy_bytes; 0 where there is none
    device_address states[OPTIMIZER_STATES_MAX]; // zero before the first step; optimizer_state_count of them
    device_address scale;                        // one float32: what kernels->gradient_scale wrote
};

// Buffers of state, each as large as the parameters: 2 for AdamW, 1 for SGD with momentum, else 0.
size_t optimizer_state_count(const struct optimizer_config *config);

// "exp_avg" and "exp_avg_sq", as PyTorch names AdamW's, or "momentum_buffer".
const char *optimizer_state_name(const struct optimizer_config *config, size_t number);

// The learning rate of step `step`, counted from 0.
double optimizer_learning_rate(const struct optimizer_config *config, uint64_t step);

// Enqueues what makes the copy, where there is one, that of the parameters; a step does that itself. Does not block.
void optimizer_copy(const struct model *model, struct kernel_context *context, const struct optimizer_memory *memory);

// Enqueues one step of elements [first, first + count), first a multiple of 64: gradients are multiplied by the scale
// and applied. memory->states are where the state of these elements is. Weight decay applies to parameters that decay
// under AdamW and to all under SGD, as is the custom for each. Does not block.
void optimizer_step(const struct optimizer_config *config, const struct model *model, struct kernel_context *context,
                    const struct optimizer_memory *memory, uint64_t step, uint64_t first, uint64_t count);

#endif
