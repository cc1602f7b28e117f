// SPDX-License-Identifier: Apache-2.0
//
// Shards of tokens in the formats of llm.c: a header of 256 little-endian int32 that starts with the magic number, the
// version and the count of tokens, then the tokens as little-endian uint16, or as uint32, which its scripts write for
// Llama 3. They are cut into windows, or into documents, which data.end_of_text sets apart.
#include <endian.h>
#include <glob.h>
#include <inttypes.h>

#include "worker/data/kinds.h"
#include "worker/data/pieces.h"
#include "worker/data/windows.h"

#define HEADER_BYTES 1024

static const struct shard_format {
    uint32_t magic, version;
    uint64_t token_bytes;
} formats[] = {{20240520, 1, sizeof(uint16_t)}, {20240801, 7, sizeof(uint32_t)}};

static enum status find_format(const struct token_file *file, const uint32_t *header,
                               const struct shard_format **format_p, struct error *error)
{
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        if (header[0] == formats[i].magic && header[1] == formats[i].version) {
            *format_p = &formats[i];
            return STATUS_OK;
        }
        if (header[0] == formats[i].magic) {
            return error_set(error, STATUS_INVALID, "%s: version %" PRIu32 " of the format, expected %" PRIu32,
                             file->path, header[1], formats[i].version);
        }
    }
    return error_set(error, STATUS_INVALID,
                     "%s: is no token shard: magic number %" PRIu32 ", expected %" PRIu32 " or %" PRIu32, file->path,
                     header[0], formats[0].magic, formats[1].magic);
}

static enum status read_header(const struct token_file *file, const struct shard_format **format_p, struct error *error)
{
    uint32_t header[3];
    enum status status = token_file_read_bytes(file, 0, sizeof(header), header, error);
    for (size_t i = 0; i < 3; i++) {
        header[i] = le32toh(header[i]);
    }
    if (status == STATUS_OK) {
        status = find_format(file, header, format_p, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
    uint64_t promised_bytes = HEADER_BYTES + header[2] * (*format_p)->token_bytes;
    if (file->bytes != promised_bytes) {
        return error_set(error, STATUS_INVALID,
                         "%s: %s: header promises %" PRIu32 " tokens (%" PRIu64
                         " bytes with the header), found %" PRIu64 " bytes",
                         file->path, file->bytes < promised_bytes ? "truncated" : "trailing bytes", header[2],
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
    return result == GLOB_NOSPACE ? error_out_of_host_memory(error)
                                  : error_set(error, STATUS_ERROR, "%s: cannot read a folder on the way", pattern);
}

// The first one says how wide the tokens of all are.
static enum status open_shard(struct token_files *files, size_t number, const char *path, struct error *error)
{
    const struct shard_format *format = NULL;
    enum status status = token_files_open(files, number, path, HEADER_BYTES, error);
    if (status == STATUS_OK) {
        status = read_header(&files->file[number], &format, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
    files->token_bytes = number == 0 ? format->token_bytes : files->token_bytes;
    if (format->token_bytes != files->token_bytes) {
        return error_set(error, STATUS_INVALID, "%s: has tokens of %" PRIu64 " bytes, but %s of %" PRIu64, path,
                         format->token_bytes, files->file[0].path, files->token_bytes);
    }
    files->file[number].count = token_file_size(files, &files->file[number]);
    return STATUS_OK;
}

static enum status open_shards(struct token_files *files, const glob_t *paths, struct error *error)
{
    enum status status = STATUS_OK;
    for (size_t i = 0; i < files->count && status == STATUS_OK; i++) {
        status = open_shard(files, i, paths->gl_pathv[i], error);
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
    status = files == NULL ? error_out_of_host_memory(error) : open_shards(files, &paths, error);
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
