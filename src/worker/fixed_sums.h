// SPDX-License-Identifier: Apache-2.0
//
// Sums of gradients and of the tally that are the same bits in whatever order their terms are added, on however many
// ranks: integers. For train.reproducible. Each micro-step is one grain; what it adds to the gradients is rounded to a
// multiple of a power of two and added to integers, and only after the last rank's the sums become float32 again.
//
// That power follows from the largest sum of the step before, and leaves room for 64 times as much. Where a term
// is larger nevertheless, every rank learns it with the sums, and the step is done again with less fine terms. So it is
// the same in every run, and part of what a run goes on from.
//
// Threads: one. Ranks: the functions below are not collective.
#ifndef HEADROOM_WORKER_FIXED_SUMS_H
#define HEADROOM_WORKER_FIXED_SUMS_H

#include "worker/worker.h"

enum sums_end {
    SUMS_DONE,
    SUMS_SPILLED,    // a term was too large: the step is to be done again; terms are less fine from now on
    SUMS_NOT_FINITE, // a term is infinite or not a number
};

// Bytes of the sums of gradients, for a model of so many elements.
uint64_t fixed_sums_gradient_bytes(uint64_t elements);

// Terms of the first step. `grains`: terms of an element's sum in a step.
void fixed_sums_init(struct fixed_sums *sums, uint64_t grains);

// Enqueue: sums are 0.
void fixed_sums_clear_gradients(struct worker *worker);
// As after steps that left this exponent.
void fixed_sums_resume(struct fixed_sums *sums, int exponent);

void fixed_sums_clear_tally(struct worker *worker);
// Enqueues: the tally is added, in training the gradients as well, and what was added is 0 again.
void fixed_sums_add(struct worker *worker, bool trains);
// Enqueues: the tally from its sums.
void fixed_sums_get_tally(struct worker *worker);
// Gradients and tally from their sums over all ranks. Waits for the device. The same on every rank.
enum sums_end fixed_sums_get(struct worker *worker);

#endif
