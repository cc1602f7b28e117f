// SPDX-License-Identifier: Apache-2.0
//
// What a rank's allocator does, in the run folder's memory/: its statistics at the end (rank_N.json), a log of all it
// did where run.memory_trace asks for it (rank_N.csv), and snapshots for PyTorch's memory viewer
// (rank_N.step_M.pickle): of the step that run.snapshot_step names, of the step in which the process got SIGUSR2, and
// of the first in which memory was refused (rank_N.step_M.out_of_memory.pickle).
//
// Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_MEMORY_FILES_H
#define HEADROOM_WORKER_MEMORY_FILES_H

#include "worker/worker.h"

// For the whole process, before it starts a thread: SIGUSR2 waits until memory_files_after_step looks.
void memory_files_block_signal(void);

// Records from now on. `folder` is the run's, and outlives the worker.
enum status memory_files_open(struct worker *worker, const char *folder, struct error *error);
// Once the step's work is enqueued. A snapshot that cannot be written is noted in the log.
void memory_files_after_step(struct worker *worker, uint64_t step);
// After a refusal. Does nothing before memory_files_open, or where the refusal is a fault that was asked for.
void memory_files_out_of_memory(struct worker *worker);
// Writes the statistics. STATUS_ERROR where a file could not be written, the log among them.
enum status memory_files_end(struct worker *worker, struct error *error);
// Accepts a worker that has none.
void memory_files_close(struct worker *worker);

#endif
