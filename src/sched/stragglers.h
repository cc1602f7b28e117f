// SPDX-License-Identifier: Apache-2.0
//
// Who is left out of plans for being slow. A plan gives every rank that can hold one at least a sample, so its speed
// stays known; where a few ranks take more than twice as long for that sample as the others would for it and their own,
// the job waits for them more than it computes. A rank that was waited for so in a row of reports, for the time of
// SCHED_STRAGGLER_STEPS steps without it, rests for SCHED_STRAGGLER_RESTS plans. Of one report at most an eighth of
// that time counts: it takes some until a changed speed is known. Then the rank gets a sample again, by which its speed
// becomes known anew; where it is no faster it rests twice as long each time, up to SCHED_STRAGGLER_RESTS_MAX.
//
// Pure.
#ifndef HEADROOM_SCHED_STRAGGLERS_H
#define HEADROOM_SCHED_STRAGGLERS_H

#include "sched/plan.h"

#define SCHED_STRAGGLER_STEPS     16
#define SCHED_STRAGGLER_RESTS     128
#define SCHED_STRAGGLER_RESTS_MAX 4096

// All 0 at first.
struct sched_straggler {
    uint32_t cost;     // that it was waited for, in steps without it
    uint32_t rests;    // plans for which it still does
    uint32_t rest_for; // it did last time; 0: it has caught up since, or never rested
};

// Compares the ranks of an optimal plan. Whether some begin to rest: the others can do their samples.
bool sched_stragglers_note(struct sched_straggler *stragglers, const struct sched_report *reports,
                           const struct sched_share *best, size_t ranks);

#endif
