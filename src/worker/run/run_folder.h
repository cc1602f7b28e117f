// SPDX-License-Identifier: Apache-2.0
//
// The run folder: what a run leaves behind.
//
//   resolved.yaml   the whole configuration, ready to run again
//   env.txt         versions, host, command
//   metrics.jsonl   one JSON object a line; docs/metrics.md
//   logs/rank_N.log what rank N did with its memory
//   memory/         memory_files.h
//   limits/         limit_file.h; there only where somebody asked for it
//
//   checkpoints/    checkpoint/folder.h
//   alive/          watchdog.h
//
// A folder is never used twice: where the configured one exists, a number is appended. With checkpoint.resume: auto it
// is used again, by one process at a time.
#ifndef HEADROOM_WORKER_RUN_RUN_FOLDER_H
#define HEADROOM_WORKER_RUN_RUN_FOLDER_H

#include <stdio.h>

#include "worker/comm/comm.h"
#include "worker/config/config.h"
#include "worker/run/line_file.h"

#define RUN_FOLDER_MAX       4096
#define RUN_FOLDER_RANKS_MAX 1048576 // as many ranks as a configuration can name

struct run_folder {
    char path[RUN_FOLDER_MAX];
    bool made; // it was not there
    int lock;  // that rank 0 holds while the process lives
};

// Makes the folder on rank 0, or takes the one that is there, and tells all ranks. Collective. STATUS_INVALID where it
// cannot be made, STATUS_ERROR where another process trains there; the status is the same on every rank, the line is
// rank 0's.
enum status run_folder_take(const struct config *config, struct comm *comm, struct run_folder *folder,
                            struct error *error);
// Writes what does not depend on the run's course. Rank 0 only.
enum status run_folder_fill(const struct run_folder *folder, const struct config *config, uint32_t ranks,
                            char *const *argv, struct error *error);
// A run that does not begin leaves no folder behind. Rank 0 only.
void run_folder_give_up(const struct run_folder *folder);

// Opens this rank's log, behind what is there if the run `goes_on`. Not collective.
enum status run_folder_open_log(const char *path, uint32_t rank, bool goes_on, struct line_file **log_p,
                                struct error *error);

// Writes `text` as the file `name` of the folder, as whole_file_write does.
// STATUS_ERROR where the disk is at fault, else STATUS_INVALID. Not collective.
enum status run_folder_write(const char *folder, const char *name, const char *text, struct error *error);

// The same as the file rank_N.json of the run folder's folder `part`.
enum status run_folder_write_rank(const char *path, const char *part, uint32_t rank, const char *text,
                                  struct error *error);

// How many ranks the run has, at most RUN_FOLDER_RANKS_MAX. STATUS_INVALID where this is no run's folder. Not
// collective; for any process.
enum status run_folder_ranks(const char *folder, uint32_t *ranks_p, struct error *error);

// The last part of a run folder's path, which has no slash at its end.
const char *run_folder_name(const char *folder);

// One line of versions: the program, MPI, the matrix library.
void run_folder_versions(FILE *file);

#endif
