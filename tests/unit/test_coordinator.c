// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "random_bits.h"
#include "sched/coordinator.h"
#include "sched/speed.h"
#include "sched/stragglers.h"

#define RANKS 8

// `value` give or take so many percent.
static uint64_t noisy(uint64_t *state, uint64_t value, uint64_t percent)
{
    return value * (10000 - 100 * percent + random_bits(state) % (200 * percent + 1)) / 10000;
}

// Of a rank with one set of levers.
static struct sched_report report_of(uint64_t overhead_ns, uint64_t sample_ns, uint32_t micro_batch_max)
{
    return (struct sched_report){
        .offers = {{.overhead_ns = overhead_ns, .sample_ns = sample_ns, .micro_batch_max = micro_batch_max}},
        .measured = sample_ns > 0,
    };
}

static void set_all(struct sched_report *reports, size_t ranks, struct sched_report report)
{
    for (size_t i = 0; i < ranks; i++) {
        reports[i] = report;
    }
}

static struct sched_coordinator *create(size_t ranks, uint64_t global_batch, uint64_t micro_batch_size)
{
    struct sched_coordinator *coordinator = sched_coordinator_create(ranks, global_batch, micro_batch_size);
    assert_non_null(coordinator);
    return coordinator;
}

static const struct sched_share *plan(struct sched_coordinator *coordinator, const struct sched_report *reports)
{
    const struct sched_share *shares = sched_coordinator_plan(coordinator, reports, NULL);
    assert_non_null(shares);
    return shares;
}

static bool changes(struct sched_coordinator *coordinator, const struct sched_report *reports)
{
    bool changed;
    assert_non_null(sched_coordinator_plan(coordinator, reports, &changed));
    return changed;
}

static void the_first_plan_is_the_planner_s(void **context)
{
    (void)context;
    const struct sched_report reports[3] = {report_of(500, 1000, 7), report_of(100, 700, 3), report_of(900, 300, 64)};
    struct sched_share expected[3];
    struct sched_coordinator *coordinator = create(3, 100, 0);
    bool changed = false;
    const struct sched_share *shares = sched_coordinator_plan(coordinator, reports, &changed);
    assert_true(sched_plan(reports, 3, 100, expected));
    assert_memory_equal(shares, expected, sizeof(expected));
    assert_true(changed);
    assert_false(changes(coordinator, reports));
    sched_coordinator_destroy(coordinator);
}

struct message {
    struct sched_packed_report report;
    uint64_t others[3];
};

static struct sched_decision decide(struct sched_coordinator *coordinator, const struct sched_report *reports,
                                    size_t ranks)
{
    struct message messages[RANKS];
    for (size_t i = 0; i < ranks; i++) {
        messages[i] = (struct message){sched_pack(&reports[i]), {1, 2, 3}};
    }
    return sched_coordinator_decide(coordinator, &messages->report, sizeof(*messages), false);
}

static void a_decision_is_the_plan_with_its_hash_and_time(void **context)
{
    (void)context;
    struct sched_report reports[3] = {report_of(500, 1000, 7), report_of(100, 700, 3), report_of(900, 300, 64)};
    struct sched_share expected[3];
    struct sched_coordinator *coordinator = create(3, 100, 0);
    struct sched_decision decision = decide(coordinator, reports, 3);
    assert_true(sched_plan(reports, 3, 100, expected));
    assert_memory_equal(decision.plan, expected, sizeof(expected));
    assert_int_equal(decision.plan_hash, sched_plan_hash(expected, 3));
    assert_int_equal(decision.plan_ns, sched_plan_ns(reports, expected, 3));
    assert_int_equal(decision.odd_rank, 0);
    assert_true(decision.changed);
    assert_false(decide(coordinator, reports, 3).changed);
    reports[1].measured = false;
    decision = decide(coordinator, reports, 3);
    assert_non_null(decision.plan);
    assert_int_equal(decision.plan_ns, 0);
    sched_coordinator_destroy(coordinator);
}

static void a_rank_that_ran_another_plan_is_told(void **context)
{
    (void)context;
    struct sched_report reports[3];
    struct sched_coordinator *coordinator = create(3, 100, 0);
    set_all(reports, 3, report_of(500, 1000, 7));
    for (size_t odd = 1; odd < 3; odd++) {
        reports[odd].plan_hash = 1;
        assert_int_equal(decide(coordinator, reports, 3).odd_rank, odd);
        assert_null(decide(coordinator, reports, 3).plan);
        reports[odd].plan_hash = 0;
    }
    sched_coordinator_destroy(coordinator);
}

static void memory_that_shrank_is_obeyed_at_once(void **context)
{
    (void)context;
    struct sched_report reports[2];
    struct sched_coordinator *coordinator = create(2, 64, 0);
    set_all(reports, 2, report_of(0, 1000, 32));
    assert_int_equal(plan(coordinator, reports)[0].micro_batch, 32);
    reports[0].offers[0].micro_batch_max = 10;
    const struct sched_share *shares = plan(coordinator, reports);
    assert_int_equal(shares[0].micro_batch, 8);
    assert_int_equal(shares[0].accumulation_steps, 4);
    assert_int_equal(shares[1].micro_batch, 32);
    sched_coordinator_destroy(coordinator);
}

static void memory_that_shrank_but_suffices_changes_nothing(void **context)
{
    (void)context;
    struct sched_report reports[2];
    struct sched_coordinator *coordinator = create(2, 64, 0);
    set_all(reports, 2, report_of(0, 1000, 500));
    assert_true(changes(coordinator, reports));
    reports[0].offers[0].micro_batch_max = 32;
    assert_false(changes(coordinator, reports));
    reports[0].offers[0].micro_batch_max = 31;
    assert_true(changes(coordinator, reports));
    sched_coordinator_destroy(coordinator);
}

static void memory_that_grew_is_believed_after_a_streak_and_probed(void **context)
{
    (void)context;
    struct sched_report reports[1] = {report_of(0, 1000, 4)};
    struct sched_coordinator *coordinator = create(1, 64, 0);
    assert_int_equal(plan(coordinator, reports)[0].micro_batch, 4);
    reports[0].offers[0].micro_batch_max = 64;
    for (int i = 0; i < SCHED_PATIENCE - 1; i++) {
        assert_int_equal(plan(coordinator, reports)[0].micro_batch, 4);
    }
    const uint32_t granted[] = {4 + 16, 4 + 32, 4 + 48, 64};
    for (size_t i = 0; i < SCHED_PROBES; i++) {
        uint32_t steps = (64 + granted[i] - 1) / granted[i];
        assert_int_equal(plan(coordinator, reports)[0].micro_batch, (64 + steps - 1) / steps);
    }
    sched_coordinator_destroy(coordinator);
}

static void a_probe_ends_where_less_is_offered(void **context)
{
    (void)context;
    struct sched_report reports[1] = {report_of(0, 1000, 4)};
    struct sched_coordinator *coordinator = create(1, 64, 0);
    plan(coordinator, reports);
    for (int i = 0; i < SCHED_PATIENCE; i++) {
        reports[0].offers[0].micro_batch_max = 64;
        plan(coordinator, reports);
    }
    reports[0].offers[0].micro_batch_max = 16;
    assert_int_equal(plan(coordinator, reports)[0].micro_batch, 16);
    for (int i = 0; i < SCHED_PATIENCE; i++) {
        reports[0].offers[0].micro_batch_max = i == 0 ? 15 : 64;
        assert_int_equal(plan(coordinator, reports)[0].micro_batch, 13); // in 5 micro-steps
    }
    assert_int_equal(plan(coordinator, reports)[0].micro_batch, 22); // 31 are granted, in 3 micro-steps
    sched_coordinator_destroy(coordinator);
}

// Rank 0 has room for its share already, and rank 1 is a little slower than it was, as noise may have it.
static void a_probe_that_gains_nothing_changes_nothing(void **context)
{
    (void)context;
    struct sched_report reports[2];
    struct sched_coordinator *coordinator = create(2, 640, 0);
    set_all(reports, 2, report_of(0, 1000, 400));
    assert_int_equal(plan(coordinator, reports)[0].samples, 320);
    reports[0].offers[0].micro_batch_max = 2000;
    reports[1].offers[0].sample_ns = 1010;
    for (int i = 0; i < 4 * SCHED_PATIENCE; i++) {
        assert_false(changes(coordinator, reports));
    }
    sched_coordinator_destroy(coordinator);
}

static void a_streak_grants_its_smallest_offer(void **context)
{
    (void)context;
    struct sched_report reports[1] = {report_of(0, 1000, 4)};
    struct sched_coordinator *coordinator = create(1, 64, 0);
    plan(coordinator, reports);
    for (int i = 0; i < SCHED_PATIENCE + 2; i++) {
        reports[0].offers[0].micro_batch_max = i == 1 ? 16 : 64;
        assert_in_range(plan(coordinator, reports)[0].micro_batch, 4, 16);
    }
    assert_int_equal(plan(coordinator, reports)[0].micro_batch, 16);
    sched_coordinator_destroy(coordinator);
}

static void a_relapse_ends_the_streak(void **context)
{
    (void)context;
    struct sched_report reports[1] = {report_of(0, 1000, 4)};
    struct sched_coordinator *coordinator = create(1, 64, 0);
    for (int i = 0; i < 20 * SCHED_PATIENCE; i++) {
        reports[0].offers[0].micro_batch_max = i % SCHED_PATIENCE == 0 ? 4 : 64;
        assert_int_equal(plan(coordinator, reports)[0].micro_batch, 4);
    }
    sched_coordinator_destroy(coordinator);
}

static void an_offer_does_not_count_before_it_is_believed(void **context)
{
    (void)context;
    struct sched_report reports[2];
    struct sched_share expected[2];
    struct sched_coordinator *coordinator = create(2, 100, 0);
    set_all(reports, 2, report_of(8000, 1000, 4));
    plan(coordinator, reports);
    reports[0].offers[0].micro_batch_max = 3;
    assert_true(sched_plan(reports, 2, 100, expected));
    reports[1].offers[0].micro_batch_max = 64;
    assert_memory_equal(plan(coordinator, reports), expected, sizeof(expected));
    sched_coordinator_destroy(coordinator);
}

// Speeds that each rank learns from one noisy measurement a step, after the first few dozen.
static void check_noise(uint64_t percent)
{
    for (uint64_t seed = 0; seed < 10; seed++) {
        uint64_t state = seed;
        struct sched_report reports[RANKS];
        struct sched_speed speeds[RANKS] = {0};
        struct sched_coordinator *coordinator = create(RANKS, 1024, 0);
        uint64_t sample_ns[RANKS];
        for (size_t i = 0; i < RANKS; i++) {
            sample_ns[i] = 1000000 + random_bits(&state) % 7000000;
        }
        for (int step = -64; step < 1000; step++) {
            for (size_t i = 0; i < RANKS; i++) {
                uint64_t overhead_ns, slope_ns;
                sched_speed_begin_step(&speeds[i]);
                sched_speed_observe(&speeds[i], 32, noisy(&state, 32 * sample_ns[i], percent));
                sched_speed_get(&speeds[i], &overhead_ns, &slope_ns);
                reports[i] = report_of(overhead_ns, slope_ns, 32);
                reports[i].noise = sched_speed_noise(&speeds[i]);
            }
            if (step >= 0 && changes(coordinator, reports) != (step == 0)) {
                fail_msg("seed %llu, step %d: the plan changed", (unsigned long long)seed, step);
            }
        }
        sched_coordinator_destroy(coordinator);
    }
}

static void noisy_measurements_never_change_the_plan(void **context)
{
    (void)context;
    check_noise(3);
    check_noise(20);
}

// How many calls with the same reports it takes until the plan changes.
static int calls_to_change(struct sched_coordinator *coordinator, const struct sched_report *reports)
{
    int calls = 1;
    while (!changes(coordinator, reports)) {
        if (++calls > 1000) {
            fail_msg("the plan never changed");
        }
    }
    return calls;
}

static void a_rank_that_became_slower_gets_less_once_that_pays(void **context)
{
    (void)context;
    struct sched_report reports[4];
    struct sched_coordinator *coordinator = create(4, 700, 0);
    set_all(reports, 4, report_of(0, 1000000, 1000));
    assert_int_equal(plan(coordinator, reports)[2].samples, 175);
    reports[2].offers[0].sample_ns = 2000000; // 350 ms a step where 200 would do; 5.8 of them are called noise
    assert_int_equal(calls_to_change(coordinator, reports), 1);
    const struct sched_share *shares = plan(coordinator, reports);
    assert_int_equal(shares[2].samples, 100);
    assert_int_equal(shares[3].samples, 200);

    reports[2].offers[0].sample_ns = 1000000; // 200 ms a step where 175 would do; 3.3 of them are called noise
    assert_int_equal(calls_to_change(coordinator, reports), 3);
    assert_int_equal(plan(coordinator, reports)[2].samples, 175);
    sched_coordinator_destroy(coordinator);
}

// 200 ms a step where 175 would do, and 20 of these 25 may be noise.
static void what_noise_explains_takes_longer_to_pay(void **context)
{
    (void)context;
    struct sched_report reports[4];
    struct sched_coordinator *coordinator = create(4, 700, 0);
    set_all(reports, 4, report_of(0, 1000000, 1000));
    reports[2].offers[0].sample_ns = 2000000;
    assert_int_equal(plan(coordinator, reports)[2].samples, 100);
    for (size_t i = 0; i < 4; i++) {
        reports[i].noise = 30;
    }
    reports[2].offers[0].sample_ns = 1000000;
    assert_int_equal(calls_to_change(coordinator, reports), 11);
    sched_coordinator_destroy(coordinator);
}

// A pause, or a neighbour at the processor: now and then two steps take three times as long.
static void a_slow_moment_changes_nothing(void **context)
{
    (void)context;
    struct sched_report reports[4];
    struct sched_speed speed = {0};
    struct sched_coordinator *coordinator = create(4, 700, 0);
    set_all(reports, 4, report_of(0, 1000000, 1000));
    assert_true(changes(coordinator, reports));
    for (int i = 1; i < 1000; i++) {
        sched_speed_begin_step(&speed);
        sched_speed_observe(&speed, 175, i % 100 < 98 ? 175000000 : 525000000);
        sched_speed_get(&speed, &reports[2].offers[0].overhead_ns, &reports[2].offers[0].sample_ns);
        assert_false(changes(coordinator, reports));
    }
    sched_coordinator_destroy(coordinator);
}

// Rank 0 already does its share in one micro-step; the room that it gains lets it take over samples of ranks whose
// overheads are high.
static void memory_that_saves_overhead_moves_samples(void **context)
{
    (void)context;
    struct sched_report reports[2];
    struct sched_coordinator *coordinator = create(2, 64, 0);
    set_all(reports, 2, report_of(8000, 1000, 2));
    reports[0].offers[0].micro_batch_max = 54;
    const struct sched_share *shares = plan(coordinator, reports);
    assert_int_equal(shares[0].accumulation_steps, 1);
    uint64_t before_ns = sched_plan_ns(reports, shares, 2);
    reports[1].offers[0].micro_batch_max = 64;
    assert_in_range(calls_to_change(coordinator, reports), SCHED_PATIENCE, 10);
    shares = plan(coordinator, reports);
    assert_int_equal(shares[0].samples, 32);
    assert_true(sched_plan_ns(reports, shares, 2) < before_ns);
    sched_coordinator_destroy(coordinator);
}

// At once, and for one step with another micro-batch: a quarter of it, or two samples with levers that cost no more
// once a step.
static void a_first_measurement_reaches_the_plan(void **context)
{
    (void)context;
    struct sched_report reports[3];
    struct sched_coordinator *coordinator = create(3, 30, 0);
    set_all(reports, 3, (struct sched_report){.offers = {{0, 1000, 30, 0}}});
    reports[2] = (struct sched_report){.offers = {{0, 1000, 1, 0}, {0, 1100, 3, 5000}, {0, 1300, 3, 0}}};
    assert_int_equal(plan(coordinator, reports)[0].samples, 10);
    assert_false(changes(coordinator, reports));
    reports[0] = report_of(0, 2000, 30);
    reports[1] = report_of(0, 1000, 30);
    reports[2].measured = true;
    const struct sched_share *shares = plan(coordinator, reports);
    assert_int_equal(shares[0].samples, 6);
    assert_int_equal(shares[0].micro_batch, 2);
    assert_int_equal(shares[0].accumulation_steps, 3);
    assert_int_equal(shares[2].samples, 12);
    assert_int_equal(shares[2].levers, 2);
    assert_int_equal(shares[2].micro_batch, 2);
    assert_int_equal(shares[2].accumulation_steps, 6);

    assert_true(changes(coordinator, reports));
    shares = plan(coordinator, reports);
    assert_int_equal(shares[0].micro_batch, 6);
    assert_int_equal(shares[2].levers, 0);
    assert_int_equal(shares[2].micro_batch, 1);
    sched_coordinator_destroy(coordinator);
}

// Equally good cuts differ by noise alone; memory that was there before is no reason to change.
static void noise_between_levers_changes_nothing(void **context)
{
    (void)context;
    struct sched_report reports[2];
    struct sched_coordinator *coordinator = create(2, 64, 0);
    set_all(reports, 2, report_of(3000, 1000, 4));
    for (size_t i = 0; i < 2; i++) {
        reports[i].offers[1] = (struct sched_offer){3000, 1370, 8, 0};
    }
    assert_int_equal(plan(coordinator, reports)[0].levers, 1);
    reports[0].offers[1].sample_ns = 1380; // now worse than 1000 + 3000 / 4
    assert_false(changes(coordinator, reports));
    sched_coordinator_destroy(coordinator);
}

static void a_fixed_micro_batch_is_kept_where_memory_allows(void **context)
{
    (void)context;
    struct sched_report reports[3];
    struct sched_coordinator *coordinator = create(3, 60, 8);
    set_all(reports, 3, report_of(0, 1000, 100));
    reports[1].offers[0].micro_batch_max = 6;
    const struct sched_share *shares = plan(coordinator, reports);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(shares[i].samples, 20);
    }
    assert_int_equal(shares[0].micro_batch, 8); // 8, 8, 4 and not 7, 7, 6
    assert_int_equal(shares[0].accumulation_steps, 3);
    assert_int_equal(shares[1].micro_batch, 6);
    assert_int_equal(shares[1].accumulation_steps, 4);

    reports[0].offers[0].micro_batch_max = 7; // as many micro-steps as with 8, but smaller
    assert_int_equal(plan(coordinator, reports)[0].micro_batch, 7);
    reports[1].offers[0].micro_batch_max = 50;
    for (int i = 0; i < SCHED_PATIENCE; i++) {
        shares = plan(coordinator, reports);
    }
    assert_int_equal(shares[1].micro_batch, 8);
    sched_coordinator_destroy(coordinator);
}

static void a_fixed_micro_batch_is_kept_by_levers(void **context)
{
    (void)context;
    struct sched_report report = report_of(0, 1000, 3);
    struct sched_coordinator *coordinator = create(1, 64, 8);
    report.offers[1] = (struct sched_offer){0, 1100, 7, 0};
    report.offers[2] = (struct sched_offer){0, 2000, 20, 0};
    report.offers[3] = (struct sched_offer){0, 3000, 30, 0};
    const struct sched_share *share = plan(coordinator, &report);
    assert_int_equal(share->micro_batch, 8);
    assert_int_equal(share->levers, 2);
    report.offers[2].micro_batch_max = report.offers[3].micro_batch_max = 6; // none holds 8: as many as can be
    share = plan(coordinator, &report);
    assert_int_equal(share->micro_batch, 7);
    assert_int_equal(share->levers, 1);
    sched_coordinator_destroy(coordinator);
}

static void a_fixed_micro_batch_is_no_larger_than_the_share(void **context)
{
    (void)context;
    struct sched_report reports[2];
    struct sched_coordinator *coordinator = create(2, 10, 8);
    set_all(reports, 2, report_of(0, 1000, 100));
    const struct sched_share *shares = plan(coordinator, reports);
    assert_int_equal(shares[0].micro_batch, 5);
    assert_int_equal(shares[0].accumulation_steps, 1);
    sched_coordinator_destroy(coordinator);
}

static void no_plan_while_no_rank_can_hold_one_sample(void **context)
{
    (void)context;
    struct sched_report reports[2];
    struct sched_coordinator *coordinator = create(2, 16, 0);
    set_all(reports, 2, report_of(0, 1000, 8));
    assert_true(changes(coordinator, reports));
    set_all(reports, 2, report_of(0, 1000, 0));
    assert_null(sched_coordinator_plan(coordinator, reports, NULL));
    set_all(reports, 2, report_of(0, 1000, 8));
    assert_true(changes(coordinator, reports));
    sched_coordinator_destroy(coordinator);
}

static void a_rank_rests_while_it_cannot_hold_one_sample(void **context)
{
    (void)context;
    struct sched_report reports[2];
    struct sched_coordinator *coordinator = create(2, 16, 0);
    set_all(reports, 2, report_of(0, 1000, 8));
    assert_int_equal(plan(coordinator, reports)[0].samples, 8);
    reports[0].offers[0].micro_batch_max = 0;
    const struct sched_share *shares = plan(coordinator, reports);
    assert_int_equal(shares[0].samples, 0);
    assert_int_equal(shares[0].micro_batch, 0);
    assert_int_equal(shares[1].samples, 16);
    assert_false(changes(coordinator, reports));
    reports[0].offers[0].micro_batch_max = 8;
    for (int i = 0; i < SCHED_PATIENCE - 1; i++) {
        assert_false(changes(coordinator, reports));
    }
    assert_int_equal(plan(coordinator, reports)[0].samples, 8);
    sched_coordinator_destroy(coordinator);
}

// Of four ranks with 4 samples each; it rests after so many reports.
static void check_straggler(uint64_t sample_ns, int reports_until, bool rests)
{
    struct sched_report reports[4];
    struct sched_coordinator *coordinator = create(4, 16, 0);
    set_all(reports, 4, report_of(0, 1000, 16));
    reports[1].offers[0].sample_ns = sample_ns;
    for (int i = 0; i < reports_until - 1; i++) {
        assert_int_equal(plan(coordinator, reports)[1].samples, 1);
    }
    for (uint64_t rest = SCHED_STRAGGLER_RESTS; rest <= 2 * SCHED_STRAGGLER_RESTS_MAX; rest *= 2) {
        for (uint64_t i = 0; i < (rest < SCHED_STRAGGLER_RESTS_MAX ? rest : SCHED_STRAGGLER_RESTS_MAX); i++) {
            assert_int_equal(plan(coordinator, reports)[1].samples, rests ? 0 : 1);
        }
        for (int i = 0; i < reports_until - 1; i++) {
            assert_int_equal(plan(coordinator, reports)[1].samples, 1);
        }
    }
    sched_coordinator_destroy(coordinator);
}

// The others take 6000 ns with another sample each.
static void a_rank_far_slower_than_the_others_is_left_out(void **context)
{
    (void)context;
    check_straggler(12000, SCHED_STRAGGLER_STEPS, false);
    check_straggler(12002, SCHED_STRAGGLER_STEPS, true);
    check_straggler(18002, 8, true);
    check_straggler(1000000, 8, true);
}

static void a_rank_that_is_slow_for_a_while_is_not_left_out(void **context)
{
    (void)context;
    struct sched_report reports[4];
    struct sched_coordinator *coordinator = create(4, 16, 0);
    set_all(reports, 4, report_of(0, 1000, 16));
    for (int i = 0; i < 4 * SCHED_STRAGGLER_STEPS; i++) {
        reports[1].offers[0].sample_ns = i % SCHED_STRAGGLER_STEPS == 0 ? 1000 : 13000;
        assert_true(plan(coordinator, reports)[1].samples > 0);
    }
    sched_coordinator_destroy(coordinator);
}

// Coordinator and reports where rank 1 is left out.
static struct sched_coordinator *with_straggler(struct sched_report reports[4])
{
    struct sched_coordinator *coordinator = create(4, 16, 0);
    set_all(reports, 4, report_of(0, 1000, 16));
    reports[1].offers[0].sample_ns = 100000;
    while (plan(coordinator, reports)[1].samples > 0) {
    }
    return coordinator;
}

static void a_rank_that_caught_up_gets_its_share(void **context)
{
    (void)context;
    struct sched_report reports[4];
    struct sched_coordinator *coordinator = with_straggler(reports);
    reports[1].offers[0].sample_ns = 1000;
    for (int i = 0; i < SCHED_STRAGGLER_RESTS - 1; i++) {
        assert_int_equal(plan(coordinator, reports)[1].samples, 0);
    }
    assert_int_equal(plan(coordinator, reports)[1].samples, 4);
    sched_coordinator_destroy(coordinator);
}

static void a_rank_that_is_left_out_does_what_no_other_can(void **context)
{
    (void)context;
    struct sched_report reports[4];
    struct sched_coordinator *coordinator = with_straggler(reports);
    assert_int_equal(sched_coordinator_settle(coordinator, reports, 6)[1].samples, 0);
    for (int i = 0; i < 4; i++) {
        reports[i].offers[0].micro_batch_max = i == 1 ? 16 : 0;
    }
    assert_int_equal(sched_coordinator_settle(coordinator, reports, 6)[1].samples, 6);
    assert_int_equal(plan(coordinator, reports)[1].samples, 16);
    set_all(reports, 4, report_of(0, 1000, 0));
    assert_null(sched_coordinator_plan(coordinator, reports, NULL));
    sched_coordinator_destroy(coordinator);
}

// Two sets of levers: the second holds four times as many samples and takes a third longer.
static struct sched_report with_levers(uint64_t sample_ns, uint32_t micro_batch_max)
{
    struct sched_report report = report_of(sample_ns, sample_ns, micro_batch_max);
    report.offers[1] = (struct sched_offer){.overhead_ns = sample_ns,
                                            .sample_ns = sample_ns * 4 / 3,
                                            .micro_batch_max = micro_batch_max == 0 ? 4 : 4 * micro_batch_max};
    return report;
}

static void levers_follow_memory(void **context)
{
    (void)context;
    struct sched_report reports[2];
    struct sched_coordinator *coordinator = create(2, 64, 0);
    set_all(reports, 2, with_levers(3000, 16));
    assert_int_equal(plan(coordinator, reports)[0].levers, 0);
    reports[0] = with_levers(3000, 0);
    const struct sched_share *shares = plan(coordinator, reports);
    assert_int_equal(shares[0].levers, 1);
    assert_int_equal(shares[0].micro_batch, 4);
    assert_int_equal(shares[1].levers, 0);
    assert_true(shares[0].samples < shares[1].samples);
    reports[0] = with_levers(3000, 16);
    for (int i = 0; i < SCHED_PATIENCE - 1; i++) {
        assert_false(changes(coordinator, reports));
    }
    assert_int_equal(plan(coordinator, reports)[0].levers, 0);
    assert_int_equal(plan(coordinator, reports)[0].samples, 32);
    sched_coordinator_destroy(coordinator);
}

// Both sets of levers are equally good, now the one a little better and now the other.
static void levers_do_not_flap(void **context)
{
    (void)context;
    uint64_t state = 1;
    struct sched_report reports[2];
    struct sched_coordinator *coordinator = create(2, 64, 0);
    int changed = 0;
    for (int step = 0; step < 1000; step++) {
        for (size_t i = 0; i < 2; i++) {
            reports[i] = report_of(3000, noisy(&state, 1000, 3), 4);
            reports[i].offers[1] = (struct sched_offer){3000, noisy(&state, 1375, 3), 8, 0};
        }
        changed += changes(coordinator, reports);
    }
    assert_in_range(changed, 1, 3); // from the first plan to the least levers, once for each rank
    sched_coordinator_destroy(coordinator);
}

// How many reports of more memory it takes until it is granted.
static int reports_to_grow(struct sched_coordinator *coordinator, struct sched_report *report, uint32_t to)
{
    int calls = 1;
    report->offers[0].micro_batch_max = to;
    while (plan(coordinator, report)[0].micro_batch < to) {
        calls++;
    }
    return calls;
}

// Several rounds of one negotiation: what shrank is obeyed, what grew does not count, and time decides nothing.
static void a_second_plan_of_a_step_counts_for_nothing(void **context)
{
    (void)context;
    bool changed;
    struct sched_report reports[2];
    struct sched_coordinator *coordinator = create(2, 64, 0);
    set_all(reports, 2, report_of(1000, 1000, 8));
    assert_int_equal(plan(coordinator, reports)[0].micro_batch, 8);
    reports[0].offers[0].micro_batch_max = 32;
    reports[1].offers[0].sample_ns = 1200;
    for (int i = 0; i < 100; i++) {
        assert_non_null(sched_coordinator_plan_again(coordinator, reports, &changed));
        assert_false(changed);
    }
    reports[1].offers[0].sample_ns = 1000;
    for (int i = 1; i < SCHED_PATIENCE; i++) {
        assert_false(changes(coordinator, reports));
    }
    assert_true(changes(coordinator, reports));
    reports[1].offers[0].micro_batch_max = 4;
    assert_in_range(sched_coordinator_plan_again(coordinator, reports, &changed)[1].micro_batch, 1, 4);
    assert_true(changed);
    sched_coordinator_destroy(coordinator);
}

static void refuse(struct sched_coordinator *coordinator, struct sched_report *report, int times)
{
    report->offers[0].micro_batch_max = 4;
    report->refused = true;
    for (int i = 0; i < times; i++) {
        plan(coordinator, report);
    }
    report->refused = false;
}

// From 4 samples to 16 in probes of 4.
static void a_refusal_after_growth_doubles_patience_until_it_is_forgotten(void **context)
{
    (void)context;
    enum { PROBES = 3 };
    struct sched_report report = report_of(0, 1000, 4);
    struct sched_coordinator *coordinator = create(1, 16, 0);
    plan(coordinator, &report);
    for (int patience = SCHED_PATIENCE; patience <= 4 * SCHED_PATIENCE_MAX; patience *= 2) {
        refuse(coordinator, &report, 5);
        int expected = patience < SCHED_PATIENCE_MAX ? patience : SCHED_PATIENCE_MAX;
        assert_int_equal(reports_to_grow(coordinator, &report, 16), expected - 1 + PROBES);
    }
    report.offers[0].micro_batch_max = 4;
    for (int i = 0; i < SCHED_CLEAN_REPORTS; i++) {
        plan(coordinator, &report);
    }
    assert_int_equal(reports_to_grow(coordinator, &report, 16), SCHED_PATIENCE - 1 + PROBES);
    sched_coordinator_destroy(coordinator);
}

static void a_refusal_long_after_growth_says_nothing_of_it(void **context)
{
    (void)context;
    enum { PROBES = 3 };
    struct sched_report report = report_of(0, 1000, 4);
    struct sched_coordinator *coordinator = create(1, 16, 0);
    plan(coordinator, &report);
    for (int visits = 0; visits < 5; visits++) {
        assert_int_equal(reports_to_grow(coordinator, &report, 16), SCHED_PATIENCE - 1 + PROBES);
        for (int i = 0; i < SCHED_UNPROVEN_REPORTS; i++) {
            plan(coordinator, &report);
        }
        refuse(coordinator, &report, 2);
    }
    sched_coordinator_destroy(coordinator);
}

static void what_is_left_goes_to_ranks_that_can_do_it(void **context)
{
    (void)context;
    struct sched_report reports[4];
    struct sched_coordinator *coordinator = create(4, 64, 0);
    set_all(reports, 4, report_of(0, 1000, 8));
    plan(coordinator, reports);
    reports[1] = reports[3] = report_of(0, 1000, 0);
    const struct sched_share *shares = sched_coordinator_settle(coordinator, reports, 9);
    assert_non_null(shares);
    assert_in_range(shares[0].samples, 4, 5);
    assert_int_equal(shares[2].samples, 9 - shares[0].samples);
    assert_int_equal(shares[2].first, shares[0].samples);
    assert_int_equal(shares[1].samples + shares[3].samples, 0);
    shares = sched_coordinator_settle(coordinator, reports, 1); // fewer than ranks
    assert_int_equal(shares[0].samples + shares[2].samples, 1);
    set_all(reports, 4, report_of(0, 1000, 0));
    assert_null(sched_coordinator_settle(coordinator, reports, 1));
    set_all(reports, 4, report_of(0, 1000, 8));
    assert_false(changes(coordinator, reports)); // the plan is as before
    sched_coordinator_destroy(coordinator);
}

// Every plan fits what is reported, and two coordinators that read the same reports never disagree.
static void replicas_agree_on_plans_that_fit(void **context)
{
    (void)context;
    for (uint64_t seed = 0; seed < 20; seed++) {
        uint64_t state = seed;
        uint64_t micro_batch_size = seed % 2 * 8;
        struct sched_coordinator *replicas[2] = {create(RANKS, 500, micro_batch_size),
                                                 create(RANKS, 500, micro_batch_size)};
        for (int step = 0; step < 300; step++) {
            struct sched_report reports[RANKS];
            for (size_t i = 0; i < RANKS; i++) {
                reports[i] = report_of(random_bits(&state) % 1000000, random_bits(&state) % 1000000,
                                       1 + (uint32_t)(random_bits(&state) % 20));
                for (size_t k = 1; k < SCHED_LEVERS_MAX; k++) {
                    reports[i].offers[k] =
                        (struct sched_offer){random_bits(&state) % 1000000, random_bits(&state) % 1000000,
                                             (uint32_t)(random_bits(&state) % 20), random_bits(&state) % 9000000};
                }
            }
            bool changed[2];
            const struct sched_share *shares = sched_coordinator_plan(replicas[0], reports, &changed[0]);
            const struct sched_share *others = sched_coordinator_plan(replicas[1], reports, &changed[1]);
            if (sched_plan_hash(shares, RANKS) != sched_plan_hash(others, RANKS) || changed[0] != changed[1]) {
                fail_msg("seed %llu, step %d: replicas disagree", (unsigned long long)seed, step);
            }
            for (size_t i = 0; i < RANKS; i++) {
                if (shares[i].micro_batch > reports[i].offers[shares[i].levers].micro_batch_max) {
                    fail_msg("seed %llu, step %d: rank %zu has no room for its plan", (unsigned long long)seed, step,
                             i);
                }
            }
        }
        sched_coordinator_destroy(replicas[1]);
        sched_coordinator_destroy(replicas[0]);
    }
}

static void a_job_that_goes_on_keeps_its_plan(void **context)
{
    (void)context;
    const struct sched_share before[2] = {{.samples = 40, .micro_batch = 8, .accumulation_steps = 5},
                                          {.first = 40, .samples = 24, .micro_batch = 24, .accumulation_steps = 1}};
    struct sched_report reports[2] = {report_of(0, 0, 8), report_of(0, 0, 32)};
    struct sched_coordinator *coordinator = create(2, 64, 0);
    sched_coordinator_resume(coordinator, before);
    bool changed = false;
    assert_memory_equal(sched_coordinator_plan(coordinator, reports, &changed), before, sizeof(before));
    assert_true(changed);
    reports[0] = report_of(0, 1000, 8); // measured as when that plan was made
    reports[1] = report_of(0, 1600, 32);
    assert_false(changes(coordinator, reports));
    sched_coordinator_destroy(coordinator);
}

static void a_job_that_goes_on_with_less_memory_gets_another_plan(void **context)
{
    (void)context;
    const struct sched_share before[2] = {{.samples = 40, .micro_batch = 8, .accumulation_steps = 5},
                                          {.first = 40, .samples = 24, .micro_batch = 24, .accumulation_steps = 1}};
    const struct sched_report reports[2] = {report_of(0, 1000, 8), report_of(0, 1600, 16)};
    struct sched_share expected[2];
    struct sched_coordinator *coordinator = create(2, 64, 0);
    sched_coordinator_resume(coordinator, before);
    assert_true(sched_plan(reports, 2, 64, expected));
    assert_memory_equal(plan(coordinator, reports), expected, sizeof(expected));
    assert_false(changes(coordinator, reports));
    sched_coordinator_destroy(coordinator);
}

static void destroying_nothing_is_allowed(void **context)
{
    (void)context;
    sched_coordinator_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_plan_is_the_planner_s),
        cmocka_unit_test(a_decision_is_the_plan_with_its_hash_and_time),
        cmocka_unit_test(a_rank_that_ran_another_plan_is_told),
        cmocka_unit_test(memory_that_shrank_is_obeyed_at_once),
        cmocka_unit_test(memory_that_shrank_but_suffices_changes_nothing),
        cmocka_unit_test(memory_that_grew_is_believed_after_a_streak_and_probed),
        cmocka_unit_test(a_probe_ends_where_less_is_offered),
        cmocka_unit_test(a_probe_that_gains_nothing_changes_nothing),
        cmocka_unit_test(a_refusal_long_after_growth_says_nothing_of_it),
        cmocka_unit_test(a_streak_grants_its_smallest_offer),
        cmocka_unit_test(a_relapse_ends_the_streak),
        cmocka_unit_test(an_offer_does_not_count_before_it_is_believed),
        cmocka_unit_test(noisy_measurements_never_change_the_plan),
        cmocka_unit_test(a_rank_that_became_slower_gets_less_once_that_pays),
        cmocka_unit_test(what_noise_explains_takes_longer_to_pay),
        cmocka_unit_test(a_slow_moment_changes_nothing),
        cmocka_unit_test(memory_that_saves_overhead_moves_samples),
        cmocka_unit_test(a_first_measurement_reaches_the_plan),
        cmocka_unit_test(noise_between_levers_changes_nothing),
        cmocka_unit_test(a_fixed_micro_batch_is_kept_where_memory_allows),
        cmocka_unit_test(a_fixed_micro_batch_is_kept_by_levers),
        cmocka_unit_test(a_fixed_micro_batch_is_no_larger_than_the_share),
        cmocka_unit_test(no_plan_while_no_rank_can_hold_one_sample),
        cmocka_unit_test(a_rank_rests_while_it_cannot_hold_one_sample),
        cmocka_unit_test(a_rank_far_slower_than_the_others_is_left_out),
        cmocka_unit_test(a_rank_that_is_slow_for_a_while_is_not_left_out),
        cmocka_unit_test(a_rank_that_caught_up_gets_its_share),
        cmocka_unit_test(a_rank_that_is_left_out_does_what_no_other_can),
        cmocka_unit_test(levers_follow_memory),
        cmocka_unit_test(levers_do_not_flap),
        cmocka_unit_test(a_second_plan_of_a_step_counts_for_nothing),
        cmocka_unit_test(a_refusal_after_growth_doubles_patience_until_it_is_forgotten),
        cmocka_unit_test(what_is_left_goes_to_ranks_that_can_do_it),
        cmocka_unit_test(replicas_agree_on_plans_that_fit),
        cmocka_unit_test(a_job_that_goes_on_keeps_its_plan),
        cmocka_unit_test(a_job_that_goes_on_with_less_memory_gets_another_plan),
        cmocka_unit_test(destroying_nothing_is_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
