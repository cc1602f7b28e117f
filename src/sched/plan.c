// SPDX-License-Identifier: Apache-2.0
#include "sched/plan.h"

#include <assert.h>

// No rank takes longer than twice this for the whole batch, so the sum of two such durations stays below 2^64.
#define DURATION_NS_MAX ((UINT64_C(1) << 62) - 1)
// Newton's method arrives in three or four; where steep overheads mislead it, bisection takes over.
#define NEWTON_ROUNDS 8

struct problem {
    const struct sched_report *reports;
    size_t ranks;
    uint64_t global_batch;
    uint64_t figure_ns_max;                    // of overhead_ns and sample_ns
    uint64_t overhead_ns_mean, sample_ns_mean; // of the measured ranks
};

// The samples that meet a deadline, when the last of them is done, and when one more would be.
struct reach {
    uint64_t samples, last_ns, next_ns;
};

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t ceil_div(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

static struct problem pose(const struct sched_report *reports, size_t ranks, uint64_t global_batch)
{
    uint64_t figure_ns_max = DURATION_NS_MAX / global_batch;
    uint64_t overhead_ns = 0, sample_ns = 0, measured = 0;
    for (size_t i = 0; i < ranks; i++) {
        if (reports[i].sample_ns != 0) {
            overhead_ns += min_u64(reports[i].overhead_ns, figure_ns_max);
            sample_ns += min_u64(reports[i].sample_ns, figure_ns_max);
            measured++;
        }
    }
    return (struct problem){
        .reports = reports,
        .ranks = ranks,
        .global_batch = global_batch,
        .figure_ns_max = figure_ns_max,
        .overhead_ns_mean = measured == 0 ? 0 : overhead_ns / measured,
        .sample_ns_mean = measured == 0 ? 1 : sample_ns / measured,
    };
}

// The rank's report with figures that are known and bounded: sample_ns >= 1, micro_batch_max <= global batch.
static struct sched_report report_of(const struct problem *problem, size_t rank)
{
    struct sched_report report = problem->reports[rank];
    bool measured = report.sample_ns != 0;
    report.overhead_ns = min_u64(measured ? report.overhead_ns : problem->overhead_ns_mean, problem->figure_ns_max);
    report.sample_ns = min_u64(measured ? report.sample_ns : problem->sample_ns_mean, problem->figure_ns_max);
    report.micro_batch_max = (uint32_t)min_u64(report.micro_batch_max, problem->global_batch);
    return report;
}

static struct reach reach_of(const struct sched_report *report, uint64_t deadline_ns)
{
    uint64_t full_ns = report->overhead_ns + report->micro_batch_max * report->sample_ns;
    uint64_t full_steps = deadline_ns / full_ns;
    uint64_t start_ns = full_steps * full_ns; // of the micro-step that the deadline interrupts
    uint64_t left_ns = deadline_ns - start_ns;
    uint64_t rest = left_ns > report->overhead_ns ? (left_ns - report->overhead_ns) / report->sample_ns : 0;
    uint64_t rest_ns = report->overhead_ns + rest * report->sample_ns;
    return (struct reach){
        .samples = full_steps * report->micro_batch_max + rest,
        .last_ns = start_ns + (rest > 0 ? rest_ns : 0),
        .next_ns = start_ns + rest_ns + report->sample_ns,
    };
}

// One rank's reach. It takes a sample even where it misses the deadline, and never more than there are.
static struct reach reach_of_rank(const struct problem *problem, size_t rank, uint64_t deadline_ns)
{
    struct sched_report report = report_of(problem, rank);
    struct reach reach = reach_of(&report, deadline_ns);
    reach.samples = min_u64(max_u64(reach.samples, 1), problem->global_batch);
    return reach;
}

static struct reach reach_of_all(const struct problem *problem, uint64_t deadline_ns)
{
    struct reach all = {.next_ns = UINT64_MAX};
    for (size_t i = 0; i < problem->ranks; i++) {
        struct reach reach = reach_of_rank(problem, i, deadline_ns);
        all.samples += reach.samples;
        all.last_ns = max_u64(all.last_ns, reach.last_ns);
        all.next_ns = min_u64(all.next_ns, reach.next_ns);
    }
    return all;
}

// A deadline that equal shares meet.
static uint64_t deadline_of_equal_shares(const struct problem *problem)
{
    uint64_t samples = ceil_div(problem->global_batch, problem->ranks);
    uint64_t deadline_ns = 0;
    for (size_t i = 0; i < problem->ranks; i++) {
        struct sched_report report = report_of(problem, i);
        uint64_t steps = ceil_div(samples, report.micro_batch_max);
        deadline_ns = max_u64(deadline_ns, steps * report.overhead_ns + samples * report.sample_ns);
    }
    return deadline_ns;
}

// What all ranks together take per sample where samples are divisible.
static double ns_per_sample(const struct problem *problem)
{
    double samples_per_ns = 0;
    for (size_t i = 0; i < problem->ranks; i++) {
        struct sched_report report = report_of(problem, i);
        samples_per_ns += 1 / ((double)report.sample_ns + (double)report.overhead_ns / report.micro_batch_max);
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
// same samples. It lies in [low, high] throughout, and each guess moves one of the two to the nearest moment at which
// some rank finishes a sample. Guesses are floating point: they decide how soon the search ends, never where.
static uint64_t find_deadline(const struct problem *problem)
{
    uint64_t low = 0, high = deadline_of_equal_shares(problem);
    double slope = ns_per_sample(problem);
    double guess = (double)problem->global_batch * slope;
    for (int round = 0; low < high; round++) {
        uint64_t deadline_ns = round < NEWTON_ROUNDS ? clamp(guess, low, high - 1) : low + (high - low) / 2;
        struct reach all = reach_of_all(problem, deadline_ns);
        if (all.samples == problem->global_batch) {
            return deadline_ns;
        }
        if (all.samples > problem->global_batch) {
            high = all.last_ns;
        } else {
            low = all.next_ns;
        }
        guess = (double)deadline_ns + ((double)problem->global_batch - (double)all.samples) * slope;
    }
    return low;
}

// Deals the batch from its end. Where the ranks would finish more than the batch by the deadline but less a moment
// before, those that finish a sample right at the deadline, last rank first, are spared it.
static void deal(const struct problem *problem, uint64_t deadline_ns, struct sched_share *shares)
{
    uint64_t excess = reach_of_all(problem, deadline_ns).samples - problem->global_batch;
    uint64_t end = problem->global_batch;
    for (size_t i = problem->ranks; i-- > 0;) {
        struct reach reach = reach_of_rank(problem, i, deadline_ns);
        bool spared = excess > 0 && reach.last_ns == deadline_ns && reach.samples > 1;
        excess -= spared;
        shares[i].samples = reach.samples - spared;
        end -= shares[i].samples;
        shares[i].first = end;
        sched_share_cut(&shares[i], problem->reports[i].micro_batch_max);
    }
    assert(excess == 0 && end == 0);
}

bool sched_plan(const struct sched_report *reports, size_t ranks, uint64_t global_batch, struct sched_share *shares)
{
    assert(ranks > 0 && global_batch <= SCHED_BATCH_MAX);
    if (global_batch < ranks) {
        return false;
    }
    for (size_t i = 0; i < ranks; i++) {
        if (reports[i].micro_batch_max == 0) {
            return false;
        }
    }
    struct problem problem = pose(reports, ranks, global_batch);
    deal(&problem, find_deadline(&problem), shares);
    return true;
}

uint64_t sched_plan_ns(const struct sched_report *reports, const struct sched_share *shares, size_t ranks)
{
    struct problem problem = pose(reports, ranks, shares[ranks - 1].first + shares[ranks - 1].samples);
    uint64_t plan_ns = 0;
    for (size_t i = 0; i < ranks; i++) {
        struct sched_report report = report_of(&problem, i);
        plan_ns = max_u64(plan_ns, sched_share_ns(&report, &shares[i]));
    }
    return plan_ns;
}

uint64_t sched_share_ns(const struct sched_report *report, const struct sched_share *share)
{
    uint64_t figure_ns_max = DURATION_NS_MAX / share->samples;
    return share->accumulation_steps * min_u64(report->overhead_ns, figure_ns_max) +
           share->samples * min_u64(report->sample_ns, figure_ns_max);
}

void sched_share_cut(struct sched_share *share, uint64_t micro_batch_max)
{
    share->accumulation_steps = ceil_div(share->samples, micro_batch_max);
    share->micro_batch = ceil_div(share->samples, share->accumulation_steps);
}

static uint32_t hash_u64(uint32_t hash, uint64_t value)
{
    for (unsigned shift = 0; shift < 64; shift += 8) {
        hash = (hash ^ (uint32_t)(value >> shift & 0xff)) * UINT32_C(16777619);
    }
    return hash;
}

uint32_t sched_plan_hash(const struct sched_share *shares, size_t ranks)
{
    uint32_t hash = UINT32_C(2166136261);
    for (size_t i = 0; i < ranks; i++) {
        hash = hash_u64(hash, shares[i].first);
        hash = hash_u64(hash, shares[i].samples);
        hash = hash_u64(hash, shares[i].micro_batch);
        hash = hash_u64(hash, shares[i].accumulation_steps);
    }
    return hash;
}
