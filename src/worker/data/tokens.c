// SPDX-License-Identifier: Apache-2.0
//
// Shards of tokens in the format of llm.c: a header of 256 little-endian int32 that starts with the magic number, the
// version and the count of tokens, then the tokens as little-endian uint16. They are cut into windows, or into
// documents, which data.end_of_text sets apart.
#include <endian.h>
#include <glob.h>
#include <inttypes.h>

#include "worker/data/kinds.h"
#include "worker/data/pieces.h"
#include "worker/data/windows.h"

#define HEADER_BYTES 1024
#define MAGIC        20240520
#define VERSION      1

static enum status check_header(const struct token_file *file, struct error *error)
{
    uint32_t header[3];
    enum status status = token_file_read_bytes(file, 0, sizeof(header), header, error);
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

static enum status open_shards(struct token_files *files, const glob_t *paths, struct error *error)
{
    enum status status = STATUS_OK;
    for (size_t i = 0; i < files->count && status == STATUS_OK; i++) {
        status = token_files_open(files, i, paths->gl_pathv[i], HEADER_BYTES, error);
        if (status == STATUS_OK) {
            status = check_header(&files->file[i], error);
        }
    }
    return status;
}

static enum status open_files(const struct config *config, enum data_split split, struct token_files **files_p,
                              struct error *error)
{
    const char *pattern = token_files_path(config, split);
    if (pattern == NULL) {
        *files_p = NULL;
        return STATUS_OK;
    }
    glob_t paths;
    enum status status = find_files(pattern, &paths, error);
    if (status != STATUS_OK) {
        return status;
    }
    struct token_files *files = token_files_create(sizeof(uint16_t), config->model.vocab_size, paths.gl_pathc);
    status = files == NULL ? data_out_of_memory(error) : open_shards(files, &paths, error);
    globfree(&paths);
    if (status != STATUS_OK) {
        token_files_destroy(files);
        return status;
    }
    token_files_keep(files, config, split);
    *files_p = files;
    return STATUS_OK;
}

static enum status tokens_open(const struct config *config, enum data_split split, struct data_set **set_p,
                               struct error *error)
{
    struct token_files *files = NULL;
    enum status status = open_files(config, split, &files, error);
    return status == STATUS_OK ? windows_open(&data_tokens, config, split, files, set_p, error) : status;
}

static enum status documents_open(const struct config *config, enum data_split split, struct data_set **set_p,
                                  struct error *error)
{
    const int32_t end = (int32_t)config->data.end_of_text;
    const struct passage_rule rule = {
        .name = "document",
        .end = end,
        .blank = end,
        .endless = "each shard would be one document; data.end_of_text must be the token that sets documents apart, or "
                   "data.pack true",
    };
    struct token_files *files = NULL;
    enum status status = open_files(config, split, &files, error);
    return status == STATUS_OK ? pieces_open(&data_documents, config, split, files, &rule, set_p, error) : status;
}

const struct data_ops data_tokens = {
    .name = "tokens", .open = tokens_open, .close = windows_close, .read = windows_read};
const struct data_ops data_documents = {
    .name = "tokens", .open = documents_open, .close = pieces_close, .length = pieces_length, .read = pieces_read};
