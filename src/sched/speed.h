// SPDX-License-Identifier: Apache-2.0
//
// What a micro-step costs on one rank, learned from those that were measured: a line through (samples, nanoseconds),
// older measurements fading. The line is the Bayesian one: its slope starts from time proportional to samples, and
// measurements move it as far as they outweigh their own noise. So one size, sizes that hardly differ, or a busy
// machine leave it proportional, and it is never drawn far beyond what was seen. Linear regression with a normal prior
// on the slope: Gelman et al., "Bayesian Data Analysis", 3rd edition (2013), 14.8. What sizes have taught outlasts
// them: the prior follows the line, as so many samples that an overhead is worth, whatever the rank's speed.
//
// One measurement that is far off is hardly believed; several steps in a row that begin with one are a change of the
// rank's speed, which is followed at once. After irregular steps hardly anything counts as far off; there a longer run
// of steps to one side of the line, close to one another, takes their place. Pure.
#ifndef HEADROOM_SCHED_SPEED_H
#define HEADROOM_SCHED_SPEED_H

#include <stdbool.h>
#include <stdint.h>

// Sums over measurements.
struct sched_evidence {
    double weight, samples, samples_squared, time_ns, time_squared, samples_time_ns;
};

struct sched_speed {                // all zero: nothing measured
    struct sched_evidence evidence; // older measurements faded
    struct sched_evidence run;      // of the latest steps that began on the same side of the line
    double overhead_samples;        // of the prior
    int32_t steps;                  // in the run; negative: faster than expected
    uint32_t off;                   // the latest of them, which were far from the line
    uint32_t counted;               // measurements of the present step
    struct sched_evidence before;   // the latest change
    uint32_t recent;                // steps in which it may turn out to be over
    uint32_t back;                  // the latest of them, that were as before it
};

// What follows is measured in another step.
void sched_speed_begin_step(struct sched_speed *speed);

// Brings what was measured to a speed at which everything takes `ratio` times as long.
void sched_speed_scale(struct sched_speed *speed, double ratio);

// One micro-step of `samples` >= 1.
void sched_speed_observe(struct sched_speed *speed, uint64_t samples, uint64_t time_ns);

// The line's two figures; both 0 when nothing was measured. Neither is negative; a measured sample_ns is at least 1.
void sched_speed_get(const struct sched_speed *speed, uint64_t *overhead_ns_p, uint64_t *sample_ns_p);

// By how much one measurement misses the line, as a part of its time: the standard deviation, in percent, at most 255.
// 0 when nothing was measured.
uint8_t sched_speed_noise(const struct sched_speed *speed);

#endif
