// SPDX-License-Identifier: Apache-2.0
//
// Running a range of samples in micro-steps, whatever happens to memory on the way.
#ifndef HEADROOM_WORKER_SAMPLES_H
#define HEADROOM_WORKER_SAMPLES_H

#include "worker/worker.h"

// A rank's share of what is undone of a batch.
struct sample_share {
    enum list_purpose purpose;
    struct loader *loader;
    uint64_t batch, batch_samples;   // position of the batch's first sample, and how many there are
    const struct sched_share *share; // how to begin
    bool closes;                     // training: the rank's gradients are whole after it
};

// Spreads positions so that their sum tells whether each was done exactly once.
uint64_t position_hash(uint64_t position);

// Before a step's or an evaluation's samples: the tally is zero, nothing is done, and worker->message says so. What it
// says of this rank's memory stays.
void samples_begin(struct worker *worker);

// Enqueues: the tally is zero.
void samples_clear_tally(struct worker *worker);

// Enqueues every sample that the share has of worker->undone once, adds to the gradients and to worker->values' tally,
// and notes in worker->message what was done and what it took. A micro-step whose memory is refused has not touched
// anything: the rank goes on with what is fastest, of less samples or more levers that take less memory. Where one
// sample is refused under the most levers even after all cached memory went back to the device, the rank leaves it and
// all behind it: worker->message.left is their number, and worker->shortage says why. The sums of buckets that become
// ready before the last operation of a share that closes are started. Collective only in that.
enum status samples_run(struct worker *worker, const struct sample_share *share, struct error *error);

// Leaves all of the share, for which worker->shortage has a reason; its loader may be NULL.
enum status samples_leave(struct worker *worker, const struct sample_share *share, struct error *error);

// After all ranks have told what they left of their shares: that is what is undone. Answers how many samples it has at
// `*samples_p`.
enum status samples_take_back(struct worker *worker, const struct sched_share *shares, uint64_t *samples_p,
                              struct error *error);

// What may be tried after the block of a micro-step was refused: that of half of it, or less than that of one grain.
uint64_t samples_smaller_bytes(struct worker *worker, struct model_shape shape);

// Whether there is host memory for so many bytes of what a list offloads; if not, the rank offers no list any more that
// keeps more there than there is. Beside state that is away there is room for them. May block until copies are done.
bool samples_hold_host(struct worker *worker, uint64_t bytes);

// Whether the optimizer's state is in host memory, or goes there; if not, it stays on the device from now on. Blocks
// until the device is done with it.
bool samples_send_state_away(struct worker *worker);

// Whether the pool has, or gets from the device, what a share's micro-steps take; then it stays reserved for them. Else
// it was refused even after all cached memory went back to the device, and worker->shortage says why.
bool samples_reserve(struct worker *worker, const struct sched_share *share);

// Starts the sums over ranks of all buckets that were not started yet, and the tally's. Work enqueued from then on sees
// the sums. Collective.
void samples_reduce(struct worker *worker);
// The tally's alone. Collective.
void samples_reduce_tally(struct worker *worker);

#endif
