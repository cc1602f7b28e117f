// SPDX-License-Identifier: Apache-2.0
#include "sched/coordinator.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "sched/arithmetic.h"
#include "sched/stragglers.h"

// What plans may count on under one set of levers, and the larger offers that were made since.
struct grant {
    uint32_t granted; // samples
    uint32_t offered; // the least of the larger ones
    uint32_t streak;  // how many of them in a row
    bool probed;      // a part of that was granted
};

struct rank {
    struct grant grants[SCHED_LEVERS_MAX];
    uint32_t patience; // reports in a row that it takes to grow
    uint32_t clean;    // reports since memory was refused
    bool grew;         // what it is granted, in this call
    bool settled;      // at what it offers, after several probes, in this call
    uint32_t unproven; // reports for which a refusal still speaks against the latest growth
    bool measured;     // when the plan was made
    bool tries;        // in the plan, another micro-batch than the best
};

struct sched_coordinator {
    size_t ranks;
    uint64_t global_batch;
    uint64_t micro_batch_size; // 0: left to the plan
    bool planned;              // `plan` and `rank` hold what the last call left
    bool resumed;              // there was none, and `plan` is an earlier job's
    uint64_t lost_ns;          // by keeping `plan` since it was made, beyond what noise explains
    struct rank *rank;
    struct sched_straggler *stragglers; // one for each rank
    struct sched_report *reports;       // of this call, complete, with offers as granted
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
    coordinator->stragglers = calloc(ranks, sizeof(*coordinator->stragglers));
    coordinator->reports = calloc(ranks, sizeof(*coordinator->reports));
    coordinator->plan = calloc(ranks, sizeof(*coordinator->plan));
    coordinator->best = calloc(ranks, sizeof(*coordinator->best));
    if (!coordinator->rank || !coordinator->stragglers || !coordinator->reports || !coordinator->plan ||
        !coordinator->best) {
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
    free(coordinator->stragglers);
    free(coordinator->rank);
    free(coordinator);
}

// The latest growth did not last: the next one takes longer.
static void doubt_growth(struct rank *rank)
{
    if (rank->unproven > 0 && rank->patience < SCHED_PATIENCE_MAX) {
        rank->patience *= 2;
    }
    rank->unproven = rank->clean = 0;
}

// A report of a step; those of later rounds tell of the same step's refusals.
static void note_time(struct rank *rank)
{
    rank->clean++;
    rank->unproven -= rank->unproven > 0;
    if (rank->patience == 0 || rank->clean == SCHED_CLEAN_REPORTS) {
        rank->patience = SCHED_PATIENCE;
    }
}

static void grant(struct grant *memory, uint32_t samples)
{
    memory->granted = samples;
    memory->streak = 0;
    memory->probed = false;
}

// Answers whether some of it is granted.
static bool offer(struct grant *memory, uint32_t samples, uint32_t patience)
{
    memory->offered = memory->streak == 0 || samples < memory->offered ? samples : memory->offered;
    if (++memory->streak < patience) {
        return false;
    }
    uint32_t probe = (memory->offered - 1) / SCHED_PROBES + 1, missing = memory->offered - memory->granted;
    if (missing <= probe) {
        grant(memory, memory->offered);
    } else {
        memory->granted += probe;
        memory->probed = true;
    }
    return true;
}

static void read_offers(const struct sched_coordinator *coordinator, struct rank *rank, bool again,
                        const struct sched_report *report)
{
    rank->grew = rank->settled = false;
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        struct grant *memory = &rank->grants[k];
        bool probed = memory->probed;
        uint64_t samples = report->offers[k].micro_batch_max;
        if (coordinator->micro_batch_size != 0 && samples > coordinator->micro_batch_size) {
            samples = coordinator->micro_batch_size;
        }
        if (!coordinator->planned || samples <= memory->granted) {
            grant(memory, (uint32_t)samples);
        } else if (!again && offer(memory, (uint32_t)samples, rank->patience)) {
            rank->grew = true;
            rank->unproven = SCHED_UNPROVEN_REPORTS;
        }
        rank->settled = rank->settled || (probed && !memory->probed);
    }
}

// Where the size is asked for, sets of levers that hold less of it than another are none.
static void drop_small_offers(struct sched_report *report)
{
    uint64_t most = 0;
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        most = sched_max(most, report->offers[k].micro_batch_max);
    }
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        if (report->offers[k].micro_batch_max < most) {
            report->offers[k].micro_batch_max = 0;
        }
    }
}

static void show_granted(const struct sched_coordinator *coordinator, const struct rank *rank,
                         struct sched_report *report)
{
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        report->offers[k].micro_batch_max = rank->grants[k].granted;
    }
    if (coordinator->micro_batch_size != 0) {
        drop_small_offers(report);
    }
}

static void read_reports(struct sched_coordinator *coordinator, bool again)
{
    sched_complete(coordinator->reports, coordinator->ranks);
    for (size_t i = 0; i < coordinator->ranks; i++) {
        struct rank *rank = &coordinator->rank[i];
        if (!again) {
            note_time(rank);
            coordinator->stragglers[i].rests -= coordinator->stragglers[i].rests > 0;
        }
        if (coordinator->reports[i].refused) {
            doubt_growth(rank);
        }
        read_offers(coordinator, rank, again, &coordinator->reports[i]);
        show_granted(coordinator, rank, &coordinator->reports[i]);
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

// Of those that are left out the plan sees no offers. Answers whether there were any.
static bool leave_out(struct sched_coordinator *coordinator)
{
    bool some = false;
    for (size_t i = 0; i < coordinator->ranks; i++) {
        for (size_t k = 0; coordinator->stragglers[i].rests > 0 && k < SCHED_LEVERS_MAX; k++) {
            some = some || coordinator->reports[i].offers[k].micro_batch_max > 0;
            coordinator->reports[i].offers[k].micro_batch_max = 0;
        }
    }
    return some;
}

static void call_back(struct sched_coordinator *coordinator)
{
    for (size_t i = 0; i < coordinator->ranks; i++) {
        coordinator->stragglers[i].rests = 0;
        show_granted(coordinator, &coordinator->rank[i], &coordinator->reports[i]);
    }
}

static bool plan_samples(struct sched_coordinator *coordinator, uint64_t samples)
{
    return sched_plan(coordinator->reports, coordinator->ranks, samples, coordinator->best);
}

// Who is left out comes back where the others can hold no sample.
static bool plan_without_stragglers(struct sched_coordinator *coordinator, bool again)
{
    bool some_rest = leave_out(coordinator), planned = plan_samples(coordinator, coordinator->global_batch);
    if (!planned && some_rest) {
        call_back(coordinator);
        planned = plan_samples(coordinator, coordinator->global_batch);
    }
    if (planned && !again &&
        sched_stragglers_note(coordinator->stragglers, coordinator->reports, coordinator->best, coordinator->ranks)) {
        leave_out(coordinator);
        planned = plan_samples(coordinator, coordinator->global_batch);
    }
    return planned;
}

static bool find_best(struct sched_coordinator *coordinator, bool again)
{
    if (!plan_without_stragglers(coordinator, again)) {
        return false;
    }
    for (size_t i = 0; i < coordinator->ranks; i++) {
        size_micro_steps(coordinator, i, &coordinator->best[i]);
    }
    return true;
}

// Whether the rank can cut its share as planned, and could do no better with memory that it was granted now: not in
// fewer micro-steps, nor with less levers.
static bool cut_stands(const struct sched_coordinator *coordinator, size_t index)
{
    const struct rank *rank = &coordinator->rank[index];
    const struct sched_share *planned = &coordinator->plan[index];
    const struct sched_report *report = &coordinator->reports[index];
    struct sched_share cut = *planned, best = *planned;
    if (planned->samples == 0) {
        return !sched_share_cut(report, &(struct sched_share){.samples = 1});
    }
    if (rank->tries || !sched_share_cut_under(report, planned->levers, &cut)) {
        return false;
    }
    size_micro_steps(coordinator, index, &cut);
    return cut.micro_batch == planned->micro_batch &&
           !(rank->grew && sched_share_cut(report, &best) && best.levers < planned->levers);
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

// What noise can pretend to be lost.
static uint64_t noise_of_plan(const struct sched_coordinator *coordinator, uint64_t plan_ns)
{
    uint64_t percent = 0;
    assert(coordinator->ranks > 0);
    for (size_t i = 0; i < coordinator->ranks; i++) {
        percent += sched_max(coordinator->reports[i].noise, SCHED_NOISE_LEAST);
    }
    percent /= coordinator->ranks;
    return plan_ns / 100 * percent / SCHED_NOISE_PART;
}

static bool some_rank_has_settled(const struct sched_coordinator *coordinator)
{
    for (size_t i = 0; i < coordinator->ranks; i++) {
        if (coordinator->rank[i].settled) {
            return true;
        }
    }
    return false;
}

// `best` is optimal and the plan is among those it was chosen from, so it takes longer only where times are beyond
// those that plans are made of. Where a rank's growth is over, what it gains need not be waited for.
static bool change_pays(struct sched_coordinator *coordinator)
{
    uint64_t plan_ns = sched_plan_ns(coordinator->reports, coordinator->plan, coordinator->ranks);
    uint64_t best_ns = sched_plan_ns(coordinator->reports, coordinator->best, coordinator->ranks);
    uint64_t gain_ns = plan_ns - sched_min(plan_ns, best_ns), noise_ns = noise_of_plan(coordinator, plan_ns);
    uint64_t lost_ns = coordinator->lost_ns + gain_ns;
    coordinator->lost_ns = lost_ns - sched_min(lost_ns, noise_ns);
    return coordinator->lost_ns > plan_ns / SCHED_CHANGE_PART ||
           (gain_ns > noise_ns && some_rank_has_settled(coordinator));
}

// Whether the rank was measured for the first time since the plan was made.
static bool is_new(const struct sched_coordinator *coordinator, size_t rank)
{
    return coordinator->planned && coordinator->reports[rank].measured && !coordinator->rank[rank].measured;
}

static bool some_rank_is_new(const struct sched_coordinator *coordinator)
{
    for (size_t i = 0; i < coordinator->ranks; i++) {
        if (is_new(coordinator, i)) {
            return true;
        }
    }
    return false;
}

static bool plan_stays(struct sched_coordinator *coordinator, bool again)
{
    if (coordinator->resumed) {
        return cuts_stand(coordinator);
    }
    if (!coordinator->planned || some_rank_is_new(coordinator) || !cuts_stand(coordinator)) {
        return false;
    }
    return again || !change_pays(coordinator);
}

// A quarter of the micro-batch; where that is one sample, two under the least levers that hold them and take no more
// once a step.
static void try_another(const struct sched_report *report, struct sched_share *share)
{
    uint64_t samples = share->micro_batch > 1 ? (share->micro_batch + 3) / 4 : 2;
    size_t levers = share->levers;
    uint64_t step_ns = report->offers[levers].step_ns;
    while (levers < SCHED_LEVERS_MAX &&
           (report->offers[levers].micro_batch_max < samples || report->offers[levers].step_ns > step_ns)) {
        levers++;
    }
    if (levers < SCHED_LEVERS_MAX && samples <= share->samples) {
        share->levers = levers;
        share->micro_batch = samples;
        share->accumulation_steps = (share->samples + samples - 1) / samples;
    }
}

// Ranks that are new try another micro-batch, once: two sizes tell apart what a micro-step costs and what its samples
// do.
static void try_others(struct sched_coordinator *coordinator)
{
    for (size_t i = 0; i < coordinator->ranks; i++) {
        struct rank *rank = &coordinator->rank[i];
        struct sched_share *share = &coordinator->best[i];
        rank->tries = is_new(coordinator, i) && share->samples > 0 && coordinator->micro_batch_size == 0;
        rank->measured = coordinator->reports[i].measured;
        if (rank->tries) {
            try_another(&coordinator->reports[i], share);
        }
    }
}

static void take_best(struct sched_coordinator *coordinator)
{
    struct sched_share *old = coordinator->plan;
    coordinator->plan = coordinator->best;
    coordinator->best = old;
    coordinator->lost_ns = 0;
}

// From coordinator->reports.
static const struct sched_share *plan(struct sched_coordinator *coordinator, bool again, bool *changed_p)
{
    read_reports(coordinator, again);
    if (!find_best(coordinator, again)) {
        coordinator->planned = coordinator->resumed = false;
        return NULL;
    }
    bool changed = coordinator->resumed;
    if (!plan_stays(coordinator, again)) {
        size_t bytes = coordinator->ranks * sizeof(*coordinator->plan);
        try_others(coordinator);
        changed = !coordinator->planned || memcmp(coordinator->plan, coordinator->best, bytes) != 0;
        take_best(coordinator);
    }
    coordinator->planned = true;
    coordinator->resumed = false;
    if (changed_p) {
        *changed_p = changed;
    }
    return coordinator->plan;
}

void sched_coordinator_resume(struct sched_coordinator *coordinator, const struct sched_share *plan)
{
    memcpy(coordinator->plan, plan, coordinator->ranks * sizeof(*plan));
    coordinator->resumed = true;
    for (size_t i = 0; i < coordinator->ranks; i++) {
        coordinator->rank[i].measured = true; // when that plan was made
    }
}

static void copy_reports(struct sched_coordinator *coordinator, const struct sched_report *reports)
{
    memcpy(coordinator->reports, reports, coordinator->ranks * sizeof(*reports));
}

const struct sched_share *sched_coordinator_plan(struct sched_coordinator *coordinator,
                                                 const struct sched_report *reports, bool *changed_p)
{
    copy_reports(coordinator, reports);
    return plan(coordinator, false, changed_p);
}

const struct sched_share *sched_coordinator_plan_again(struct sched_coordinator *coordinator,
                                                       const struct sched_report *reports, bool *changed_p)
{
    copy_reports(coordinator, reports);
    return plan(coordinator, true, changed_p);
}

static void unpack_reports(struct sched_coordinator *coordinator, const struct sched_packed_report *first,
                           size_t stride_bytes)
{
    const char *packed = (const char *)first;
    for (size_t i = 0; i < coordinator->ranks; i++, packed += stride_bytes) {
        sched_unpack((const struct sched_packed_report *)packed, &coordinator->reports[i]);
    }
}

// 0: none.
static size_t find_odd_rank(const struct sched_coordinator *coordinator)
{
    size_t rank = coordinator->ranks - 1;
    while (rank > 0 && coordinator->reports[rank].plan_hash == coordinator->reports[0].plan_hash) {
        rank--;
    }
    return rank;
}

// 0: a rank that is dealt samples was not measured.
static uint64_t predict(const struct sched_coordinator *coordinator)
{
    for (size_t i = 0; i < coordinator->ranks; i++) {
        if (coordinator->plan[i].samples > 0 && !coordinator->reports[i].measured) {
            return 0;
        }
    }
    return sched_plan_ns(coordinator->reports, coordinator->plan, coordinator->ranks);
}

struct sched_decision sched_coordinator_decide(struct sched_coordinator *coordinator,
                                               const struct sched_packed_report *first, size_t stride_bytes, bool again)
{
    unpack_reports(coordinator, first, stride_bytes);
    struct sched_decision decision = {.odd_rank = find_odd_rank(coordinator)};
    if (decision.odd_rank == 0) {
        decision.plan = plan(coordinator, again, &decision.changed);
    }
    if (decision.plan != NULL) {
        decision.plan_ns = predict(coordinator);
        decision.plan_hash = sched_plan_hash(decision.plan, coordinator->ranks);
    }
    return decision;
}

static void take_at_their_word(struct sched_coordinator *coordinator, const struct sched_report *reports)
{
    copy_reports(coordinator, reports);
    sched_complete(coordinator->reports, coordinator->ranks);
}

const struct sched_share *sched_coordinator_settle(struct sched_coordinator *coordinator,
                                                   const struct sched_report *reports, uint64_t samples)
{
    take_at_their_word(coordinator, reports);
    bool some_rest = leave_out(coordinator), planned = plan_samples(coordinator, samples);
    if (!planned && some_rest) {
        take_at_their_word(coordinator, reports);
        planned = plan_samples(coordinator, samples);
    }
    return planned ? coordinator->best : NULL;
}
