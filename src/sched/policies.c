// SPDX-License-Identifier: Apache-2.0
#include "sched/policies.h"

#include <stdlib.h>
#include <string.h>

#include "sched/arithmetic.h"
#include "sched/coordinator.h"

#define CLEAN_STEPS 100 // after which a micro-batch is doubled

static void *create_coordinator(const struct sched_scenario *scenario)
{
    return sched_coordinator_create(scenario->ranks, scenario->global_batch, 0);
}

static void destroy_coordinator(void *state)
{
    sched_coordinator_destroy(state);
}

static const struct sched_share *plan_by_coordinator(void *state, const struct sched_report *reports, bool *changed_p)
{
    return sched_coordinator_plan(state, reports, changed_p);
}

static bool cut_to_fit(void *state, const struct sched_report *report, struct sched_share *left)
{
    (void)state;
    return sched_share_cut(report, left);
}

static const struct sched_share *settle_by_coordinator(void *state, const struct sched_report *reports,
                                                       uint64_t samples)
{
    return sched_coordinator_settle(state, reports, samples);
}

static const struct sched_policy coordinator = {
    .name = "headroom",
    .measures = true,
    .reserves = true,
    .create = create_coordinator,
    .destroy = destroy_coordinator,
    .plan = plan_by_coordinator,
    .cut = cut_to_fit,
    .settle = settle_by_coordinator,
};

// What others do: equal shares, and mostly one micro-batch for all ranks.
struct equal {
    size_t ranks;
    struct sched_share *shares;
    bool planned;
    uint64_t share_max;   // the largest share
    uint64_t levers;      // of every rank
    uint64_t least_batch; // that every rank can hold at any time
    uint64_t micro_batch; // of every rank
    uint64_t clean_steps;
};

static void deal_equally(struct equal *equal, uint64_t global_batch)
{
    uint64_t first = 0;
    for (size_t i = 0; i < equal->ranks; i++) {
        uint64_t samples = global_batch / equal->ranks + (i < global_batch % equal->ranks);
        equal->shares[i] = (struct sched_share){.first = first, .samples = samples, .levers = equal->levers};
        first += samples;
    }
    equal->share_max = equal->shares[0].samples;
}

// The most that every rank can hold under a set of levers.
static uint64_t held_by_all(const struct sched_report *reports, size_t ranks, uint64_t levers)
{
    uint64_t samples = UINT64_MAX;
    for (size_t i = 0; i < ranks; i++) {
        samples = sched_min(samples, reports[i].offers[levers].micro_batch_max);
    }
    return samples;
}

static void set_micro_batch(struct equal *equal, uint64_t micro_batch)
{
    equal->micro_batch = micro_batch;
    for (size_t i = 0; i < equal->ranks; i++) {
        struct sched_share *share = &equal->shares[i];
        if (share->samples > 0) {
            share->micro_batch = sched_min(micro_batch, share->samples);
            share->accumulation_steps = (share->samples + share->micro_batch - 1) / share->micro_batch;
        }
    }
}

static void choose_levers(struct equal *equal, const struct sched_report *least, uint64_t global_batch)
{
    uint64_t best_ns = UINT64_MAX, best = 0;
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        uint64_t micro_batch = held_by_all(least, equal->ranks, k);
        if (micro_batch == 0) {
            continue;
        }
        equal->levers = k;
        deal_equally(equal, global_batch);
        set_micro_batch(equal, micro_batch);
        uint64_t plan_ns = sched_plan_ns(least, equal->shares, equal->ranks);
        if (plan_ns < best_ns) {
            best_ns = plan_ns;
            best = k;
        }
    }
    equal->levers = best;
    equal->least_batch = held_by_all(least, equal->ranks, best);
    equal->least_batch += equal->least_batch == 0; // it will fail, but it tries
    deal_equally(equal, global_batch);
}

static void destroy_equal(void *state)
{
    struct equal *equal = state;
    if (equal) {
        free(equal->shares);
        free(equal);
    }
}

static void *create_equal(const struct sched_scenario *scenario)
{
    struct equal *equal = calloc(1, sizeof(*equal));
    struct sched_report *least = calloc(scenario->ranks, sizeof(*least));
    struct sched_share *shares = calloc(scenario->ranks, sizeof(*shares));
    bool made = equal && least && shares && sched_world_least(scenario, least);
    if (made) {
        equal->ranks = scenario->ranks;
        equal->shares = shares;
        choose_levers(equal, least, scenario->global_batch);
    } else {
        free(equal);
        free(shares);
    }
    free(least);
    return made ? equal : NULL;
}

static const struct sched_share *plan_exactly(void *state, const struct sched_report *reports, bool *changed_p)
{
    struct equal *equal = state;
    *changed_p = !equal->planned;
    equal->planned = true;
    for (size_t i = 0; i < equal->ranks; i++) {
        struct sched_share *share = &equal->shares[i], old = *share;
        if (share->samples > 0) {
            sched_share_cut(&reports[i], share);
            *changed_p |= memcmp(share, &old, sizeof(old)) != 0;
        }
    }
    return equal->shares;
}

// One micro-batch for all, which may be another one from now on.
static const struct sched_share *plan_micro_batch(struct equal *equal, uint64_t micro_batch, bool *changed_p)
{
    *changed_p = !equal->planned || equal->shares[0].micro_batch != micro_batch;
    equal->planned = true;
    set_micro_batch(equal, micro_batch);
    return equal->shares;
}

static const struct sched_share *plan_static(void *state, const struct sched_report *reports, bool *changed_p)
{
    (void)reports;
    struct equal *equal = state;
    return plan_micro_batch(equal, sched_min(equal->least_batch, equal->share_max), changed_p);
}

// It starts with a share at once, and keeps what the last step was left with.
static const struct sched_share *plan_halved(void *state, const struct sched_report *reports, bool *changed_p)
{
    (void)reports;
    struct equal *equal = state;
    return plan_micro_batch(equal, equal->planned ? equal->micro_batch : equal->share_max, changed_p);
}

static const struct sched_share *plan_halved_or_doubled(void *state, const struct sched_report *reports,
                                                        bool *changed_p)
{
    struct equal *equal = state;
    if (++equal->clean_steps > CLEAN_STEPS) {
        equal->micro_batch = sched_min(2 * equal->micro_batch, equal->share_max);
        equal->clean_steps = 0;
    }
    return plan_halved(state, reports, changed_p);
}

static bool halve(void *state, const struct sched_report *report, struct sched_share *left)
{
    (void)state;
    (void)report;
    left->micro_batch /= 2;
    return left->micro_batch > 0;
}

static bool halve_for_all(void *state, const struct sched_report *report, struct sched_share *left)
{
    struct equal *equal = state;
    equal->clean_steps = 0;
    if (!halve(state, report, left)) {
        return false;
    }
    equal->micro_batch = sched_min(equal->micro_batch, left->micro_batch);
    return true;
}

static const struct sched_policy exact = {
    .name = "equal shares, exact micro-batch",
    .create = create_equal,
    .destroy = destroy_equal,
    .plan = plan_exactly,
    .cut = cut_to_fit,
};

static const struct sched_policy doubling = {
    .name = "halve, double after 100",
    .create = create_equal,
    .destroy = destroy_equal,
    .plan = plan_halved_or_doubled,
    .cut = halve_for_all,
};

static const struct sched_policy halving = {
    .name = "halve, never grow",
    .create = create_equal,
    .destroy = destroy_equal,
    .plan = plan_halved,
    .cut = halve_for_all,
};

static const struct sched_policy worst_case = {
    .name = "static worst case",
    .create = create_equal,
    .destroy = destroy_equal,
    .plan = plan_static,
    .cut = halve,
};

const struct sched_policy *const sched_policies[] = {&coordinator, &exact, &doubling, &halving, &worst_case, NULL};
