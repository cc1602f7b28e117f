// SPDX-License-Identifier: Apache-2.0
#include "worker/report/step_memory.h"

#include <stdlib.h>

#include "mem/uint64.h"
#include "model/ops.h"
#include "worker/fixed_sums.h"
#include "worker/job.h"
#include "worker/worker.h"

// First and last operation that mentions a tensor, and what holds its memory there. Of tensors that are written over
// one another each lives until the next begins.
struct life {
    bool used;
    size_t birth, death;
};

struct step_memory {
    const struct config *config;
    const struct device_ops *device;
    const struct step_memory_shape *shape;
    struct model *model;
    struct price_book *prices;
    const struct list *list;
    struct life *lives; // one per tensor
};

static bool is_held(const struct list *list, tensor_id tensor)
{
    enum tensor_kind kind = list->tensors[tensor].kind;
    return kind == TENSOR_LOCAL || kind == TENSOR_INPUT;
}

static void find_mentions(const struct list *list, struct life *lives)
{
    for (size_t i = 0; i < list->op_count; i++) {
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            tensor_id tensor = list->ops[i].tensors[slot];
            if (tensor == TENSOR_NONE) {
                continue;
            }
            struct life *life = &lives[list_whole(list, tensor)];
            life->birth = life->used ? life->birth : i;
            life->death = i;
            life->used = true;
        }
    }
}

// `newest[buffer]` is the tensor that was born last in it; tensors are taken in the order of their birth.
static void part_lives(const struct list *list, struct life *lives, tensor_id *newest)
{
    for (size_t i = 0; i < list->tensor_count; i++) {
        newest[i] = TENSOR_NONE;
    }
    for (size_t i = 0; i < list->op_count; i++) {
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            tensor_id mentioned = list->ops[i].tensors[slot];
            tensor_id tensor = mentioned == TENSOR_NONE ? TENSOR_NONE : list_whole(list, mentioned);
            if (tensor == TENSOR_NONE || list->tensors[tensor].kind != TENSOR_LOCAL || lives[tensor].birth != i) {
                continue;
            }
            tensor_id *last = &newest[list->tensors[tensor].buffer];
            if (*last != TENSOR_NONE && *last != tensor) {
                lives[*last].death = i - 1;
            }
            *last = tensor;
        }
    }
}

static bool find_lives(struct step_memory *memory)
{
    const struct list *list = memory->list;
    memory->lives = calloc(list->tensor_count, sizeof(*memory->lives));
    tensor_id *newest = calloc(list->tensor_count, sizeof(*newest));
    bool made = memory->lives != NULL && newest != NULL;
    if (made) {
        find_mentions(list, memory->lives);
        part_lives(list, memory->lives, newest);
    }
    free(newest);
    return made;
}

// What a tensor is for, by when it is there.
static const char *category(const struct list *list, const struct life *life, enum tensor_kind kind)
{
    if (kind == TENSOR_INPUT) {
        return "samples";
    }
    if (life->birth >= list->forward_count) {
        return "backward";
    }
    return life->death >= list->forward_count ? "kept" : "forward";
}

// Of inputs, which a block begins with.
static uint64_t inputs_bytes(const struct step_memory *memory)
{
    return job_slots(memory->device) * memory->list->inputs_bytes;
}

// Inputs are there before the first operation, and to the end. An offset counts from the block's begin.
static json_t *tensor_object(const struct step_memory *memory, tensor_id id)
{
    const struct list *list = memory->list;
    const struct tensor *tensor = &list->tensors[id];
    const struct life *life = &memory->lives[id];
    bool input = tensor->kind == TENSOR_INPUT;
    size_t first = input ? 0 : life->birth, last = input ? list->op_count - 1 : life->death;
    uint64_t bytes = uint64_round_up(list_tensor_bytes(list, id), LIST_ALIGNMENT);
    uint64_t offset = tensor->offset_bytes + (input ? 0 : inputs_bytes(memory));
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "name", tensor->name, "category",
                     category(list, life, tensor->kind), "bytes", (json_int_t)bytes, "offset", (json_int_t)offset,
                     "first", (json_int_t)first, "last", (json_int_t)last);
}

static json_t *tensors_array(const struct step_memory *memory)
{
    json_t *array = json_array();
    for (size_t i = 0; i < memory->list->tensor_count; i++) {
        if (memory->lives[i].used && is_held(memory->list, (tensor_id)i)) {
            json_array_append_new(array, tensor_object(memory, (tensor_id)i));
        }
    }
    return array;
}

static json_t *operations_array(const struct list *list)
{
    json_t *array = json_array();
    for (size_t i = 0; i < list->op_count; i++) {
        struct list_work work = list_work(list, i);
        json_array_append_new(array, json_pack("[s, s]", work.operation, work.tensor));
    }
    return array;
}

static uint64_t state_bytes(const struct step_memory *memory)
{
    struct optimizer_config optimizer = job_optimizer_config(memory->config, 1);
    uint64_t elements = memory->model->elements;
    if (memory->config->train.shard_optimizer) {
        elements = (elements + memory->shape->ranks - 1) / memory->shape->ranks;
    }
    return optimizer_state_size(elements, &optimizer).device_bytes[offers_away(memory->shape->levers)];
}

static json_t *resting_object(const struct step_memory *memory)
{
    const struct model *model = memory->model;
    const struct kernels *kernels = job_kernels(memory->config, memory->device);
    const struct resting_bytes resting = job_resting(memory->config, model, kernels->workspace_bytes);
    uint64_t copy = model_copy_bytes(model);
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "weights", (json_int_t)(resting.weights - copy),
                     "bf16 copy of the weights", (json_int_t)copy, "gradients", (json_int_t)resting.gradients,
                     "optimizer state", (json_int_t)state_bytes(memory), "workspace and sums",
                     (json_int_t)(resting.workspace + resting.sums));
}

static json_t *memory_object(const struct step_memory *memory)
{
    const struct list *list = memory->list;
    return json_pack("{s:I, s:s, s:I, s:b, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "micro_batch",
                     (json_int_t)memory->shape->micro_batch, "levers", offers_levers_name(memory->shape->levers),
                     "length", (json_int_t)memory->model->target_elements, "sharded",
                     memory->config->train.shard_optimizer, "forward_count", (json_int_t)list->forward_count,
                     "inputs_bytes", (json_int_t)inputs_bytes(memory), "block_bytes",
                     (json_int_t)mem_pool_block_bytes(price_list_bytes(memory->prices, list)), "lower_bound_bytes",
                     (json_int_t)list->lower_bound_bytes, "resting", resting_object(memory), "operations",
                     operations_array(list), "tensors", tensors_array(memory));
}

static enum status price(struct step_memory *memory, json_t **object_p, struct error *error)
{
    struct model_config config = job_model_config(memory->config);
    struct error instead = {0};
    memory->device = place_kind(memory->config, &instead);
    enum status status = model_create(&config, &memory->model, error);
    if (status != STATUS_OK) {
        return status;
    }
    memory->prices = price_book_create(memory->model, job_slots(memory->device));
    if (memory->prices != NULL) {
        struct model_shape shape =
            offers_shape(memory->shape->micro_batch, memory->model->target_elements, memory->shape->levers);
        memory->list = price_list(memory->prices, LIST_TRAIN, shape);
    }
    *object_p = memory->list != NULL && find_lives(memory) ? memory_object(memory) : NULL;
    return *object_p != NULL ? STATUS_OK : error_out_of_host_memory(error);
}

enum status step_memory_price(const char *config_path, const struct step_memory_shape *shape, json_t **object_p,
                              struct error *error)
{
    struct config config;
    enum status status = config_read(&config, config_path, NULL, 0, error);
    if (status != STATUS_OK) {
        return status;
    }
    struct step_memory memory = {.config = &config, .shape = shape};
    status = price(&memory, object_p, error);
    free(memory.lives);
    price_book_destroy(memory.prices);
    model_destroy(memory.model);
    config_finish(&config);
    return status;
}
