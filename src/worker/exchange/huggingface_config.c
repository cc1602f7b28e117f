// SPDX-License-Identifier: Apache-2.0
#include "worker/exchange/huggingface_config.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/config/refuse.h"
#include "worker/regular_file.h"

#define JSON_BYTES_MAX (64 << 20)
#define REAL_DIGITS    9 // that tell one float32 from another

#define LAYER_NORM_EPSILON "1e-5" // of the kernels

enum status huggingface_read_json(const char *path, json_t **object_p, struct error *error)
{
    json_error_t fault;
    int descriptor;
    uint64_t bytes;
    enum status status = regular_file_open(path, &descriptor, &bytes, error);
    if (status != STATUS_OK) {
        return status;
    }
    json_t *object = bytes > JSON_BYTES_MAX ? NULL : json_loadfd(descriptor, JSON_REJECT_DUPLICATES, &fault);
    close(descriptor);
    if (json_is_object(object)) {
        *object_p = object;
        return STATUS_OK;
    }
    const char *why = bytes > JSON_BYTES_MAX ? "it is too large" : object == NULL ? fault.text : "it is something else";
    error_set(error, STATUS_INVALID, "%s: is no JSON object: %s", path, why);
    json_decref(object);
    return STATUS_INVALID;
}

// Reading ------------------------------------------------------------------------------------------------------------

// A value as the file has it, for the caller to free; NULL where the host's memory runs out.
static char *print_value(const json_t *value)
{
    return json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(REAL_DIGITS));
}

// A key that is not there has its default, which is allowed.
static enum status check_value(const char *path, const json_t *json, const char *key, const char *allowed,
                               const char *also_allowed, struct error *error)
{
    const json_t *value = json_object_get(json, key);
    char *text = value == NULL ? strdup(allowed) : print_value(value);
    if (text == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = STATUS_OK;
    if (strcmp(text, allowed) != 0 && (also_allowed == NULL || strcmp(text, also_allowed) != 0)) {
        status = config_refuse(error, &(struct config_place){.file = path}, key,
                               "%.80s is not what Headroom computes; allowed: %s%s%s", text, allowed,
                               also_allowed == NULL ? "" : ", ", also_allowed == NULL ? "" : also_allowed);
    }
    free(text);
    return status;
}

static enum status check_values(const char *path, const json_t *json, struct error *error)
{
    static const struct {
        const char *key, *allowed, *also_allowed;
    } values[] = {
        {"model_type", "\"gpt2\"", NULL},
        {"activation_function", "\"gelu_new\"", "\"gelu_pytorch_tanh\""},
        {"layer_norm_epsilon", LAYER_NORM_EPSILON, NULL},
        {"scale_attn_weights", "true", NULL},
        {"scale_attn_by_inverse_layer_idx", "false", NULL},
        {"add_cross_attention", "false", NULL},
        {"tie_word_embeddings", "true", "false"},
    };
    enum status status = STATUS_OK;
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]) && status == STATUS_OK; i++) {
        status = check_value(path, json, values[i].key, values[i].allowed, values[i].also_allowed, error);
    }
    return status;
}

// Where the inner layer of a block is as wide as it is here.
static enum status check_inner(const char *path, const json_t *json, const struct model *model, struct error *error)
{
    char width[32];
    snprintf(width, sizeof(width), "%zu", 4 * model->config.gpt.channels);
    return check_value(path, json, "n_inner", "null", width, error);
}

static enum status read_sizes(const char *path, const json_t *json, struct model **model_p, struct error *error)
{
    struct weights_size sizes[WEIGHTS_SIZES] = {
        [WEIGHTS_VOCAB_SIZE] = {.name = "vocab_size"}, [WEIGHTS_SEQ_LEN] = {.name = "n_positions"},
        [WEIGHTS_BLOCKS] = {.name = "n_layer"},        [WEIGHTS_HEADS] = {.name = "n_head"},
        [WEIGHTS_CHANNELS] = {.name = "n_embd"},
    };
    char *texts[WEIGHTS_SIZES] = {NULL};
    enum status status = STATUS_OK;
    for (size_t i = 0; i < WEIGHTS_SIZES && status == STATUS_OK; i++) {
        const json_t *value = json_object_get(json, sizes[i].name);
        sizes[i].text = texts[i] = value == NULL ? strdup("nothing") : print_value(value);
        status = texts[i] == NULL ? error_out_of_host_memory(error) : STATUS_OK;
    }
    if (status == STATUS_OK) {
        status = weights_make_model(path, sizes, model_p, error);
    }
    for (size_t i = 0; i < WEIGHTS_SIZES; i++) {
        free(texts[i]);
    }
    return status;
}

static enum status parse(const char *path, const json_t *json, struct huggingface_config *config, struct error *error)
{
    const json_t *end_of_text = json_object_get(json, "eos_token_id");
    enum status status = check_values(path, json, error);
    if (status == STATUS_OK) {
        status = read_sizes(path, json, &config->model, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
    config->end_of_text = json_is_integer(end_of_text) ? (uint64_t)json_integer_value(end_of_text) : UINT64_MAX;
    config->ties_embeddings = !json_is_false(json_object_get(json, "tie_word_embeddings"));
    status = check_inner(path, json, config->model, error);
    if (status != STATUS_OK) {
        model_destroy(config->model);
    }
    return status;
}

enum status huggingface_config_read(const char *path, struct huggingface_config *config, struct error *error)
{
    json_t *json;
    enum status status = huggingface_read_json(path, &json, error);
    if (status != STATUS_OK) {
        return status;
    }
    status = parse(path, json, config, error);
    json_decref(json);
    return status;
}

// Writing ------------------------------------------------------------------------------------------------------------

static json_t *print_token(const struct model *model, uint64_t token)
{
    return token < model->config.gpt.vocab_size ? json_integer((json_int_t)token) : json_null();
}

// Headroom has no dropout.
char *huggingface_config_print(const struct model *model, uint64_t end_of_text)
{
    json_t *json = json_pack(
        "{ss s[s] ss sI sI sI sI sI sn sf sf sf sf sf sb sb sb so so ss}", "model_type", "gpt2", "architectures",
        "GPT2LMHeadModel", "activation_function", "gelu_new", "vocab_size", (json_int_t)model->config.gpt.vocab_size,
        "n_positions", (json_int_t)model->config.gpt.seq_len, "n_embd", (json_int_t)model->config.gpt.channels,
        "n_layer", (json_int_t)model->config.gpt.blocks, "n_head", (json_int_t)model->config.gpt.heads, "n_inner",
        "layer_norm_epsilon", strtod(LAYER_NORM_EPSILON, NULL), "initializer_range", 0.02, "attn_pdrop", 0.0,
        "embd_pdrop", 0.0, "resid_pdrop", 0.0, "scale_attn_weights", 1, "scale_attn_by_inverse_layer_idx", 0,
        "tie_word_embeddings", 1, "bos_token_id", print_token(model, end_of_text), "eos_token_id",
        print_token(model, end_of_text), "torch_dtype", "float32");
    char *text = json == NULL ? NULL : json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(REAL_DIGITS));
    json_decref(json);
    return text;
}
