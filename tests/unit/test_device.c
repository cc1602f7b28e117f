// SPDX-License-Identifier: Apache-2.0
//
// What device.h promises of every kind of device. What a kind has beyond that is in test_device_cpu.c and
// test_device_cuda.c.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mem/device.h"

#define RANGE_GRANULES 16
#define CAPACITY       (UINT64_C(64) << 20)

// A device, its staging memory, and two streams. A GPU may have neighbours, so nothing is said here of what is free.
struct fixture {
    struct device *device, *staging;
    const struct device_ops *ops;
    struct stream *stream, *other;
    uint64_t granule;
    device_address range, host_range;
    unsigned char *host; // a granule of staging memory
};

static struct device *open_device(const struct device_ops *ops, bool faulting)
{
    struct error error;
    struct device *device = NULL;
    const struct device_config config = {.capacity_bytes = CAPACITY, .faulting_addresses = faulting, .sharers = 1};
    if (ops->create(&config, &device, &error) != STATUS_OK) {
        fail_msg("%s", error.text);
    }
    return device;
}

static void open_fixture(struct fixture *f, const struct device_ops *ops)
{
    *f = (struct fixture){.ops = ops, .granule = ops->granularity_bytes};
    f->device = open_device(ops, true);
    f->staging = open_device(ops->staging, false);
    assert_int_equal(ops->stream_create(f->device, &f->stream), STATUS_OK);
    assert_int_equal(ops->stream_create(f->device, &f->other), STATUS_OK);
    assert_int_equal(ops->reserve(f->device, RANGE_GRANULES * f->granule, &f->range), STATUS_OK);
    assert_int_equal(ops->staging->reserve(f->staging, f->granule, &f->host_range), STATUS_OK);
    assert_int_equal(ops->staging->commit(f->staging, f->host_range, f->granule), STATUS_OK);
    f->host = ops->staging->host_pointer(f->staging, f->host_range);
    assert_non_null(f->host);
}

static void close_fixture(struct fixture *f)
{
    struct error error;
    assert_int_equal(f->ops->check(f->device, &error), STATUS_OK);
    f->ops->synchronize(f->device);
    f->ops->unreserve(f->device, f->range, RANGE_GRANULES * f->granule);
    f->ops->staging->release(f->staging, f->host_range, f->granule);
    f->ops->staging->unreserve(f->staging, f->host_range, f->granule);
    f->ops->stream_destroy(f->device, f->other);
    f->ops->stream_destroy(f->device, f->stream);
    f->ops->staging->destroy(f->staging);
    f->ops->destroy(f->device);
}

static device_address granule_at(const struct fixture *f, uint64_t place)
{
    return f->range + place * f->granule;
}

static uint64_t held_bytes(const struct fixture *f)
{
    struct device_info info;
    f->ops->info(f->device, &info);
    return info.held_bytes;
}

// Writes the number into every byte of a granule.
static void write_granule(struct fixture *f, uint64_t place, unsigned char number)
{
    memset(f->host, number, f->granule);
    f->ops->copy_to_device(f->device, f->stream, granule_at(f, place), f->host, f->granule);
    f->ops->stream_synchronize(f->device, f->stream);
}

static void expect_granule(struct fixture *f, uint64_t place, unsigned char number)
{
    memset(f->host, ~number, f->granule);
    f->ops->copy_to_host(f->device, f->stream, f->host, granule_at(f, place), f->granule);
    f->ops->stream_synchronize(f->device, f->stream);
    for (uint64_t i = 0; i < f->granule; i++) {
        assert_int_equal(f->host[i], number);
    }
}

static void check_ranges_are_joined_and_cut(struct fixture *f)
{
    const struct device_ops *ops = f->ops;
    assert_int_equal(ops->commit(f->device, granule_at(f, 0), 3 * f->granule), STATUS_OK);
    assert_int_equal(ops->commit(f->device, granule_at(f, 3), f->granule), STATUS_OK);
    assert_int_equal(held_bytes(f), 4 * f->granule);
    for (uint64_t i = 0; i < 4; i++) {
        write_granule(f, i, (unsigned char)(i + 1));
    }
    ops->release(f->device, granule_at(f, 2), 2 * f->granule); // of both
    expect_granule(f, 0, 1);
    expect_granule(f, 1, 2);
    assert_int_equal(ops->commit(f->device, granule_at(f, 2), 4 * f->granule), STATUS_OK);
    write_granule(f, 5, 9);
    expect_granule(f, 0, 1);
    expect_granule(f, 5, 9);
    ops->release(f->device, granule_at(f, 0), 6 * f->granule);
    assert_int_equal(held_bytes(f), 0);
}

static void check_a_copy_may_begin_anywhere(struct fixture *f)
{
    const struct device_ops *ops = f->ops;
    assert_int_equal(ops->commit(f->device, granule_at(f, 0), 2 * f->granule), STATUS_OK);
    write_granule(f, 0, 1);
    write_granule(f, 1, 2);
    ops->fill_zero(f->device, f->stream, granule_at(f, 1) - 3, 8);
    ops->copy_to_host(f->device, f->stream, f->host, granule_at(f, 1) - 5, 12);
    ops->stream_synchronize(f->device, f->stream);
    static const unsigned char expected[12] = {1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2};
    assert_memory_equal(f->host, expected, sizeof(expected));
    ops->release(f->device, granule_at(f, 0), 2 * f->granule);
}

static void check_events_order_streams(struct fixture *f)
{
    const struct device_ops *ops = f->ops;
    struct event *event;
    assert_int_equal(ops->event_create(f->device, &event), STATUS_OK);
    assert_int_equal(ops->commit(f->device, granule_at(f, 0), f->granule), STATUS_OK);
    for (unsigned char number = 1; number < 20; number++) {
        memset(f->host, number, f->granule);
        ops->copy_to_device(f->device, f->stream, granule_at(f, 0), f->host, f->granule / 2);
        ops->event_record(f->device, event, f->stream);
        ops->event_wait(f->device, f->other, event);
        ops->copy_to_host(f->device, f->other, f->host + f->granule / 2, granule_at(f, 0), f->granule / 2);
        ops->fill_zero(f->device, f->other, granule_at(f, 0), f->granule / 2);
        ops->event_record(f->device, event, f->other);
        ops->event_synchronize(f->device, event);
        assert_true(ops->event_done(f->device, event));
        for (uint64_t i = f->granule / 2; i < f->granule; i++) {
            assert_int_equal(f->host[i], number);
        }
    }
    ops->release(f->device, granule_at(f, 0), f->granule);
    ops->event_destroy(f->device, event);
}

static void check_time_passes_between_events(struct fixture *f)
{
    const struct device_ops *ops = f->ops;
    struct event *marks[3];
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(ops->event_create(f->device, &marks[i]), STATUS_OK);
        ops->event_record(f->device, marks[i], f->stream);
    }
    ops->stream_synchronize(f->device, f->stream);
    for (size_t i = 0; i < 3; i++) {
        assert_true(ops->event_done(f->device, marks[i]));
    }
    assert_true(ops->event_elapsed_ns(f->device, marks[0], marks[2]) + 1000 >=
                ops->event_elapsed_ns(f->device, marks[0], marks[1]));
    for (size_t i = 0; i < 3; i++) {
        ops->event_destroy(f->device, marks[i]);
    }
}

// No device of today has that much.
static void check_too_much_changes_nothing(struct fixture *f)
{
    const uint64_t bytes = UINT64_C(1) << 40;
    device_address range;
    struct device_info info;
    f->ops->info(f->device, &info);
    assert_true(info.capacity_bytes < bytes);
    assert_int_equal(f->ops->reserve(f->device, bytes, &range), STATUS_OK);
    assert_int_equal(f->ops->commit(f->device, granule_at(f, 0), f->granule), STATUS_OK);
    write_granule(f, 0, 7);
    assert_int_equal(f->ops->commit(f->device, range, bytes), STATUS_OUT_OF_MEMORY);
    assert_int_equal(held_bytes(f), f->granule);
    expect_granule(f, 0, 7);
    assert_int_equal(f->ops->commit(f->device, range + f->granule, f->granule), STATUS_OK);
    f->ops->release(f->device, range + f->granule, f->granule);
    f->ops->release(f->device, granule_at(f, 0), f->granule);
    f->ops->unreserve(f->device, range, bytes);
}

static void check_nothing_is_destroyed(struct fixture *f)
{
    f->ops->stream_destroy(f->device, NULL);
    f->ops->event_destroy(f->device, NULL);
    f->ops->destroy(NULL);
}

static void check_where_it_is(struct fixture *f)
{
    struct device_location one, again;
    assert_true(f->ops->count(NULL) >= 1);
    f->ops->locate(0, &one);
    f->ops->locate(0, &again);
    assert_string_equal(one.id, again.id);
    assert_true(one.id[0] != '\0');
    assert_true(f->ops->description(f->device)[0] != '\0');
}

static void on_every_device(void (*check)(struct fixture *))
{
    static const char *const names[] = {"cpu", "cuda"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const struct device_ops *ops = device_find(names[i]);
        struct error error;
        if (ops == NULL || ops->count(&error) == 0) {
            printf("skipped on %s: %s\n", names[i], ops == NULL ? "not built in" : error.text);
            continue;
        }
        struct fixture fixture;
        open_fixture(&fixture, ops);
        check(&fixture);
        close_fixture(&fixture);
    }
}

#define ON_EVERY_DEVICE(name)                                                                                          \
    static void name(void **state)                                                                                     \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        on_every_device(check_##name);                                                                                 \
    }

ON_EVERY_DEVICE(ranges_are_joined_and_cut)
ON_EVERY_DEVICE(a_copy_may_begin_anywhere)
ON_EVERY_DEVICE(events_order_streams)
ON_EVERY_DEVICE(time_passes_between_events)
ON_EVERY_DEVICE(too_much_changes_nothing)
ON_EVERY_DEVICE(nothing_is_destroyed)
ON_EVERY_DEVICE(where_it_is)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_are_joined_and_cut),
        cmocka_unit_test(a_copy_may_begin_anywhere),
        cmocka_unit_test(events_order_streams),
        cmocka_unit_test(time_passes_between_events),
        cmocka_unit_test(too_much_changes_nothing),
        cmocka_unit_test(nothing_is_destroyed),
        cmocka_unit_test(where_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
