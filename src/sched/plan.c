// SPDX-License-Identifier: Apache-2.0
#include "sched/plan.h"

#include <assert.h>

#include "sched/arithmetic.h"

// No rank takes longer than twice this for the whole batch, so the sum of two such durations stays below 2^64.
#define DURATION_NS_MAX ((UINT64_C(1) << 62) - 1)
// Newton's method arrives in three or four; where steep overheads mislead it, bisection takes over.
#define NEWTON_ROUNDS 8

struct problem {
    const struct sched_report *reports;
    struct sched_share *shares; // first what ranks reach, then what they are dealt
    size_t ranks;
    size_t able; // of them, to hold a sample
    uint64_t global_batch;
    uint64_t samples_min;   // of an able rank
    uint64_t figure_ns_max; // of what an offer says of time
};

// The samples that meet a deadline, when the last of them is done, and when one more would be.
struct reach {
    uint64_t samples, last_ns, next_ns;
};

static uint64_t ceil_div(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

// A share takes as many samples, no more micro-steps, and what it takes once.
static uint64_t figure_ns_max(uint64_t samples)
{
    return DURATION_NS_MAX / (samples + 1);
}

static bool is_able(const struct sched_report *report)
{
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        if (report->offers[k].micro_batch_max > 0) {
            return true;
        }
    }
    return false;
}

static struct problem pose(const struct sched_report *reports, size_t ranks, uint64_t global_batch,
                           struct sched_share *shares)
{
    size_t able = 0;
    for (size_t i = 0; i < ranks; i++) {
        able += is_able(&reports[i]);
        shares[i] = (struct sched_share){0};
    }
    return (struct problem){
        .reports = reports,
        .shares = shares,
        .ranks = ranks,
        .able = able,
        .global_batch = global_batch,
        .samples_min = able <= global_batch,
        .figure_ns_max = figure_ns_max(global_batch),
    };
}

// With figures that are bounded: nothing overflows.
static struct sched_offer offer_of(const struct problem *problem, size_t rank, size_t levers)
{
    const struct sched_offer *offer = &problem->reports[rank].offers[levers];
    return (struct sched_offer){
        .overhead_ns = sched_min(offer->overhead_ns, problem->figure_ns_max),
        .sample_ns = sched_min(offer->sample_ns, problem->figure_ns_max),
        .micro_batch_max = (uint32_t)sched_min(offer->micro_batch_max, problem->global_batch),
        .step_ns = sched_min(offer->step_ns, problem->figure_ns_max),
    };
}

// The deadline is no earlier than that of one sample.
static struct reach reach_of_offer(const struct sched_offer *offer, uint64_t deadline_ns)
{
    uint64_t full_ns = offer->overhead_ns + offer->micro_batch_max * offer->sample_ns;
    uint64_t for_samples_ns = deadline_ns - offer->step_ns;
    uint64_t full_steps = for_samples_ns / full_ns;
    uint64_t start_ns = offer->step_ns + full_steps * full_ns; // of the micro-step that the deadline interrupts
    uint64_t left_ns = deadline_ns - start_ns;
    uint64_t rest = left_ns > offer->overhead_ns ? (left_ns - offer->overhead_ns) / offer->sample_ns : 0;
    uint64_t rest_ns = offer->overhead_ns + rest * offer->sample_ns;
    return (struct reach){
        .samples = full_steps * offer->micro_batch_max + rest,
        .last_ns = start_ns + (rest > 0 ? rest_ns : 0),
        .next_ns = start_ns + rest_ns + offer->sample_ns,
    };
}

// By the offer that reaches farthest. An able rank takes a sample even where it misses the deadline, and none takes
// more than there are.
static struct reach reach_of_rank(const struct problem *problem, size_t rank, uint64_t deadline_ns)
{
    struct reach best = {.next_ns = UINT64_MAX};
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        if (problem->reports[rank].offers[k].micro_batch_max == 0) {
            continue;
        }
        struct sched_offer offer = offer_of(problem, rank, k);
        uint64_t at_once_ns =
            offer.step_ns + offer.overhead_ns + (best.samples + 1) * offer.sample_ns; // however much it holds
        if (at_once_ns > deadline_ns) {
            best.next_ns = sched_min(best.next_ns, at_once_ns);
            continue;
        }
        struct reach reach = reach_of_offer(&offer, deadline_ns);
        best.next_ns = sched_min(best.next_ns, reach.next_ns);
        if (reach.samples > best.samples) {
            best.samples = sched_min(reach.samples, problem->global_batch);
            best.last_ns = reach.last_ns;
        }
    }
    if (best.next_ns < UINT64_MAX) {
        best.samples = sched_max(best.samples, problem->samples_min);
    }
    return best;
}

// The rank finishes no sample between last_ns and next_ns: what it reached before, which its share remembers until the
// batch is dealt, holds for every deadline there.
static struct reach recall_reach(const struct problem *problem, size_t rank, uint64_t deadline_ns)
{
    struct sched_share *share = &problem->shares[rank];
    struct reach reach = {.samples = share->samples, .last_ns = share->first, .next_ns = share->micro_batch};
    if (deadline_ns < reach.last_ns || deadline_ns >= reach.next_ns) {
        reach = reach_of_rank(problem, rank, deadline_ns);
        *share = (struct sched_share){.samples = reach.samples, .first = reach.last_ns, .micro_batch = reach.next_ns};
    }
    return reach;
}

static struct reach reach_of_all(const struct problem *problem, uint64_t deadline_ns)
{
    struct reach all = {.next_ns = UINT64_MAX};
    for (size_t i = 0; i < problem->ranks; i++) {
        struct reach reach = recall_reach(problem, i, deadline_ns);
        all.samples += reach.samples;
        all.last_ns = sched_max(all.last_ns, reach.last_ns);
        all.next_ns = sched_min(all.next_ns, reach.next_ns);
    }
    return all;
}

// What all ranks together take per sample where samples are divisible.
static double ns_per_sample(const struct problem *problem)
{
    double samples_per_ns = 0;
    for (size_t i = 0; i < problem->ranks; i++) {
        double best = 0;
        for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
            struct sched_offer offer = offer_of(problem, i, k);
            double full_ns = (double)offer.overhead_ns + offer.micro_batch_max * (double)offer.sample_ns;
            best = offer.micro_batch_max > best * full_ns ? offer.micro_batch_max / full_ns : best;
        }
        samples_per_ns += best;
    }
    return 1 / samples_per_ns;
}

static uint64_t clamp(double value, uint64_t low, uint64_t high)
{
    if (value <= (double)low) {
        return low;
    }
    return value >= (double)high ? high : (uint64_t)value;
}

// The earliest deadline by which all ranks together finish the batch, or a later one by which they finish exactly the
// same samples; and how many more than the batch they finish by then. It lies in [low, high] throughout, and each guess
// moves one of the two to the nearest moment at which some rank finishes a sample. Guesses are floating point: they
// decide how soon the search ends, never where.
static uint64_t find_deadline(const struct problem *problem, uint64_t *excess_p)
{
    uint64_t low = 0, high = 2 * DURATION_NS_MAX;
    double slope = ns_per_sample(problem);
    double guess = (double)problem->global_batch * slope;
    for (int round = 0; low < high; round++) {
        uint64_t halfway = low + sched_min(low, (high - low) / 2); // by doubling, while `high` is far
        uint64_t deadline_ns = round < NEWTON_ROUNDS ? clamp(guess, low, high - 1) : halfway;
        struct reach all = reach_of_all(problem, deadline_ns);
        if (all.samples == problem->global_batch) {
            *excess_p = 0;
            return deadline_ns;
        }
        if (all.samples > problem->global_batch) {
            high = all.last_ns;
        } else {
            low = all.next_ns;
        }
        guess = (double)deadline_ns + ((double)problem->global_batch - (double)all.samples) * slope;
    }
    *excess_p = reach_of_all(problem, low).samples - problem->global_batch;
    return low;
}

// Deals the batch from its end. Where the ranks would finish more than the batch by the deadline but less a moment
// before, those that finish a sample right at the deadline, last rank first, are spared it.
static void deal(const struct problem *problem)
{
    struct sched_share *shares = problem->shares;
    uint64_t excess, deadline_ns = find_deadline(problem, &excess), end = problem->global_batch;
    for (size_t i = problem->ranks; i-- > 0;) {
        struct reach reach = recall_reach(problem, i, deadline_ns);
        bool spared = excess > 0 && reach.last_ns == deadline_ns && reach.samples > problem->samples_min;
        excess -= spared;
        end -= reach.samples - spared;
        shares[i] = (struct sched_share){.first = end, .samples = reach.samples - spared};
        if (shares[i].samples > 0) {
            sched_share_cut(&problem->reports[i], &shares[i]);
        }
    }
    assert(excess == 0 && end == 0);
}

bool sched_plan(const struct sched_report *reports, size_t ranks, uint64_t global_batch, struct sched_share *shares)
{
    assert(global_batch > 0 && global_batch <= SCHED_BATCH_MAX);
    struct problem problem = pose(reports, ranks, global_batch, shares);
    if (problem.able == 0) {
        return false;
    }
    deal(&problem);
    return true;
}

uint64_t sched_plan_ns(const struct sched_report *reports, const struct sched_share *shares, size_t ranks)
{
    uint64_t plan_ns = 0;
    for (size_t i = 0; i < ranks; i++) {
        plan_ns = sched_max(plan_ns, sched_share_ns(&reports[i], &shares[i]));
    }
    return plan_ns;
}

// Bounded so that nothing overflows.
static uint64_t duration_ns(const struct sched_offer *offer, uint64_t steps, uint64_t samples, uint64_t most_ns)
{
    return sched_min(offer->step_ns, most_ns) + steps * sched_min(offer->overhead_ns, most_ns) +
           samples * sched_min(offer->sample_ns, most_ns);
}

uint64_t sched_share_ns(const struct sched_report *report, const struct sched_share *share)
{
    if (share->samples == 0) {
        return 0;
    }
    return duration_ns(&report->offers[share->levers], share->accumulation_steps, share->samples,
                       figure_ns_max(share->samples));
}

static void cut(struct sched_share *share, size_t levers, uint64_t steps)
{
    share->levers = levers;
    share->accumulation_steps = steps;
    share->micro_batch = ceil_div(share->samples, steps);
}

bool sched_share_cut_under(const struct sched_report *report, size_t levers, struct sched_share *share)
{
    uint32_t micro_batch_max = report->offers[levers].micro_batch_max;
    if (micro_batch_max == 0) {
        return false;
    }
    cut(share, levers, ceil_div(share->samples, micro_batch_max));
    return true;
}

bool sched_share_cut(const struct sched_report *report, struct sched_share *share)
{
    uint64_t best_ns = UINT64_MAX, best_steps = 0, most_ns = figure_ns_max(share->samples);
    size_t best = 0;
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        const struct sched_offer *offer = &report->offers[k];
        if (offer->micro_batch_max == 0 || duration_ns(offer, 1, share->samples, most_ns) >= best_ns) {
            continue;
        }
        uint64_t steps = ceil_div(share->samples, offer->micro_batch_max);
        uint64_t offer_ns = duration_ns(offer, steps, share->samples, most_ns);
        if (offer_ns < best_ns) {
            best_ns = offer_ns;
            best_steps = steps;
            best = k;
        }
    }
    if (best_steps == 0) {
        share->accumulation_steps = share->micro_batch = 0;
        return false;
    }
    cut(share, best, best_steps);
    return true;
}

// Of the least set of levers that the rank has.
static const struct sched_offer *least_offer(const struct sched_report *report)
{
    size_t k = 0;
    while (k + 1 < SCHED_LEVERS_MAX && report->offers[k].sample_ns == 0) {
        k++;
    }
    return &report->offers[k];
}

// The mean over measured ranks of the least set of levers; sample_ns 0: none was measured.
static struct sched_offer mean_offer(const struct sched_report *reports, size_t ranks)
{
    double overhead_ns = 0, sample_ns = 0, measured = 0;
    for (size_t i = 0; i < ranks; i++) {
        if (reports[i].measured) {
            overhead_ns += (double)least_offer(&reports[i])->overhead_ns;
            sample_ns += (double)least_offer(&reports[i])->sample_ns;
            measured++;
        }
    }
    measured = measured > 0 ? measured : 1;
    return (struct sched_offer){.overhead_ns = (uint64_t)(overhead_ns / measured),
                                .sample_ns = (uint64_t)(sample_ns / measured)};
}

static uint64_t scale(uint64_t figure, uint64_t from, uint64_t to)
{
    double scaled = (double)figure * ((double)to / (double)sched_max(from, 1));
    return clamp(scaled, 0, DURATION_NS_MAX);
}

void sched_complete(struct sched_report *reports, size_t ranks)
{
    struct sched_offer mean = mean_offer(reports, ranks);
    for (size_t i = 0; i < ranks; i++) {
        uint64_t own_ns = least_offer(&reports[i])->sample_ns;
        bool guesses = !reports[i].measured && mean.sample_ns > 0;
        for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
            struct sched_offer *offer = &reports[i].offers[k];
            if (guesses) {
                offer->sample_ns = scale(offer->sample_ns, own_ns, mean.sample_ns);
                offer->step_ns = scale(offer->step_ns, own_ns, mean.sample_ns);
                offer->overhead_ns = mean.overhead_ns;
            }
            offer->sample_ns = sched_max(offer->sample_ns, 1);
        }
    }
}

// FNV-1a by words.
static uint64_t hash_word(uint64_t hash, uint64_t word)
{
    return (hash ^ word) * UINT64_C(0x100000001b3);
}

uint32_t sched_plan_hash(const struct sched_share *shares, size_t ranks)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < ranks; i++) {
        hash = hash_word(hash, shares[i].first);
        hash = hash_word(hash, shares[i].samples);
        hash = hash_word(hash, shares[i].micro_batch);
        hash = hash_word(hash, shares[i].accumulation_steps);
        hash = hash_word(hash, shares[i].levers);
    }
    return (uint32_t)(hash ^ hash >> 32);
}
