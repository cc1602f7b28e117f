// SPDX-License-Identifier: Apache-2.0
#include "sched/coordinator.h"

#include <stdlib.h>
#include <string.h>

// What one rank's plans may count on, and the larger offers that it made since.
struct memory {
    uint32_t granted; // samples
    uint32_t offered; // the least of the larger ones
    uint32_t streak;  // how many of them in a row
};

struct sched_coordinator {
    size_t ranks;
    uint64_t global_batch;
    uint64_t micro_batch_size; // 0: left to the plan
    bool planned;              // `plan` and `memory` hold what the last call left
    uint64_t lost_ns;          // by keeping `plan` since it was made, beyond what noise explains
    struct memory *memory;
    struct sched_report *reports; // of this call, with micro_batch_max as granted
    struct sched_share *plan, *best;
};

struct sched_coordinator *sched_coordinator_create(size_t ranks, uint64_t global_batch, uint64_t micro_batch_size)
{
    struct sched_coordinator *coordinator = calloc(1, sizeof(*coordinator));
    if (!coordinator) {
        return NULL;
    }
    coordinator->ranks = ranks;
    coordinator->global_batch = global_batch;
    coordinator->micro_batch_size = micro_batch_size;
    coordinator->memory = calloc(ranks, sizeof(*coordinator->memory));
    coordinator->reports = calloc(ranks, sizeof(*coordinator->reports));
    coordinator->plan = calloc(ranks, sizeof(*coordinator->plan));
    coordinator->best = calloc(ranks, sizeof(*coordinator->best));
    if (!coordinator->memory || !coordinator->reports || !coordinator->plan || !coordinator->best) {
        sched_coordinator_destroy(coordinator);
        return NULL;
    }
    return coordinator;
}

void sched_coordinator_destroy(struct sched_coordinator *coordinator)
{
    if (!coordinator) {
        return;
    }
    free(coordinator->best);
    free(coordinator->plan);
    free(coordinator->reports);
    free(coordinator->memory);
    free(coordinator);
}

static void grant(struct memory *memory, uint32_t samples)
{
    memory->granted = samples;
    memory->streak = 0;
}

static void offer(struct memory *memory, uint32_t samples)
{
    memory->offered = memory->streak == 0 || samples < memory->offered ? samples : memory->offered;
    if (++memory->streak == SCHED_PATIENCE) {
        grant(memory, memory->offered);
    }
}

static void read_reports(struct sched_coordinator *coordinator, const struct sched_report *reports)
{
    for (size_t i = 0; i < coordinator->ranks; i++) {
        struct memory *memory = &coordinator->memory[i];
        uint32_t samples = reports[i].micro_batch_max;
        if (coordinator->micro_batch_size != 0 && samples > coordinator->micro_batch_size) {
            samples = (uint32_t)coordinator->micro_batch_size;
        }
        if (!coordinator->planned || samples <= memory->granted) {
            grant(memory, samples);
        } else {
            offer(memory, samples);
        }
        coordinator->reports[i] = reports[i];
        coordinator->reports[i].micro_batch_max = memory->granted;
    }
}

static void cut(const struct sched_coordinator *coordinator, size_t rank, struct sched_share *share)
{
    uint64_t granted = coordinator->memory[rank].granted;
    sched_share_cut(share, granted);
    if (coordinator->micro_batch_size != 0) { // as many micro-steps, but of the size asked for
        share->micro_batch = granted < share->samples ? granted : share->samples;
    }
}

static bool find_best(struct sched_coordinator *coordinator)
{
    if (!sched_plan(coordinator->reports, coordinator->ranks, coordinator->global_batch, coordinator->best)) {
        return false;
    }
    for (size_t i = 0; i < coordinator->ranks; i++) {
        cut(coordinator, i, &coordinator->best[i]);
    }
    return true;
}

static bool cuts_stand(const struct sched_coordinator *coordinator)
{
    for (size_t i = 0; i < coordinator->ranks; i++) {
        struct sched_share share = coordinator->plan[i];
        cut(coordinator, i, &share);
        if (share.micro_batch != coordinator->plan[i].micro_batch) {
            return false;
        }
    }
    return true;
}

// `best` is optimal and the plan is among those it was chosen from, so it never takes longer.
static bool change_pays(struct sched_coordinator *coordinator)
{
    uint64_t plan_ns = sched_plan_ns(coordinator->reports, coordinator->plan, coordinator->ranks);
    uint64_t best_ns = sched_plan_ns(coordinator->reports, coordinator->best, coordinator->ranks);
    uint64_t lost_ns = coordinator->lost_ns + (plan_ns - best_ns), noise_ns = plan_ns / SCHED_NOISE_PART;
    coordinator->lost_ns = lost_ns > noise_ns ? lost_ns - noise_ns : 0;
    return coordinator->lost_ns > plan_ns;
}

static bool plan_stays(struct sched_coordinator *coordinator)
{
    if (!coordinator->planned || !cuts_stand(coordinator)) {
        return false;
    }
    return !change_pays(coordinator);
}

static void take_best(struct sched_coordinator *coordinator)
{
    struct sched_share *old = coordinator->plan;
    coordinator->plan = coordinator->best;
    coordinator->best = old;
    coordinator->planned = true;
    coordinator->lost_ns = 0;
}

const struct sched_share *sched_coordinator_plan(struct sched_coordinator *coordinator,
                                                 const struct sched_report *reports, bool *changed_p)
{
    read_reports(coordinator, reports);
    if (!find_best(coordinator)) {
        coordinator->planned = false;
        return NULL;
    }
    bool changed = false;
    if (!plan_stays(coordinator)) {
        size_t bytes = coordinator->ranks * sizeof(*coordinator->plan);
        changed = !coordinator->planned || memcmp(coordinator->plan, coordinator->best, bytes) != 0;
        take_best(coordinator);
    }
    if (changed_p) {
        *changed_p = changed;
    }
    return coordinator->plan;
}
