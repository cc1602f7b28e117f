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

#define RUN_FOLDER_MAX 4096

// Makes the folder on rank 0 and tells all ranks its path. Collective. STATUS_INVALID where it cannot be made; the
// status is the same on every rank, the line is rank 0's.
enum status run_folder_create(const struct config *config, struct comm *comm, char *const *argv,
                              char path[RUN_FOLDER_MAX], struct error *error);

// Opens this rank's log, behind what is there if the run `goes_on`. Not collective.
enum status run_folder_open_log(const char *path, uint32_t rank, bool goes_on, FILE **log_p, struct error *error);

// Writes `text` as the file `name` of the folder, as whole_file_write does.
// STATUS_ERROR where the disk is at fault, else STATUS_INVALID. Not collective.
enum status run_folder_write(const char *folder, const char *name, const char *text, struct error *error);

// The same as the file rank_N.json of the run folder's folder `part`.
enum status run_folder_write_rank(const char *path, const char *part, uint32_t rank, const char *text,
                                  struct error *error);

// How many ranks the run has. STATUS_INVALID where this is no run's folder. Not collective; for any process.
enum status run_folder_ranks(const char *folder, uint32_t *ranks_p, struct error *error);

// One line of versions: the program, MPI, the matrix library.
void run_folder_versions(FILE *file);

#endif
