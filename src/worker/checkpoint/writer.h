// SPDX-License-Identifier: Apache-2.0
//
// Writes a run's checkpoints: copies weights and the optimizer's state to host memory, and from there a thread writes
// them while training goes on. Where the host has no memory for the copy, they are written from the device, and
// training waits. What cannot be written is told and does no harm: older checkpoints stay, and the run goes on.
//
// Rank 0 writes. Where ranks have shards of the optimizer's state, each writes its own, and once all have said that
// they have, rank 0 gives the checkpoint its name.
//
// Threads: the functions below belong to one thread. Ranks: "collective" is so where there are shards; else nothing is.
#ifndef HEADROOM_WORKER_CHECKPOINT_WRITER_H
#define HEADROOM_WORKER_CHECKPOINT_WRITER_H

#include "worker/checkpoint/folder.h"
#include "worker/worker.h"

struct checkpoint_writer;

// How a checkpoint went.
struct checkpoint_report {
    uint64_t step;
    uint64_t bytes;
    uint64_t pause_ns; // that training waited
    uint64_t write_ns;
    struct error error; // STATUS_OK: it was written
};

// For checkpoints in the run's folder; NULL at `*writer_p` on a rank that writes nothing. The worker must outlive it.
// STATUS_ERROR where the host has no memory or thread.
enum status checkpoint_writer_create(struct worker *worker, const char *run, struct checkpoint_writer **writer_p,
                                     struct error *error);
// Waits for what is being written. Accepts NULL.
void checkpoint_writer_destroy(struct checkpoint_writer *writer);

// Begins a checkpoint of the worker as it is after `steps` steps, none of which is under way, nor another checkpoint.
// Blocks for the copy. Collective. `evaluation_due`: the validation after these steps is put off until the run goes on.
// Training waits since `since_ns`, by clock_ns.
void checkpoint_writer_start(struct checkpoint_writer *writer, uint64_t steps, bool evaluation_due, uint64_t since_ns);

// Whether this rank's shard is written, or could not be, and the others' are waited for.
bool checkpoint_writer_waits(struct checkpoint_writer *writer);
// Tells rank 0 how it went; collective, once all ranks wait.
void checkpoint_writer_agree(struct checkpoint_writer *writer);
// Blocks until the checkpoint that is under way, if any, is written. Collective.
void checkpoint_writer_settle(struct checkpoint_writer *writer);

// Whether a checkpoint has been finished whose report was not read yet; only on rank 0.
bool checkpoint_writer_read(struct checkpoint_writer *writer, struct checkpoint_report *report_p);

// The part of this rank's files that was given to the disk, from 0 to 1, while a checkpoint is under way; else -1.
double checkpoint_writer_part(struct checkpoint_writer *writer);

// Bytes of host memory, of worker->staging, that the copy takes.
uint64_t checkpoint_copy_bytes(const struct worker *worker);

#endif
