// SPDX-License-Identifier: Apache-2.0
#include "worker/data/data.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>

#include "worker/data/kinds.h"
#include "worker/random.h"
#include "worker/regular_file.h"

static const struct {
    const struct data_ops *packed, *unpacked;
} kinds[] = {
    [CONFIG_DATA_IDX] = {.packed = &data_idx},
    [CONFIG_DATA_NPY] = {.packed = &data_npy},
    [CONFIG_DATA_TEXT] = {.packed = &data_text, .unpacked = &data_lines},
    [CONFIG_DATA_TOKENS] = {.packed = &data_tokens, .unpacked = &data_documents},
    [CONFIG_DATA_SYNTHETIC] = {.packed = &data_synthetic},
};

const char *data_split_name(enum data_split split)
{
    return split == DATA_TRAIN ? "training" : "validation";
}

enum status data_refuse_file(const char *path, int errno_value, struct error *error)
{
    static const char packaged[] = "/usr/share/datasets/fashion-mnist/";
    if (errno_value != ENOENT) {
        return error_set(error, STATUS_ERROR, "%s: cannot read: %s", path, strerror(errno_value));
    }
    bool installable = strncmp(path, packaged, sizeof(packaged) - 1) == 0;
    return error_set(error, STATUS_INVALID, "%s: there is no such file%s", path,
                     installable ? "; install the Debian package dataset-fashion-mnist" : "");
}

static bool raise_open_files_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) {
        return false;
    }
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

enum status data_open_file(const char *path, int *opened_p, uint64_t *bytes_p, struct error *error)
{
    int opened = open(path, REGULAR_FILE_FLAGS);
    if (opened < 0 && errno == EMFILE && raise_open_files_limit()) { // a set may have a thousand shards
        opened = open(path, REGULAR_FILE_FLAGS);
    }
    if (opened < 0) {
        return data_refuse_file(path, errno, error);
    }
    uint64_t bytes;
    *opened_p = opened;
    return regular_file_check(path, opened, bytes_p == NULL ? &bytes : bytes_p, error);
}

static enum status check_mlp(const struct config *config, const struct data_set *set, struct error *error)
{
    assert(set->shape.input == DATA_INPUT_FLOAT32 && set->shape.target_count == 1);
    if (set->shape.input_count == config->model.layers[0]) {
        return STATUS_OK;
    }
    return error_set(error, STATUS_INVALID,
                     "model.layers: the first size is %" PRIu64 ", but a sample of data.kind %s has %" PRIu64 " values",
                     config->model.layers[0], set->ops->name, set->shape.input_count);
}

static enum status check_gpt(const struct config *config, const struct data_set *set, struct error *error)
{
    assert(set->shape.input == DATA_INPUT_TOKENS && set->shape.input_count == config->model.seq_len);
    if (set->shape.classes <= config->model.vocab_size) {
        return STATUS_OK;
    }
    return error_set(error, STATUS_INVALID,
                     "model.vocab_size: %" PRIu64 " is too small: data.kind %s has %" PRIu64 " different tokens",
                     config->model.vocab_size, set->ops->name, set->shape.classes);
}

static const struct data_ops *kind_of(const struct config *config)
{
    enum config_data kind = config->data.kind;
    return config->data.pack ? kinds[kind].packed : kinds[kind].unpacked;
}

enum status data_open(const struct config *config, enum data_split split, struct data_set **set_p, struct error *error)
{
    struct data_set *set;
    enum status status = kind_of(config)->open(config, split, &set, error);
    if (status == STATUS_OK && set != NULL) {
        bool mlp = config->model.kind == CONFIG_MODEL_MLP;
        status = mlp ? check_mlp(config, set, error) : check_gpt(config, set, error);
        if (status != STATUS_OK) {
            data_close(set);
        }
    }
    if (status == STATUS_OK) {
        *set_p = set;
    }
    return status;
}

void data_close(struct data_set *set)
{
    if (set != NULL) {
        set->ops->close(set);
    }
}

// A Feistel network (Luby and Rackoff, 1988) permutes the numbers of an even count of bits: each round adds to one half
// a random function of the other. Small halves need more than Luby and Rackoff's four rounds to look random.
#define FEISTEL_ROUNDS 8

static uint64_t feistel(uint64_t value, unsigned half_bits, uint64_t key)
{
    uint64_t mask = (UINT64_C(1) << half_bits) - 1;
    uint64_t left = value >> half_bits, right = value & mask;
    for (uint64_t round = 0; round < FEISTEL_ROUNDS; round++) {
        uint64_t mixed = left ^ (random_draw(random_draw(key, round), right) & mask);
        left = right;
        right = mixed;
    }
    return left << half_bits | right;
}

uint64_t data_order(uint64_t position, uint64_t samples, uint64_t seed, bool shuffle)
{
    uint64_t epoch = position / samples, index = position % samples;
    if (!shuffle) {
        return index;
    }
    uint64_t key = random_draw(random_draw(seed, RANDOM_ORDER), epoch);
    unsigned half_bits = 0;
    while (UINT64_C(1) << (2 * half_bits) < samples) {
        half_bits++;
    }
    // Cycle walking (Black and Rogaway, 2002): following a permutation of a larger set until it is back inside gives
    // one of the smaller set.
    do {
        index = feistel(index, half_bits, key);
    } while (index >= samples);
    return index;
}
