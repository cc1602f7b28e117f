// SPDX-License-Identifier: Apache-2.0
//
// Where the time of steps goes: every operation timed on the device, and what to try.
//
// Threads: one. Ranks: each for itself.
#ifndef HEADROOM_WORKER_PROFILE_H
#define HEADROOM_WORKER_PROFILE_H

#include <stdio.h>

#include "model/list.h"

struct profile;
struct step_result;
struct worker;

// Steps before the first that is timed.
#define PROFILE_WARM_UP 3

// The device must outlive the profile. NULL where the host's memory runs out.
struct profile *profile_create(struct device *device);
// Accepts NULL.
void profile_destroy(struct profile *profile);

// list_run, each operation between two marks. An operation for which no marks are to be had is not timed. Does not
// block.
void profile_run(struct profile *profile, const struct list *list, size_t first, size_t end,
                 struct kernel_context *context, const struct list_memory *memory);

// Adds what was timed since the last call to the sums, as part of this step, which must be the only one under way; the
// first PROFILE_WARM_UP steps are dropped. Blocks until its operations are done.
void profile_step(struct profile *profile, const struct worker *worker, const struct step_result *result);

// The table, and hints.
void profile_print(const struct profile *profile, const struct worker *worker, FILE *file);

#endif
