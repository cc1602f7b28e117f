// SPDX-License-Identifier: Apache-2.0
//
// The planner: from every rank's report, the cut of the global batch. Pure: numbers in, numbers out; no clock, no
// randomness, every comparison that decides is between integers, so every rank computes the same plan from the same
// reports.
//
// A rank offers micro-steps under several sets of levers, which trade time for memory. Under set k it holds at most
// M_ik samples at once, n of them are taken to last overhead_ik + n * sample_ik, and step_ik comes once a step, so a
// share of n samples takes
//
//     f_i(n) = min over k of  step_ik + ceil(n / M_ik) * overhead_ik + n * sample_ik.
//
// The plan minimises max f_i(n_i) under sum n_i = global batch. Each f_i rises with n, so a search for the earliest
// deadline by which all ranks together finish the batch is exactly optimal, and it chooses each rank's levers as well.
#ifndef HEADROOM_SCHED_PLAN_H
#define HEADROOM_SCHED_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCHED_BATCH_MAX  (UINT64_C(1) << 32) // samples of a global batch
#define SCHED_LEVERS_MAX 8                   // sets of levers that a rank may have

// Micro-steps under one set of levers.
struct sched_offer {
    uint64_t overhead_ns;     // of one micro-step, whatever its size
    uint64_t sample_ns;       // of one sample more
    uint32_t micro_batch_max; // samples whose price fits the headroom; 0: not even one, or there is no such set
    uint64_t step_ns;         // once a step, whatever the share
};

struct sched_report {
    struct sched_offer offers[SCHED_LEVERS_MAX]; // by set of levers, the least first
    uint64_t headroom_bytes;                     // what a step's block may take on this rank
    uint32_t plan_hash;                          // of the plan that this rank ran last; differs on no rank
    bool measured;                               // else the offers' times are known only relative to one another
    uint8_t noise;                               // of one measurement, in percent of its time; 255: or more
    bool refused;                                // this rank was refused memory that the plan counted on
};

struct sched_share {
    uint64_t first;              // of the global batch, counted from 0
    uint64_t samples;            // 0: the rank rests
    uint64_t micro_batch;        // every micro-step but the last, which takes what is left
    uint64_t accumulation_steps; // ceil(samples / micro_batch)
    uint64_t levers;             // which offer
};

// Gives ranks that were not measured the times of the mean of those that were, in the relation that their own offers
// have; where none was, all keep what they say. Times become at least 1 a sample.
void sched_complete(struct sched_report *reports, size_t ranks);

// Cuts `global_batch` samples (at most SCHED_BATCH_MAX) into shares[ranks], contiguous and in rank order; ranks with
// equal reports get shares that differ by at most 1. Ranks that can hold a sample get at least one, where there are so
// many; the others rest. Reports are complete. A figure of 2^62 / (global_batch + 1) nanoseconds or more counts as the
// largest below, so nothing overflows. False when no rank can hold a sample; shares are then undefined.
// O(ranks * log(deadline)), in practice a handful of passes over the ranks.
bool sched_plan(const struct sched_report *reports, size_t ranks, uint64_t global_batch, struct sched_share *shares);

// The predicted duration of a whole plan, in nanoseconds: that of its slowest rank.
uint64_t sched_plan_ns(const struct sched_report *reports, const struct sched_share *shares, size_t ranks);

// FNV-1a of 64 bits over all figures of all shares, a word at a time, folded.
uint32_t sched_plan_hash(const struct sched_share *shares, size_t ranks);

// The share's predicted duration, in nanoseconds; a figure above 2^62 / (samples + 1) counts as that.
uint64_t sched_share_ns(const struct sched_report *report, const struct sched_share *share);

// Sets levers, micro_batch and accumulation_steps of a share of at least one sample: the fastest offer, of equally fast
// ones that with the least levers; in it as few micro-steps as fit, and these as small as that number allows. False,
// with a micro-batch of 0, where the report offers nothing.
bool sched_share_cut(const struct sched_report *report, struct sched_share *share);

// The same under one set of levers. False, and nothing is set, where the rank holds no sample under it.
bool sched_share_cut_under(const struct sched_report *report, size_t levers, struct sched_share *share);

#endif
