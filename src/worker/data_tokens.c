// SPDX-License-Identifier: Apache-2.0
//
// Shards of tokens in the format of llm.c: a header of 256 little-endian int32 that starts with the magic number, the
// version and the count of tokens, then the tokens as little-endian uint16.
#include <endian.h>
#include <glob.h>
#include <inttypes.h>

#include "worker/data_kinds.h"
#include "worker/data_windows.h"

#define HEADER_BYTES 1024
#define MAGIC        20240520
#define VERSION      1

static enum status check_header(const char *path, const struct token_file *file, struct error *error)
{
    const uint32_t *header = file->mapping;
    uint32_t magic = le32toh(header[0]), version = le32toh(header[1]), count = le32toh(header[2]);
    uint64_t promised_bytes = HEADER_BYTES + count * UINT64_C(2);
    if (magic != MAGIC) {
        return error_set(error, STATUS_INVALID, "%s: is no token shard: magic number %" PRIu32 ", expected %d", path,
                         magic, MAGIC);
    }
    if (version != VERSION) {
        return error_set(error, STATUS_INVALID, "%s: version %" PRIu32 " of the format, expected %d", path, version,
                         VERSION);
    }
    if (file->mapping_bytes != promised_bytes) {
        return error_set(error, STATUS_INVALID,
                         "%s: %s: header promises %" PRIu32 " tokens (%" PRIu64
                         " bytes with the header), found %" PRIu64 " bytes",
                         path, file->mapping_bytes < promised_bytes ? "truncated" : "trailing bytes", count,
                         promised_bytes, file->mapping_bytes);
    }
    return STATUS_OK;
}

static uint16_t largest_token(const uint16_t *tokens, uint64_t count)
{
    uint16_t largest = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint16_t token = le16toh(tokens[i]);
        largest = token > largest ? token : largest;
    }
    return largest;
}

// A token that the model does not know would be read outside of its embedding, so all are looked at.
static enum status check_tokens(const struct window_set *windows, const struct token_file *file, const char *path,
                                struct error *error)
{
    const uint16_t *tokens = window_tokens(windows, file);
    uint64_t vocab_size = windows->set.shape.classes;
    if (largest_token(tokens, file->count) < vocab_size) {
        return STATUS_OK;
    }
    uint64_t i = 0;
    while (le16toh(tokens[i]) < vocab_size) {
        i++;
    }
    return error_set(error, STATUS_INVALID,
                     "%s: token %" PRIu64 " is %d, but model.vocab_size is %" PRIu64 " (tokens count from 0)", path,
                     file->first + i, le16toh(tokens[i]), vocab_size);
}

// All files that match, in the order of their names.
static enum status find_files(const char *pattern, glob_t *files_p, struct error *error)
{
    int result = glob(pattern, 0, NULL, files_p);
    if (result == 0) {
        return STATUS_OK;
    }
    globfree(files_p);
    if (result == GLOB_NOMATCH) {
        return error_set(error, STATUS_INVALID, "%s: there is no such file, and none that matches it", pattern);
    }
    return result == GLOB_NOSPACE ? data_out_of_memory(error)
                                  : error_set(error, STATUS_ERROR, "%s: cannot read a folder on the way", pattern);
}

static enum status map_shards(struct window_set *windows, const glob_t *paths, const struct config *config,
                              enum data_split split, struct error *error)
{
    enum status status = STATUS_OK;
    for (size_t i = 0; i < windows->file_count && status == STATUS_OK; i++) {
        status = window_set_map(windows, i, paths->gl_pathv[i], HEADER_BYTES, error);
        if (status == STATUS_OK) {
            status = check_header(paths->gl_pathv[i], &windows->files[i], error);
        }
    }
    if (status == STATUS_OK) {
        status = window_set_cut(windows, config, split, error);
    }
    for (size_t i = 0; i < windows->file_count && status == STATUS_OK; i++) {
        status = check_tokens(windows, &windows->files[i], paths->gl_pathv[i], error);
    }
    return status;
}

static enum status tokens_open(const struct config *config, enum data_split split, struct data_set **set_p,
                               struct error *error)
{
    const char *pattern = window_path(config, split);
    if (pattern == NULL) {
        *set_p = NULL;
        return STATUS_OK;
    }
    glob_t paths;
    enum status status = find_files(pattern, &paths, error);
    if (status != STATUS_OK) {
        return status;
    }
    struct window_set *windows = window_set_create(&data_tokens, config, sizeof(uint16_t), paths.gl_pathc);
    if (windows == NULL) {
        globfree(&paths);
        return data_out_of_memory(error);
    }
    windows->set.shape.classes = config->model.vocab_size;
    status = map_shards(windows, &paths, config, split, error);
    globfree(&paths);
    if (status != STATUS_OK) {
        window_set_close(&windows->set);
        return status;
    }
    *set_p = &windows->set;
    return STATUS_OK;
}

const struct data_ops data_tokens = {
    .name = "tokens", .open = tokens_open, .close = window_set_close, .read = window_set_read};
