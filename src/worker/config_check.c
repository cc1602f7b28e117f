// SPDX-License-Identifier: Apache-2.0
#include "worker/config_check.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

struct checker {
    const struct config_place *places;
    struct config_place file; // for keys that were given nowhere
    struct error *error;
};

static bool is_given(const struct config_place *place)
{
    return place->file != NULL || place->override != NULL;
}

static const struct config_place *find_place(const struct checker *checker, const char *path)
{
    size_t i = 0;
    while (strcmp(config_keys[i].path, path) != 0) {
        i++;
        assert(i < config_keys_count);
    }
    return is_given(&checker->places[i]) ? &checker->places[i] : &checker->file;
}

static enum status check_required(const struct checker *checker, const struct config *config)
{
    (void)config; // a required key has no value that would tell
    for (size_t i = 0; i < config_keys_count; i++) {
        const struct config_key *key = &config_keys[i];
        if (key->fallback == NULL && !is_given(&checker->places[i])) {
            return config_refuse_value(checker->error, &checker->file, key, "the key", "is missing");
        }
    }
    return STATUS_OK;
}

struct rule {
    bool broken;
    const char *path;
    const char *complaint;
};

static enum status check_rules(const struct checker *checker, const struct rule *rules, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (rules[i].broken) {
            return config_refuse(checker->error, find_place(checker, rules[i].path), rules[i].path, "%s",
                                 rules[i].complaint);
        }
    }
    return STATUS_OK;
}

static enum status check_train(const struct checker *checker, const struct config *config)
{
    if (config->train.steps != 0 || config->train.epochs != 0) {
        return STATUS_OK;
    }
    return config_refuse(checker->error, find_place(checker, "train.steps"), "train.steps",
                         "one of train.steps and train.epochs must be more than 0");
}

static enum status check_model(const struct checker *checker, const struct config *config)
{
    bool mlp = config->model.kind == CONFIG_MODEL_MLP;
    bool gpt = config->model.kind == CONFIG_MODEL_GPT;
    const struct rule rules[] = {
        {mlp && config->model.layers_count < 2, "model.layers", "model.kind mlp needs at least 2 sizes"},
        {gpt && config->model.vocab_size == 0, "model.vocab_size", "model.kind gpt needs it"},
        {gpt && config->model.seq_len == 0, "model.seq_len", "model.kind gpt needs it"},
        {gpt && config->model.block_count == 0, "model.block_count", "model.kind gpt needs it"},
        {gpt && config->model.head_count == 0, "model.head_count", "model.kind gpt needs it"},
        {gpt && config->model.channels == 0, "model.channels", "model.kind gpt needs it"},
    };
    return check_rules(checker, rules, sizeof(rules) / sizeof(rules[0]));
}

static enum status check_heads(const struct checker *checker, const struct config *config)
{
    uint64_t channels = config->model.channels, heads = config->model.head_count;
    if (config->model.kind != CONFIG_MODEL_GPT || heads == 0 || channels % heads == 0) {
        return STATUS_OK;
    }
    return config_refuse(checker->error, find_place(checker, "model.channels"), "model.channels",
                         "%" PRIu64 " is not a multiple of model.head_count %" PRIu64, channels, heads);
}

static enum status check_data(const struct checker *checker, const struct config *config)
{
    bool mlp = config->model.kind == CONFIG_MODEL_MLP;
    bool idx = config->data.kind == CONFIG_DATA_IDX;
    bool text = config->data.kind == CONFIG_DATA_TEXT;
    bool tokens = config->data.kind == CONFIG_DATA_TOKENS;
    bool synthetic = config->data.kind == CONFIG_DATA_SYNTHETIC;
    bool half = (config->data.validation_images == NULL) != (config->data.validation_labels == NULL);
    const struct rule rules[] = {
        {idx && !mlp, "data.kind", "idx needs model.kind mlp"},
        {text && mlp, "data.kind", "text needs model.kind gpt"},
        {tokens && mlp, "data.kind", "tokens needs model.kind gpt"},
        {idx && config->data.images == NULL, "data.images", "data.kind idx needs it"},
        {idx && config->data.labels == NULL, "data.labels", "data.kind idx needs it"},
        {idx && half, "data.validation_images", "needs data.validation_labels, and the other way round"},
        {text && config->data.path == NULL, "data.path", "data.kind text needs it"},
        {tokens && config->data.path == NULL, "data.path", "data.kind tokens needs it"},
        {synthetic && config->data.samples == 0, "data.samples", "data.kind synthetic needs it"},
    };
    return check_rules(checker, rules, sizeof(rules) / sizeof(rules[0]));
}

static enum status check_neighbours(const struct checker *checker, const struct config *config)
{
    for (size_t i = 0; i < config->device.neighbours_count; i++) {
        const struct config_neighbour *neighbour = &config->device.neighbours[i];
        if (neighbour->to_step <= neighbour->from_step) {
            return config_refuse(checker->error, find_place(checker, "device.neighbours"), "device.neighbours",
                                 "entry %zu: to_step %" PRIu64 " must be more than from_step %" PRIu64, i + 1,
                                 neighbour->to_step, neighbour->from_step);
        }
    }
    return STATUS_OK;
}

enum status config_check(const struct config *config, const struct config_place *places, const char *name,
                         struct error *error)
{
    const struct checker checker = {places, {.file = name}, error};
    enum status (*const checks[])(const struct checker *, const struct config *) = {
        check_required, check_train, check_model, check_heads, check_data, check_neighbours,
    };
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < sizeof(checks) / sizeof(checks[0]); i++) {
        status = checks[i](&checker, config);
    }
    return status;
}

static enum status check_rank(const char *path, uint64_t rank, uint64_t ranks, struct error *error)
{
    if (rank < ranks) {
        return STATUS_OK;
    }
    return error_set(error, STATUS_INVALID, "%s: there is no rank %" PRIu64 " among %" PRIu64 ", counted from 0", path,
                     rank, ranks);
}

enum status config_check_ranks(const struct config *config, uint64_t ranks, struct error *error)
{
    if (config->train.global_batch_size < ranks) {
        return error_set(error, STATUS_INVALID,
                         "train.global_batch_size: %" PRIu64 " samples are too few for %" PRIu64
                         " ranks; each needs at least one",
                         config->train.global_batch_size, ranks);
    }
    size_t capacities = config->device.capacities_count;
    uint64_t devices = (ranks - 1) / config->device.ranks_per_device + 1;
    if (capacities > 1 && capacities != devices) {
        return error_set(error, STATUS_INVALID,
                         "device.capacity: a list of %zu for %" PRIu64
                         " devices; give one for all or one for each device",
                         capacities, devices);
    }
    for (size_t i = 0; i < config->device.neighbours_count; i++) {
        enum status status = check_rank("device.neighbours", config->device.neighbours[i].rank, ranks, error);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return config->fault.rank == CONFIG_ALL_RANKS ? STATUS_OK
                                                  : check_rank("fault.rank", config->fault.rank, ranks, error);
}
