// SPDX-License-Identifier: Apache-2.0
//
// Opening files that must be files: nothing that a reader would wait for, or read for ever.
#ifndef HEADROOM_WORKER_REGULAR_FILE_H
#define HEADROOM_WORKER_REGULAR_FILE_H

#include <stdint.h>

#include "mem/error.h"

// Opens a regular file for reading; the caller closes the descriptor. STATUS_INVALID with a line where it is not there
// or something else, STATUS_ERROR where it cannot be opened.
enum status regular_file_open(const char *path, int *descriptor_p, uint64_t *bytes_p, struct error *error);

#endif
