// SPDX-License-Identifier: Apache-2.0
//
// One training step over all ranks, from the plan to the optimizer.
#ifndef HEADROOM_WORKER_STEP_H
#define HEADROOM_WORKER_STEP_H

#include "worker/worker.h"

// Steps that are under way on the device while the host goes on.
#define STEPS_UNDER_WAY_MAX 2

// What a step did; the same on every rank but for the times, which are this rank's.
struct step_result {
    uint64_t step, epoch;
    struct kernel_tally tally; // over all ranks
    double loss;               // mean over what counts
    double gradient_norm;      // of the mean gradient, before clipping
    double learning_rate;
    uint64_t samples;
    uint64_t step_ns;         // from the first micro-step to the next plan
    uint64_t predicted_ns;    // of it, before it began; 0: too little was measured
    uint64_t plan_ns;         // of that, for the micro-steps
    uint64_t comm_ns;         // in the all-reduce after the last micro-step, waiting for slower ranks included
    uint64_t update_ns;       // in the gradient's norm, clipping, the optimizer, and the all-gather of shards
    uint64_t coordination_ns; // in reading headroom, reports and the next plan
    bool plan_changed;        // for the next step
    // Every rank's; they stay until as many more steps as may be under way have started.
    const struct step_message *messages;
    const struct sched_share *next_plan;
};

struct step_records;

// NULL where the host's memory runs out.
struct step_records *step_records_create(struct worker *worker);
// Accepts NULL.
void step_records_destroy(struct worker *worker, struct step_records *records);

// The first plan. Collective. STATUS_OUT_OF_MEMORY when no rank can hold a sample; then on every rank, and what the
// lowest that was refused memory, worker->spokesman, has to say is the reason.
enum status step_plan_first(struct worker *worker, struct error *error);

// Enqueues step number `step` under worker->plan; fewer than STEPS_UNDER_WAY_MAX steps are under way. Where the loss or
// the gradient turns out not to be finite, its optimizer changes nothing. Collective. STATUS_OUT_OF_MEMORY on every
// rank when samples are left that no rank can hold, STATUS_DIVERGED on every rank where train.reproducible meets a
// gradient that is not finite; the step has then changed no weight and is not under way. Any other failure is this
// rank's alone: the caller must abort the communicator.
enum status step_start(struct worker *worker, uint64_t step, struct error *error);

// Enqueues the end of a step: divides the sum of gradients by the global count, clips, and steps. What the host may
// want to know is left in worker->values.
void step_update(struct worker *worker, uint64_t step);
// Where ranks have shards of the optimizer's state, brings the weights that each has updated to all. Collective.
void step_share_weights(struct worker *worker);

// The plan for the step after the one that was started last. Every rank decides the same. Collective where the plan
// changes or memory runs short, else nobody waits. STATUS_OUT_OF_MEMORY as above.
enum status step_plan_next(struct worker *worker, struct error *error);

// Waits until the oldest step under way is done, and answers what it did. STATUS_DIVERGED on every rank when its loss
// or its gradient is not finite. Any other failure is this rank's alone.
enum status step_finish(struct worker *worker, const struct step_result **result_p, struct error *error);

#endif
