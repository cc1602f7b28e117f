// SPDX-License-Identifier: Apache-2.0
#include "worker/data_windows.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/data_kinds.h"

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
    return windows;
}

void window_set_close(struct data_set *set)
{
    struct window_set *windows = (struct window_set *)set;
    for (size_t i = 0; i < windows->file_count; i++) {
        if (windows->files[i].mapping != NULL) {
            munmap(windows->files[i].mapping, windows->files[i].mapping_bytes);
        }
    }
    free(windows);
}

static enum status check_size(const char *path, const struct stat *about, uint64_t header_bytes, struct error *error)
{
    if (!S_ISREG(about->st_mode)) {
        return error_set(error, STATUS_INVALID, "%s: is not a regular file", path);
    }
    if (about->st_size == 0) {
        return error_set(error, STATUS_INVALID, "%s: the file is empty", path);
    }
    if ((uint64_t)about->st_size < header_bytes) {
        return error_set(error, STATUS_INVALID, "%s: truncated: the header takes %" PRIu64 " bytes, found %jd bytes",
                         path, header_bytes, (intmax_t)about->st_size);
    }
    return STATUS_OK;
}

static enum status map_opened(int opened, const char *path, uint64_t header_bytes, struct token_file *file,
                              struct error *error)
{
    struct stat about;
    if (fstat(opened, &about) != 0) {
        return data_refuse_file(path, errno, error);
    }
    enum status status = check_size(path, &about, header_bytes, error);
    if (status != STATUS_OK) {
        return status;
    }
    file->mapping_bytes = (uint64_t)about.st_size;
    file->mapping = mmap(NULL, file->mapping_bytes, PROT_READ, MAP_PRIVATE, opened, 0);
    if (file->mapping == MAP_FAILED) {
        file->mapping = NULL;
        return data_refuse_file(path, errno, error);
    }
    return STATUS_OK;
}

enum status window_set_map(struct window_set *windows, size_t number, const char *path, uint64_t header_bytes,
                           struct error *error)
{
    struct token_file *file = &windows->files[number];
    int opened = open(path, O_RDONLY | O_CLOEXEC);
    if (opened < 0) {
        return data_refuse_file(path, errno, error);
    }
    enum status status = map_opened(opened, path, header_bytes, file, error);
    close(opened);
    if (status == STATUS_OK) {
        file->header_bytes = header_bytes;
        file->count = (file->mapping_bytes - header_bytes) / windows->token_bytes;
    }
    return status;
}

// Keeps of each file what lies in [first, end), counted over all files.
static void keep_range(struct window_set *windows, uint64_t first, uint64_t end)
{
    uint64_t before = 0;
    for (size_t i = 0; i < windows->file_count; i++) {
        struct token_file *file = &windows->files[i];
        uint64_t after = before + file->count;
        uint64_t from = first > before ? first : before, to = end < after ? end : after;
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
    uint64_t tokens = count_tokens(windows);
    if (config->data.validation_path == NULL) {
        uint64_t kept_apart = (uint64_t)((double)tokens * config->data.validation_fraction);
        uint64_t border = tokens - kept_apart;
        keep_range(windows, split == DATA_TRAIN ? 0 : border, split == DATA_TRAIN ? border : tokens);
    }
    number_samples(windows);
    if (windows->set.samples > 0) {
        return STATUS_OK;
    }
    return error_set(error, STATUS_INVALID,
                     "%s: too short: %" PRIu64 " tokens for %s, but a sample takes %" PRIu64 " (model.seq_len and one)",
                     window_path(config, split), count_tokens(windows), split == DATA_TRAIN ? "training" : "validation",
                     windows->set.shape.input_count + 1);
}

const void *window_tokens(const struct window_set *windows, const struct token_file *file)
{
    return (const uint8_t *)file->mapping + file->header_bytes + file->first * windows->token_bytes;
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

void window_set_read(const struct data_set *set, uint64_t index, void *input, int32_t *targets)
{
    const struct window_set *windows = (const struct window_set *)set;
    const struct token_file *file = find_file(windows, index);
    uint64_t length = set->shape.input_count, first = (index - file->first_sample) * length;
    int32_t *tokens = input;
    if (windows->token_bytes == 1) {
        const uint8_t *from = (const uint8_t *)window_tokens(windows, file) + first;
        for (uint64_t t = 0; t < length; t++) {
            tokens[t] = from[t];
            targets[t] = from[t + 1];
        }
    } else {
        const uint16_t *from = (const uint16_t *)window_tokens(windows, file) + first;
        for (uint64_t t = 0; t < length; t++) {
            tokens[t] = le16toh(from[t]);
            targets[t] = le16toh(from[t + 1]);
        }
    }
}
