// SPDX-License-Identifier: Apache-2.0
//
// Samples of one length, cut from files of tokens: data.pack true.
//
// Within each file what belongs to the split is cut into windows of seq_len tokens, each with the token after it; a
// rest too short for a window is unused. No window crosses from one file or split to another.
#ifndef HEADROOM_WORKER_DATA_WINDOWS_H
#define HEADROOM_WORKER_DATA_WINDOWS_H

#include "worker/data/files.h"

// Opens a set of the kind `ops`, whose entries are the functions below. It owns the files from then on, and a failure
// destroys them. Reads what token_files_check does. No files (NULL): no set (NULL).
enum status windows_open(const struct data_ops *ops, const struct config *config, enum data_split split,
                         struct token_files *files, struct data_set **set_p, struct error *error);

// Entries of struct data_ops.
void windows_close(struct data_set *set);
enum status windows_read(const struct data_set *set, uint64_t index, void *input, int32_t *targets,
                         struct error *error);

#endif
