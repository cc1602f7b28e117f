// SPDX-License-Identifier: Apache-2.0
//
// How ranks fail: together, with one line from one of them, or alone, ending the job.
#ifndef HEADROOM_WORKER_FAILURE_H
#define HEADROOM_WORKER_FAILURE_H

#include "worker/worker.h"

// One line to the standard error: what this rank met, and which rank it is where that matters. Not collective.
void failure_print(const struct comm *comm, const struct error *error);

// Every rank answers the status of the lowest rank that failed, which prints its line. Collective.
enum status failure_agree(struct comm *comm, enum status status, const struct error *error);

// Every rank ran short: worker->spokesman says why, and what there is on each. Not collective, but every rank calls it.
void failure_shortage(const struct worker *worker, const struct error *error);

// Ends the job from this rank, when the others are not at a place where they could agree.
void __attribute__((noreturn)) failure_alone(struct worker *worker, const struct error *error);

#endif
