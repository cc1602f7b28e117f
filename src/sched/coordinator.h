// SPDX-License-Identifier: Apache-2.0
//
// The coordinator: turns each step's reports into the plan of the next step, and keeps the plan from flapping.
// Every rank runs one with the same reports, so all hold the same plan and nobody has to send it. Pure; the worker
// carries the messages.
//
// Less memory is obeyed at once, what would be better has to prove itself:
//  - A rank is granted the micro-batches that it offers; a larger one only after it was offered so many times in a row
//    as the rank's patience says. Then the smallest of them is probed: each report grants 1/SCHED_PROBES of it more,
//    until a refusal or a smaller offer ends that (additive increase: Chiu and Jain, "Analysis of the increase and
//    decrease algorithms for congestion avoidance", 1989). Patience is SCHED_PATIENCE reports; it doubles, up to
//    SCHED_PATIENCE_MAX, when memory is refused to a rank that has grown in the last SCHED_UNPROVEN_REPORTS reports,
//    and is forgotten after SCHED_CLEAN_REPORTS without a refusal. Memory that comes and goes is followed each time:
//    with patience for that, too, a neighbour every 8 to 12 steps left 84 % of the oracle's throughput, not 91 %.
//  - The plan stays as long as every rank can cut its share as planned, and better only with memory it had before. So
//    memory that shrank brings a new plan when the old one no longer fits, and memory that grew when a share can then
//    be done in fewer micro-steps or with less levers.
//  - Else the best plan replaces it once keeping the old one is predicted to have cost 1/SCHED_CHANGE_PART of a step's
//    time, beyond what noise can pretend in means of a few dozen measurements: of each step 1/SCHED_NOISE_PART of the
//    noise of one measurement, which is taken to be SCHED_NOISE_LEAST percent or more. So a large gain is taken at
//    once, a small one after many steps, and what goes up and down never (a cumulative sum test: Page, "Continuous
//    inspection schemes", 1954). This is how samples follow speed, and memory that saves overhead. After the last of
//    several probes a gain beyond the noise of one step is enough.
//  - A plan for ranks that were not measured gives way as soon as they are. The next one lets them try another
//    micro-batch than the best for one step, from which they learn their overhead.
//  - Ranks for which the others wait more than they compute are left out for a while (sched/stragglers.h), unless no
//    other can hold a sample.
//
// Samples that a rank could not do, it hands back when the step's others are done; they are dealt out among ranks that
// can, until none are left (sched_coordinator_settle).
#ifndef HEADROOM_SCHED_COORDINATOR_H
#define HEADROOM_SCHED_COORDINATOR_H

#include "sched/packed.h"
#include "sched/plan.h"

#define SCHED_PATIENCE         3
#define SCHED_PATIENCE_MAX     96
#define SCHED_PROBES           4
#define SCHED_UNPROVEN_REPORTS 16
#define SCHED_CLEAN_REPORTS    256
#define SCHED_NOISE_PART       3
#define SCHED_NOISE_LEAST      5
#define SCHED_CHANGE_PART      4

struct sched_coordinator;

// `micro_batch_size`: 0 leaves the size to the plan. Any other is the size of every micro-step but a share's last,
// wherever memory, under some set of levers, and share are that large. NULL when memory runs out.
struct sched_coordinator *sched_coordinator_create(size_t ranks, uint64_t global_batch, uint64_t micro_batch_size);
void sched_coordinator_destroy(struct sched_coordinator *coordinator);

// The plan of a job that is gone on with, for as many ranks and the same batch: the first plan is this one, where every
// rank can cut its share so. It is copied.
void sched_coordinator_resume(struct sched_coordinator *coordinator, const struct sched_share *plan);

// Reads reports[ranks] and answers the plan for the next step, valid until the next call; NULL when no plan exists
// (no rank can hold a sample), after which the next call starts afresh. `*changed_p` (may be NULL) says whether the
// plan differs from the one before; it is set only with a plan.
const struct sched_share *sched_coordinator_plan(struct sched_coordinator *coordinator,
                                                 const struct sched_report *reports, bool *changed_p);

// The same step's plan once more, after a rank was refused memory for the one before: these reports make nothing larger
// and count for nobody's patience.
const struct sched_share *sched_coordinator_plan_again(struct sched_coordinator *coordinator,
                                                       const struct sched_report *reports, bool *changed_p);

// What a rank makes of what all ranks sent.
struct sched_decision {
    const struct sched_share *plan; // as sched_coordinator_plan answers it
    bool changed;                   // likewise
    uint32_t plan_hash;             // that the next report says
    uint64_t plan_ns;               // how long it is predicted to take; 0: a rank in it was not measured
    size_t odd_rank;                // it ran another plan than rank 0, and there is no plan; 0: none did
};

// The same from packed reports, each `stride_bytes` after the one before it: all that a rank decides between two steps.
// `again`: as sched_coordinator_plan_again.
struct sched_decision sched_coordinator_decide(struct sched_coordinator *coordinator,
                                               const struct sched_packed_report *first, size_t stride_bytes,
                                               bool again);

// Who does `samples` of a step that are left because ranks could not hold them. Shares count in what is left; they are
// valid until the next call. The reports are taken at their word, so a rank that left samples offers nothing; one that
// is left out gets some where no other can. NULL when no rank can hold a sample.
const struct sched_share *sched_coordinator_settle(struct sched_coordinator *coordinator,
                                                   const struct sched_report *reports, uint64_t samples);

#endif
