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

static enum status check_header(const struct token_file *file, struct error *error)
{
    uint32_t header[3];
    enum status status = window_file_read(file, 0, sizeof(header), header, error);
    if (status != STATUS_OK) {
        return status;
    }
    uint32_t magic = le32toh(header[0]), version = le32toh(header[1]), count = le32toh(header[2]);
    uint64_t promised_bytes = HEADER_BYTES + count * UINT64_C(2);
    if (magic != MAGIC) {
        return error_set(error, STATUS_INVALID, "%s: is no token shard: magic number %" PRIu32 ", expected %d",
                         file->path, magic, MAGIC);
    }
    if (version != VERSION) {
        return error_set(error, STATUS_INVALID, "%s: version %" PRIu32 " of the format, expected %d", file->path,
                         version, VERSION);
    }
    if (file->bytes != promised_bytes) {
        return error_set(error, STATUS_INVALID,
                         "%s: %s: header promises %" PRIu32 " tokens (%" PRIu64
                         " bytes with the header), found %" PRIu64 " bytes",
                         file->path, file->bytes < promised_bytes ? "truncated" : "trailing bytes", count,
                         promised_bytes, file->bytes);
    }
    return STATUS_OK;
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

static enum status open_shards(struct window_set *windows, const glob_t *paths, const struct config *config,
                               enum data_split split, struct error *error)
{
    enum status status = STATUS_OK;
    for (size_t i = 0; i < windows->file_count && status == STATUS_OK; i++) {
        status = window_set_open(windows, i, paths->gl_pathv[i], HEADER_BYTES, error);
        if (status == STATUS_OK) {
            status = check_header(&windows->files[i], error);
        }
    }
    if (status == STATUS_OK) {
        status = window_set_cut(windows, config, split, error);
    }
    return status == STATUS_OK ? window_set_check(windows, error) : status;
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
    status = open_shards(windows, &paths, config, split, error);
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
