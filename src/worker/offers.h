// SPDX-License-Identifier: Apache-2.0
//
// What a rank offers the coordinator: for each set of levers how many samples fit, and how long they take.
//
// The coordinator knows a set of levers by its number: those of a list (enum model_levers), then two under which the
// optimizer's state is in host memory, too. A rank has every set that the config allows and whose lists take less
// memory than those before it.
//
// Threads: one at a time. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_OFFERS_H
#define HEADROOM_WORKER_OFFERS_H

#include "model/price.h"
#include "sched/plan.h"
#include "sched/speed.h"
#include "worker/config/config.h"
#include "worker/costs.h"
#include "worker/optimizer_state.h"

enum {
    OFFERS_STATE = MODEL_LEVERS_COUNT, // the state is away, lists as under MODEL_LEVERS_HEAD
    OFFERS_ALL,                        // the same, lists as under MODEL_LEVERS_OFFLOAD
    OFFERS_SETS
};

// Steps after which a host that refused memory is asked again.
#define OFFERS_REFUSED_STEPS 64

// How long updates of weights take: a mean that follows the last few. The first counts for nothing: it touches memory
// that was never used.
struct offers_update {
    uint64_t count;
    double ns;
};

// Of the optimizer's state.
struct offers_state {
    uint64_t bytes;                 // that it takes in host memory
    bool may_leave;                 // some set that the config allows has it there
    bool refused;                   // by the host, which had no memory for it
    bool away;                      // it is there
    bool stays;                     // it was refused memory on the device, so for now it does not come back
    uint64_t gain_bytes;            // of headroom, when it leaves; lost when it comes back
    double samples;                 // a step takes as much longer when it is away as so many samples take: a guess
    struct offers_update update[2]; // with it here and away
};

struct offers {
    struct price_book *prices;
    const struct model *model;
    double work[SCHED_LEVERS_MAX]; // of a sample, relative to the first set that there is; 0: there is no such set
    struct sched_speed speed;      // of that set
    uint64_t grain;                // samples that the coordinator counts as one
    uint64_t most;                 // samples of a micro-step
    uint64_t levers;               // of the last micro-step that was measured
    bool warm;                     // a micro-step has run
    uint64_t host_bytes;           // the most that a list and the state keep in host memory together
    uint64_t lists_host_bytes;     // the most that a list does: what the host turned out to have
    uint64_t refused_steps;        // begun since the host refused some
    bool lacks_host;               // more of it would give sets of levers that the config allows
    struct offers_state state;
};

// "none", "head", "selective", "half", "full", "offload", "state", "all".
const char *offers_levers_name(uint64_t levers);
// Whether the optimizer's state is in host memory under this set.
bool offers_away(uint64_t levers);

// `state` is what there is of the optimizer's. The price book and the model must outlive it. STATUS_ERROR where the
// host's memory runs out, STATUS_INVALID where train.recompute: offload is asked for and train.offload_bytes hold no
// micro-step.
enum status offers_init(struct offers *offers, const struct config *config, const struct model *model,
                        const struct optimizer_state_size *state, struct price_book *prices, struct error *error);

// That the host refused memory is forgotten.
void offers_ask_host_again(struct offers *offers);

// What follows is measured in another step. A host that refused memory OFFERS_REFUSED_STEPS ago counts as having some.
void offers_begin_step(struct offers *offers);

// A micro-step was measured. The first one counts for nothing: it touches memory that was never used.
void offers_observe(struct offers *offers, uint64_t levers, uint64_t samples, uint64_t time_ns);

// The update of weights took so long, with the optimizer's state here or away.
void offers_observe_update(struct offers *offers, bool away, uint64_t time_ns);

// What operations cost tells what the sets of levers take in relation to one another; until then it is a guess. A set
// takes no less time than those before it: where memory is plenty, noise does not pull levers.
void offers_compare(struct offers *offers, const struct costs *costs);

// What host memory is left for lists while the optimizer's state is there.
uint64_t offers_host_beside_state(const struct offers *offers);

// Fills in `report`'s offers for micro-steps of samples of `length`, in a block of at most `bytes` where the
// optimizer's state stays where it is, and whether they were measured. What counts as one sample there is a grain.
void offers_fill(const struct offers *offers, uint64_t length, uint64_t bytes, struct sched_report *report);

// The shape of a micro-step under a set of levers.
struct model_shape offers_shape(uint64_t samples, uint64_t length, uint64_t levers);

// The least headroom that one grain of samples of the greatest length takes.
uint64_t offers_least_bytes(const struct offers *offers);

#endif
