// SPDX-License-Identifier: Apache-2.0
//
// Files that must be files, and are read and written whole: nothing that a reader would wait for, or read for ever.
//
// Threads: any. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_REGULAR_FILE_H
#define HEADROOM_WORKER_REGULAR_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/error.h"

#define REGULAR_FILE_FLAGS (O_RDONLY | O_NONBLOCK | O_CLOEXEC)

// Opens a regular file for reading; the caller closes the descriptor. STATUS_INVALID with a line where it is not there
// or something else, STATUS_ERROR where it cannot be opened.
enum status regular_file_open(const char *path, int *descriptor_p, uint64_t *bytes_p, struct error *error);
// The same of what was opened with REGULAR_FILE_FLAGS. On failure the descriptor is closed.
enum status regular_file_check(const char *path, int descriptor, uint64_t *bytes_p, struct error *error);
// STATUS_INVALID with "NAME PATH: ..." where whole_file.h would not replace what is there; `name`: what says the path.
enum status regular_file_check_target(const char *name, const char *path, struct error *error);

// Reads bytes [offset, offset + bytes), fewer where the file ends; answers how many. False with errno set where it
// cannot be read.
bool regular_file_read(int descriptor, uint64_t offset, uint64_t bytes, void *to, uint64_t *found_p);
// Writes all, behind what was written before. False with errno set.
bool regular_file_write(int descriptor, const void *bytes, size_t count);

// STATUS_ERROR, and "PATH: cannot WHAT: ..." by errno.
enum status regular_file_refuse(const char *path, const char *what, struct error *error);

#endif
