// SPDX-License-Identifier: Apache-2.0
//
// What a rank's allocator does, in the run folder's memory/: its statistics at the end (rank_N.json), a log of all it
// did where run.memory_trace asks for it (rank_N.csv), and snapshots for PyTorch's memory viewer
// (rank_N.step_M.pickle): of the step that run.snapshot_step names, of the step in which the process got SIGUSR2, and
// of the first in which memory was refused and that in which this ended the run (rank_N.step_M.out_of_memory.pickle).
//
// Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_RUN_MEMORY_FILES_H
#define HEADROOM_WORKER_RUN_MEMORY_FILES_H

#include "worker/worker.h"

// Records from now on. `folder` is the run's, and outlives the worker.
enum status memory_files_open(struct worker *worker, const char *folder, struct error *error);
// Once the step's work is enqueued. A snapshot that cannot be written is noted in the log.
void memory_files_after_step(struct worker *worker, uint64_t step);
// After a refusal; does nothing before memory_files_open. A snapshot shows the first, and those for good.
void memory_files_out_of_memory(struct worker *worker, bool for_good);
// Writes the statistics, what is left of the log, and a snapshot where one was asked for since the last step.
// STATUS_ERROR where some of it could not be written, with the line of the first.
enum status memory_files_end(struct worker *worker, struct error *error);
// Accepts a worker that has none.
void memory_files_close(struct worker *worker);

#endif
