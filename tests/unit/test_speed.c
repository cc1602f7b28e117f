// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sched/speed.h"

struct figures {
    uint64_t overhead_ns, sample_ns;
};

static struct figures get(const struct sched_speed *speed)
{
    struct figures figures;
    sched_speed_get(speed, &figures.overhead_ns, &figures.sample_ns);
    return figures;
}

// In a step of its own.
static void observe(struct sched_speed *speed, uint64_t samples, uint64_t time_ns)
{
    sched_speed_begin_step(speed);
    sched_speed_observe(speed, samples, time_ns);
}

static void assert_near(uint64_t value, uint64_t expected, uint64_t percent)
{
    assert_in_range(value, expected * (100 - percent) / 100, expected * (100 + percent) / 100);
}

static void nothing_measured_is_zero(void **context)
{
    (void)context;
    struct sched_speed speed = {0};
    assert_int_equal(get(&speed).overhead_ns, 0);
    assert_int_equal(get(&speed).sample_ns, 0);
}

static void two_sizes_give_the_line(void **context)
{
    (void)context;
    struct sched_speed speed = {0};
    for (int i = 0; i < 8; i++) {
        observe(&speed, 32, 500000 + 32 * 100000);
        observe(&speed, 12, 500000 + 12 * 100000);
    }
    assert_near(get(&speed).overhead_ns, 500000, 2);
    assert_near(get(&speed).sample_ns, 100000, 2);
}

static void one_pause_hardly_counts(void **context)
{
    (void)context;
    struct sched_speed speed = {0};
    for (int i = 0; i < 100; i++) {
        observe(&speed, 24, 2400000);
    }
    observe(&speed, 24, UINT64_C(3000000000));
    assert_near(get(&speed).sample_ns + get(&speed).overhead_ns / 24, 105000, 5);
}

// A step of many micro-steps, all of which a pause has slowed down, is one step.
static void one_slow_step_hardly_counts(void **context)
{
    (void)context;
    struct sched_speed speed = {0};
    for (int i = 0; i < 100; i++) {
        observe(&speed, 24, 2400000);
    }
    sched_speed_begin_step(&speed);
    for (int i = 0; i < 4; i++) {
        sched_speed_observe(&speed, 24, 4800000);
    }
    assert_near(get(&speed).sample_ns + get(&speed).overhead_ns / 24, 105000, 5);
}

static void a_rank_that_became_much_slower_is_followed(void **context)
{
    (void)context;
    struct sched_speed speed = {0};
    for (int i = 0; i < 100; i++) {
        observe(&speed, 24, 2400000);
    }
    for (int i = 0; i < 100; i++) {
        observe(&speed, 24, 48000000);
    }
    assert_near(get(&speed).sample_ns + get(&speed).overhead_ns / 24, 2000000, 10);
}

static uint64_t random_between(uint32_t *state, uint64_t low, uint64_t high)
{
    *state = *state * 1664525 + 1013904223;
    return low + (*state >> 16) % (high - low + 1);
}

static uint64_t line_ns(uint64_t samples)
{
    return 500000 + samples * 100000;
}

// Steps of one size or the other that take from `low` to `high` percent of their time.
static void observe_steps(struct sched_speed *speed, uint32_t *state, const uint64_t sizes[2], int steps, uint64_t low,
                          uint64_t high)
{
    for (int i = 0; i < steps; i++) {
        uint64_t samples = sizes[random_between(state, 0, 1)];
        observe(speed, samples, line_ns(samples) * random_between(state, low, high) / 100);
    }
}

// A rank whose steps took from `least` percent to eight times their time is known again so many steps later.
static void check_irregular_steps(const uint64_t sizes[2], uint64_t least, int steps)
{
    for (uint32_t seed = 0; seed < 100; seed++) {
        struct sched_speed speed = {0};
        uint32_t state = seed;
        observe_steps(&speed, &state, sizes, 64, 96, 104);
        observe_steps(&speed, &state, sizes, (int)random_between(&state, 8, 80), least, 800);
        observe_steps(&speed, &state, sizes, steps, 96, 104);
        for (int i = 0; i < 100; i++) {
            struct figures line = get(&speed);
            assert_near(line.overhead_ns + sizes[0] * line.sample_ns, line_ns(sizes[0]), 10);
            assert_near(line.overhead_ns + sizes[1] * line.sample_ns, line_ns(sizes[1]), 10);
            observe_steps(&speed, &state, sizes, 1, 96, 104);
        }
    }
}

static void irregular_steps_are_forgotten(void **context)
{
    (void)context;
    check_irregular_steps((const uint64_t[]){32, 32}, 100, 24);
    check_irregular_steps((const uint64_t[]){1, 1}, 0, 24); // what a step takes beside its micro-steps
    check_irregular_steps((const uint64_t[]){12, 32}, 100, 64);
}

// Three to five steps of as many micro-steps take 15 to 45 times their time, then all take it again.
static void a_rank_that_was_held_up_is_as_fast_as_before(void **context)
{
    (void)context;
    for (uint32_t seed = 1; seed <= 100; seed++) {
        for (int micro_steps = 1; micro_steps <= 5; micro_steps += 4) {
            uint32_t state = seed;
            struct sched_speed speed = {0};
            for (int step = 0; step < 202; step++) {
                bool held_up = step >= 200 - (int)(3 + seed % 3) && step < 200;
                sched_speed_begin_step(&speed);
                for (int i = 0; i < micro_steps; i++) {
                    uint64_t percent = random_between(&state, 90, 110);
                    uint64_t times = held_up ? random_between(&state, 15, 45) : 1;
                    sched_speed_observe(&speed, 36, line_ns(36) * percent / 100 * times);
                }
            }
            struct figures line = get(&speed);
            assert_near(line.overhead_ns + 36 * line.sample_ns, line_ns(36), 15);
        }
    }
}

static void one_size_counts_as_per_sample(void **context)
{
    (void)context;
    struct sched_speed speed = {0};
    observe(&speed, 24, 2400000);
    assert_int_equal(get(&speed).overhead_ns, 0);
    assert_int_equal(get(&speed).sample_ns, 100000);
    for (int i = 0; i < 1000; i++) {
        observe(&speed, 24, i % 2 == 0 ? 2400000 : 2500000);
    }
    assert_near(get(&speed).sample_ns, 102000, 1);
    assert_in_range(get(&speed).overhead_ns, 0, 1);
}

// The larger size took 2 % less by chance: a slope drawn through that alone would be negative.
static void nearly_one_size_counts_as_nearly_per_sample(void **context)
{
    (void)context;
    struct sched_speed speed = {0};
    for (int i = 0; i < 8; i++) {
        observe(&speed, 100, 10000000);
        observe(&speed, 101, 9800000);
    }
    assert_near(get(&speed).sample_ns, 98000, 10);
}

// A change that could be noise.
static void old_measurements_fade(void **context)
{
    (void)context;
    struct sched_speed speed = {0};
    for (int i = 0; i < 1000; i++) {
        observe(&speed, 10, 1000000);
    }
    for (int i = 0; i < 64; i++) {
        observe(&speed, 10, 1080000);
    }
    assert_in_range(get(&speed).sample_ns, 104500, 105500);
    for (int i = 0; i < 320; i++) {
        observe(&speed, 10, 1080000);
    }
    assert_near(get(&speed).sample_ns, 108000, 1);
}

static void a_change_of_speed_is_followed_at_once(void **context)
{
    (void)context;
    for (uint64_t factor = 2; factor <= 8; factor *= 2) {
        struct sched_speed speed = {0};
        for (int i = 0; i < 100; i++) {
            uint64_t samples = i % 2 == 0 ? 12 : 32;
            observe(&speed, samples, 500000 + samples * 100000);
        }
        for (int i = 0; i < 4; i++) {
            observe(&speed, 32, factor * (500000 + 32 * 100000));
        }
        assert_near(get(&speed).overhead_ns, factor * 500000, 15); // as a whole, though one size was measured
        assert_near(get(&speed).sample_ns, factor * 100000, 15);
    }
}

static void what_sizes_taught_outlasts_them(void **context)
{
    (void)context;
    struct sched_speed speed = {0};
    for (int i = 0; i < 32; i++) {
        observe(&speed, 32, 500000 + 32 * 100000);
        observe(&speed, 12, 500000 + 12 * 100000);
    }
    for (int i = 0; i < 10000; i++) {
        observe(&speed, 32, 500000 + 32 * 100000);
    }
    assert_near(get(&speed).overhead_ns, 500000, 15);
    assert_near(get(&speed).sample_ns, 100000, 5);
}

static void larger_and_faster_is_not_a_negative_slope(void **context)
{
    (void)context;
    struct sched_speed speed = {0};
    observe(&speed, 1, 1000);
    observe(&speed, 100, 500);
    assert_in_range(get(&speed).overhead_ns + 50 * get(&speed).sample_ns, 700, 850); // the mean time at the mean size
    assert_true(get(&speed).sample_ns >= 1);
}

// A machine shared with others: equal work takes anything from 1 to 3 times its time. Sizes between 90 and 110 then
// tell nothing about a slope, and 400 samples must not look as cheap as 100.
static void noise_does_not_become_a_slope(void **context)
{
    (void)context;
    struct sched_speed speed = {0};
    uint32_t state = 1;
    for (int i = 0; i < 200; i++) {
        state = state * 1664525 + 1013904223;
        uint64_t samples = 90 + (state >> 16) % 21, stretch = 100 + (state >> 24) % 201;
        observe(&speed, samples, samples * 1000 * stretch);
        if (i > 16) {
            struct figures line = get(&speed);
            assert_true(line.overhead_ns + 400 * line.sample_ns > 2 * (line.overhead_ns + 100 * line.sample_ns));
        }
    }
}

static void noise_is_averaged_away_where_sizes_differ(void **context)
{
    (void)context;
    struct sched_speed speed = {0};
    uint32_t state = 1;
    for (int i = 0; i < 400; i++) {
        state = state * 1664525 + 1013904223;
        uint64_t samples = i % 2 == 0 ? 20 : 200, percent = 90 + (state >> 24) % 21;
        observe(&speed, samples, (2000000 + samples * 10000) * percent / 100);
    }
    assert_near(get(&speed).sample_ns, 10000, 15);
    assert_near(get(&speed).overhead_ns, 2000000, 15);
}

static void steeper_than_proportional_is_not_a_negative_overhead(void **context)
{
    (void)context;
    struct sched_speed speed = {0};
    observe(&speed, 10, 1000);
    observe(&speed, 20, 2400);
    assert_int_equal(get(&speed).overhead_ns, 0);
    assert_near(get(&speed).sample_ns, 113, 2);
}

static void a_clock_that_stood_still_counts_as_measured(void **context)
{
    (void)context;
    struct sched_speed speed = {0};
    observe(&speed, 10, 0);
    assert_int_equal(get(&speed).overhead_ns, 0);
    assert_int_equal(get(&speed).sample_ns, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_measured_is_zero),
        cmocka_unit_test(two_sizes_give_the_line),
        cmocka_unit_test(one_pause_hardly_counts),
        cmocka_unit_test(one_slow_step_hardly_counts),
        cmocka_unit_test(a_rank_that_became_much_slower_is_followed),
        cmocka_unit_test(irregular_steps_are_forgotten),
        cmocka_unit_test(a_rank_that_was_held_up_is_as_fast_as_before),
        cmocka_unit_test(one_size_counts_as_per_sample),
        cmocka_unit_test(nearly_one_size_counts_as_nearly_per_sample),
        cmocka_unit_test(old_measurements_fade),
        cmocka_unit_test(a_change_of_speed_is_followed_at_once),
        cmocka_unit_test(what_sizes_taught_outlasts_them),
        cmocka_unit_test(noise_does_not_become_a_slope),
        cmocka_unit_test(noise_is_averaged_away_where_sizes_differ),
        cmocka_unit_test(larger_and_faster_is_not_a_negative_slope),
        cmocka_unit_test(steeper_than_proportional_is_not_a_negative_overhead),
        cmocka_unit_test(a_clock_that_stood_still_counts_as_measured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
