// SPDX-License-Identifier: Apache-2.0
//
// Checkpoints as folders. A run keeps them in RUN/checkpoints/:
//
//   step_00000100/  model.safetensors      the weights in float32, by their names
//                   optimizer.safetensors  the optimizer's state, where there is any; the whole buffers, flat. Of
//                                          shards: optimizer-00001-of-00004.safetensors and so on, in their order
//                   config.yaml            the configuration that the run had
//                   state.json             step, place in the data, plan; length and XXH3 of the files above, and of
//                                          itself
//   latest          link to the newest
//
// A folder is filled under another name, step_00000100.part, and gets its own when all of it is on the disk; one that
// is thrown away loses its name before its files. So what has such a name is whole, unless the disk has damaged it
// since: then its sums do not agree.
//
// Threads: one at a time for one run. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_CHECKPOINT_FOLDER_H
#define HEADROOM_WORKER_CHECKPOINT_FOLDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "mem/error.h"
#include "worker/checkpoint/state.h"
#include "worker/config/config.h"
#include "worker/run/run_folder.h"

#define CHECKPOINT_PATH_MAX (RUN_FOLDER_MAX + 64)

#define CHECKPOINT_MODEL  "model.safetensors"
#define CHECKPOINT_CONFIG "config.yaml"
#define CHECKPOINT_STATE  "state.json"

// Of one of `count` files of the optimizer's state, from 0. Writes `name`, of CHECKPOINT_NAME_MAX bytes.
void checkpoint_optimizer_name(uint32_t number, uint32_t count, char *name);

// The path of the folder in which the checkpoint is filled.
void checkpoint_part_path(const char *run, uint64_t step, char part[CHECKPOINT_PATH_MAX]);
// Makes it, empty. STATUS_ERROR, here and below, where the disk or the folder does not allow it.
enum status checkpoint_begin(const char *run, uint64_t step, struct error *error);
// Writes state.json, gives the folder its name and moves `latest` to it. Blocks until it is on the disk.
enum status checkpoint_end(const char *run, const struct checkpoint_state *state, const struct checkpoint_file *files,
                           size_t count, struct error *error);
// Throws away what was begun, also by an earlier process, or begun to be thrown away.
void checkpoint_discard_parts(const char *run);
// Checkpoints of steps after `step`, which were passed over, become step_N.damaged: the run will come there again.
void checkpoint_set_aside(const char *run, uint64_t step);
// Throws away all checkpoints but the newest `last` of up to step `newest`, and those of every `every`-th step; 0: of
// none.
void checkpoint_prune(const char *run, uint64_t newest, uint64_t last, uint64_t every);

// Finds the run's newest sound checkpoint; "": it has none at all. Those that are damaged, or cannot be read, are
// passed over with a line to `warnings`. Reads all files of what it finds once. STATUS_INVALID where all are damaged,
// STATUS_ERROR where the oldest, or the folder, cannot be read.
enum status checkpoint_find_newest(const char *run, FILE *warnings, char found[CHECKPOINT_PATH_MAX],
                                   struct checkpoint_state *state, struct error *error);
// The same where `path` is a run's folder; else it is the checkpoint. STATUS_INVALID where there is none, or it is
// damaged.
enum status checkpoint_find(const char *path, FILE *warnings, char found[CHECKPOINT_PATH_MAX],
                            struct checkpoint_state *state, struct error *error);
// The same for who does not need the state.
enum status checkpoint_find_folder(const char *path, FILE *warnings, char found[CHECKPOINT_PATH_MAX],
                                   struct error *error);

// Reads the configuration that a checkpoint was written with, for any device: this program may have been built without
// the run's. `path`, of CHECKPOINT_FILE_MAX bytes, becomes that of the file, which the configuration borrows.
#define CHECKPOINT_FILE_MAX (CHECKPOINT_PATH_MAX + CHECKPOINT_NAME_MAX)
enum status checkpoint_read_config(const char *found, char *path, struct config *config, struct error *error);

#endif
