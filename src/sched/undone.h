// SPDX-License-Identifier: Apache-2.0
//
// What is still to do of a global batch, while ranks hand back what they could not do. Pure; every rank keeps one, from
// the same shares and the same counts.
#ifndef HEADROOM_SCHED_UNDONE_H
#define HEADROOM_SCHED_UNDONE_H

#include "sched/plan.h"

struct sched_range {
    uint64_t first, samples; // of the global batch
};

// Shares count in it as if its ranges lay side by side.
struct sched_undone {
    struct sched_range *ranges;
    size_t count, capacity;
};

// All of a batch. The caller frees it with sched_undone_finish. False when memory runs out.
bool sched_undone_init(struct sched_undone *undone, uint64_t global_batch);
void sched_undone_finish(struct sched_undone *undone);

// Of every share but its last left[rank] samples were done. False when memory runs out; `undone` is then unchanged.
bool sched_undone_leave(struct sched_undone *undone, const struct sched_share *shares, const uint64_t *left,
                        size_t ranks);

// The first range at or after place `*place_p` of the share, whose places count from 0; moves the place past it. False
// when the share has no more.
bool sched_undone_next(const struct sched_undone *undone, const struct sched_share *share, uint64_t *place_p,
                       struct sched_range *range_p);

uint64_t sched_undone_samples(const struct sched_undone *undone);

#endif
