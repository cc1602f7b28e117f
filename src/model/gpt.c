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

// The rows that go through the blocks: those of whole samples, or tokens of one from number `first` on, which attend to
// what is kept of those before.
struct pass {
    const struct model_config *config;
    struct list *list;
    size_t samples, length;
    bool goes_on;
    size_t first;
};

static size_t rows_of(const struct pass *pass)
{
    return pass->samples * pass->length;
}

static uint64_t block_cache_reals(const struct model_config *config)
{
    return 2 * (uint64_t)config->gpt.seq_len * config->gpt.channels; // keys and values
}

// Of the block at hand.
static tensor_id cache_tensor(const struct pass *pass)
{
    struct list *list = pass->list;
    uint64_t reals = block_cache_reals(pass->config);
    tensor_id cache = list_tensor(list, TENSOR_CACHE, TENSOR_REAL, reals, "cache");
    if (!list->failed) {
        list->tensors[cache].first_element = (list->block - 1) * reals;
    }
    return cache;
}

static tensor_id heads_of(const struct pass *pass, tensor_id qkv)
{
    size_t channels = pass->config->gpt.channels, heads = pass->config->gpt.heads;
    if (pass->goes_on) {
        return op_attention_cached(pass->list, cache_tensor(pass), qkv, pass->length, pass->first,
                                   pass->config->gpt.seq_len, channels, heads, "attention");
    }
    return op_attention(pass->list, qkv, pass->samples, pass->length, channels, heads, "attention");
}

static tensor_id attention_branch(const struct pass *pass, tensor_id x, const tensor_id *w)
{
    struct list *list = pass->list;
    size_t channels = pass->config->gpt.channels, rows = rows_of(pass);
    tensor_id norm = op_layer_norm(list, x, w[LN_1_WEIGHT], w[LN_1_BIAS], rows, channels, "ln_1");
    tensor_id qkv = op_linear(list, norm, w[QKV_WEIGHT], w[QKV_BIAS], rows, channels, 3 * channels, "qkv");
    tensor_id heads = heads_of(pass, qkv);
    return op_linear(list, heads, w[PROJ_WEIGHT], w[PROJ_BIAS], rows, channels, channels, "attention_projection");
}

static tensor_id mlp_branch(const struct pass *pass, tensor_id x, const tensor_id *w)
{
    struct list *list = pass->list;
    size_t channels = pass->config->gpt.channels, rows = rows_of(pass);
    tensor_id norm = op_layer_norm(list, x, w[LN_2_WEIGHT], w[LN_2_BIAS], rows, channels, "ln_2");
    tensor_id wide = op_linear(list, norm, w[FC_WEIGHT], w[FC_BIAS], rows, channels, 4 * channels, "fc");
    tensor_id gelu = op_gelu(list, wide, "gelu");
    return op_linear(list, gelu, w[FC_PROJ_WEIGHT], w[FC_PROJ_BIAS], rows, 4 * channels, channels, "fc_projection");
}

// From the tokens to what the last block passes on.
static tensor_id run_blocks(const struct pass *pass, tensor_id positions, const tensor_id *weights)
{
    struct list *list = pass->list;
    tensor_id x = op_embedding(list, list->inputs, weights[WTE], positions, pass->samples, pass->length,
                               pass->config->gpt.channels, padded_vocab(pass->config), "embedding");
    const tensor_id *block = &weights[BLOCKS];
    for (size_t i = 0; i < pass->config->gpt.blocks; i++, block += BLOCK_PARAMETERS) {
        list->block = i + 1;
        x = op_add(list, x, attention_branch(pass, x, block), "attention_residual");
        x = op_add(list, x, mlp_branch(pass, x, block), "mlp_residual");
    }
    list->block = 0;
    return x;
}

static tensor_id logits_of(const struct pass *pass, tensor_id x, size_t rows, const tensor_id *weights)
{
    size_t channels = pass->config->gpt.channels;
    const tensor_id *last = &weights[BLOCKS + pass->config->gpt.blocks * BLOCK_PARAMETERS];
    tensor_id norm = op_layer_norm(pass->list, x, last[0], last[1], rows, channels, "ln_f");
    return op_linear(pass->list, norm, weights[WTE], TENSOR_NONE, rows, channels, padded_vocab(pass->config), "logits");
}

static void forward(const struct model *model, struct model_shape shape, struct list *list, tensor_id tally,
                    const tensor_id *weights)
{
    const struct model_config *config = &model->config;
    const struct pass pass = {.config = config, .list = list, .samples = shape.samples, .length = shape.length};
    size_t rows = rows_of(&pass);
    tensor_id x = run_blocks(&pass, weights[WPE], weights);
    tensor_id logits = logits_of(&pass, x, rows, weights);
    op_cross_entropy(list, tally, logits, list->targets, rows, config->gpt.vocab_size, padded_vocab(config));
}

static uint64_t token_reals(const struct model_config *config)
{
    return config->gpt.blocks * block_cache_reals(config) / config->gpt.seq_len;
}

static void next(const struct model *model, size_t tokens, size_t first, struct list *list, const tensor_id *weights)
{
    const struct model_config *config = &model->config;
    const struct pass pass = {
        .config = config, .list = list, .samples = 1, .length = tokens, .goes_on = true, .first = first};
    size_t channels = config->gpt.channels;
    tensor_id positions = list_part(list, weights[WPE], first * channels, tokens * channels);
    tensor_id x = run_blocks(&pass, positions, weights);
    tensor_id last = list_part(list, x, (tokens - 1) * channels, channels);
    list->logits = logits_of(&pass, last, 1, weights);
}

const struct architecture architecture_gpt = {.misfit = misfit,
                                              .parameter_count = parameter_count,
                                              .describe = describe,
                                              .forward = forward,
                                              .token_reals = token_reals,
                                              .next = next};
