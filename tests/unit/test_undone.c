// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "random_bits.h"
#include "sched/undone.h"

#define BATCH     200
#define RANKS_MAX 6

static void a_whole_batch_is_dealt_as_it_lies(void **context)
{
    (void)context;
    struct sched_undone undone;
    struct sched_range range;
    const struct sched_share share = {.first = 30, .samples = 12};
    uint64_t place = 0;
    assert_true(sched_undone_init(&undone, 100));
    assert_int_equal(sched_undone_samples(&undone), 100);
    assert_true(sched_undone_next(&undone, &share, &place, &range));
    assert_int_equal(range.first, 30);
    assert_int_equal(range.samples, 12);
    assert_false(sched_undone_next(&undone, &share, &place, &range));
    assert_false(sched_undone_next(&undone, &(struct sched_share){0}, &(uint64_t){0}, &range));
    sched_undone_finish(&undone);
}

static void the_ends_of_shares_are_left(void **context)
{
    (void)context;
    struct sched_undone undone;
    struct sched_range range;
    const struct sched_share shares[3] = {{.first = 0, .samples = 40}, {.first = 40, .samples = 35}, {75, 25, 0, 0, 0}};
    const struct sched_share again = {.first = 3, .samples = 30};
    uint64_t place = 0;
    assert_true(sched_undone_init(&undone, 100));
    assert_true(sched_undone_leave(&undone, shares, (uint64_t[]){5, 0, 25}, 3)); // 35..39 and 75..99
    assert_int_equal(sched_undone_samples(&undone), 30);
    assert_true(sched_undone_next(&undone, &again, &place, &range));
    assert_int_equal(range.first, 38);
    assert_int_equal(range.samples, 2);
    assert_true(sched_undone_next(&undone, &again, &place, &range));
    assert_int_equal(range.first, 75);
    assert_int_equal(range.samples, 25);
    assert_false(sched_undone_next(&undone, &again, &place, &range));
    assert_true(sched_undone_leave(&undone, (struct sched_share[]){{.first = 0, .samples = 30}}, (uint64_t[]){0}, 1));
    assert_int_equal(sched_undone_samples(&undone), 0);
    sched_undone_finish(&undone);
}

// Deals `samples` among ranks by chance, side by side.
static void deal(uint64_t *random, uint64_t samples, size_t ranks, struct sched_share *shares)
{
    uint64_t first = 0;
    for (size_t i = 0; i < ranks; i++) {
        uint64_t left = samples - first, own = i + 1 == ranks ? left : random_bits(random) % (left + 1);
        shares[i] = (struct sched_share){.first = first, .samples = own};
        first += own;
    }
}

// Marks what a rank does of its share.
static void run(const struct sched_undone *undone, const struct sched_share *share, uint64_t done, unsigned *times)
{
    uint64_t place = 0;
    struct sched_range range;
    while (place < done && sched_undone_next(undone, share, &place, &range)) {
        uint64_t more = place - (place < done ? place : done);
        for (uint64_t i = 0; i < range.samples - more; i++) {
            times[range.first + i]++;
        }
    }
}

static void every_sample_is_done_once_in_the_end(void **context)
{
    (void)context;
    for (uint64_t seed = 1; seed <= 1000; seed++) {
        uint64_t random = seed;
        unsigned times[BATCH] = {0};
        struct sched_undone undone;
        assert_true(sched_undone_init(&undone, BATCH));
        for (int round = 0; sched_undone_samples(&undone) > 0; round++) {
            struct sched_share shares[RANKS_MAX];
            uint64_t left[RANKS_MAX] = {0};
            size_t ranks = 1 + random_bits(&random) % RANKS_MAX;
            deal(&random, sched_undone_samples(&undone), ranks, shares);
            for (size_t i = 0; i < ranks; i++) {
                left[i] = round < 8 ? random_bits(&random) % (shares[i].samples + 1) : 0;
                run(&undone, &shares[i], shares[i].samples - left[i], times);
            }
            assert_true(sched_undone_leave(&undone, shares, left, ranks));
        }
        for (size_t i = 0; i < BATCH; i++) {
            assert_int_equal(times[i], 1);
        }
        sched_undone_finish(&undone);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_batch_is_dealt_as_it_lies),
        cmocka_unit_test(the_ends_of_shares_are_left),
        cmocka_unit_test(every_sample_is_done_once_in_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
