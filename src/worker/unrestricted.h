// SPDX-License-Identifier: Apache-2.0
//
// What a rank would gain by levers that train.recompute keeps it from: beside what it offers (offers.h) stands what it
// would offer with all of them, made from the same measurements.
//
// Threads: one at a time. Ranks: each for itself.
#ifndef HEADROOM_WORKER_UNRESTRICTED_H
#define HEADROOM_WORKER_UNRESTRICTED_H

#include "worker/offers.h"

struct unrestricted {
    bool exists;          // else the configuration allows all levers
    uint64_t micro_batch; // samples that a micro-step may have at most; 0: as many as fit
    struct offers offers;
};

// As offers_init, whose arguments these are.
enum status unrestricted_init(struct unrestricted *unrestricted, const struct config *config, const struct model *model,
                              const struct optimizer_state_size *state, struct price_book *prices, struct error *error);

// As the functions of offers.h; nothing where it does not exist.
void unrestricted_begin_step(struct unrestricted *unrestricted);
void unrestricted_observe(struct unrestricted *unrestricted, uint64_t levers, uint64_t samples, uint64_t time_ns);
void unrestricted_compare(struct unrestricted *unrestricted, const struct costs *costs);

// Of the time that the rank's share takes, as it is cut and by what `report` offers, the part that levers would save
// which need less memory than the share's: in micro-steps of samples of `length`, a block of at most `bytes`, and with
// the optimizer's state where it is, `away` or on the device. 1 where the report offers nothing and they would have the
// rank hold a sample; 0 where nothing was measured, or is gained.
double unrestricted_gain(const struct unrestricted *unrestricted, const struct sched_report *report,
                         const struct sched_share *share, bool away, uint64_t length, uint64_t bytes);

#endif
