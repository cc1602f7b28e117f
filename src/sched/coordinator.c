// SPDX-License-Identifier: Apache-2.0
#include "sched/coordinator.h"

#include <stdlib.h>
#include <string.h>

// What plans may count on under one set of levers, and the larger offers that were made since.
struct grant {
    uint32_t granted; // samples
    uint32_t offered; // the least of the larger ones
    uint32_t streak;  // how many of them in a row
};

struct rank {
    struct grant grants[SCHED_LEVERS_MAX];
    uint32_t patience; // reports in a row that it takes to grow
    uint32_t clean;    // reports since memory was refused
    bool handed_back;  // samples of this step
};

struct sched_coordinator {
    size_t ranks;
    uint64_t global_batch;
    uint64_t micro_batch_size; // 0: left to the plan
    bool planned;              // `plan` and `rank` hold what the last call left
    uint64_t lost_ns;          // by keeping `plan` since it was made, beyond what noise explains
    struct rank *rank;
    struct sched_report *reports; // of this call, complete, with offers as granted
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
    coordinator->rank = calloc(ranks, sizeof(*coordinator->rank));
    coordinator->reports = calloc(ranks, sizeof(*coordinator->reports));
    coordinator->plan = calloc(ranks, sizeof(*coordinator->plan));
    coordinator->best = calloc(ranks, sizeof(*coordinator->best));
    if (!coordinator->rank || !coordinator->reports || !coordinator->plan || !coordinator->best) {
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
    free(coordinator->rank);
    free(coordinator);
}

static void note_refusal(struct rank *rank, bool refused)
{
    rank->clean = refused ? 0 : rank->clean + 1;
    if (refused && rank->patience < SCHED_PATIENCE_MAX) {
        rank->patience *= 2;
    }
    if (rank->patience == 0 || rank->clean == SCHED_CLEAN_REPORTS) {
        rank->patience = SCHED_PATIENCE;
    }
}

static void grant(struct grant *memory, uint32_t samples)
{
    memory->granted = samples;
    memory->streak = 0;
}

static void offer(struct grant *memory, uint32_t samples, uint32_t patience)
{
    memory->offered = memory->streak == 0 || samples < memory->offered ? samples : memory->offered;
    if (++memory->streak >= patience) {
        grant(memory, memory->offered);
    }
}

static void read_offers(const struct sched_coordinator *coordinator, struct rank *rank, struct sched_report *report)
{
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        struct grant *memory = &rank->grants[k];
        uint64_t samples = report->offers[k].micro_batch_max;
        if (coordinator->micro_batch_size != 0 && samples > coordinator->micro_batch_size) {
            samples = coordinator->micro_batch_size;
        }
        if (!coordinator->planned || samples <= memory->granted) {
            grant(memory, (uint32_t)samples);
        } else {
            offer(memory, (uint32_t)samples, rank->patience);
        }
        report->offers[k].micro_batch_max = memory->granted;
    }
}

static void read_reports(struct sched_coordinator *coordinator, const struct sched_report *reports)
{
    memcpy(coordinator->reports, reports, coordinator->ranks * sizeof(*reports));
    sched_complete(coordinator->reports, coordinator->ranks);
    for (size_t i = 0; i < coordinator->ranks; i++) {
        struct rank *rank = &coordinator->rank[i];
        note_refusal(rank, reports[i].refused);
        read_offers(coordinator, rank, &coordinator->reports[i]);
        rank->handed_back = false;
    }
}

// Where the size is asked for: as many micro-steps, but of that size.
static void size_micro_steps(const struct sched_coordinator *coordinator, size_t rank, struct sched_share *share)
{
    if (coordinator->micro_batch_size != 0 && share->samples > 0) {
        uint64_t granted = coordinator->rank[rank].grants[share->levers].granted;
        share->micro_batch = granted < share->samples ? granted : share->samples;
    }
}

static bool find_best(struct sched_coordinator *coordinator, uint64_t samples)
{
    if (!sched_plan(coordinator->reports, coordinator->ranks, samples, coordinator->best)) {
        return false;
    }
    for (size_t i = 0; i < coordinator->ranks; i++) {
        size_micro_steps(coordinator, i, &coordinator->best[i]);
    }
    return true;
}

// Whether the rank would cut its share no better than the plan does: not in fewer micro-steps, nor with less levers.
static bool cut_stands(const struct sched_coordinator *coordinator, size_t rank)
{
    const struct sched_share *planned = &coordinator->plan[rank];
    const struct sched_report *report = &coordinator->reports[rank];
    struct sched_report same = {0};
    struct sched_share cut = *planned, best = *planned;
    same.offers[planned->levers] = report->offers[planned->levers];
    if (planned->samples == 0) {
        return !sched_share_cut(report, &(struct sched_share){.samples = 1});
    }
    if (!sched_share_cut(&same, &cut) || !sched_share_cut(report, &best)) {
        return false;
    }
    size_micro_steps(coordinator, rank, &cut);
    return cut.micro_batch == planned->micro_batch && best.levers >= planned->levers;
}

static bool cuts_stand(const struct sched_coordinator *coordinator)
{
    for (size_t i = 0; i < coordinator->ranks; i++) {
        if (!cut_stands(coordinator, i)) {
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
    if (!find_best(coordinator, coordinator->global_batch)) {
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

const struct sched_share *sched_coordinator_settle(struct sched_coordinator *coordinator,
                                                   const struct sched_report *reports, const uint64_t *left)
{
    uint64_t samples = 0;
    memcpy(coordinator->reports, reports, coordinator->ranks * sizeof(*reports));
    sched_complete(coordinator->reports, coordinator->ranks);
    for (size_t i = 0; i < coordinator->ranks; i++) {
        samples += left[i];
        coordinator->rank[i].handed_back |= left[i] > 0;
        if (coordinator->rank[i].handed_back) {
            memset(coordinator->reports[i].offers, 0, sizeof(coordinator->reports[i].offers));
        }
    }
    return sched_plan(coordinator->reports, coordinator->ranks, samples, coordinator->best) ? coordinator->best : NULL;
}
