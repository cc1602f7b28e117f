// SPDX-License-Identifier: Apache-2.0
//
// What a micro-step costs on one rank, learned from those that were measured: a least-squares line through
// (samples, nanoseconds), older measurements fading. Pure.
#ifndef HEADROOM_SCHED_SPEED_H
#define HEADROOM_SCHED_SPEED_H

#include <stdint.h>

struct sched_speed {                                                   // all zero: nothing measured
    double weight, samples, samples_squared, time_ns, samples_time_ns; // faded sums
};

// One micro-step of `samples` >= 1.
void sched_speed_observe(struct sched_speed *speed, uint64_t samples, uint64_t time_ns);

// The line's two figures; both 0 when nothing was measured. As far as all measured micro-steps were of about one size
// the line has no slope to tell, and the whole time counts as per sample. Neither is negative; a measured sample_ns is
// at least 1.
void sched_speed_get(const struct sched_speed *speed, uint64_t *overhead_ns_p, uint64_t *sample_ns_p);

#endif
