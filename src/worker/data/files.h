// SPDX-License-Identifier: Apache-2.0
//
// Files of tokens: what a text and token shards have in common.
//
// The files' tokens stand one after the other, and a split is a range of them. Files stay open, and a sample is read
// when it is asked for: a file that has become shorter, or has tokens that the model does not know, is noticed then.
#ifndef HEADROOM_WORKER_DATA_FILES_H
#define HEADROOM_WORKER_DATA_FILES_H

#include <endian.h>
#include <stddef.h>
#include <string.h>

#include "worker/data/data.h"

struct token_file {
    char *path;
    int descriptor;        // negative until it is opened
    uint64_t bytes;        // of the whole file when it was opened
    uint64_t header_bytes; // in front of the tokens
    uint64_t first, count; // tokens of the split, counted from the header's end
};

struct token_files {
    uint64_t token_bytes; // 1, or 2 or 4 for little-endian uint16 or uint32
    uint64_t classes;     // the model knows tokens below
    size_t count;
    struct token_file file[];
};

// What is read at once of a file that is read from end to end.
#define CHUNK_TOKENS 32768
#define CHUNK_BYTES  (CHUNK_TOKENS * sizeof(uint32_t))

// The file or pattern that holds the split; NULL where the config names none.
const char *token_files_path(const struct config *config, enum data_split split);

// `count` files, each still to be opened. NULL when memory runs out. Destroy closes them, and accepts NULL.
struct token_files *token_files_create(uint64_t token_bytes, uint64_t classes, size_t count);
void token_files_destroy(struct token_files *files);
// Opens the file at `path`, all tokens its own. Refuses a header that is cut short and an empty file.
enum status token_files_open(struct token_files *files, size_t number, const char *path, uint64_t header_bytes,
                             struct error *error);
// What samples of them look like.
struct data_shape token_files_shape(const struct token_files *files, const struct config *config);
// Keeps of each file what belongs to the split. All files must be open.
void token_files_keep(struct token_files *files, const struct config *config, enum data_split split);
// Reads all tokens of the split that the model may not know: such a token would be read outside of its embedding.
// STATUS_INVALID where there is one.
enum status token_files_check(const struct token_files *files, struct error *error);

// Tokens of the whole file, whatever the split.
uint64_t token_file_size(const struct token_files *files, const struct token_file *file);
// Reads bytes [offset, offset + bytes) of the file. STATUS_ERROR where it has become shorter or cannot be read.
enum status token_file_read_bytes(const struct token_file *file, uint64_t offset, uint64_t bytes, void *to,
                                  struct error *error);
// Reads `count` tokens from token `first` on, as the file has them; STATUS_INVALID where the model does not know one.
enum status token_file_read(const struct token_files *files, const struct token_file *file, uint64_t first,
                            uint64_t count, uint8_t *raw, struct error *error);
// Token `i` of those at `raw`.
static inline uint32_t token_at(const struct token_files *files, const uint8_t *raw, uint64_t i)
{
    uint16_t narrow;
    uint32_t wide;
    if (files->token_bytes == 1) {
        return raw[i];
    }
    if (files->token_bytes == sizeof(narrow)) {
        memcpy(&narrow, raw + sizeof(narrow) * i, sizeof(narrow));
        return le16toh(narrow);
    }
    memcpy(&wide, raw + sizeof(wide) * i, sizeof(wide));
    return le32toh(wide);
}
// Reads `length` tokens from token `first` on, and as targets the token after each.
enum status token_file_read_sample(const struct token_files *files, const struct token_file *file, uint64_t first,
                                   uint64_t length, int32_t *tokens, int32_t *targets, struct error *error);

#endif
