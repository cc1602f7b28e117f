// SPDX-License-Identifier: Apache-2.0
//
// A made-up job for the simulator: ranks with memories and speeds, and what happens to them, all from a seed and
// whatever a policy does. Time goes by steps.
#ifndef HEADROOM_SCHED_WORLD_H
#define HEADROOM_SCHED_WORLD_H

#include "sched/plan.h"

#define SCHED_WORLD_PARTS 65536 // of a rank's share of a step

// What a scenario says. A number drawn from a range is drawn uniformly.
struct sched_scenario {
    uint64_t seed;
    uint64_t steps, ranks, global_batch;
    uint64_t capacity_min_bytes, capacity_max_bytes; // of a rank's device
    uint64_t fixed_bytes;                            // that a rank takes before its first sample
    uint64_t sample_bytes;                           // under the least levers
    uint64_t sample_ns;                              // on the fastest rank, under the least levers
    uint64_t overhead_ns;                            // of a micro-step, likewise
    double slowest;                                  // times of the slowest rank, the fastest's being 1
    double lever_times[SCHED_LEVERS_MAX];            // of a micro-step, the least levers' being 1
    size_t lever_times_count;                        // as many as there are sets of levers
    double lever_samples[SCHED_LEVERS_MAX];          // that fit the same memory, likewise
    size_t lever_samples_count;
    double lever_error;            // of lever_times: the largest part by which what ranks take them for is wrong
    double noise;                  // of measured times: the largest part by which they are wrong
    uint64_t retry_ns;             // from a refusal of memory to the next try
    uint64_t new_plan_ns;          // that a step takes longer whose plan is new
    uint64_t neighbours;           // others that come to a rank's device and go again, for good
    double neighbour_share_min;    // of a device's capacity, at least, that a neighbour takes
    double neighbour_share;        // at most
    uint64_t slowdowns;            // ranks that become slower and recover, for good
    double slowdown;               // their times in between
    uint64_t phase_min, phase_max; // steps between coming and going
    uint64_t refusal_every; // steps, on average, between two in which a rank is refused what it was promised; 0: none
};

// A neighbour, or what slows a rank down.
struct sched_visitor {
    size_t rank;
    bool here;
    uint64_t next; // step in which it comes or goes
    uint64_t bytes;
};

struct sched_world {
    const struct sched_scenario *scenario;
    uint64_t random;
    uint64_t step;              // that the rest is about
    struct sched_report *begin; // of each rank: true times, and what it can hold when the step begins
    struct sched_report *end;   // the same after the moment in which that changes, if it does
    uint32_t *when;             // that moment: so many of SCHED_WORLD_PARTS are done
    bool changed;               // since the step before
    size_t refused;             // the rank that is refused memory in this step; SIZE_MAX: none
    uint64_t *capacity_bytes;   // of each rank
    uint64_t *taken_bytes;      // by its neighbours
    uint32_t *slow;             // how many visitors slow it down
    uint64_t *sample_ns;        // when nothing slows it down, under the least levers
    struct sched_visitor *neighbours, *slowdowns;
};

// Before step 0. The scenario must outlive the world. False when memory runs out; sched_world_finish is due either way.
bool sched_world_init(struct sched_world *world, const struct sched_scenario *scenario);
void sched_world_finish(struct sched_world *world);

// To the next step.
void sched_world_advance(struct sched_world *world);

// True times, and what each rank can hold at its best in this step, in reports[ranks].
void sched_world_most(const struct sched_world *world, struct sched_report *reports);
// The first step's times, and what each rank can hold at its least in any step, refusals apart. False when memory runs
// out.
bool sched_world_least(const struct sched_scenario *scenario, struct sched_report *reports);

#endif
