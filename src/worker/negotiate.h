// SPDX-License-Identifier: Apache-2.0
//
// What ranks report, and the plan that they agree on. Every rank gives the same reports to its own coordinator, so all
// decide the same, and nobody sends a plan; what is negotiated is memory. docs/proofs has a model of it.
#ifndef HEADROOM_WORKER_NEGOTIATE_H
#define HEADROOM_WORKER_NEGOTIATE_H

#include "worker/worker.h"

// Fills in this rank's report for the plan of step `next_step`, and gives back memory that others claim. A rank that
// could not hold a sample of this step (worker->spent) does not offer to.
void negotiate_report(struct worker *worker, uint64_t next_step);

// Starts bringing worker->message to every rank's worker->messages; comm's gather_wait ends it. Collective.
void negotiate_exchange_start(struct worker *worker);
// The same, and waits. Collective.
void negotiate_exchange(struct worker *worker);

// Where nobody offers anything: others on a rank's device may cache what it lacks, and each counts on a part of what is
// free. All give back what they cache, and then report anew, as if each were alone on its device and the host had
// refused nothing; whose memory that is, is decided where they reserve it. Collective, and waits.
void negotiate_trim(struct worker *worker, uint64_t next_step);

// After an exchange: a plan for step `next_step`, in worker->plan, whose memory every rank has reserved; that of a plan
// which has not changed is. A rank that is refused its share offers less in the next round, so there is a last one;
// before the job ends all ranks trim once. Collective where the plan changes or memory runs short. STATUS_OUT_OF_MEMORY
// on every rank when none can hold a sample, any other failure is this rank's alone.
enum status negotiate_plan(struct worker *worker, uint64_t next_step, bool *changed_p, struct error *error);

// After an exchange: who does `samples` that ranks have left, as sched_coordinator_settle; NULL: nobody can.
const struct sched_share *negotiate_deal(struct worker *worker, uint64_t samples);

// No rank can hold a sample: chooses the one that is to say why (worker->spokesman); `error` is what each would say.
// Answers STATUS_OUT_OF_MEMORY.
enum status negotiate_no_plan(struct worker *worker, struct error *error);

#endif
