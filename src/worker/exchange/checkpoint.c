// SPDX-License-Identifier: Apache-2.0
//
// A checkpoint of Headroom (checkpoint/folder.h). One that is written is of step 0 and has no optimizer's state: what a
// run begins with that checkpoint.weights tells so.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "mem/whole_file.h"
#include "worker/checkpoint/folder.h"
#include "worker/checkpoint/model_file.h"
#include "worker/config/config.h"
#include "worker/exchange/target.h"
#include "worker/exchange/weights.h"
#include "worker/job.h"
#include "worker/regular_file.h"
#include "worker/worker.h"

// Reading ------------------------------------------------------------------------------------------------------------

struct source {
    const struct model *model;
    struct safetensors *file;
};

static enum status read_parameter(void *context, size_t number, uint64_t first, uint64_t count, float *values,
                                  struct error *error)
{
    const struct source *source = context;
    const struct safetensors_tensor *tensor = safetensors_find(source->file, source->model->parameters[number].name);
    return safetensors_read(source->file, tensor, first, count, values, error);
}

static void close_source(void *context)
{
    struct source *source = context;
    safetensors_close(source->file);
    free(source);
}

static enum status make_model(const char *folder, struct weights *weights, struct error *error)
{
    char path[CHECKPOINT_FILE_MAX];
    struct config config;
    enum status status = checkpoint_read_config(folder, path, &config, error);
    if (status != STATUS_OK) {
        return status;
    }
    const struct model_config model = job_model_config(&config);
    weights->end_of_text = config.data.end_of_text;
    config_finish(&config);
    if (model.kind != MODEL_GPT) {
        return error_set(error, STATUS_INVALID, "%s: model.kind: is mlp; allowed here: gpt", path);
    }
    return model_create(&model, &weights->model, error);
}

static enum status open_model_file(const char *folder, struct source *source, struct error *error)
{
    char path[CHECKPOINT_PATH_MAX + 32];
    snprintf(path, sizeof(path), "%s/" CHECKPOINT_MODEL, folder);
    enum status status = safetensors_open(path, &source->file, error);
    return status == STATUS_OK ? model_file_check(source->file, source->model, error) : status;
}

static enum status open_folder(const char *folder, struct weights *weights, struct error *error)
{
    struct source *source = calloc(1, sizeof(*source));
    if (source == NULL) {
        return error_out_of_host_memory(error);
    }
    *weights = (struct weights){.read = read_parameter, .context = source, .close = close_source};
    enum status status = make_model(folder, weights, error);
    if (status == STATUS_OK) {
        source->model = weights->model;
        status = open_model_file(folder, source, error);
    }
    if (status != STATUS_OK) {
        weights_close(weights);
    }
    return status;
}

static enum status open_path(const char *path, struct weights *weights, struct error *error)
{
    char found[CHECKPOINT_PATH_MAX];
    enum status status = checkpoint_find_folder(path, stderr, found, error);
    return status == STATUS_OK ? open_folder(found, weights, error) : status;
}

// Writing ------------------------------------------------------------------------------------------------------------

// What is known of the model, and in place of the rest what a configuration must have. NULL where the host's memory
// runs out.
static char *print_config(const struct weights *weights)
{
    const struct model_config *config = &weights->model->config;
    bool is_known = weights->end_of_text < config->gpt.vocab_size;
    char *text;
    int length = asprintf(&text,
                          "model:\n"
                          "  kind: gpt\n"
                          "  vocab_size: %zu\n"
                          "  seq_len: %zu\n"
                          "  block_count: %zu\n"
                          "  head_count: %zu\n"
                          "  channels: %zu\n"
                          "train:\n"
                          "  epochs: 1\n"
                          "  global_batch_size: 1\n"
                          "data:\n"
                          "  kind: tokens\n"
                          "  path: tokens.bin\n"
                          "  end_of_text: %" PRIu64 "\n",
                          config->gpt.vocab_size, config->gpt.seq_len, config->gpt.blocks, config->gpt.heads,
                          config->gpt.channels, is_known ? weights->end_of_text : CONFIG_END_OF_TEXT);
    return length < 0 ? NULL : text;
}

static enum status write_config(const char *path, const struct weights *weights, struct file_sum *sum,
                                struct error *error)
{
    char *text = print_config(weights);
    enum status status =
        text == NULL ? error_out_of_host_memory(error) : hashed_file_write_text(path, text, sum, error);
    free(text);
    return status;
}

static enum status write_weights(const char *path, const struct weights *weights, struct file_sum *sum,
                                 struct error *error)
{
    struct safetensors_item *items = model_file_items(weights->model);
    enum status status = items == NULL ? error_out_of_host_memory(error)
                                       : safetensors_write(path, items, weights->model->parameter_count, weights->read,
                                                           weights->context, sum, error);
    free(items);
    return status;
}

static enum status write_state(const char *path, const struct checkpoint_file *files, size_t count, struct error *error)
{
    const struct checkpoint_state state = {.seed = 1};
    char *text = checkpoint_state_print(&state, files, count);
    bool written = text != NULL && whole_file_write_text(path, text);
    free(text);
    return written ? STATUS_OK : regular_file_refuse(path, "write", error);
}

static enum status write_files(const struct target *target, const struct weights *weights, struct error *error)
{
    struct checkpoint_file files[] = {{.name = CHECKPOINT_MODEL}, {.name = CHECKPOINT_CONFIG}};
    char *model = target_file(target, CHECKPOINT_MODEL), *config = target_file(target, CHECKPOINT_CONFIG);
    char *state = target_file(target, CHECKPOINT_STATE);
    enum status status = model == NULL || config == NULL || state == NULL
                             ? error_out_of_host_memory(error)
                             : write_weights(model, weights, &files[0].sum, error);
    if (status == STATUS_OK) {
        status = write_config(config, weights, &files[1].sum, error);
    }
    if (status == STATUS_OK) {
        status = write_state(state, files, 2, error);
    }
    free(model);
    free(config);
    free(state);
    return status;
}

static enum status write_path(const char *path, const struct weights *weights, struct error *error)
{
    struct target target;
    enum status status = target_begin(path, true, &target, error);
    return status == STATUS_OK ? target_end(&target, write_files(&target, weights, error), error) : status;
}

const struct exchange_format exchange_checkpoint = {.open = open_path, .write = write_path};
