// SPDX-License-Identifier: Apache-2.0
//
// Samples of different lengths, cut from files of tokens: data.pack false.
//
// A file is a row of passages, lines or documents, each closed by an end token, which is only ever a target; the last
// one may have none. A passage with more inputs than model.seq_len is cut into pieces side by side: each token but a
// passage's first is a target once. A piece is a sample. A passage belongs to the split that its first token is in, and
// crosses no file. Where the end token stands before a passage too, it closes the one before, or an empty one, which is
// none: so it may stand before each passage as well as after each.
#ifndef HEADROOM_WORKER_DATA_PIECES_H
#define HEADROOM_WORKER_DATA_PIECES_H

#include "worker/data/files.h"

struct passage_rule {
    const char *name;
    int32_t end;
    int32_t blank;       // a passage of nothing else is none either; `end` where there is no such token
    const char *endless; // what is wrong where no file has an end token; NULL: nothing
};

// Opens a set of the kind `ops`, whose entries are the functions below. It owns the files from then on, and a failure
// destroys them. Reads the split's files once, and keeps 16 bytes for each sample. No files (NULL): no set (NULL).
enum status pieces_open(const struct data_ops *ops, const struct config *config, enum data_split split,
                        struct token_files *files, const struct passage_rule *rule, struct data_set **set_p,
                        struct error *error);

// Entries of struct data_ops.
void pieces_close(struct data_set *set);
uint64_t pieces_length(const struct data_set *set, uint64_t index);
enum status pieces_read(const struct data_set *set, uint64_t index, void *input, int32_t *targets, struct error *error);

#endif
