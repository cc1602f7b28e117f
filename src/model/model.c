// SPDX-License-Identifier: Apache-2.0
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "mem/random.h"
#include "mem/uint64.h"
#include "model/architecture.h"
#include "model/ops.h"

#define PARAMETER_ALIGNMENT 64 // elements
// With so many the logits of GPT-2 take less than the activations of a block, and matrices are still large.
#define HEAD_PARTS 8

static const struct architecture *architecture_of(enum model_kind kind)
{
    return kind == MODEL_MLP ? &architecture_mlp : &architecture_gpt;
}

void parameter_matrix(struct parameter *parameter, const char *name, uint64_t rows, uint64_t columns,
                      enum parameter_init init, double scale)
{
    *parameter = (struct parameter){
        .rows = rows, .columns = columns, .rows_used = rows, .decays = true, .init = init, .scale = scale};
    snprintf(parameter->name, sizeof(parameter->name), "%s", name);
}

void parameter_vector(struct parameter *parameter, const char *name, uint64_t columns, enum parameter_init init,
                      double scale)
{
    parameter_matrix(parameter, name, 1, columns, init, scale);
    parameter->decays = false;
}

// Places the parameters that decay, then the others.
static void place_parameters(struct model *model)
{
    for (int decays = 1; decays >= 0; decays--) {
        for (size_t i = 0; i < model->parameter_count; i++) {
            struct parameter *parameter = &model->parameters[i];
            if (parameter->decays != (decays == 1)) {
                continue;
            }
            parameter->offset = model->elements;
            model->elements += uint64_round_up(parameter->rows * parameter->columns, PARAMETER_ALIGNMENT);
            model->weights += parameter->rows_used * parameter->columns;
        }
        if (decays == 1) {
            model->decaying_elements = model->elements;
        }
    }
}

enum status model_create(const struct model_config *config, struct model **model_p, struct error *error)
{
    const struct architecture *architecture = architecture_of(config->kind);
    const char *misfit = architecture->misfit(config);
    if (misfit != NULL) {
        return error_set(error, STATUS_INVALID, "model: %s", misfit);
    }
    struct model *model = calloc(1, sizeof(*model));
    if (model == NULL) {
        goto err_memory;
    }
    model->config = *config;
    model->parameter_count = architecture->parameter_count(config);
    model->parameters = calloc(model->parameter_count, sizeof(*model->parameters));
    if (model->parameters == NULL) {
        goto err_memory;
    }
    architecture->describe(config, model);
    place_parameters(model);
    *model_p = model;
    return STATUS_OK;

err_memory:
    model_destroy(model);
    return error_out_of_host_memory(error);
}

void model_destroy(struct model *model)
{
    if (model != NULL) {
        free(model->parameters);
        free(model);
    }
}

static tensor_id parameter_tensor(const struct parameter *parameter, struct list *list)
{
    tensor_id tensor =
        list_tensor(list, TENSOR_PARAMETER, TENSOR_REAL, parameter->rows * parameter->columns, parameter->name);
    if (!list->failed) {
        list->tensors[tensor].first_element = parameter->offset;
    }
    return tensor;
}

static const enum list_recompute_mode recompute_modes[MODEL_LEVERS_COUNT] = {
    [MODEL_LEVERS_SELECTIVE] = LIST_RECOMPUTE_SELECTIVE,
    [MODEL_LEVERS_HALF] = LIST_RECOMPUTE_HALF,
    [MODEL_LEVERS_FULL] = LIST_RECOMPUTE_FULL,
    [MODEL_LEVERS_OFFLOAD] = LIST_RECOMPUTE_FULL,
};

// The tensors of all parameters, for the caller to free; NULL where the host's memory runs out.
static tensor_id *parameter_tensors(const struct model *model, struct list *list)
{
    tensor_id *weights = calloc(model->parameter_count, sizeof(*weights));
    for (size_t i = 0; weights != NULL && i < model->parameter_count; i++) {
        weights[i] = parameter_tensor(&model->parameters[i], list);
    }
    return weights;
}

// The forward pass, and the backward pass where one is wanted.
static bool build(const struct model *model, struct model_shape shape, enum list_purpose purpose, struct list *list)
{
    uint64_t targets = (uint64_t)shape.samples * shape.length;
    uint64_t inputs = targets * (model->input_elements / model->target_elements);
    tensor_id *weights = parameter_tensors(model, list);
    if (weights == NULL) {
        return false;
    }
    list->inputs = list_tensor(list, TENSOR_INPUT, model->input_type, inputs, "inputs");
    list->targets = list_tensor(list, TENSOR_INPUT, TENSOR_INT32, targets, "targets");
    tensor_id tally = list_tensor(list, TENSOR_TALLY, TENSOR_FLOAT32, sizeof(struct kernel_tally) / 4, "tally");
    architecture_of(model->config.kind)->forward(model, shape, list, tally, weights);
    free(weights);
    list->forward_count = list->op_count;
    if (purpose == LIST_TRAIN) {
        list_differentiate(list);
    }
    if (purpose == LIST_EVALUATE || shape.levers >= MODEL_LEVERS_HEAD) {
        list_split_head(list, HEAD_PARTS);
    }
    if (purpose == LIST_TRAIN) {
        list_recompute(list, recompute_modes[shape.levers]);
    }
    return !list->failed;
}

struct model_shape model_shape_max(const struct model *model, size_t samples)
{
    return (struct model_shape){.samples = samples, .length = model->target_elements};
}

bool model_list(const struct model *model, struct model_shape shape, enum list_purpose purpose, struct list *list)
{
    list_init(list, model->config.precision);
    bool built = build(model, shape, purpose, list);
    if (built) {
        list_fuse(list);
    }
    if (built && purpose == LIST_TRAIN && shape.levers >= MODEL_LEVERS_OFFLOAD) {
        list_offload(list);
    }
    if (!built || !list_place(list)) {
        list_finish(list);
        return false;
    }
    return true;
}

bool model_next_list(const struct model *model, size_t tokens, size_t first, struct list *list)
{
    list_init(list, model->config.precision);
    tensor_id *weights = parameter_tensors(model, list);
    if (weights != NULL) {
        list->inputs = list_tensor(list, TENSOR_INPUT, TENSOR_INT32, tokens, "inputs");
        architecture_of(model->config.kind)->next(model, tokens, first, list, weights);
        list->forward_count = list->op_count;
        list_fuse(list);
    }
    bool placed = weights != NULL && list_place(list);
    free(weights);
    if (!placed) {
        list_finish(list);
    }
    return placed;
}

uint64_t model_cache_bytes(const struct model *model)
{
    const struct architecture *architecture = architecture_of(model->config.kind);
    return architecture->token_reals(&model->config) * model->target_elements *
           kernel_real_bytes(model->config.precision);
}

size_t model_parameter_shape(const struct parameter *parameter, uint64_t shape[2])
{
    size_t dimensions = 0;
    if (parameter->rows > 1) {
        shape[dimensions++] = parameter->rows_used;
    }
    shape[dimensions++] = parameter->columns;
    return dimensions;
}

uint64_t model_copy_bytes(const struct model *model)
{
    enum kernel_precision precision = model->config.precision;
    return precision == KERNEL_FP32 ? 0 : model->elements * kernel_real_bytes(precision);
}

// Box and Muller (1958), the cosine branch.
static double normal(uint64_t key, uint64_t place)
{
    double radius = sqrt(-2.0 * log(1.0 - random_fraction(key, 2 * place)));
    return radius * cos(2.0 * M_PI * random_fraction(key, 2 * place + 1));
}

static double initial_value(const struct parameter *parameter, uint64_t key, uint64_t element)
{
    switch (parameter->init) {
    case INIT_ZERO:
        return 0;
    case INIT_ONE:
        return 1;
    case INIT_NORMAL:
        return parameter->scale * normal(key, element);
    case INIT_UNIFORM:
        break;
    }
    return parameter->scale * (2.0 * random_fraction(key, element) - 1.0);
}

void model_initial_values(const struct model *model, size_t parameter, uint64_t seed, float *values)
{
    const struct parameter *p = &model->parameters[parameter];
    uint64_t key = random_mix(random_mix(seed + 1) + parameter);
    uint64_t used = p->rows_used * p->columns;
    for (uint64_t i = 0; i < used; i++) {
        values[i] = (float)initial_value(p, key, i);
    }
    for (uint64_t i = used; i < p->rows * p->columns; i++) {
        values[i] = 0;
    }
}

uint64_t model_sample_flops(const struct model *model)
{
    struct list list;
    if (!model_list(model, model_shape_max(model, 1), LIST_TRAIN, &list)) {
        return 0;
    }
    uint64_t flops = list_flops(&list);
    list_finish(&list);
    return flops;
}
