// SPDX-License-Identifier: Apache-2.0
//
// How much a rank's allocator may hold, told from outside while the run goes on: the run folder's limits/rank_N, one
// line with a size as in a configuration. Where there is no such file there is no limit. `headroom limit` writes it,
// and any program that can write there may.
//
// Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_RUN_LIMIT_FILE_H
#define HEADROOM_WORKER_RUN_LIMIT_FILE_H

#include <stdint.h>
#include <sys/stat.h>

#include "worker/config/schema.h"
#include "worker/run/run_folder.h"

#define LIMIT_FILE_FOLDER   "limits"
#define LIMIT_FILE_PATH_MAX (RUN_FOLDER_MAX + 64)

// The file that a rank follows. All zero: none, and so no limit.
struct limit_file {
    char path[LIMIT_FILE_PATH_MAX];
    uint64_t bytes;        // the limit; 0: none
    const char *complaint; // what is wrong with what is there now, to stand behind its path; NULL: nothing
    struct stat seen;      // of what `bytes` were read from
};

enum limit_news {
    LIMIT_STAYS,
    LIMIT_CHANGED,
    LIMIT_UNCLEAR, // there is a new complaint, and the limit stays
};

// What the line may say; the word stands for 0.
extern const struct config_key limit_file_key;

void limit_file_name(const char *folder, uint32_t rank, char path[LIMIT_FILE_PATH_MAX]);

// Looks at the file; reads it where it changed, or where it had no size the last time.
enum limit_news limit_file_follow(struct limit_file *file);

#endif
