// SPDX-License-Identifier: Apache-2.0
//
// A multilayer perceptron that classifies: linear layers with an activation between them, softmax and cross-entropy at
// the end. Weights and biases start as PyTorch's nn.Linear has them: uniform within 1/sqrt(inputs).
#include <math.h>
#include <stdio.h>

#include "model/architecture.h"
#include "model/ops.h"

static const char *misfit(const struct model_config *config)
{
    if (config->mlp.count < 2 || config->mlp.count > MODEL_LAYERS_MAX) {
        return "an mlp needs 2 to 64 layer sizes";
    }
    for (size_t i = 0; i < config->mlp.count; i++) {
        if (config->mlp.sizes[i] == 0) {
            return "a layer size must be at least 1";
        }
    }
    return NULL;
}

static size_t parameter_count(const struct model_config *config)
{
    return 2 * (config->mlp.count - 1);
}

static void describe(const struct model_config *config, struct model *model)
{
    struct parameter *parameter = model->parameters;
    for (size_t i = 0; i + 1 < config->mlp.count; i++) {
        size_t in = config->mlp.sizes[i], out = config->mlp.sizes[i + 1];
        double bound = 1.0 / sqrt((double)in);
        char name[TENSOR_NAME_MAX];
        snprintf(name, sizeof(name), "layers.%zu.weight", i);
        parameter_matrix(parameter++, name, out, in, INIT_UNIFORM, bound);
        snprintf(name, sizeof(name), "layers.%zu.bias", i);
        parameter_vector(parameter++, name, out, INIT_UNIFORM, bound);
    }
    model->input_type = TENSOR_FLOAT32;
    model->input_elements = config->mlp.sizes[0];
    model->target_elements = 1;
}

static void forward(const struct model *model, struct model_shape shape, struct list *list, tensor_id tally,
                    const tensor_id *weights)
{
    const struct model_config *config = &model->config;
    size_t last = config->mlp.count - 2;
    tensor_id x = op_convert(list, list->inputs, "inputs");
    for (size_t i = 0; i <= last; i++) {
        size_t in = config->mlp.sizes[i], out = config->mlp.sizes[i + 1];
        char name[TENSOR_NAME_MAX];
        snprintf(name, sizeof(name), "layers.%zu", i);
        list->block = i + 1;
        x = op_linear(list, x, weights[2 * i], weights[2 * i + 1], shape.samples, in, out, name);
        if (i < last) {
            x = config->mlp.activation == MODEL_RELU ? op_relu(list, x) : op_gelu(list, x, "gelu");
        }
    }
    list->block = 0;
    size_t classes = config->mlp.sizes[last + 1];
    op_cross_entropy(list, tally, x, list->targets, shape.samples, classes, classes);
}

static uint64_t token_reals(const struct model_config *config)
{
    (void)config;
    return 0;
}

const struct architecture architecture_mlp = {.misfit = misfit,
                                              .parameter_count = parameter_count,
                                              .describe = describe,
                                              .forward = forward,
                                              .token_reals = token_reals};
