// SPDX-License-Identifier: Apache-2.0
//
// The devices that a plan is asked for: who has which, and what a GPU counts for. That mistakes are refused is shown in
// tests/end_to_end/test_bad_input.py.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "worker/commands/fleet.h"

#define GIB (UINT64_C(1) << 30)

static struct fleet read_fleet(const char *ranks, const char *device)
{
    struct fleet fleet;
    struct error error = {0};
    assert_int_equal(fleet_read(ranks, device, &fleet, &error), STATUS_OK);
    return fleet;
}

static void test_nothing_is_said(void **state)
{
    (void)state;
    struct fleet fleet = read_fleet(NULL, NULL);
    assert_int_equal(fleet.ranks, 0);
    assert_int_equal(fleet.count, 0);
    fleet = read_fleet("64", NULL);
    assert_int_equal(fleet.ranks, 64);
    assert_int_equal(fleet.count, 0);
}

static void test_one_device_is_every_rank_s(void **state)
{
    (void)state;
    struct fleet fleet = read_fleet("1000", "1.5GiB");
    assert_int_equal(fleet.ranks, 1000);
    assert_false(fleet.has_gpus);
    assert_int_equal(fleet_find(&fleet, 0)->capacity_bytes, 3 * GIB / 2);
    assert_int_equal(fleet_find(&fleet, 999)->capacity_bytes, 3 * GIB / 2);
    assert_int_equal(read_fleet(NULL, "1GiB").ranks, 0);
}

static void test_ranks_follow_one_another(void **state)
{
    (void)state;
    const uint64_t expected[] = {1, 1, 1, 2, 3, 3};
    struct fleet fleet = read_fleet("3x1GiB,1x2GiB,2x3GiB", NULL);
    assert_int_equal(fleet.ranks, 6);
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(fleet_find(&fleet, i)->capacity_bytes, expected[i] * GIB);
    }
}

// A name may hold an x of its own.
static void test_a_gpu_counts_for_less_than_its_name(void **state)
{
    (void)state;
    struct fleet fleet = read_fleet("1x64GiB,1xrtx4090-24gb,1xa100-40gb", NULL);
    assert_true(fleet.has_gpus);
    assert_string_equal(fleet_find(&fleet, 1)->device, "rtx4090-24gb");
    assert_in_range(fleet_find(&fleet, 1)->capacity_bytes, 21 * GIB, 23 * GIB);
    assert_in_range(fleet_find(&fleet, 2)->capacity_bytes, 37 * GIB, 39 * GIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_said),
        cmocka_unit_test(test_one_device_is_every_rank_s),
        cmocka_unit_test(test_ranks_follow_one_another),
        cmocka_unit_test(test_a_gpu_counts_for_less_than_its_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
