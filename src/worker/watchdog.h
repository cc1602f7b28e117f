// SPDX-License-Identifier: Apache-2.0
//
// Notices a rank that has stopped, and ends the job with a line that says which, where, and what it did last.
//
// A thread of each rank writes now and then how far its rank has come into RUN/alive/rank_N. A rank that has come no
// further for run.stall_seconds, and does not wait for others, has stopped: its thread says so and ends the process,
// which the launcher notices. Where a rank waits as long, its thread looks whether the others' threads still write: a
// process that was stopped as a whole, or a machine that is gone, says nothing itself.
//
// Threads: watchdog_note and watchdog_stop belong to one thread. Ranks: nothing is collective; all must see the folder.
#ifndef HEADROOM_WORKER_WATCHDOG_H
#define HEADROOM_WORKER_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

#include "mem/error.h"

struct watchdog;

struct watchdog_config {
    const char *folder; // of the run; outlives the watchdog
    uint32_t rank, ranks;
    uint64_t stall_seconds;         // at least 1
    const char *const *operation_p; // the last one that was enqueued: a name that stays, written by another thread
};

// STATUS_INVALID or STATUS_ERROR where the folder cannot be made or there is no thread or memory.
enum status watchdog_start(const struct watchdog_config *config, struct watchdog **watchdog_p, struct error *error);
// Accepts NULL.
void watchdog_stop(struct watchdog *watchdog);

// The rank has come further: in step `step` it does `what`, a string that stays. `waits`: for other ranks. Accepts
// NULL.
void watchdog_note(struct watchdog *watchdog, uint64_t step, const char *what, bool waits);

#endif
