// SPDX-License-Identifier: Apache-2.0
//
// Policies for the simulator: the coordinator, and what others do. Others' ranks use one set of levers, chosen as well
// as someone could who knows the future: with which equal shares are the fastest at the least memory that ever occurs.
#ifndef HEADROOM_SCHED_POLICIES_H
#define HEADROOM_SCHED_POLICIES_H

#include "sched/world.h"

struct sched_policy {
    const char *name;
    bool measures; // its ranks have to learn how fast they are; else they know
    bool reserves; // its ranks take memory before they compute, so that a refusal costs no micro-step

    // NULL when memory runs out. `destroy` accepts NULL.
    void *(*create)(const struct sched_scenario *scenario);
    void (*destroy)(void *state);
    // The next step's plan, valid until the next call, and whether it is another one than before; NULL: there is none.
    const struct sched_share *(*plan)(void *state, const struct sched_report *reports, bool *changed_p);
    // After memory for a micro-step of `left` was refused: cuts what is left of a rank's share anew. False when it
    // gives up.
    bool (*cut)(void *state, const struct sched_report *report, struct sched_share *left);
    // Who does what ranks gave up, as sched_coordinator_settle; NULL: nobody, and the step is lost.
    const struct sched_share *(*settle)(void *state, const struct sched_report *reports, uint64_t samples);
};

// The coordinator first; closed by NULL.
extern const struct sched_policy *const sched_policies[];

#endif
