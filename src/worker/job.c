// SPDX-License-Identifier: Apache-2.0
#include "worker/job.h"

#include "mem/uint64.h"
#include "worker/fixed_sums.h"
#include "worker/worker.h"

static enum kernel_precision job_precision(const struct config *config)
{
    return config->train.precision == CONFIG_BF16 ? KERNEL_BF16 : KERNEL_FP32;
}

struct model_config job_model_config(const struct config *config)
{
    struct model_config model = {.precision = job_precision(config)};
    if (config->model.kind == CONFIG_MODEL_MLP) {
        model.kind = MODEL_MLP;
        model.mlp.count = config->model.layers_count;
        model.mlp.activation = config->model.activation == CONFIG_RELU ? MODEL_RELU : MODEL_GELU;
        for (size_t i = 0; i < config->model.layers_count; i++) {
            model.mlp.sizes[i] = config->model.layers[i];
        }
        return model;
    }
    model.kind = MODEL_GPT;
    model.gpt.vocab_size = config->model.vocab_size;
    model.gpt.seq_len = config->model.seq_len;
    model.gpt.blocks = config->model.block_count;
    model.gpt.heads = config->model.head_count;
    model.gpt.channels = config->model.channels;
    return model;
}

struct optimizer_config job_optimizer_config(const struct config *config, uint64_t steps)
{
    static const enum optimizer_schedule schedules[] = {
        [CONFIG_CONSTANT] = SCHEDULE_CONSTANT, [CONFIG_COSINE] = SCHEDULE_COSINE, [CONFIG_LINEAR] = SCHEDULE_LINEAR};
    return (struct optimizer_config){
        .kind = config->optimizer.kind == CONFIG_SGD ? OPTIMIZER_SGD : OPTIMIZER_ADAMW,
        .learning_rate = config->optimizer.learning_rate,
        .momentum = config->optimizer.momentum,
        .weight_decay = config->optimizer.weight_decay,
        .beta1 = config->optimizer.beta1,
        .beta2 = config->optimizer.beta2,
        .epsilon = config->optimizer.epsilon,
        .schedule = schedules[config->optimizer.schedule],
        .warmup_steps = config->optimizer.warmup_steps,
        .steps = steps,
        .final_learning_rate = config->optimizer.final_learning_rate,
    };
}

uint64_t job_steps(const struct config *config, uint64_t train_samples)
{
    uint64_t global_batch = config->train.global_batch_size;
    if (config->train.steps > 0) {
        return config->train.steps;
    }
    return (config->train.epochs * train_samples + global_batch - 1) / global_batch;
}

uint64_t job_capacity(const struct config *config, uint64_t rank)
{
    if (config->device.capacities_count == 0) {
        return 0;
    }
    uint64_t device = rank / config->device.ranks_per_device;
    return config->device.capacities[config->device.capacities_count == 1 ? 0 : device];
}

const struct kernels *job_kernels(const struct config *config, const struct device_ops *device)
{
    return kernels_find(device->name, job_precision(config));
}

size_t job_slots(const struct device_ops *device)
{
    return device_is_apart(device) ? 2 : 1;
}

// A block that is held only where it has bytes.
static uint64_t resting_block_bytes(uint64_t bytes)
{
    return bytes == 0 ? 0 : mem_pool_block_bytes(bytes);
}

uint64_t job_grain(const struct config *config)
{
    return config->train.reproducible ? config->train.grain_size : 1;
}

uint64_t job_grains(const struct config *config, uint64_t samples)
{
    uint64_t grain = job_grain(config);
    return (samples + grain - 1) / grain;
}

uint64_t job_share_samples(const struct config *config, const struct sched_share *share)
{
    uint64_t grain = job_grain(config);
    return uint64_min(share->samples * grain, config->train.global_batch_size - share->first * grain);
}

struct resting_bytes job_resting(const struct config *config, const struct model *model, uint64_t workspace_bytes)
{
    uint64_t buffer_bytes = mem_pool_block_bytes(model->elements * sizeof(float));
    struct resting_bytes resting = {
        .weights = buffer_bytes + resting_block_bytes(model_copy_bytes(model)),
        .gradients = buffer_bytes,
        .workspace = resting_block_bytes(workspace_bytes),
        .sums = mem_pool_block_bytes(sizeof(struct step_values)),
    };
    if (config->train.reproducible) {
        resting.sums += mem_pool_block_bytes(fixed_sums_gradient_bytes(model->elements)) +
                        mem_pool_block_bytes(sizeof(struct fixed_values));
    }
    return resting;
}

uint64_t job_resting_bytes(const struct resting_bytes *resting)
{
    return resting->weights + resting->gradients + resting->workspace + resting->sums;
}

uint64_t job_peak_bytes(uint64_t resting_bytes, struct price_book *prices, enum list_purpose purpose,
                        struct model_shape shape)
{
    return resting_bytes + mem_pool_block_bytes(price_block_bytes(prices, purpose, shape));
}
