// SPDX-License-Identifier: Apache-2.0
#include "sched/stragglers.h"

#include "sched/arithmetic.h"

static bool is_slow(const struct sched_report *report, const struct sched_share *share, uint64_t plan_ns)
{
    return report->measured && share->samples == 1 && sched_share_ns(report, share) > plan_ns / 2;
}

// It and another sample.
static uint64_t ns_with_another(const struct sched_report *report, const struct sched_share *share)
{
    struct sched_share more = {.samples = share->samples + 1};
    return sched_share_cut(report, &more) ? sched_share_ns(report, &more) : UINT64_MAX;
}

// How many times as long as the ranks that are not slow the plan takes, if each of these does another sample: at least
// 2. 0: there are no slow ones, or not enough others.
static uint64_t times_as_long(const struct sched_report *reports, const struct sched_share *best, size_t ranks,
                              uint64_t plan_ns)
{
    size_t slow = 0, others = 0;
    uint64_t others_ns = 1;
    for (size_t i = 0; i < ranks; i++) {
        slow += is_slow(&reports[i], &best[i], plan_ns);
    }
    for (size_t i = 0; i < ranks && slow > 0; i++) {
        if (best[i].samples == 0 || is_slow(&reports[i], &best[i], plan_ns)) {
            continue;
        }
        others_ns = sched_max(others_ns, ns_with_another(&reports[i], &best[i]));
        others++;
    }
    return slow > 0 && slow <= others && others_ns < plan_ns / 2 ? plan_ns / others_ns : 0;
}

static void begin_rest(struct sched_straggler *straggler)
{
    uint64_t rest = straggler->rest_for == 0 ? SCHED_STRAGGLER_RESTS : 2 * (uint64_t)straggler->rest_for;
    straggler->cost = 0;
    straggler->rests = straggler->rest_for = (uint32_t)sched_min(rest, SCHED_STRAGGLER_RESTS_MAX);
}

bool sched_stragglers_note(struct sched_straggler *stragglers, const struct sched_report *reports,
                           const struct sched_share *best, size_t ranks)
{
    uint64_t plan_ns = sched_plan_ns(reports, best, ranks);
    uint64_t times = times_as_long(reports, best, ranks, plan_ns);
    uint32_t cost = times == 0 ? 0 : (uint32_t)sched_min(times - 1, SCHED_STRAGGLER_STEPS / 8);
    bool some = false;
    for (size_t i = 0; i < ranks; i++) {
        struct sched_straggler *straggler = &stragglers[i];
        straggler->cost = cost > 0 && is_slow(&reports[i], &best[i], plan_ns) ? straggler->cost + cost : 0;
        straggler->rest_for = best[i].samples > 1 ? 0 : straggler->rest_for;
        if (straggler->cost >= SCHED_STRAGGLER_STEPS) {
            begin_rest(straggler);
            some = true;
        }
    }
    return some;
}
