// SPDX-License-Identifier: Apache-2.0
//
// The planner: from every rank's report, the cut of the global batch. Pure: numbers in, numbers out; no clock, no
// randomness, every comparison that decides is between integers, so every rank computes the same plan from the same
// reports.
//
// A micro-step of n samples on rank i is taken to last overhead_ns + n * sample_ns, and rank i holds at most
// micro_batch_max samples at once, so n samples take  f_i(n) = ceil(n / M_i) * overhead_i + n * sample_i.
// The plan minimises max f_i(n_i) under sum n_i = global batch, 1 <= n_i. Each f_i rises with n, so a search for the
// earliest deadline by which all ranks together finish the batch is exactly optimal.
#ifndef HEADROOM_SCHED_PLAN_H
#define HEADROOM_SCHED_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCHED_BATCH_MAX (UINT64_C(1) << 32) // samples of a global batch

struct sched_report {
    uint64_t headroom_bytes;  // what a step's block may take on this rank
    uint64_t overhead_ns;     // of one micro-step, whatever its size
    uint64_t sample_ns;       // of one sample more; 0: not measured yet
    uint32_t micro_batch_max; // samples whose price fits the headroom; 0: not even one
    uint32_t plan_hash;       // of the plan that this rank ran last; differs on no rank
};

struct sched_share {
    uint64_t first;              // of the global batch, counted from 0
    uint64_t samples;            // at least 1
    uint64_t micro_batch;        // every micro-step but the last, which takes what is left
    uint64_t accumulation_steps; // ceil(samples / micro_batch)
};

// Cuts `global_batch` samples (at most SCHED_BATCH_MAX) into shares[ranks], contiguous and in rank order; ranks with
// equal reports get shares that differ by at most 1. A rank that was not measured yet counts as the mean of those that
// were; if none was, all count as equal. A figure of 2^62 / global_batch nanoseconds or more counts as the largest
// below, so nothing overflows. False when the batch is smaller than `ranks` or some micro_batch_max is 0; shares are
// then undefined. O(ranks * log(deadline)), in practice a handful of passes over the ranks.
bool sched_plan(const struct sched_report *reports, size_t ranks, uint64_t global_batch, struct sched_share *shares);

// The predicted duration of a whole plan, in nanoseconds: that of its slowest rank. Reports count as in sched_plan.
uint64_t sched_plan_ns(const struct sched_report *reports, const struct sched_share *shares, size_t ranks);

// FNV-1a over all shares.
uint32_t sched_plan_hash(const struct sched_share *shares, size_t ranks);

// The share's predicted duration under its rank's report, in nanoseconds; a figure above 2^62 / samples counts as that.
uint64_t sched_share_ns(const struct sched_report *report, const struct sched_share *share);

// Sets micro_batch and accumulation_steps: as few micro-steps as a micro-batch of at most `micro_batch_max` >= 1
// allows, and these as small as that number of steps allows.
void sched_share_cut(struct sched_share *share, uint64_t micro_batch_max);

#endif
