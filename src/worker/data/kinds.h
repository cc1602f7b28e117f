// SPDX-License-Identifier: Apache-2.0
//
// The kinds of data that are built in, and what they share.
#ifndef HEADROOM_WORKER_DATA_KINDS_H
#define HEADROOM_WORKER_DATA_KINDS_H

#include "worker/data/data.h"

extern const struct data_ops data_idx, data_npy, data_text, data_lines, data_tokens, data_documents, data_synthetic;

// "training" or "validation".
const char *data_split_name(enum data_split split);

// Opens a regular file for reading; the caller closes the descriptor. `bytes_p` takes its size and may be NULL. Does
// not wait for a FIFO or device: what is no regular file is STATUS_INVALID. Where the process has too many open files,
// their limit is raised as far as it goes.
enum status data_open_file(const char *path, int *opened_p, uint64_t *bytes_p, struct error *error);
// The line for a file that could not be opened or read, from `errno_value`: STATUS_INVALID where it is not there,
// else STATUS_ERROR.
enum status data_refuse_file(const char *path, int errno_value, struct error *error);

#endif
