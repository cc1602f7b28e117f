// SPDX-License-Identifier: Apache-2.0
#include "worker/exchange/weights.h"

#include <stdlib.h>
#include <string.h>

#include "mem/uint64.h"
#include "worker/config/refuse.h"
#include "worker/config/value.h"
#include "worker/exchange/gpt2.h"

void weights_close(struct weights *weights)
{
    weights->close(weights->context);
    model_destroy(weights->model);
}

// The model ---------------------------------------------------------------------------------------------------------

// What a configuration may say, under the name that the file has for it.
static struct config_key size_key(size_t size, const char *name)
{
    static const char *const paths[WEIGHTS_SIZES] = {
        [WEIGHTS_VOCAB_SIZE] = "model.vocab_size", [WEIGHTS_SEQ_LEN] = "model.seq_len",
        [WEIGHTS_BLOCKS] = "model.block_count",    [WEIGHTS_HEADS] = "model.head_count",
        [WEIGHTS_CHANNELS] = "model.channels",
    };
    size_t i = 0;
    while (strcmp(config_keys[i].path, paths[size]) != 0) {
        i++;
    }
    struct config_key key = config_keys[i];
    key.path = name;
    key.word = NULL;
    return key;
}

enum status weights_make_model(const char *path, const struct weights_size sizes[WEIGHTS_SIZES], struct model **model_p,
                               struct error *error)
{
    const struct config_place place = {.file = path};
    uint64_t values[WEIGHTS_SIZES];
    for (size_t i = 0; i < WEIGHTS_SIZES; i++) {
        struct config_key key = size_key(i, sizes[i].name);
        const char *complaint = config_value_scan(&key, sizes[i].text, false, &values[i]);
        if (complaint != NULL) {
            return config_refuse_value(error, &place, &key, sizes[i].text, complaint);
        }
    }
    if (values[WEIGHTS_CHANNELS] % values[WEIGHTS_HEADS] != 0) {
        return config_refuse(error, &place, sizes[WEIGHTS_CHANNELS].name, "%s; allowed: a multiple of %s, which is %s",
                             sizes[WEIGHTS_CHANNELS].text, sizes[WEIGHTS_HEADS].name, sizes[WEIGHTS_HEADS].text);
    }
    const struct model_config config = {
        .kind = MODEL_GPT,
        .gpt = {.vocab_size = values[WEIGHTS_VOCAB_SIZE],
                .seq_len = values[WEIGHTS_SEQ_LEN],
                .blocks = values[WEIGHTS_BLOCKS],
                .heads = values[WEIGHTS_HEADS],
                .channels = values[WEIGHTS_CHANNELS]},
    };
    return model_create(&config, model_p, error);
}

// Matrices turned around --------------------------------------------------------------------------------------------

enum status weights_turner_init(struct weights_turner *turner, const struct model *model, safetensors_source *read,
                                void *context, struct error *error)
{
    uint64_t largest = 0;
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *parameter = &model->parameters[i];
        if (gpt2_find(parameter->name)->is_turned) {
            largest = uint64_max(largest, parameter->rows * parameter->columns);
        }
    }
    *turner = (struct weights_turner){.read = read, .context = context, .whole = malloc((largest + 1) * sizeof(float))};
    return turner->whole == NULL ? error_out_of_host_memory(error) : STATUS_OK;
}

enum status weights_turn(struct weights_turner *turner, size_t number, uint64_t rows, uint64_t columns, uint64_t first,
                         uint64_t count, float *values, struct error *error)
{
    if (turner->held != number + 1) {
        turner->held = 0;
        enum status status = turner->read(turner->context, number, 0, rows * columns, turner->whole, error);
        if (status != STATUS_OK) {
            return status;
        }
        turner->held = number + 1;
    }
    uint64_t row = first % rows, column = first / rows;
    for (uint64_t i = 0; i < count; i++) {
        values[i] = turner->whole[row * columns + column];
        if (++row == rows) {
            row = 0;
            column++;
        }
    }
    return STATUS_OK;
}
