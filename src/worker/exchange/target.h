// SPDX-License-Identifier: Apache-2.0
//
// What an exchange writes, a file or a folder: under the name PATH.part until all of it is on the disk.
#ifndef HEADROOM_WORKER_EXCHANGE_TARGET_H
#define HEADROOM_WORKER_EXCHANGE_TARGET_H

#include <stdbool.h>

#include "mem/error.h"

struct target {
    char *path, *part;
    bool is_folder;
};

// Makes PATH.part where it is a folder. STATUS_INVALID where PATH is there and not empty, or PATH.part is, STATUS_ERROR
// where the disk does not allow it. On success target_end is due.
enum status target_begin(const char *path, bool is_folder, struct target *target, struct error *error);
// Names it, or throws it away where `status` is not STATUS_OK; answers that status, or STATUS_ERROR.
enum status target_end(struct target *target, enum status status, struct error *error);

// "PATH.part/NAME", for the caller to free; NULL where the host's memory runs out.
char *target_file(const struct target *target, const char *name);

#endif
