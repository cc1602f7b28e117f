// SPDX-License-Identifier: Apache-2.0
//
// Where the time of steps goes: every operation timed on the device, and what to try.
//
// Threads: one. Ranks: each for itself.
#ifndef HEADROOM_WORKER_PROFILE_H
#define HEADROOM_WORKER_PROFILE_H

#include <stdio.h>

struct profile;
struct step_result;
struct worker;

// Steps before the first that is timed.
#define PROFILE_WARM_UP 3

// NULL where the host's memory runs out.
struct profile *profile_create(void);
// Accepts NULL.
void profile_destroy(struct profile *profile);

// Adds what the worker's op_timer has timed since the last call to the sums, as part of this step, which must be the
// only one under way; the first PROFILE_WARM_UP steps are dropped. Blocks until its operations are done.
void profile_step(struct profile *profile, const struct worker *worker, const struct step_result *result);

// The table, and hints.
void profile_print(const struct profile *profile, const struct worker *worker, FILE *file);

#endif
