// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "random_bits.h"
#include "sched/packed.h"
#include "sched/plan.h"

static uint64_t random_between(uint64_t *state, uint64_t low, uint64_t high)
{
    return low + random_bits(state) % (high - low + 1);
}

// f_i(n) of the header, written once more.
static uint64_t duration_ns(const struct sched_report *report, uint64_t samples)
{
    uint64_t best_ns = samples == 0 ? 0 : UINT64_MAX;
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        const struct sched_offer *offer = &report->offers[k];
        if (offer->micro_batch_max > 0) {
            uint64_t steps = (samples + offer->micro_batch_max - 1) / offer->micro_batch_max;
            uint64_t offer_ns = offer->step_ns + steps * offer->overhead_ns + samples * offer->sample_ns;
            best_ns = offer_ns < best_ns ? offer_ns : best_ns;
        }
    }
    return best_ns;
}

static uint64_t slowest_ns(const struct sched_report *reports, const struct sched_share *shares, size_t ranks)
{
    uint64_t slowest = 0;
    for (size_t i = 0; i < ranks; i++) {
        uint64_t rank_ns = duration_ns(&reports[i], shares[i].samples);
        slowest = rank_ns > slowest ? rank_ns : slowest;
    }
    return slowest;
}

// Whether the rank can hold a sample.
static bool is_able(const struct sched_report *report)
{
    return duration_ns(report, 1) != UINT64_MAX;
}

// The shortest maximum over all ways to give each able rank at least `least` of `batch` samples, by trying them all.
static uint64_t brute_force_ns(const struct sched_report *reports, size_t ranks, uint64_t batch, uint64_t least)
{
    if (ranks == 0) {
        return batch == 0 ? 0 : UINT64_MAX;
    }
    uint64_t best = UINT64_MAX;
    for (uint64_t samples = is_able(reports) ? least : 0; samples <= (is_able(reports) ? batch : 0); samples++) {
        uint64_t own = duration_ns(reports, samples);
        uint64_t others = brute_force_ns(reports + 1, ranks - 1, batch - samples, least);
        uint64_t slowest = own > others ? own : others;
        best = slowest < best ? slowest : best;
    }
    return best;
}

static struct sched_report report_of(uint64_t overhead_ns, uint64_t sample_ns, uint32_t micro_batch_max)
{
    return (struct sched_report){
        .offers = {{.overhead_ns = overhead_ns, .sample_ns = sample_ns, .micro_batch_max = micro_batch_max}},
        .measured = sample_ns > 0,
    };
}

static void fill_reports(uint64_t *state, struct sched_report *reports, size_t ranks)
{
    for (size_t i = 0; i < ranks; i++) {
        uint64_t sample_ns = random_between(state, 1000000, 8000000);
        reports[i] =
            report_of(random_between(state, 0, 8) * sample_ns, sample_ns, (uint32_t)random_between(state, 1, 64));
    }
}

// Contiguous from 0 to the batch, nobody without a sample who could hold one, cut as memory allows.
static void assert_valid(const struct sched_report *reports, const struct sched_share *shares, size_t ranks,
                         uint64_t batch)
{
    uint64_t end = 0;
    for (size_t i = 0; i < ranks; i++) {
        const struct sched_share *share = &shares[i];
        assert_int_equal(share->first, end);
        assert_true((share->samples > 0) == is_able(&reports[i]));
        if (share->samples == 0) {
            assert_int_equal(share->micro_batch, 0);
            continue;
        }
        assert_in_range(share->micro_batch, 1, reports[i].offers[share->levers].micro_batch_max);
        assert_int_equal(share->accumulation_steps, (share->samples + share->micro_batch - 1) / share->micro_batch);
        end += share->samples;
    }
    assert_int_equal(end, batch);
}

static void small_cases_equal_brute_force(void **context)
{
    (void)context;
    for (uint64_t seed = 0; seed < 4000; seed++) {
        uint64_t state = seed;
        struct sched_report reports[4];
        struct sched_share shares[4];
        size_t ranks = random_between(&state, 1, 4);
        uint64_t batch = random_between(&state, ranks, 14);
        for (size_t i = 0; i < ranks; i++) {
            reports[i] = report_of(random_between(&state, 0, 20), random_between(&state, 1, 20),
                                   (uint32_t)random_between(&state, 1, 6));
        }
        assert_true(sched_plan(reports, ranks, batch, shares));
        assert_valid(reports, shares, ranks, batch);
        uint64_t expected = brute_force_ns(reports, ranks, batch, 1);
        if (slowest_ns(reports, shares, ranks) != expected) {
            fail_msg("seed %llu: %llu instead of %llu", (unsigned long long)seed,
                     (unsigned long long)slowest_ns(reports, shares, ranks), (unsigned long long)expected);
        }
    }
}

// By bisection, the samples that a rank finishes in less than `deadline_ns`, but one at least.
static uint64_t samples_before(const struct sched_report *report, uint64_t deadline_ns, uint64_t batch)
{
    uint64_t low = 0, high = batch;
    while (low < high) {
        uint64_t middle = low + (high - low + 1) / 2;
        if (duration_ns(report, middle) < deadline_ns) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low > 1 ? low : 1;
}

static void large_cases_cover_the_batch_and_are_optimal(void **context)
{
    (void)context;
    for (uint64_t seed = 0; seed < 60; seed++) {
        uint64_t state = seed;
        size_t ranks = seed == 0 ? 10000 : random_between(&state, 1, 2000);
        uint64_t batch = ranks * random_between(&state, 2, 300) + random_between(&state, 0, ranks - 1);
        struct sched_report *reports = calloc(ranks, sizeof(*reports));
        struct sched_share *shares = calloc(ranks, sizeof(*shares));
        fill_reports(&state, reports, ranks);
        assert_true(sched_plan(reports, ranks, batch, shares));
        assert_valid(reports, shares, ranks, batch);

        uint64_t plan_ns = slowest_ns(reports, shares, ranks);
        uint64_t samples = 0, one_sample_ns = 0;
        for (size_t i = 0; i < ranks; i++) {
            samples += samples_before(&reports[i], plan_ns, batch);
            uint64_t rank_ns = duration_ns(&reports[i], 1);
            one_sample_ns = rank_ns > one_sample_ns ? rank_ns : one_sample_ns;
        }
        if (samples >= batch && plan_ns != one_sample_ns) {
            fail_msg("seed %llu: %zu ranks could finish sooner", (unsigned long long)seed, ranks);
        }
        free(shares);
        free(reports);
    }
}

static void equal_reports_get_equal_shares(void **context)
{
    (void)context;
    for (uint64_t seed = 0; seed < 200; seed++) {
        uint64_t state = seed;
        struct sched_report reports[96], kinds[4];
        struct sched_share shares[96];
        size_t kind[96];
        fill_reports(&state, kinds, 4);
        for (size_t i = 0; i < 96; i++) {
            kind[i] = random_between(&state, 0, 3);
            reports[i] = kinds[kind[i]];
        }
        assert_true(sched_plan(reports, 96, random_between(&state, 96, 20000), shares));
        for (size_t i = 0; i < 96; i++) {
            for (size_t j = 0; j < 96; j++) {
                if (kind[i] == kind[j] && shares[i].samples > shares[j].samples + 1) {
                    fail_msg("seed %llu: ranks %zu and %zu are equal, their shares are not", (unsigned long long)seed,
                             i, j);
                }
            }
        }
    }
}

static void order_of_ranks_does_not_matter(void **context)
{
    (void)context;
    for (uint64_t seed = 0; seed < 200; seed++) {
        uint64_t state = seed;
        struct sched_report reports[32], reversed[32];
        struct sched_share shares[32], reversed_shares[32];
        fill_reports(&state, reports, 32);
        for (size_t i = 0; i < 32; i++) {
            reversed[i] = reports[31 - i];
        }
        uint64_t batch = random_between(&state, 32, 5000);
        assert_true(sched_plan(reports, 32, batch, shares));
        assert_true(sched_plan(reversed, 32, batch, reversed_shares));
        assert_int_equal(slowest_ns(reports, shares, 32), slowest_ns(reversed, reversed_shares, 32));
        for (size_t i = 0; i < 32; i++) {
            uint64_t a = shares[i].samples, b = reversed_shares[31 - i].samples;
            if (a > b + 1 || b > a + 1) {
                fail_msg("seed %llu: rank %zu gets %llu or %llu samples", (unsigned long long)seed, i,
                         (unsigned long long)a, (unsigned long long)b);
            }
        }
    }
}

static struct sched_report random_offers(uint64_t *state, size_t offers)
{
    struct sched_report report = {0};
    for (size_t k = 0; k < offers; k++) {
        report.offers[k] = (struct sched_offer){random_between(state, 0, 20), random_between(state, 1, 20),
                                                (uint32_t)random_between(state, 0, 6),
                                                random_between(state, 0, 1) * random_between(state, 0, 60)};
    }
    return report;
}

static void levers_and_shares_equal_brute_force(void **context)
{
    (void)context;
    for (uint64_t seed = 0; seed < 4000; seed++) {
        uint64_t state = seed;
        struct sched_report reports[4];
        struct sched_share shares[4];
        size_t ranks = random_between(&state, 1, 4), able = 0;
        for (size_t i = 0; i < ranks; i++) {
            reports[i] = random_offers(&state, random_between(&state, 1, SCHED_LEVERS_MAX));
            able += is_able(&reports[i]);
        }
        uint64_t batch = random_between(&state, 1, 12), plan_ns = 0, samples = 0;
        assert_int_equal(sched_plan(reports, ranks, batch, shares), able > 0);
        for (size_t i = 0; able > 0 && i < ranks; i++) {
            uint64_t share_ns = sched_share_ns(&reports[i], &shares[i]);
            assert_int_equal(share_ns, duration_ns(&reports[i], shares[i].samples));
            plan_ns = share_ns > plan_ns ? share_ns : plan_ns;
            samples += shares[i].samples;
        }
        if (able > 0 && (samples != batch || plan_ns != brute_force_ns(reports, ranks, batch, able <= batch))) {
            fail_msg("seed %llu: %llu ns is not the best", (unsigned long long)seed, (unsigned long long)plan_ns);
        }
    }
}

static void a_batch_smaller_than_the_ranks_lets_the_slow_rest(void **context)
{
    (void)context;
    const struct sched_report reports[4] = {report_of(0, 7, 1), report_of(0, 2, 1), report_of(0, 9, 1),
                                            report_of(0, 5, 1)};
    struct sched_share shares[4];
    assert_true(sched_plan(reports, 4, 3, shares));
    assert_int_equal(shares[1].samples, 2);
    assert_int_equal(shares[3].samples, 1);
    assert_int_equal(shares[0].samples + shares[2].samples, 0);
}

static void a_rank_without_room_for_a_sample_rests(void **context)
{
    (void)context;
    struct sched_report reports[3] = {report_of(0, 5, 8), report_of(0, 5, 0), report_of(0, 5, 8)};
    struct sched_share shares[3];
    assert_true(sched_plan(reports, 3, 30, shares));
    assert_valid(reports, shares, 3, 30);
    assert_int_equal(shares[0].samples, 15);
    reports[0].offers[0].micro_batch_max = 0;
    reports[2].offers[0].micro_batch_max = 0;
    assert_false(sched_plan(reports, 3, 30, shares));
}

static void the_least_levers_that_are_as_fast_are_taken(void **context)
{
    (void)context;
    struct sched_report report = {.offers = {{10, 10, 0, 0}, {10, 10, 4, 0}, {10, 10, 4, 0}, {0, 20, 9, 0}}};
    struct sched_share share = {.samples = 4};
    assert_true(sched_share_cut(&report, &share));
    assert_int_equal(share.levers, 1);
    assert_int_equal(share.micro_batch, 4);
    share.samples = 1;
    assert_true(sched_share_cut(&report, &share));
    assert_int_equal(share.levers, 1);
    report.offers[0].micro_batch_max = 1;
    assert_true(sched_share_cut(&report, &share));
    assert_int_equal(share.levers, 0);
    assert_false(sched_share_cut(&(struct sched_report){0}, &share));
    assert_int_equal(share.micro_batch, 0);
}

static void ranks_never_measured_share_equally(void **context)
{
    (void)context;
    struct sched_report reports[3] = {report_of(0, 0, 100), report_of(0, 0, 1), report_of(0, 0, 7)};
    struct sched_share shares[3];
    sched_complete(reports, 3);
    assert_true(sched_plan(reports, 3, 11, shares));
    assert_valid(reports, shares, 3, 11);
    assert_int_equal(shares[0].samples, 4);
    assert_int_equal(shares[1].samples, 4);
    assert_int_equal(shares[2].samples, 3);
}

static void an_unmeasured_rank_counts_as_the_mean_and_keeps_its_proportions(void **context)
{
    (void)context;
    struct sched_report reports[3] = {report_of(400, 1000, 8), report_of(0, 30, 8), report_of(800, 3000, 8)};
    reports[1].measured = false;
    reports[1].offers[1] = (struct sched_offer){.sample_ns = 40, .micro_batch_max = 9, .step_ns = 60};
    sched_complete(reports, 3);
    assert_int_equal(reports[1].offers[0].sample_ns, 2000);
    assert_int_equal(reports[1].offers[0].overhead_ns, 600);
    assert_int_equal(reports[1].offers[0].micro_batch_max, 8);
    assert_in_range(reports[1].offers[1].sample_ns, 2666, 2667);
    assert_in_range(reports[1].offers[1].step_ns, 3999, 4000);
    assert_int_equal(reports[2].offers[0].sample_ns, 3000);
}

// All have the third set alone.
static void the_least_levers_that_there_are_tell_the_mean(void **context)
{
    (void)context;
    struct sched_report reports[2] = {{.offers[2] = {50, 4000, 8, 0}, .measured = true},
                                      {.offers[2] = {0, 1000, 8, 0}}};
    sched_complete(reports, 2);
    assert_int_equal(reports[1].offers[2].sample_ns, 4000);
    assert_int_equal(reports[1].offers[2].overhead_ns, 50);
}

static void a_rank_far_too_slow_leaves_the_others_balanced(void **context)
{
    (void)context;
    const struct sched_report reports[4] = {report_of(0, 1000, 16), report_of(0, 1000000000, 16), report_of(0, 500, 16),
                                            report_of(0, 1000, 16)};
    struct sched_share shares[4];
    assert_true(sched_plan(reports, 4, 401, shares));
    assert_int_equal(shares[0].samples, 100);
    assert_int_equal(shares[1].samples, 1);
    assert_int_equal(shares[2].samples, 200);
    assert_int_equal(shares[3].samples, 100);
}

static void surplus_is_taken_from_those_who_would_finish_last(void **context)
{
    (void)context;
    const struct sched_report reports[3] = {report_of(0, 10, 9), report_of(0, 10, 9), report_of(0, 7, 9)};
    struct sched_share shares[3];
    assert_true(sched_plan(reports, 3, 5, shares)); // 2, 2, 2 by 20 ns; 1, 1, 2 before
    assert_int_equal(shares[0].samples, 2);
    assert_int_equal(shares[1].samples, 1);
    assert_int_equal(shares[2].samples, 2);
}

static void surplus_is_never_a_rank_s_only_sample(void **context)
{
    (void)context;
    const struct sched_report reports[3] = {report_of(0, 5, 9), report_of(0, 5, 9), report_of(0, 10, 9)};
    struct sched_share shares[3];
    assert_true(sched_plan(reports, 3, 4, shares)); // 2, 2, 1 by 10 ns, all at that moment; 1, 1, 1 before
    assert_int_equal(shares[0].samples, 2);
    assert_int_equal(shares[1].samples, 1);
    assert_int_equal(shares[2].samples, 1);
}

static void huge_figures_do_not_overflow(void **context)
{
    (void)context;
    struct sched_report reports[16];
    struct sched_share shares[16];
    for (size_t i = 0; i < 16; i++) {
        reports[i] = report_of(1000000000, i % 2 == 0 ? 1000000000 : 500000000, UINT32_MAX);
    }
    assert_true(sched_plan(reports, 16, SCHED_BATCH_MAX, shares));
    assert_valid(reports, shares, 16, SCHED_BATCH_MAX);
    for (size_t i = 0; i < 16; i += 2) {
        assert_in_range(shares[i + 1].samples, 2 * shares[i].samples - 4, 2 * shares[i].samples + 4);
    }
    assert_int_equal(sched_plan_ns(reports, shares, 16), slowest_ns(reports, shares, 16));
}

static void absurd_figures_count_as_the_largest(void **context)
{
    (void)context;
    struct sched_report reports[8];
    struct sched_share shares[8];
    for (size_t i = 0; i < 8; i++) {
        reports[i] = report_of(UINT64_MAX, UINT64_MAX, i % 2 == 0 ? 1 : UINT32_MAX);
        reports[i].offers[0].step_ns = UINT64_MAX;
    }
    for (uint64_t batch = 8; batch <= SCHED_BATCH_MAX; batch += 1 + batch / 64) {
        assert_true(sched_plan(reports, 8, batch, shares));
        assert_valid(reports, shares, 8, batch);
        assert_in_range(sched_plan_ns(reports, shares, 8), 1, UINT64_C(1) << 63);
        for (size_t i = 0; i < 8; i += 2) { // which pays the overhead for each sample, its neighbour once
            assert_in_range(shares[i + 1].samples + 3, 2 * shares[i].samples, 2 * shares[i].samples + 4);
        }
    }
    assert_true(sched_plan(reports, 1, 1, shares));
    assert_valid(reports, shares, 1, 1);
    assert_in_range(sched_share_ns(&reports[0], &shares[0]), UINT64_C(1) << 62, UINT64_C(1) << 63);
}

static void a_packed_report_says_the_same(void **context)
{
    (void)context;
    struct sched_report report = {.headroom_bytes = 12345678901, .plan_hash = 77, .noise = 9, .refused = true};
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        report.offers[k] = (struct sched_offer){(k + 1) << 20, 1000 + k, (uint32_t)(UINT32_MAX - k), k << 40};
    }
    struct sched_packed_report packed = sched_pack(&report);
    struct sched_report again = {0};
    sched_unpack(&packed, &again);
    assert_memory_equal(&again.offers, &report.offers, sizeof(report.offers));
    assert_int_equal(again.headroom_bytes, report.headroom_bytes);
    assert_int_equal(again.plan_hash, report.plan_hash);
    assert_int_equal(again.noise, report.noise);
    assert_true(again.refused && !again.measured);
    report.offers[0] = (struct sched_offer){UINT64_MAX, 16777217, 1, UINT64_MAX - 1};
    packed = sched_pack(&report);
    sched_unpack(&packed, &again);
    assert_int_equal(again.offers[0].overhead_ns, UINT64_C(1) << 63);
    assert_int_equal(again.offers[0].sample_ns, 16777216);
    assert_int_equal(again.offers[0].step_ns, UINT64_C(1) << 63);
}

static void a_share_is_cut_into_few_near_equal_steps(void **context)
{
    (void)context;
    struct sched_report report = report_of(0, 1, 4);
    struct sched_share share = {.samples = 9};
    assert_true(sched_share_cut(&report, &share));
    assert_int_equal(share.accumulation_steps, 3);
    assert_int_equal(share.micro_batch, 3);
    for (uint64_t samples = 1; samples < 200; samples++) {
        for (uint64_t micro_batch_max = 1; micro_batch_max < 200; micro_batch_max++) {
            share.samples = samples;
            report.offers[0].micro_batch_max = (uint32_t)micro_batch_max;
            assert_true(sched_share_cut(&report, &share));
            uint64_t steps = (samples + micro_batch_max - 1) / micro_batch_max;
            assert_int_equal(share.accumulation_steps, steps);
            assert_in_range(share.micro_batch, 1, micro_batch_max);
            assert_true(share.micro_batch * steps >= samples && (share.micro_batch - 1) * steps < samples);
            assert_true(share.micro_batch * (steps - 1) < samples);
        }
    }
}

static void a_plan_lasts_as_long_as_its_slowest_rank(void **context)
{
    (void)context;
    const struct sched_report reports[2] = {report_of(100, 7, 4), report_of(10, 50, 2)};
    const struct sched_share shares[2] = {{0, 9, 3, 3, 0}, {9, 8, 2, 4, 0}};
    assert_int_equal(sched_share_ns(&reports[0], &shares[0]), 363);
    assert_int_equal(sched_share_ns(&reports[1], &shares[1]), 440);
    assert_int_equal(sched_plan_ns(reports, shares, 2), 440);
}

static void the_hash_tells_plans_apart(void **context)
{
    (void)context;
    const struct sched_share plan[2] = {{0, 5, 5, 1, 0}, {5, 6, 3, 2, 0}};
    const struct sched_share others[][2] = {
        {{1, 5, 5, 1, 0}, {5, 6, 3, 2, 0}}, {{0, 4, 5, 1, 0}, {5, 6, 3, 2, 0}},
        {{0, 5, 5, 1, 0}, {5, 6, 2, 2, 0}}, {{0, 5, 5, 1, 0}, {5, 6, 3, 3, 0}},
        {{5, 6, 3, 2, 0}, {0, 5, 5, 1, 0}}, {{0, 5, 5, 1, 0}, {5, 6 + (UINT64_C(1) << 40), 3, 2, 0}},
        {{0, 5, 5, 1, 0}, {5, 6, 3, 2, 1}},
    };
    assert_int_equal(sched_plan_hash(plan, 0), 0xcbf29ce4 ^ 0x84222325);
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        assert_int_not_equal(sched_plan_hash(plan, 2), sched_plan_hash(others[i], 2));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_cases_equal_brute_force),
        cmocka_unit_test(large_cases_cover_the_batch_and_are_optimal),
        cmocka_unit_test(equal_reports_get_equal_shares),
        cmocka_unit_test(order_of_ranks_does_not_matter),
        cmocka_unit_test(levers_and_shares_equal_brute_force),
        cmocka_unit_test(a_batch_smaller_than_the_ranks_lets_the_slow_rest),
        cmocka_unit_test(a_rank_without_room_for_a_sample_rests),
        cmocka_unit_test(ranks_never_measured_share_equally),
        cmocka_unit_test(the_least_levers_that_are_as_fast_are_taken),
        cmocka_unit_test(an_unmeasured_rank_counts_as_the_mean_and_keeps_its_proportions),
        cmocka_unit_test(the_least_levers_that_there_are_tell_the_mean),
        cmocka_unit_test(a_rank_far_too_slow_leaves_the_others_balanced),
        cmocka_unit_test(surplus_is_taken_from_those_who_would_finish_last),
        cmocka_unit_test(surplus_is_never_a_rank_s_only_sample),
        cmocka_unit_test(huge_figures_do_not_overflow),
        cmocka_unit_test(absurd_figures_count_as_the_largest),
        cmocka_unit_test(a_packed_report_says_the_same),
        cmocka_unit_test(a_share_is_cut_into_few_near_equal_steps),
        cmocka_unit_test(a_plan_lasts_as_long_as_its_slowest_rank),
        cmocka_unit_test(the_hash_tells_plans_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
