// SPDX-License-Identifier: Apache-2.0
#include "worker/data/files.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/uint64.h"
#include "worker/data/kinds.h"
#include "worker/regular_file.h"

const char *token_files_path(const struct config *config, enum data_split split)
{
    if (split == DATA_TRAIN) {
        return config->data.path;
    }
    if (config->data.validation_path != NULL) {
        return config->data.validation_path;
    }
    return config->data.validation_fraction > 0 ? config->data.path : NULL;
}

struct token_files *token_files_create(uint64_t token_bytes, uint64_t classes, size_t count)
{
    struct token_files *files = calloc(1, sizeof(*files) + count * sizeof(files->file[0]));
    if (files == NULL) {
        return NULL;
    }
    files->token_bytes = token_bytes;
    files->classes = classes;
    files->count = count;
    for (size_t i = 0; i < count; i++) {
        files->file[i].descriptor = -1;
    }
    return files;
}

void token_files_destroy(struct token_files *files)
{
    if (files == NULL) {
        return;
    }
    for (size_t i = 0; i < files->count; i++) {
        if (files->file[i].descriptor >= 0) {
            close(files->file[i].descriptor);
        }
        free(files->file[i].path);
    }
    free(files);
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

uint64_t token_file_size(const struct token_files *files, const struct token_file *file)
{
    return (file->bytes - file->header_bytes) / files->token_bytes;
}

enum status token_files_open(struct token_files *files, size_t number, const char *path, uint64_t header_bytes,
                             struct error *error)
{
    struct token_file *file = &files->file[number];
    file->path = strdup(path);
    file->header_bytes = header_bytes;
    if (file->path == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = data_open_file(path, &file->descriptor, &file->bytes, error);
    if (status == STATUS_OK) {
        status = check_size(file, error);
    }
    if (status == STATUS_OK) {
        file->count = token_file_size(files, file);
    }
    return status;
}

struct data_shape token_files_shape(const struct token_files *files, const struct config *config)
{
    return (struct data_shape){
        .input = DATA_INPUT_TOKENS,
        .input_count = config->model.seq_len,
        .target_count = config->model.seq_len,
        .classes = files->classes,
    };
}

struct range {
    uint64_t first, end;
};

// Where the split begins and ends among so many tokens.
static struct range range_of(const struct config *config, enum data_split split, uint64_t tokens)
{
    if (config->data.validation_path != NULL) {
        return (struct range){.end = tokens};
    }
    uint64_t border = tokens - (uint64_t)((double)tokens * config->data.validation_fraction);
    return split == DATA_TRAIN ? (struct range){.end = border} : (struct range){.first = border, .end = tokens};
}

void token_files_keep(struct token_files *files, const struct config *config, enum data_split split)
{
    uint64_t tokens = 0, before = 0;
    for (size_t i = 0; i < files->count; i++) {
        tokens += files->file[i].count;
    }
    struct range range = range_of(config, split, tokens);
    for (size_t i = 0; i < files->count; i++) {
        struct token_file *file = &files->file[i];
        uint64_t after = before + file->count;
        uint64_t from = uint64_max(range.first, before), to = uint64_min(range.end, after);
        file->first = from < to ? from - before : 0;
        file->count = from < to ? to - from : 0;
        before = after;
    }
}

enum status token_file_read_bytes(const struct token_file *file, uint64_t offset, uint64_t bytes, void *to,
                                  struct error *error)
{
    uint64_t found;
    if (!regular_file_read(file->descriptor, offset, bytes, to, &found)) {
        return data_refuse_file(file->path, errno, error);
    }
    if (found < bytes) {
        return error_set(error, STATUS_ERROR,
                         "%s: the file ended while it was being read: it held %" PRIu64 " bytes, now at most %" PRIu64,
                         file->path, file->bytes, offset + found);
    }
    return STATUS_OK;
}

static uint32_t largest_token(const struct token_files *files, const uint8_t *raw, uint64_t count)
{
    uint32_t largest = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t token = token_at(files, raw, i);
        largest = token > largest ? token : largest;
    }
    return largest;
}

enum status token_file_read(const struct token_files *files, const struct token_file *file, uint64_t first,
                            uint64_t count, uint8_t *raw, struct error *error)
{
    uint64_t offset = file->header_bytes + first * files->token_bytes;
    enum status status = token_file_read_bytes(file, offset, count * files->token_bytes, raw, error);
    if (status != STATUS_OK || largest_token(files, raw, count) < files->classes) {
        return status;
    }
    uint64_t i = 0;
    while (token_at(files, raw, i) < files->classes) {
        i++;
    }
    return error_set(error, STATUS_INVALID,
                     "%s: token %" PRIu64 " is %" PRIu32 ", but model.vocab_size is %" PRIu64 " (tokens count from 0)",
                     file->path, first + i, token_at(files, raw, i), files->classes);
}

static enum status check_file(const struct token_files *files, const struct token_file *file, struct error *error)
{
    uint8_t raw[CHUNK_BYTES];
    enum status status = STATUS_OK;
    for (uint64_t done = 0; done < file->count && status == STATUS_OK; done += CHUNK_TOKENS) {
        uint64_t count = uint64_min(CHUNK_TOKENS, file->count - done);
        status = token_file_read(files, file, file->first + done, count, raw, error);
    }
    return status;
}

enum status token_files_check(const struct token_files *files, struct error *error)
{
    if (files->classes >> (8 * files->token_bytes) != 0) { // so many that no token is beyond them
        return STATUS_OK;
    }
    enum status status = STATUS_OK;
    for (size_t i = 0; i < files->count && status == STATUS_OK; i++) {
        status = check_file(files, &files->file[i], error);
    }
    return status;
}

enum status token_file_read_sample(const struct token_files *files, const struct token_file *file, uint64_t first,
                                   uint64_t length, int32_t *tokens, int32_t *targets, struct error *error)
{
    uint8_t *raw = (uint8_t *)targets, last[sizeof(uint32_t)] = {0};
    bool room = files->token_bytes < sizeof(*targets); // for one more
    enum status status = token_file_read(files, file, first, room ? length + 1 : length, raw, error);
    if (status == STATUS_OK && room) {
        memcpy(last, raw + length * files->token_bytes, files->token_bytes);
    } else if (status == STATUS_OK) {
        status = token_file_read(files, file, first + length, 1, last, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
    for (uint64_t t = 0; t < length; t++) {
        tokens[t] = (int32_t)token_at(files, raw, t);
    }
    memcpy(targets, tokens + 1, (length - 1) * sizeof(*targets));
    targets[length - 1] = (int32_t)token_at(files, last, 0);
    return STATUS_OK;
}
