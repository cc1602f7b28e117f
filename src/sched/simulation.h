// SPDX-License-Identifier: Apache-2.0
//
// The simulator: runs a policy, such as the coordinator itself, through a scenario, step by step, with thousands of
// ranks. Deterministic: the same scenario gives the same outcome, to the nanosecond.
//
// A step in the simulator:
//  - Ranks report what they could hold when the last step ended, and their times: for the coordinator those that they
//    learned from measurements, which are noisy.
//  - The policy makes a plan, and the ranks carry it out. A rank that is refused memory on the way cuts anew what is
//    left of its share; what it cannot do it gives up.
//  - What was given up is dealt out and done after the rest, until nothing is left or nobody can do it. The step is
//    lost only then.
//  - The step takes as long as its slowest rank, in each of these rounds.
#ifndef HEADROOM_SCHED_SIMULATION_H
#define HEADROOM_SCHED_SIMULATION_H

#include "sched/policies.h"

struct sched_outcome {
    uint64_t steps_lost;          // whose samples were not all done; none of them counts
    uint64_t steps_recut;         // in which some rank cut its share anew
    uint64_t samples_handed_back; // that a rank gave up and another one was dealt
    uint64_t plan_changes;
    uint64_t samples; // done, of steps that were not lost
    uint64_t time_ns;
};

// Is told what is done, as it is done; either may be NULL.
struct sched_observer {
    void (*done)(void *context, uint64_t step, size_t rank, uint64_t first, uint64_t count); // the batch's, from 0
    void (*ended)(void *context, uint64_t step, uint64_t time_ns);
    void *context;
};

// `observer` may be NULL. False when memory runs out.
bool sched_simulate(const struct sched_scenario *scenario, const struct sched_policy *policy,
                    const struct sched_observer *observer, struct sched_outcome *outcome_p);

// What could be had at best: every step takes as long as the planner's optimum on true times, and on the most that each
// rank can hold at any moment of the step; changes and refusals cost nothing. A step is lost where no rank can hold a
// sample when it begins, or none when it ends.
bool sched_simulate_oracle(const struct sched_scenario *scenario, struct sched_outcome *outcome_p);

#endif
