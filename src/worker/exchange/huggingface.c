// SPDX-License-Identifier: Apache-2.0
//
// GPT-2 as Hugging Face's transformers keep it: a folder with config.json and model.safetensors, or with several files
// of weights that model.safetensors.index.json names (https://huggingface.co/docs/transformers/big_models). Names are
// Headroom's behind "transformer.", which older files lack; what GPT2LMHeadModel calls Conv1D is [in, out].
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/uint64.h"
#include "worker/checkpoint/model_file.h"
#include "worker/config/refuse.h"
#include "worker/exchange/gpt2.h"
#include "worker/exchange/huggingface_config.h"
#include "worker/exchange/target.h"
#include "worker/exchange/weights.h"

#define CONFIG_NAME  "config.json"
#define WEIGHTS_NAME "model.safetensors"
#define INDEX_NAME   "model.safetensors.index.json"

#define PIECE (UINT64_C(1) << 18) // elements

static const char prefix[] = "transformer.";
static const char head_name[] = "lm_head.weight"; // a copy of wte.weight where the two are tied

struct found_tensor {
    const struct safetensors *file;
    const struct safetensors_tensor *tensor;
};

struct huggingface {
    const struct model *model;
    struct safetensors **files;
    size_t file_count;
    struct found_tensor *tensors; // one for each parameter
    struct weights_turner turner;
};

// "transformer.h.0.attn.c_attn.weight", for the caller to free.
static char *full_name(const char *name)
{
    char *full;
    return asprintf(&full, "%s%s", prefix, name) < 0 ? NULL : full;
}

// What the file has of a parameter; [in, out] where it is turned.
static struct safetensors_item shape_of(const struct parameter *parameter)
{
    const struct gpt2_tensor *tensor = gpt2_find(parameter->name);
    struct safetensors_item item = {.name = parameter->name, .dimensions = tensor->is_matrix ? 2 : 1};
    if (!tensor->is_matrix) {
        item.shape[0] = parameter->columns;
    } else {
        item.shape[tensor->is_turned ? 1 : 0] = parameter->rows_used;
        item.shape[tensor->is_turned ? 0 : 1] = parameter->columns;
    }
    return item;
}

// Opening ------------------------------------------------------------------------------------------------------------

static char *path_in(const char *folder, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

static enum status open_file(struct huggingface *source, const char *folder, const char *name, struct error *error)
{
    struct safetensors **files = realloc(source->files, (source->file_count + 1) * sizeof(*files));
    if (files == NULL) {
        return error_out_of_host_memory(error);
    }
    source->files = files;
    char *path = path_in(folder, name);
    if (path == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = safetensors_open(path, &files[source->file_count], error);
    source->file_count += status == STATUS_OK;
    free(path);
    return status;
}

// The names of all files, each once, as the keys of `names`.
static enum status list_shards(const char *path, const json_t *index, json_t *names, struct error *error)
{
    json_t *map = json_object_get(index, "weight_map"), *value;
    const char *tensor;
    if (json_object_size(map) == 0) {
        return error_set(error, STATUS_INVALID, "%s: weight_map: names no file", path);
    }
    json_object_foreach(map, tensor, value)
    {
        const char *name = json_string_value(value);
        if (name == NULL || strchr(name, '/') != NULL) {
            return error_set(error, STATUS_INVALID, "%s: weight_map: %.200s: is no name of a file in this folder", path,
                             tensor);
        }
        if (json_object_set_new(names, name, json_true()) != 0) {
            return error_out_of_host_memory(error);
        }
    }
    return STATUS_OK;
}

static enum status open_shards(struct huggingface *source, const char *folder, const char *path, struct error *error)
{
    json_t *index = NULL, *names = json_object(), *value;
    const char *name;
    enum status status = names == NULL ? error_out_of_host_memory(error) : huggingface_read_json(path, &index, error);
    if (status == STATUS_OK) {
        status = list_shards(path, index, names, error);
    }
    json_object_foreach(names, name, value)
    {
        if (status == STATUS_OK) {
            status = open_file(source, folder, name, error);
        }
    }
    json_decref(names);
    json_decref(index);
    return status;
}

static enum status open_files(struct huggingface *source, const char *folder, struct error *error)
{
    char *whole = path_in(folder, WEIGHTS_NAME), *index = path_in(folder, INDEX_NAME);
    enum status status;
    if (whole == NULL || index == NULL) {
        status = error_out_of_host_memory(error);
    } else if (access(whole, F_OK) != 0 && access(index, F_OK) == 0) {
        status = open_shards(source, folder, index, error);
    } else {
        status = open_file(source, folder, WEIGHTS_NAME, error);
    }
    free(whole);
    free(index);
    return status;
}

// Finding the tensors ------------------------------------------------------------------------------------------------

// Where there is no such tensor, the last file has none.
static struct found_tensor find_named(const struct huggingface *source, const char *name)
{
    struct found_tensor found = {NULL, NULL};
    for (size_t i = 0; i < source->file_count && found.tensor == NULL; i++) {
        found.file = source->files[i];
        found.tensor = safetensors_find(found.file, name);
    }
    return found;
}

static enum status find_tensor(struct huggingface *source, size_t number, struct error *error)
{
    const struct safetensors_item expected = shape_of(&source->model->parameters[number]);
    struct found_tensor *found = &source->tensors[number];
    char *full = full_name(expected.name);
    if (full == NULL) {
        return error_out_of_host_memory(error);
    }
    *found = find_named(source, full);
    if (found->tensor == NULL) {
        *found = find_named(source, expected.name);
    }
    free(full);
    return model_file_check_tensor(found->file, found->tensor, &expected, error);
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

// Masks that are no weights; and the head, which is looked at by itself.
static bool is_ignored(const char *name)
{
    return ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias") || strcmp(name, head_name) == 0;
}

static bool is_found(const struct huggingface *source, const struct safetensors_tensor *tensor)
{
    for (size_t i = 0; i < source->model->parameter_count; i++) {
        if (source->tensors[i].tensor == tensor) {
            return true;
        }
    }
    return false;
}

static enum status check_others(const struct huggingface *source, struct error *error)
{
    for (size_t i = 0; i < source->file_count; i++) {
        const struct safetensors *file = source->files[i];
        for (size_t k = 0; k < safetensors_count(file); k++) {
            const struct safetensors_tensor *tensor = safetensors_at(file, k);
            if (!is_ignored(tensor->name) && !is_found(source, tensor)) {
                return error_set(error, STATUS_INVALID,
                                 "%s: is of another model: it has a tensor '%.200s', which is none of config.json's",
                                 safetensors_path(file), tensor->name);
            }
        }
    }
    return STATUS_OK;
}

static enum status find_tensors(struct huggingface *source, struct error *error)
{
    source->tensors = calloc(source->model->parameter_count, sizeof(*source->tensors));
    enum status status = STATUS_OK;
    if (source->tensors == NULL) {
        return error_out_of_host_memory(error);
    }
    for (size_t i = 0; i < source->model->parameter_count && status == STATUS_OK; i++) {
        status = find_tensor(source, i, error);
    }
    return status == STATUS_OK ? check_others(source, error) : status;
}

// The head -----------------------------------------------------------------------------------------------------------

static enum status refuse_head(const char *path, const char *what, struct error *error)
{
    return config_refuse(error, &(struct config_place){.file = path}, "tie_word_embeddings",
                         "false, and lm_head.weight is %s; allowed: true, or false with an lm_head.weight of the same "
                         "values as wte.weight",
                         what);
}

static enum status compare(struct found_tensor a, struct found_tensor b, float *pieces, bool *same_p,
                           struct error *error)
{
    enum status status = STATUS_OK;
    *same_p = true;
    for (uint64_t first = 0; first < a.tensor->elements && status == STATUS_OK && *same_p; first += PIECE) {
        uint64_t count = uint64_min(PIECE, a.tensor->elements - first);
        status = safetensors_read(a.file, a.tensor, first, count, pieces, error);
        if (status == STATUS_OK) {
            status = safetensors_read(b.file, b.tensor, first, count, pieces + PIECE, error);
        }
        *same_p = memcmp(pieces, pieces + PIECE, count * sizeof(*pieces)) == 0;
    }
    return status;
}

// Where it is not tied, it must have the values that it would have if it were.
static enum status check_head(const struct huggingface *source, const char *config_path, struct error *error)
{
    const struct found_tensor head = find_named(source, head_name);
    struct safetensors_item expected = shape_of(&source->model->parameters[0]); // wte.weight
    bool same = false;
    expected.name = head_name;
    if (head.tensor == NULL) {
        return refuse_head(config_path, "not there", error);
    }
    enum status status = model_file_check_tensor(head.file, head.tensor, &expected, error);
    float *pieces = malloc(2 * PIECE * sizeof(*pieces));
    if (status == STATUS_OK) {
        status =
            pieces == NULL ? error_out_of_host_memory(error) : compare(head, source->tensors[0], pieces, &same, error);
    }
    free(pieces);
    return status != STATUS_OK || same ? status : refuse_head(config_path, "another one", error);
}

// Reading ------------------------------------------------------------------------------------------------------------

// Elements as the file has them.
static enum status read_tensor(void *context, size_t number, uint64_t first, uint64_t count, float *values,
                               struct error *error)
{
    const struct found_tensor *found = &((struct huggingface *)context)->tensors[number];
    return safetensors_read(found->file, found->tensor, first, count, values, error);
}

static enum status read_parameter(void *context, size_t number, uint64_t first, uint64_t count, float *values,
                                  struct error *error)
{
    struct huggingface *source = context;
    const struct parameter *parameter = &source->model->parameters[number];
    return gpt2_find(parameter->name)->is_turned
               ? weights_turn(&source->turner, number, parameter->columns, parameter->rows, first, count, values, error)
               : read_tensor(source, number, first, count, values, error);
}

static void close_source(void *context)
{
    struct huggingface *source = context;
    for (size_t i = 0; i < source->file_count; i++) {
        safetensors_close(source->files[i]);
    }
    free(source->turner.whole);
    free(source->tensors);
    free(source->files);
    free(source);
}

static enum status open_source(const char *folder, const char *config_path, bool ties_embeddings,
                               struct huggingface *source, struct error *error)
{
    enum status status = open_files(source, folder, error);
    if (status == STATUS_OK) {
        status = find_tensors(source, error);
    }
    if (status == STATUS_OK && !ties_embeddings) {
        status = check_head(source, config_path, error);
    }
    return status == STATUS_OK ? weights_turner_init(&source->turner, source->model, read_tensor, source, error)
                               : status;
}

static enum status open_folder(const char *folder, const char *config_path, struct weights *weights,
                               struct error *error)
{
    struct huggingface_config config;
    enum status status = huggingface_config_read(config_path, &config, error);
    if (status != STATUS_OK) {
        return status;
    }
    struct huggingface *source = calloc(1, sizeof(*source));
    *weights = (struct weights){
        .model = config.model,
        .end_of_text = config.end_of_text,
        .read = read_parameter,
        .context = source,
        .close = close_source,
    };
    if (source == NULL) {
        model_destroy(config.model);
        return error_out_of_host_memory(error);
    }
    source->model = config.model;
    status = open_source(folder, config_path, config.ties_embeddings, source, error);
    if (status != STATUS_OK) {
        weights_close(weights);
    }
    return status;
}

static enum status open_path(const char *path, struct weights *weights, struct error *error)
{
    char *config_path = path_in(path, CONFIG_NAME);
    enum status status =
        config_path == NULL ? error_out_of_host_memory(error) : open_folder(path, config_path, weights, error);
    free(config_path);
    return status;
}

// Writing ------------------------------------------------------------------------------------------------------------

struct writing {
    const struct weights *weights;
    struct weights_turner turner;
    struct safetensors_item *items;
};

static enum status give(void *context, size_t number, uint64_t first, uint64_t count, float *values,
                        struct error *error)
{
    struct writing *writing = context;
    const struct weights *weights = writing->weights;
    const struct parameter *parameter = &weights->model->parameters[number];
    return gpt2_find(parameter->name)->is_turned ? weights_turn(&writing->turner, number, parameter->rows,
                                                                parameter->columns, first, count, values, error)
                                                 : weights->read(weights->context, number, first, count, values, error);
}

static bool make_items(struct writing *writing)
{
    const struct model *model = writing->weights->model;
    writing->items = calloc(model->parameter_count, sizeof(*writing->items));
    bool made = writing->items != NULL;
    for (size_t i = 0; i < model->parameter_count && made; i++) {
        writing->items[i] = shape_of(&model->parameters[i]);
        writing->items[i].name = full_name(model->parameters[i].name);
        made = writing->items[i].name != NULL;
    }
    return made;
}

static void free_items(struct writing *writing)
{
    for (size_t i = 0; writing->items != NULL && i < writing->weights->model->parameter_count; i++) {
        free((char *)writing->items[i].name);
    }
    free(writing->items);
}

static enum status write_weights(const char *path, const struct weights *weights, struct error *error)
{
    struct writing writing = {.weights = weights};
    struct file_sum sum;
    enum status status = weights_turner_init(&writing.turner, weights->model, weights->read, weights->context, error);
    if (status == STATUS_OK) {
        status = make_items(&writing) ? safetensors_write(path, writing.items, weights->model->parameter_count, give,
                                                          &writing, &sum, error)
                                      : error_out_of_host_memory(error);
    }
    free_items(&writing);
    free(writing.turner.whole);
    return status;
}

static enum status write_config(const char *path, const struct weights *weights, struct error *error)
{
    struct file_sum sum;
    char *text = huggingface_config_print(weights->model, weights->end_of_text);
    enum status status =
        text == NULL ? error_out_of_host_memory(error) : hashed_file_write_text(path, text, &sum, error);
    free(text);
    return status;
}

static enum status write_files(const struct target *target, const struct weights *weights, struct error *error)
{
    char *weights_path = target_file(target, WEIGHTS_NAME), *config_path = target_file(target, CONFIG_NAME);
    enum status status = weights_path == NULL || config_path == NULL ? error_out_of_host_memory(error)
                                                                     : write_weights(weights_path, weights, error);
    if (status == STATUS_OK) {
        status = write_config(config_path, weights, error);
    }
    free(weights_path);
    free(config_path);
    return status;
}

static enum status write_path(const char *path, const struct weights *weights, struct error *error)
{
    struct target target;
    enum status status = target_begin(path, true, &target, error);
    return status == STATUS_OK ? target_end(&target, write_files(&target, weights, error), error) : status;
}

const struct exchange_format exchange_huggingface = {.open = open_path, .write = write_path};
