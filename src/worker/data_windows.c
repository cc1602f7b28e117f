// SPDX-License-Identifier: Apache-2.0
#include "worker/data_windows.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/data_kinds.h"

#define CHUNK_TOKENS 32768 // of a file that is read from end to end

const char *window_path(const struct config *config, enum data_split split)
{
    if (split == DATA_TRAIN) {
        return config->data.path;
    }
    if (config->data.validation_path != NULL) {
        return config->data.validation_path;
    }
    return config->data.validation_fraction > 0 ? config->data.path : NULL;
}

struct window_set *window_set_create(const struct data_ops *ops, const struct config *config, uint64_t token_bytes,
                                     size_t file_count)
{
    struct window_set *windows = calloc(1, sizeof(*windows) + file_count * sizeof(windows->files[0]));
    if (windows == NULL) {
        return NULL;
    }
    windows->set = (struct data_set){
        .ops = ops,
        .shape = {.input = DATA_INPUT_TOKENS,
                  .input_count = config->model.seq_len,
                  .target_count = config->model.seq_len},
    };
    windows->token_bytes = token_bytes;
    windows->file_count = file_count;
    for (size_t i = 0; i < file_count; i++) {
        windows->files[i].descriptor = -1;
    }
    return windows;
}

void window_set_close(struct data_set *set)
{
    struct window_set *windows = (struct window_set *)set;
    for (size_t i = 0; i < windows->file_count; i++) {
        token_file_close(&windows->files[i]);
    }
    free(windows);
}

static enum status check_size(const struct token_file *file, struct error *error)
{
    if (file->bytes == 0) {
        return error_set(error, STATUS_INVALID, "%s: the file is empty", file->path);
    }
    if (file->bytes < file->header_bytes) {
        return error_set(error, STATUS_INVALID,
                         "%s: truncated: the header takes %" PRIu64 " bytes, found %" PRIu64 " bytes", file->path,
                         file->header_bytes, file->bytes);
    }
    return STATUS_OK;
}

enum status token_file_open(struct token_file *file, const char *path, uint64_t header_bytes, struct error *error)
{
    *file = (struct token_file){.path = strdup(path), .descriptor = -1, .header_bytes = header_bytes};
    if (file->path == NULL) {
        return data_out_of_memory(error);
    }
    enum status status = data_open_file(path, &file->descriptor, &file->bytes, error);
    return status == STATUS_OK ? check_size(file, error) : status;
}

void token_file_close(struct token_file *file)
{
    if (file->descriptor >= 0) {
        close(file->descriptor);
    }
    free(file->path);
}

enum status window_set_open(struct window_set *windows, size_t number, const char *path, uint64_t header_bytes,
                            struct error *error)
{
    struct token_file *file = &windows->files[number];
    enum status status = token_file_open(file, path, header_bytes, error);
    if (status == STATUS_OK) {
        file->count = (file->bytes - header_bytes) / windows->token_bytes;
    }
    return status;
}

enum status window_file_read(const struct token_file *file, uint64_t offset, uint64_t bytes, void *to,
                             struct error *error)
{
    uint64_t found = 0;
    while (found < bytes) {
        ssize_t got = pread(file->descriptor, (uint8_t *)to + found, bytes - found, (off_t)(offset + found));
        if (got < 0 && errno != EINTR) {
            return data_refuse_file(file->path, errno, error);
        }
        if (got == 0) {
            return error_set(error, STATUS_ERROR,
                             "%s: the file ended while it was being read: it held %" PRIu64
                             " bytes, now at most %" PRIu64,
                             file->path, file->bytes, offset + found);
        }
        found += got > 0 ? (uint64_t)got : 0;
    }
    return STATUS_OK;
}

struct token_range window_range(const struct config *config, enum data_split split, uint64_t tokens)
{
    if (config->data.validation_path != NULL) {
        return (struct token_range){.end = tokens};
    }
    uint64_t border = tokens - (uint64_t)((double)tokens * config->data.validation_fraction);
    return split == DATA_TRAIN ? (struct token_range){.end = border}
                               : (struct token_range){.first = border, .end = tokens};
}

// Keeps of each file what lies in the range, counted over all files.
static void keep_range(struct window_set *windows, struct token_range range)
{
    uint64_t before = 0;
    for (size_t i = 0; i < windows->file_count; i++) {
        struct token_file *file = &windows->files[i];
        uint64_t after = before + file->count;
        uint64_t from = range.first > before ? range.first : before, to = range.end < after ? range.end : after;
        before = after;
        file->first = from < to ? from - (after - file->count) : 0;
        file->count = from < to ? to - from : 0;
    }
}

static uint64_t count_tokens(const struct window_set *windows)
{
    uint64_t tokens = 0;
    for (size_t i = 0; i < windows->file_count; i++) {
        tokens += windows->files[i].count;
    }
    return tokens;
}

static void number_samples(struct window_set *windows)
{
    for (size_t i = 0; i < windows->file_count; i++) {
        struct token_file *file = &windows->files[i];
        file->first_sample = windows->set.samples;
        windows->set.samples += file->count > 0 ? (file->count - 1) / windows->set.shape.input_count : 0;
    }
}

enum status window_set_cut(struct window_set *windows, const struct config *config, enum data_split split,
                           struct error *error)
{
    keep_range(windows, window_range(config, split, count_tokens(windows)));
    number_samples(windows);
    if (windows->set.samples > 0) {
        return STATUS_OK;
    }
    return error_set(error, STATUS_INVALID,
                     "%s: too short: %" PRIu64 " tokens for %s, but a sample takes %" PRIu64 " (model.seq_len and one)",
                     window_path(config, split), count_tokens(windows), split == DATA_TRAIN ? "training" : "validation",
                     windows->set.shape.input_count + 1);
}

// Token `i` of those at `raw`, which are as the file has them.
static int32_t token_at(const struct window_set *windows, const uint8_t *raw, uint64_t i)
{
    return windows->token_bytes == 1 ? raw[i] : raw[2 * i] | raw[2 * i + 1] << 8;
}

static bool is_known(const struct window_set *windows, int32_t token)
{
    return (uint64_t)token < windows->set.shape.classes;
}

static int32_t largest_token(const struct window_set *windows, const uint8_t *raw, uint64_t count)
{
    int32_t largest = 0;
    for (uint64_t i = 0; i < count; i++) {
        int32_t token = token_at(windows, raw, i);
        largest = token > largest ? token : largest;
    }
    return largest;
}

// Reads `count` tokens from the file's token `first` on, as the file has them, and checks that the model knows them.
static enum status read_tokens(const struct window_set *windows, const struct token_file *file, uint64_t first,
                               uint64_t count, uint8_t *raw, struct error *error)
{
    uint64_t offset = file->header_bytes + first * windows->token_bytes;
    enum status status = window_file_read(file, offset, count * windows->token_bytes, raw, error);
    if (status != STATUS_OK || is_known(windows, largest_token(windows, raw, count))) {
        return status;
    }
    uint64_t i = 0;
    while (is_known(windows, token_at(windows, raw, i))) {
        i++;
    }
    return error_set(error, STATUS_INVALID,
                     "%s: token %" PRIu64 " is %d, but model.vocab_size is %" PRIu64 " (tokens count from 0)",
                     file->path, first + i, token_at(windows, raw, i), windows->set.shape.classes);
}

static enum status check_file(const struct window_set *windows, const struct token_file *file, struct error *error)
{
    uint8_t raw[CHUNK_TOKENS * sizeof(uint16_t)];
    enum status status = STATUS_OK;
    for (uint64_t done = 0; done < file->count && status == STATUS_OK; done += CHUNK_TOKENS) {
        uint64_t left = file->count - done, count = left < CHUNK_TOKENS ? left : CHUNK_TOKENS;
        status = read_tokens(windows, file, file->first + done, count, raw, error);
    }
    return status;
}

enum status window_set_check(const struct window_set *windows, struct error *error)
{
    enum status status = STATUS_OK;
    for (size_t i = 0; i < windows->file_count && status == STATUS_OK; i++) {
        status = check_file(windows, &windows->files[i], error);
    }
    return status;
}

// The file that holds the sample: the last that starts at or before it, for files without samples start where the next
// one does.
static const struct token_file *find_file(const struct window_set *windows, uint64_t sample)
{
    size_t low = 0, high = windows->file_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (windows->files[middle].first_sample <= sample) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return &windows->files[low];
}

enum status window_set_read(const struct data_set *set, uint64_t index, void *input, int32_t *targets,
                            struct error *error)
{
    const struct window_set *windows = (const struct window_set *)set;
    const struct token_file *file = find_file(windows, index);
    uint64_t length = set->shape.input_count, first = file->first + (index - file->first_sample) * length;
    uint8_t *raw = (uint8_t *)targets; // length + 1 tokens of one or two bytes fit where `length` of four bytes go
    enum status status = read_tokens(windows, file, first, length + 1, raw, error);
    if (status != STATUS_OK) {
        return status;
    }
    int32_t *tokens = input, last = token_at(windows, raw, length);
    for (uint64_t t = 0; t < length; t++) {
        tokens[t] = token_at(windows, raw, t);
    }
    memcpy(targets, tokens + 1, (length - 1) * sizeof(*targets));
    targets[length - 1] = last;
    return STATUS_OK;
}
