// SPDX-License-Identifier: Apache-2.0
//
// Files of tokens cut into windows: what text and token shards have in common.
//
// The files' tokens stand one after the other, and a split is a range of them. Within each file the part that is in the
// range is cut into windows of seq_len tokens, each with the token after it; a rest too short for a window is unused.
// No window crosses from one file or split to another. Files stay open, and a window is read when it is asked for: a
// file that has become shorter, or has other tokens, is noticed then.
#ifndef HEADROOM_WORKER_DATA_WINDOWS_H
#define HEADROOM_WORKER_DATA_WINDOWS_H

#include <stddef.h>

#include "worker/data.h"

struct token_file {
    char *path;
    int descriptor;        // negative until it is opened
    uint64_t bytes;        // of the whole file when it was opened
    uint64_t header_bytes; // in front of the tokens
    uint64_t first, count; // tokens of the split, counted from the header's end
    uint64_t first_sample;
};

struct window_set {
    struct data_set set;
    uint64_t token_bytes; // 1, or 2 for little-endian uint16
    size_t file_count;
    struct token_file files[];
};

// The file or pattern that holds the split; NULL where the config names none.
const char *window_path(const struct config *config, enum data_split split);

// A set of `file_count` files, each still to be opened. NULL when memory runs out. The caller owns it and closes it
// with window_set_close.
struct window_set *window_set_create(const struct data_ops *ops, const struct config *config, uint64_t token_bytes,
                                     size_t file_count);
// Opens the file at `path`. Refuses a header that is cut short and an empty file. What it owns is freed by
// token_file_close, after a failure too.
enum status token_file_open(struct token_file *file, const char *path, uint64_t header_bytes, struct error *error);
void token_file_close(struct token_file *file);
// The same for a file of the set, all tokens its own.
enum status window_set_open(struct window_set *windows, size_t number, const char *path, uint64_t header_bytes,
                            struct error *error);
// Reads bytes [offset, offset + bytes) of the file. STATUS_ERROR where it has become shorter or cannot be read.
enum status window_file_read(const struct token_file *file, uint64_t offset, uint64_t bytes, void *to,
                             struct error *error);
// Where the split begins and ends among so many tokens.
struct token_range {
    uint64_t first, end;
};
struct token_range window_range(const struct config *config, enum data_split split, uint64_t tokens);
// Keeps what belongs to the split and numbers the samples. All files must be open.
enum status window_set_cut(struct window_set *windows, const struct config *config, enum data_split split,
                           struct error *error);

// Reads all tokens of the split. A token that the model does not know would be read outside of its embedding: it is
// STATUS_INVALID.
enum status window_set_check(const struct window_set *windows, struct error *error);

// Entries of struct data_ops.
void window_set_close(struct data_set *set);
enum status window_set_read(const struct data_set *set, uint64_t index, void *input, int32_t *targets,
                            struct error *error);

#endif
