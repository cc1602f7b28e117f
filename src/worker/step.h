// SPDX-License-Identifier: Apache-2.0
//
// One training step over all ranks, from the plan to the optimizer.
#ifndef HEADROOM_WORKER_STEP_H
#define HEADROOM_WORKER_STEP_H

#include "worker/worker.h"

// What a step did; the same on every rank but for the times, which are this rank's.
struct step_result {
    uint64_t step, epoch;
    struct kernel_tally tally; // over all ranks
    double loss;               // mean over what counts
    double gradient_norm;      // of the mean gradient, before clipping
    double learning_rate;
    uint64_t samples;
    uint64_t step_ns;         // from the first micro-step to the next plan
    uint64_t comm_ns;         // in the all-reduce, waiting for slower ranks included
    uint64_t coordination_ns; // in reading headroom, reports and the next plan
    bool plan_changed;        // for the next step
};

// The first plan. Collective. STATUS_OUT_OF_MEMORY when some rank cannot hold a sample; then on every rank.
enum status step_plan_first(struct worker *worker, struct error *error);

// Runs step number `step` under worker->plan, leaves every rank's message in worker->messages. Collective.
// STATUS_DIVERGED on every rank when the loss or the gradient is not finite (the optimizer is then not run). Any other
// failure is this rank's alone: the caller must abort the communicator.
enum status step_train(struct worker *worker, uint64_t step, struct step_result *result_p, struct error *error);

// The plan for the next step, from worker->messages; `result` gains the time it took and whether the plan changed.
// Every rank decides the same. Collective where memory runs short, else nobody waits. STATUS_OUT_OF_MEMORY as above.
enum status step_plan_next(struct worker *worker, struct step_result *result, struct error *error);

#endif
