// SPDX-License-Identifier: Apache-2.0
//
// Files with a checksum: XXH3 with 64 bits, of all bytes in order.
//
// Threads: a file belongs to one thread. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_CHECKPOINT_HASHED_FILE_H
#define HEADROOM_WORKER_CHECKPOINT_HASHED_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "mem/error.h"
#include "worker/progress.h"

struct file_sum {
    uint64_t bytes, xxh3;
};

struct hashed_file;

// Makes a file that is not there yet. STATUS_ERROR with a line naming it where that fails, here and below.
enum status hashed_file_create(const char *path, struct hashed_file **file_p, struct error *error);
enum status hashed_file_write(struct hashed_file *file, const void *bytes, size_t count, struct error *error);
// Blocks until what was written is on the disk, and closes the file, whatever is answered.
enum status hashed_file_finish(struct hashed_file *file, struct file_sum *sum_p, struct error *error);
// Closes a file that is of no use.
void hashed_file_abandon(struct hashed_file *file);

// Makes a file of a text, and blocks until it is on the disk.
enum status hashed_file_write_text(const char *path, const char *text, struct file_sum *sum_p, struct error *error);

// Reads a whole file, and adds its bytes to the progress. STATUS_INVALID where it is not there or no file, STATUS_ERROR
// where it cannot be read.
enum status file_sum(const char *path, struct progress *progress, struct file_sum *sum_p, struct error *error);

#endif
