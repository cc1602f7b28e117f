// SPDX-License-Identifier: Apache-2.0
//
// GPT-2 (Radford et al., 2019): learned positions, pre-norm blocks, causal self-attention, GELU, and a head tied to the
// token embedding. Parameters carry the names of Hugging Face's checkpoints; matrices are [out, in]. They start as
// GPT-2's: normal with 0.02, the projections into the residual stream with 0.02/sqrt(2 blocks), biases 0.
#include <math.h>
#include <stdio.h>

#include "mem/uint64.h"
#include "model/architecture.h"
#include "model/ops.h"

// The vocabulary is padded to a multiple of this, which matrix products like; padded rows are 0 and get no gradient.
#define VOCAB_MULTIPLE 128

#define INITIAL_SCALE 0.02

// Parameters in order: wte, wpe, then for each block those below, then ln_f's two.
enum { WTE, WPE, BLOCKS };
enum {
    LN_1_WEIGHT,
    LN_1_BIAS,
    QKV_WEIGHT,
    QKV_BIAS,
    PROJ_WEIGHT,
    PROJ_BIAS,
    LN_2_WEIGHT,
    LN_2_BIAS,
    FC_WEIGHT,
    FC_BIAS,
    FC_PROJ_WEIGHT,
    FC_PROJ_BIAS,
    BLOCK_PARAMETERS
};

static const char *misfit(const struct model_config *config)
{
    if (config->gpt.vocab_size == 0 || config->gpt.seq_len == 0 || config->gpt.blocks == 0 || config->gpt.heads == 0 ||
        config->gpt.channels == 0) {
        return "every size of a gpt must be at least 1";
    }
    if (config->gpt.channels % config->gpt.heads != 0) {
        return "channels must be a multiple of heads";
    }
    return NULL;
}

static size_t padded_vocab(const struct model_config *config)
{
    return uint64_round_up(config->gpt.vocab_size, VOCAB_MULTIPLE);
}

static size_t parameter_count(const struct model_config *config)
{
    return BLOCKS + config->gpt.blocks * BLOCK_PARAMETERS + 2;
}

static const struct {
    const char *name;
    unsigned rows, columns; // in channels; no rows: a vector
    enum parameter_init init;
    bool into_residual;
} block_parameters[BLOCK_PARAMETERS] = {
    [LN_1_WEIGHT] = {"ln_1.weight", 0, 1, INIT_ONE, false},
    [LN_1_BIAS] = {"ln_1.bias", 0, 1, INIT_ZERO, false},
    [QKV_WEIGHT] = {"attn.c_attn.weight", 3, 1, INIT_NORMAL, false},
    [QKV_BIAS] = {"attn.c_attn.bias", 0, 3, INIT_ZERO, false},
    [PROJ_WEIGHT] = {"attn.c_proj.weight", 1, 1, INIT_NORMAL, true},
    [PROJ_BIAS] = {"attn.c_proj.bias", 0, 1, INIT_ZERO, false},
    [LN_2_WEIGHT] = {"ln_2.weight", 0, 1, INIT_ONE, false},
    [LN_2_BIAS] = {"ln_2.bias", 0, 1, INIT_ZERO, false},
    [FC_WEIGHT] = {"mlp.c_fc.weight", 4, 1, INIT_NORMAL, false},
    [FC_BIAS] = {"mlp.c_fc.bias", 0, 4, INIT_ZERO, false},
    [FC_PROJ_WEIGHT] = {"mlp.c_proj.weight", 1, 4, INIT_NORMAL, true},
    [FC_PROJ_BIAS] = {"mlp.c_proj.bias", 0, 1, INIT_ZERO, false},
};

static void describe_block(const struct model_config *config, size_t block, struct parameter *parameters)
{
    size_t channels = config->gpt.channels;
    double residual_scale = INITIAL_SCALE / sqrt(2.0 * (double)config->gpt.blocks);
    for (size_t i = 0; i < BLOCK_PARAMETERS; i++) {
        char name[TENSOR_NAME_MAX];
        snprintf(name, sizeof(name), "h.%zu.%s", block, block_parameters[i].name);
        double scale = block_parameters[i].into_residual ? residual_scale : INITIAL_SCALE;
        uint64_t rows = block_parameters[i].rows * channels, columns = block_parameters[i].columns * channels;
        if (rows == 0) {
            parameter_vector(&parameters[i], name, columns, block_parameters[i].init, scale);
        } else {
            parameter_matrix(&parameters[i], name, rows, columns, block_parameters[i].init, scale);
        }
    }
}

static void describe(const struct model_config *config, struct model *model)
{
    struct parameter *parameters = model->parameters;
    size_t channels = config->gpt.channels;
    parameter_matrix(&parameters[WTE], "wte.weight", padded_vocab(config), channels, INIT_NORMAL, INITIAL_SCALE);
    parameters[WTE].rows_used = config->gpt.vocab_size;
    parameter_matrix(&parameters[WPE], "wpe.weight", config->gpt.seq_len, channels, INIT_NORMAL, INITIAL_SCALE);
    for (size_t block = 0; block < config->gpt.blocks; block++) {
        describe_block(config, block, &parameters[BLOCKS + block * BLOCK_PARAMETERS]);
    }
    size_t last = BLOCKS + config->gpt.blocks * BLOCK_PARAMETERS;
    parameter_vector(&parameters[last], "ln_f.weight", channels, INIT_ONE, 0);
    parameter_vector(&parameters[last + 1], "ln_f.bias", channels, INIT_ZERO, 0);
    model->input_type = TENSOR_INT32;
    model->input_elements = config->gpt.seq_len;
    model->target_elements = config->gpt.seq_len;
}

static tensor_id attention_branch(const struct model_config *config, struct model_shape shape, struct list *list,
                                  tensor_id x, const tensor_id *w)
{
    size_t channels = config->gpt.channels, rows = shape.samples * shape.length;
    tensor_id norm = op_layer_norm(list, x, w[LN_1_WEIGHT], w[LN_1_BIAS], rows, channels, "ln_1");
    tensor_id qkv = op_linear(list, norm, w[QKV_WEIGHT], w[QKV_BIAS], rows, channels, 3 * channels, "qkv");
    tensor_id heads = op_attention(list, qkv, shape.samples, shape.length, channels, config->gpt.heads, "attention");
    return op_linear(list, heads, w[PROJ_WEIGHT], w[PROJ_BIAS], rows, channels, channels, "attention_projection");
}

static tensor_id mlp_branch(const struct model_config *config, struct model_shape shape, struct list *list, tensor_id x,
                            const tensor_id *w)
{
    size_t channels = config->gpt.channels, rows = shape.samples * shape.length;
    tensor_id norm = op_layer_norm(list, x, w[LN_2_WEIGHT], w[LN_2_BIAS], rows, channels, "ln_2");
    tensor_id wide = op_linear(list, norm, w[FC_WEIGHT], w[FC_BIAS], rows, channels, 4 * channels, "fc");
    tensor_id gelu = op_gelu(list, wide, "gelu");
    return op_linear(list, gelu, w[FC_PROJ_WEIGHT], w[FC_PROJ_BIAS], rows, 4 * channels, channels, "fc_projection");
}

static void forward(const struct model *model, struct model_shape shape, struct list *list, tensor_id tally,
                    const tensor_id *weights)
{
    const struct model_config *config = &model->config;
    size_t channels = config->gpt.channels, rows = shape.samples * shape.length, vocab = padded_vocab(config);
    tensor_id x = op_embedding(list, list->inputs, weights[WTE], weights[WPE], shape.samples, shape.length, channels,
                               vocab, "embedding");
    const tensor_id *block = &weights[BLOCKS];
    for (size_t i = 0; i < config->gpt.blocks; i++, block += BLOCK_PARAMETERS) {
        list->block = i + 1;
        x = op_add(list, x, attention_branch(config, shape, list, x, block), "attention_residual");
        x = op_add(list, x, mlp_branch(config, shape, list, x, block), "mlp_residual");
    }
    list->block = 0;
    tensor_id norm = op_layer_norm(list, x, block[0], block[1], rows, channels, "ln_f");
    tensor_id logits = op_linear(list, norm, weights[WTE], TENSOR_NONE, rows, channels, vocab, "logits");
    op_cross_entropy(list, tally, logits, list->targets, rows, config->gpt.vocab_size, vocab);
}

const struct architecture architecture_gpt = {
    .misfit = misfit, .parameter_count = parameter_count, .describe = describe, .forward = forward};
