// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "mem/blocks.h"
#include "mem/device_cpu.h"
#include "mem/pool.h"
#include "mem/sanitizer.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)

#define STREAMS 3

// What the pool has asked of its device. The CPU's streams are never behind, so the order that the pool puts them in
// is noted here: of the work that stream `s` had been given, `t` waits for all until moment passed[t][s]. A busy stream
// says that it is behind until the host waits for it.
static struct {
    uint64_t commits, releases, synchronizes, waits, open_events;
    uint64_t host_waits[STREAMS];
    bool no_events, busy[STREAMS];
    struct stream *streams[STREAMS];
    uint64_t now; // calls of the pool so far
    uint64_t passed[STREAMS][STREAMS];
    struct event *event; // the last one recorded
    size_t event_stream;
    uint64_t event_at;
} seen;

// While the host is full its next allocation fails. The linker puts this in calloc's place.
static bool host_is_full;

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);

void *__wrap_calloc(size_t count, size_t size)
{
    return host_is_full ? NULL : __real_calloc(count, size);
}

// What is not this fixture's counts as its last.
static size_t number_of(const struct stream *stream)
{
    size_t number = 0;
    while (number < STREAMS - 1 && seen.streams[number] != stream) {
        number++;
    }
    return number;
}

static enum status watch_commit(struct device *device, device_address address, uint64_t bytes)
{
    assert_true(bytes > 0 && bytes % device_cpu.granularity_bytes == 0);
    seen.commits++;
    return device_cpu.commit(device, address, bytes);
}

static void watch_release(struct device *device, device_address address, uint64_t bytes)
{
    seen.releases++;
    device_cpu.release(device, address, bytes);
}

// `stream` comes after what `other` was given until then, and after what that waits for.
static void follow(size_t stream, size_t other, uint64_t moment)
{
    for (size_t i = 0; i < STREAMS; i++) {
        seen.passed[stream][i] = uint64_max(seen.passed[stream][i], seen.passed[other][i]);
    }
    seen.passed[stream][other] = uint64_max(seen.passed[stream][other], moment);
}

static void watch_synchronize(struct device *device)
{
    seen.synchronizes++;
    device_cpu.synchronize(device);
}

static void watch_stream_synchronize(struct device *device, struct stream *stream)
{
    size_t number = number_of(stream);
    seen.host_waits[number]++;
    seen.busy[number] = false;
    for (size_t i = 0; i < STREAMS; i++) {
        follow(i, number, seen.now);
    }
    device_cpu.stream_synchronize(device, stream);
}

static bool watch_event_done(struct device *device, struct event *event)
{
    assert_ptr_equal(event, seen.event);
    return !seen.busy[seen.event_stream] && device_cpu.event_done(device, event);
}

static enum status watch_event_create(struct device *device, struct event **event_p)
{
    if (seen.no_events) {
        return STATUS_ERROR;
    }
    seen.open_events++;
    return device_cpu.event_create(device, event_p);
}

static void watch_event_destroy(struct device *device, struct event *event)
{
    seen.open_events--;
    seen.event = NULL;
    device_cpu.event_destroy(device, event);
}

static void watch_event_record(struct device *device, struct event *event, struct stream *stream)
{
    seen.event = event;
    seen.event_stream = number_of(stream);
    seen.event_at = seen.now;
    device_cpu.event_record(device, event, stream);
}

static void watch_event_wait(struct device *device, struct stream *stream, struct event *event)
{
    assert_ptr_equal(event, seen.event);
    seen.waits++;
    seen.busy[number_of(stream)] |= seen.busy[seen.event_stream];
    follow(number_of(stream), seen.event_stream, seen.event_at);
    device_cpu.event_wait(device, stream, event);
}

static const struct device_ops *watched_cpu(void)
{
    static struct device_ops ops;
    ops = device_cpu;
    ops.commit = watch_commit;
    ops.release = watch_release;
    ops.synchronize = watch_synchronize;
    ops.stream_synchronize = watch_stream_synchronize;
    ops.event_done = watch_event_done;
    ops.event_create = watch_event_create;
    ops.event_destroy = watch_event_destroy;
    ops.event_record = watch_event_record;
    ops.event_wait = watch_event_wait;
    return &ops;
}

// A device, a pool on it, and streams. What is seen starts anew.
struct fixture {
    struct device *device;
    struct mem_pool *pool;
    struct stream *streams[STREAMS];
};

static struct fixture open_configured(const struct device_config *config, uint64_t limit)
{
    struct fixture f = {0};
    struct error error;
    memset(&seen, 0, sizeof(seen));
    assert_int_equal(device_cpu.create(config, &f.device, &error), STATUS_OK);
    f.device->ops = watched_cpu();
    for (size_t i = 0; i < STREAMS; i++) {
        assert_int_equal(device_cpu.stream_create(f.device, &f.streams[i]), STATUS_OK);
        seen.streams[i] = f.streams[i];
    }
    assert_int_equal(mem_pool_create(f.device, limit, &f.pool, &error), STATUS_OK);
    return f;
}

static struct fixture open_fixture(uint64_t capacity, uint64_t limit, const char *name, bool faulting)
{
    return open_configured(
        &(struct device_config){.name = name, .capacity_bytes = capacity, .faulting_addresses = faulting}, limit);
}

static uint64_t held(const struct fixture *f)
{
    struct device_info info;
    f->device->ops->info(f->device, &info);
    return info.held_bytes;
}

static void close_fixture(struct fixture *f)
{
    mem_pool_destroy(f->pool);
    assert_int_equal(held(f), 0);
    assert_int_equal(seen.open_events, 0);
    for (size_t i = 0; i < STREAMS; i++) {
        device_cpu.stream_destroy(f->device, f->streams[i]);
    }
    device_cpu.destroy(f->device);
}

static struct fixture open_plain(void)
{
    return open_fixture(16 * MIB, 0, NULL, false);
}

static enum status try_take(struct fixture *f, uint64_t bytes, size_t stream, const char *tag,
                            device_address *address_p)
{
    seen.now++;
    return mem_pool_alloc(f->pool, bytes, f->streams[stream], tag, address_p);
}

static device_address take_on(struct fixture *f, uint64_t bytes, size_t stream)
{
    device_address address = 0;
    assert_int_equal(try_take(f, bytes, stream, "test", &address), STATUS_OK);
    assert_true(mem_pool_check(f->pool));
    return address;
}

static device_address take(struct fixture *f, uint64_t bytes)
{
    return take_on(f, bytes, 0);
}

static void give_on(struct fixture *f, device_address address, size_t stream)
{
    seen.now++;
    mem_pool_free(f->pool, address, f->streams[stream]);
    assert_true(mem_pool_check(f->pool));
}

static void give(struct fixture *f, device_address address)
{
    give_on(f, address, 0);
}

static device_address hold(struct fixture *f, uint64_t bytes)
{
    device_address address = 0;
    seen.now++;
    assert_int_equal(mem_pool_hold(f->pool, bytes, f->streams[0], "held", &address), STATUS_OK);
    assert_true(mem_pool_check(f->pool));
    return address;
}

static const struct mem_out_of_memory *refuse(struct fixture *f, uint64_t bytes)
{
    device_address address = 77;
    assert_int_equal(try_take(f, bytes, 0, "refused", &address), STATUS_OUT_OF_MEMORY);
    assert_int_equal(address, 77);
    assert_true(mem_pool_check(f->pool));
    return mem_pool_out_of_memory(f->pool);
}

static struct mem_pool_stats stats_of(const struct fixture *f)
{
    struct mem_pool_stats stats;
    mem_pool_stats(f->pool, &stats);
    return stats;
}

static uint64_t device_calls(const struct fixture *f)
{
    return stats_of(f).num_device_alloc + stats_of(f).num_device_free;
}

static void blocks_are_rounded_to_the_alignment(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    assert_int_equal(mem_pool_block_bytes(0), MEM_POOL_ALIGNMENT);
    assert_int_equal(mem_pool_block_bytes(1), MEM_POOL_ALIGNMENT);
    assert_int_equal(mem_pool_block_bytes(MEM_POOL_ALIGNMENT), MEM_POOL_ALIGNMENT);
    assert_int_equal(mem_pool_block_bytes(MEM_POOL_ALIGNMENT + 1), 2 * MEM_POOL_ALIGNMENT);
    const uint64_t largest = UINT64_MAX / MEM_POOL_ALIGNMENT * MEM_POOL_ALIGNMENT;
    assert_int_equal(mem_pool_block_bytes(largest - 1), largest);
    assert_int_equal(mem_pool_block_bytes(largest), largest);
    assert_int_equal(mem_pool_block_bytes(largest + 1), UINT64_MAX);
    assert_int_equal(mem_pool_block_bytes(UINT64_MAX), UINT64_MAX);
    device_address a = take(&f, 1), b = take(&f, 0), c = take(&f, 513);
    assert_int_equal(a % MEM_POOL_ALIGNMENT, 0);
    assert_int_equal(b, a + MEM_POOL_ALIGNMENT);
    assert_int_equal(c, b + MEM_POOL_ALIGNMENT);
    assert_int_equal(stats_of(&f).allocated_bytes.current, 4 * MEM_POOL_ALIGNMENT);
    assert_int_equal(stats_of(&f).allocation.current, 3);
    close_fixture(&f);
}

// What a commit's rounding brought is used by the next growth, and is no hole that a request could fit best.
static void memory_above_the_top_is_no_hole(void **context)
{
    (void)context;
    struct fixture f = open_plain(); // granules of 64 KiB
    device_address hole = take(&f, 2 * KIB);
    take(&f, 61 * KIB);
    give(&f, hole);
    assert_int_equal(stats_of(&f).reserved_bytes.current, 64 * KIB);
    assert_int_equal(take(&f, 1 * KIB), hole);
    assert_int_equal(take(&f, 2 * KIB), hole + 63 * KIB);
    assert_int_equal(stats_of(&f).reserved_bytes.current, 128 * KIB);
    assert_int_equal(device_calls(&f), 2);
    assert_true(mem_pool_check(f.pool));
    close_fixture(&f);
}

static void the_best_fit_is_the_smallest_then_the_lowest(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    // Holes kept apart. 65 and 67 units are close enough for the index to hold them side by side.
    enum { HOLES = 5 };
    device_address hole[HOLES];
    const uint64_t units[HOLES] = {128, 67, 96, 65, 96};
    for (int i = 0; i < HOLES; i++) {
        hole[i] = take(&f, units[i] * MEM_POOL_ALIGNMENT);
        take(&f, 1);
    }
    for (int i = HOLES - 1; i >= 0; i--) {
        give(&f, hole[i]);
    }
    assert_int_equal(take(&f, 64 * MEM_POOL_ALIGNMENT), hole[3]);
    assert_int_equal(take(&f, 64 * MEM_POOL_ALIGNMENT), hole[1]);
    assert_int_equal(take(&f, 90 * MEM_POOL_ALIGNMENT), hole[2]);
    assert_int_equal(take(&f, 90 * MEM_POOL_ALIGNMENT), hole[4]);
    assert_int_equal(take(&f, 128 * MEM_POOL_ALIGNMENT), hole[0]);
    close_fixture(&f);
}

static void blocks_split_and_join_again(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    device_address whole = take(&f, MIB);
    give(&f, whole);
    device_address a = take(&f, 256 * KIB), b = take(&f, 256 * KIB), c = take(&f, 512 * KIB);
    assert_int_equal(a, whole);
    assert_int_equal(b, whole + 256 * KIB);
    assert_int_equal(c, whole + 512 * KIB);
    give(&f, a);
    give(&f, c);
    give(&f, b);
    assert_int_equal(take(&f, MIB), whole);
    assert_int_equal(stats_of(&f).reserved_bytes.current, MIB);
    close_fixture(&f);
}

static void a_hit_leaves_the_device_alone(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    give(&f, take(&f, MIB));
    for (int i = 0; i < 100; i++) {
        give(&f, take(&f, MIB));
        give(&f, take(&f, 100 * KIB));
    }
    assert_int_equal(seen.commits, 1);
    assert_int_equal(seen.releases + seen.synchronizes + seen.waits, 0);
    assert_int_equal(device_calls(&f), 1);
    assert_int_equal(stats_of(&f).allocation.allocated, 201);
    assert_int_equal(stats_of(&f).allocation.freed, 201);
    close_fixture(&f);
}

static void device_calls_are_commits_and_releases(void **context)
{
    (void)context;
    struct fixture f = open_fixture(4 * MIB, 0, NULL, false);
    device_address a = take(&f, MIB), b = take(&f, MIB);
    give(&f, b);
    mem_pool_trim(f.pool, 0);
    device_cpu_set_neighbour(f.device, 3 * MIB);
    refuse(&f, MIB);
    give(&f, a);
    assert_int_equal(seen.releases, 1);
    assert_int_equal(seen.commits, 4); // the device refuses at either end
    assert_int_equal(device_calls(&f), 3);
    close_fixture(&f);
}

// The device gives memory in pieces of 64 KiB.
static void growth_commits_only_what_is_missing_at_the_top(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    assert_int_equal(held(&f), 0);
    take(&f, 100 * KIB);
    assert_int_equal(held(&f), 128 * KIB);
    device_address small = take(&f, MIB);
    assert_int_equal(held(&f), 1152 * KIB);
    give(&f, small);
    assert_int_equal(take(&f, 2 * MIB), small);
    assert_int_equal(held(&f), 2176 * KIB);
    assert_int_equal(stats_of(&f).reserved_bytes.current, 2176 * KIB);
    close_fixture(&f);
}

// More than the books hold at first. The odd block makes growth meet a last spare record.
static void thousands_of_blocks_live_at_once(void **context)
{
    (void)context;
    enum { BLOCKS = 3000, STRIDE = 1103 };
    struct fixture f = open_plain();
    device_address *blocks = calloc(BLOCKS, sizeof(*blocks));
    assert_non_null(blocks);
    for (size_t i = 0; i < BLOCKS; i++) {
        assert_int_equal(try_take(&f, i == 0 ? 1024 : 512, 0, "one of many", &blocks[i]), STATUS_OK);
        assert_true(i == 0 || blocks[i] > blocks[i - 1]);
    }
    assert_true(mem_pool_check(f.pool));
    assert_int_equal(stats_of(&f).allocation.current, BLOCKS);
    for (size_t i = 0; i < BLOCKS; i++) {
        mem_pool_free(f.pool, blocks[i * STRIDE % BLOCKS], f.streams[0]);
        assert_true(i % 100 != 0 || mem_pool_check(f.pool));
    }
    assert_int_equal(stats_of(&f).allocated_bytes.current, 0);
    assert_int_equal(take(&f, stats_of(&f).reserved_bytes.current), blocks[0]);
    free(blocks);
    close_fixture(&f);
}

static void peaks_start_again_from_the_present(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    device_address kept = take(&f, MIB);
    give(&f, take(&f, 2 * MIB));
    give(&f, take(&f, KIB));
    assert_int_equal(stats_of(&f).allocated_bytes.current, MIB);
    assert_int_equal(stats_of(&f).allocated_bytes.peak, 3 * MIB);
    assert_int_equal(stats_of(&f).reserved_bytes.peak, 3 * MIB);
    mem_pool_trim(f.pool, 0);
    mem_pool_reset_peaks(f.pool);
    assert_int_equal(stats_of(&f).allocated_bytes.peak, MIB);
    assert_int_equal(stats_of(&f).reserved_bytes.peak, MIB);
    give(&f, kept);
    close_fixture(&f);
}

static void trimming_goes_as_far_as_live_blocks_allow(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    device_address low = take(&f, MIB), middle = take(&f, MIB), high = take(&f, 4 * MIB);
    give(&f, low);
    assert_int_equal(mem_pool_trim(f.pool, 0), 0);
    give(&f, high);
    assert_int_equal(mem_pool_trim(f.pool, 7 * MIB), 0);
    assert_int_equal(mem_pool_trim(f.pool, 3 * MIB + KIB), 3 * MIB); // no more than that, in pieces of 64 KiB
    assert_int_equal(held(&f), 3 * MIB);
    assert_int_equal(mem_pool_trim(f.pool, 3 * MIB), 0);
    assert_int_equal(mem_pool_trim(f.pool, 0), MIB);
    assert_int_equal(held(&f), 2 * MIB);
    give(&f, middle);
    assert_int_equal(mem_pool_trim(f.pool, 0), 2 * MIB);
    assert_int_equal(held(&f), 0);
    assert_int_equal(stats_of(&f).reserved_bytes.current, 0);
    assert_int_equal(mem_pool_trim(f.pool, 0), 0);
    assert_true(mem_pool_check(f.pool));
    give(&f, take(&f, MIB));
    close_fixture(&f);
}

// A piece that a live block shares stays.
static void trimming_keeps_the_piece_that_a_live_block_ends_in(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    device_address low = take(&f, 100 * KIB);
    give(&f, take(&f, MIB));
    assert_int_equal(mem_pool_trim(f.pool, 0), MIB);
    assert_int_equal(held(&f), 128 * KIB);
    memset(device_cpu_pointer(low), 1, 100 * KIB);
    assert_true(mem_pool_check(f.pool));
    close_fixture(&f);
}

static void a_limit_is_whole_pieces_within_the_capacity(void **context)
{
    (void)context;
    struct fixture f = open_fixture(4 * MIB + 5000, 100 * MIB, NULL, false);
    assert_int_equal(stats_of(&f).limit_bytes, 4 * MIB);
    close_fixture(&f);
    f = open_fixture(4 * MIB, 5000, NULL, false);
    assert_int_equal(stats_of(&f).limit_bytes, 0);
    assert_int_equal(mem_pool_headroom(f.pool), 0);
    assert_int_equal(refuse(&f, 0)->cause, MEM_CAUSE_CAPACITY);
    close_fixture(&f);
}

static void the_limit_is_hard(void **context)
{
    (void)context;
    struct fixture f = open_fixture(16 * MIB, 4 * MIB, NULL, false);
    assert_int_equal(stats_of(&f).limit_bytes, 4 * MIB);
    assert_int_equal(mem_pool_headroom(f.pool), 4 * MIB);
    device_address a = take(&f, 3 * MIB);
    const struct mem_out_of_memory *report = refuse(&f, MIB + 1);
    assert_int_equal(report->cause, MEM_CAUSE_CAPACITY);
    assert_int_equal(report->request_bytes, MIB + 1);
    assert_int_equal(report->limit_bytes, 4 * MIB);
    assert_int_equal(report->allocated_bytes, 3 * MIB);
    assert_int_equal(mem_pool_headroom(f.pool), MIB);
    device_address b = take(&f, MIB);
    assert_int_equal(stats_of(&f).reserved_bytes.current, 4 * MIB);
    assert_int_equal(stats_of(&f).num_ooms, 1);
    assert_int_equal(refuse(&f, 0)->cause, MEM_CAUSE_CAPACITY);
    assert_int_equal(refuse(&f, UINT64_MAX)->cause, MEM_CAUSE_CAPACITY);
    assert_int_equal(mem_pool_out_of_memory(f.pool)->request_bytes, UINT64_MAX);
    assert_int_equal(seen.synchronizes, 0); // waiting could not help
    assert_int_equal(stats_of(&f).allocation.allocated, 2);
    give(&f, a);
    give(&f, b);
    close_fixture(&f);
}

static void scattered_free_memory_is_called_fragmented(void **context)
{
    (void)context;
    struct fixture f = open_fixture(16 * MIB, 4 * MIB, NULL, false);
    const uint64_t bytes[4] = {1536 * KIB, 1024 * KIB, 1024 * KIB, 512 * KIB};
    device_address blocks[4];
    for (int i = 0; i < 4; i++) {
        blocks[i] = take(&f, bytes[i]);
    }
    give(&f, blocks[0]);
    give(&f, blocks[2]);
    const struct mem_out_of_memory *report = refuse(&f, 2 * MIB);
    assert_int_equal(report->cause, MEM_CAUSE_FRAGMENTED);
    assert_int_equal(report->largest_free_bytes, 1536 * KIB);
    assert_int_equal(report->limit_bytes, 4 * MIB);
    assert_int_equal(report->allocated_bytes, 1536 * KIB);
    assert_int_equal(report->reserved_bytes, 4 * MIB);
    assert_int_equal(report->device.capacity_bytes, 16 * MIB);
    assert_int_equal(report->device.free_bytes, 12 * MIB);
    assert_int_equal(report->pending_bytes, 0);
    assert_int_equal(held(&f), 4 * MIB);
    assert_int_equal(seen.commits, 4); // the limit stands before the device is asked
    close_fixture(&f);
}

static void a_neighbour_is_called_external(void **context)
{
    (void)context;
    struct fixture f = open_fixture(8 * MIB, 0, NULL, false);
    device_address a = take(&f, 2 * MIB);
    device_cpu_set_neighbour(f.device, 5 * MIB);
    assert_int_equal(mem_pool_headroom(f.pool), MIB);
    const struct mem_out_of_memory *report = refuse(&f, 2 * MIB);
    assert_int_equal(report->cause, MEM_CAUSE_EXTERNAL);
    assert_int_equal(report->device.free_bytes, MIB);
    assert_int_equal(report->device.others_bytes, 5 * MIB);
    device_cpu_set_neighbour(f.device, 0);
    assert_int_equal(mem_pool_headroom(f.pool), 6 * MIB);
    give(&f, take(&f, 6 * MIB));
    give(&f, a);
    close_fixture(&f);
}

// The limit has room for what is missing above the cached top, the device has not.
static void a_neighbour_is_blamed_for_what_the_cached_top_lacks(void **context)
{
    (void)context;
    struct fixture f = open_fixture(8 * MIB, 0, NULL, false);
    take(&f, 2 * MIB);
    give(&f, take(&f, 2 * MIB));
    device_cpu_set_neighbour(f.device, 3 * MIB);
    const struct mem_out_of_memory *report = refuse(&f, 5 * MIB);
    assert_int_equal(report->cause, MEM_CAUSE_EXTERNAL);
    assert_int_equal(report->largest_free_bytes, 2 * MIB);
    assert_int_equal(report->device.free_bytes, MIB);
    take(&f, 3 * MIB);
    close_fixture(&f);
}

// A neighbour may take more than is free: then some of what the pool holds is no headroom.
static void headroom_shrinks_by_what_a_neighbour_took_too_much(void **context)
{
    (void)context;
    struct fixture f = open_fixture(8 * MIB, 0, NULL, false);
    device_address a = take(&f, 2 * MIB);
    give(&f, take(&f, 4 * MIB));
    device_cpu_set_neighbour(f.device, 3 * MIB);
    assert_int_equal(held(&f), 6 * MIB);
    assert_int_equal(mem_pool_headroom(f.pool), 3 * MIB);
    device_cpu_set_neighbour(f.device, 7 * MIB);
    assert_int_equal(mem_pool_headroom(f.pool), 0);
    device_cpu_set_neighbour(f.device, 0);
    give(&f, a);
    close_fixture(&f);
}

static void inject(struct fixture *f, uint64_t every)
{
    mem_pool_inject_failures(f->pool, (struct mem_faults){.every = every, .first = every, .count = UINT64_MAX});
}

static void injected_failures_come_when_asked(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    mem_pool_inject_failures(f.pool, (struct mem_faults){.every = 3, .first = 2, .count = 2});
    for (int call = 1; call <= 20; call++) {
        if (call == 2 || call == 5) {
            refuse(&f, 512);
        } else {
            take(&f, 512);
        }
    }
    close_fixture(&f);
}

static void injected_failures_come_as_often_as_asked(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    give(&f, take(&f, 64 * KIB));
    take(&f, 512);
    inject(&f, 3);
    for (int round = 0; round < 4; round++) {
        take(&f, 512);
        take(&f, 512);
        assert_int_equal(refuse(&f, 700)->cause, MEM_CAUSE_INJECTED);
    }
    assert_int_equal(mem_pool_out_of_memory(f.pool)->request_bytes, 700);
    assert_int_equal(mem_pool_out_of_memory(f.pool)->allocated_bytes, 9 * 512);
    assert_int_equal(stats_of(&f).num_ooms, 4);
    take(&f, 512);
    inject(&f, 2); // counts from now
    take(&f, 512);
    refuse(&f, 512);
    inject(&f, 1);
    refuse(&f, 512);
    refuse(&f, 512);
    inject(&f, 0);
    for (int i = 0; i < 10; i++) {
        take(&f, 512);
    }
    close_fixture(&f);
}

static void a_block_that_shrinks_is_never_refused(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    device_address below = hold(&f, MIB), block = hold(&f, 8 * MIB);
    inject(&f, 1);
    refuse(&f, 512);
    for (uint64_t bytes = 8 * MIB; bytes > 512; bytes /= 2) {
        assert_int_equal(mem_pool_resize(f.pool, &block, bytes, f.streams[0]), STATUS_OK);
        assert_true(mem_pool_check(f.pool));
        assert_int_equal(stats_of(&f).allocated_bytes.current, MIB + bytes);
    }
    assert_int_equal(block, below + MIB);
    mem_pool_trim(f.pool, 0);
    assert_in_range(stats_of(&f).reserved_bytes.current, MIB + 1024, 2 * MIB);
    assert_int_equal(mem_pool_resize(f.pool, &below, 0, f.streams[0]), STATUS_OK);
    assert_int_equal(stats_of(&f).allocated_bytes.current, 1024 + MEM_POOL_ALIGNMENT);
    assert_int_equal(stats_of(&f).allocation.current, 2);
    inject(&f, 0);
    give(&f, block);
    give(&f, below);
    close_fixture(&f);
}

// In its own place where there is room behind it; refused, it is as large as before.
static void a_block_grows_or_stays(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    device_address block = hold(&f, MIB), start = block;
    assert_int_equal(mem_pool_resize(f.pool, &block, 8 * MIB, f.streams[0]), STATUS_OK);
    assert_int_equal(block, start);
    assert_int_equal(stats_of(&f).allocated_bytes.current, 8 * MIB);
    assert_int_equal(mem_pool_resize(f.pool, &block, MIB, f.streams[0]), STATUS_OK);
    inject(&f, 1);
    assert_int_equal(mem_pool_resize(f.pool, &block, 8 * MIB, f.streams[0]), STATUS_OUT_OF_MEMORY);
    assert_int_equal(mem_pool_out_of_memory(f.pool)->cause, MEM_CAUSE_INJECTED);
    inject(&f, 0);
    device_address other = take(&f, 12 * MIB);
    uint64_t ooms = stats_of(&f).num_ooms;
    assert_int_equal(mem_pool_resize(f.pool, &block, 8 * MIB, f.streams[0]), STATUS_OUT_OF_MEMORY);
    assert_true(mem_pool_check(f.pool));
    assert_int_equal(stats_of(&f).allocated_bytes.current, 13 * MIB);
    assert_int_equal(stats_of(&f).num_ooms, ooms + 1);
    assert_int_equal(mem_pool_out_of_memory(f.pool)->cause, MEM_CAUSE_CAPACITY);
    give(&f, other); // what it held is trimmed
    assert_int_equal(mem_pool_resize(f.pool, &block, 8 * MIB, f.streams[0]), STATUS_OK);
    assert_int_equal(block, start);
    give(&f, block);
    close_fixture(&f);
}

// The block and what it grows to would be more than the limit, but it makes room for itself.
static void a_block_that_grows_trims_what_is_in_its_way(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    device_address block = hold(&f, MIB), live = take(&f, 7 * MIB), cached = take(&f, 8 * MIB);
    give(&f, cached);
    assert_int_equal(stats_of(&f).reserved_bytes.current, 16 * MIB);
    assert_int_equal(mem_pool_resize(f.pool, &block, 17 * MIB / 2, f.streams[0]), STATUS_OK);
    assert_true(mem_pool_check(f.pool));
    assert_int_equal(stats_of(&f).allocated_bytes.current, 31 * MIB / 2);
    give(&f, live);
    give(&f, block);
    close_fixture(&f);
}

static void the_report_says_what_holds_the_memory(void **context)
{
    (void)context;
    struct fixture f = open_fixture(8 * MIB, 7 * MIB, NULL, false);
    static const struct {
        const char *tag;
        uint64_t bytes;
    } blocks[] = {{"weights", MIB},
                  {"gradients", MIB + 512},
                  {"state", 512 * KIB},
                  {"state", 640 * KIB},
                  {"tally", 512},
                  {"norm", 1024},
                  {"a tag that is longer than thirty-one letters", 2 * MIB}};
    device_address address;
    for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
        assert_int_equal(try_take(&f, blocks[i].bytes, 0, blocks[i].tag, &address), STATUS_OK);
    }
    const struct mem_out_of_memory *report = refuse(&f, 3 * MIB);
    assert_string_equal(report->tag, "refused");
    assert_string_equal(report->top[0].tag, "a tag that is longer than thirt");
    assert_int_equal(report->top[0].bytes, 2 * MIB);
    assert_string_equal(report->top[1].tag, "state");
    assert_int_equal(report->top[1].bytes, 1152 * KIB);
    assert_string_equal(report->top[2].tag, "gradients");
    assert_int_equal(report->top[2].bytes, MIB + 512);
    assert_string_equal(report->top[3].tag, "weights");
    assert_int_equal(report->top[3].bytes, MIB);
    char text[1024];
    mem_out_of_memory_format(report, &device_cpu, text, sizeof(text));
    assert_string_equal(text,
                        "CPU out of memory. Tried to allocate 3.00 MiB (refused). The device has a total capacity of "
                        "8.00 MiB of which 2.81 MiB is free; others hold 0 bytes. Under the limit of 7.00 MiB, 5.13 "
                        "MiB is allocated, and 62.00 KiB is reserved but unallocated, the largest free block 62.00 "
                        "KiB. Cause: capacity (what is live and the request together exceed the limit). Largest: "
                        "a tag that is longer than thirt 2.00 MiB, state 1.12 MiB, gradients 1.00 MiB, weights 1.00 "
                        "MiB.");
    close_fixture(&f);
}

// A used record's tag is overwritten, not appended to.
static void a_reused_record_forgets_its_tag(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    device_address address;
    assert_int_equal(try_take(&f, 512, 0, "a long tag", &address), STATUS_OK);
    give(&f, address);
    assert_int_equal(try_take(&f, 512, 0, "tag", &address), STATUS_OK);
    const struct mem_out_of_memory *report = refuse(&f, 17 * MIB);
    assert_string_equal(report->top[0].tag, "tag");
    assert_int_equal(report->top[1].bytes, 0);
    close_fixture(&f);
}

static const struct mem_out_of_memory written_report = {
    .cause = MEM_CAUSE_FRAGMENTED,
    .request_bytes = UINT64_C(3) << 40,
    .limit_bytes = UINT64_C(5) << 30,
    .soft_limit_bytes = UINT64_MAX,
    .allocated_bytes = 1023,
    .reserved_bytes = 2047,
    .largest_free_bytes = 1000,
    .device = {.capacity_bytes = UINT64_C(6) << 50, .free_bytes = 1536 * KIB, .others_bytes = 100, .held_bytes = 2047},
    .tag = "loss",
    .top = {{"weights", 1000}, {"state", 23}},
};

static void sizes_are_written_in_the_unit_that_fits(void **context)
{
    (void)context;
    char text[1024];
    mem_out_of_memory_format(&written_report, &device_cpu, text, sizeof(text));
    assert_string_equal(
        text, "CPU out of memory. Tried to allocate 3.00 TiB (loss). The device has a total capacity of "
              "6144.00 TiB of which 1.50 MiB is free; others hold 100 bytes. Under the limit of 5.00 "
              "GiB, 1023 bytes is allocated, and 1.00 KiB is reserved but unallocated, the largest free "
              "block 1000 bytes. Cause: fragmented (enough is free, but not in one piece). Largest: weights 1000 "
              "bytes, state 23 bytes.");
}

static void one_byte_is_not_bytes(void **context)
{
    (void)context;
    char text[MEM_SIZE_TEXT_MAX];
    assert_string_equal(mem_size_text(0, text), "0 bytes");
    assert_string_equal(mem_size_text(1, text), "1 byte");
    assert_string_equal(mem_size_text(2, text), "2 bytes");
    assert_string_equal(mem_size_text(UINT64_MAX, text), "16777216.00 TiB");
}

static void a_report_is_cut_where_its_room_ends(void **context)
{
    (void)context;
    char whole[1024], text[1024];
    mem_out_of_memory_format(&written_report, &device_cpu, whole, sizeof(whole));
    for (size_t size = 1; size <= strlen(whole); size++) {
        memset(text, '#', sizeof(text));
        mem_out_of_memory_format(&written_report, &device_cpu, text, size);
        assert_memory_equal(text, whole, size - 1);
        assert_int_equal(text[size - 1], '\0');
        for (size_t i = size; i < sizeof(text); i++) {
            assert_int_equal(text[i], '#');
        }
    }
}

static void every_cause_has_a_name_and_an_explanation(void **context)
{
    (void)context;
    static const char *const words[][2] = {
        [MEM_CAUSE_CAPACITY] = {"capacity",
                                "Cause: capacity (what is live and the request together exceed the limit)."},
        [MEM_CAUSE_FRAGMENTED] = {"fragmented", "Cause: fragmented (enough is free, but not in one piece)."},
        [MEM_CAUSE_PENDING] = {"pending", "Cause: pending (enough is free once work that is under way is done)."},
        [MEM_CAUSE_EXTERNAL] = {"external", "Cause: external (others hold or claim what the limit promised)."},
        [MEM_CAUSE_INJECTED] = {"injected", "Cause: injected (a fault that the configuration asked for)."},
    };
    for (int cause = MEM_CAUSE_CAPACITY; cause <= MEM_CAUSE_INJECTED; cause++) {
        char text[1024];
        struct mem_out_of_memory report = {.cause = (enum mem_cause)cause};
        mem_out_of_memory_format(&report, &device_cpu, text, sizeof(text));
        assert_string_equal(mem_cause_name(report.cause), words[cause][0]);
        assert_string_equal(strstr(text, "Cause: "), words[cause][1]); // and no tags, where none is live
    }
}

static void another_stream_takes_fresh_memory_or_waits_for_a_block(void **context)
{
    (void)context;
    struct fixture f = open_fixture(4 * MIB, 0, NULL, false);
    device_address a = take(&f, MIB);
    give(&f, a);
    assert_true(take_on(&f, MIB, 1) != a);
    assert_int_equal(take(&f, MIB), a);
    give(&f, a);
    take_on(&f, 2 * MIB, 1);
    assert_int_equal(seen.waits, 0);
    assert_int_equal(take_on(&f, 512 * KIB, 1), a); // nothing else is left
    assert_int_equal(seen.waits, 1);
    assert_int_equal(seen.passed[1][0], seen.now);
    assert_int_equal(take_on(&f, 512 * KIB, 2), a + 512 * KIB); // what is left of the block is still the first stream's
    assert_int_equal(seen.passed[2][0], seen.now);
    assert_int_equal(seen.synchronizes, 0);
    close_fixture(&f);
}

static void a_block_belongs_to_the_stream_that_freed_it(void **context)
{
    (void)context;
    struct fixture f = open_fixture(4 * MIB, 0, NULL, false);
    device_address a = take(&f, 2 * MIB);
    give_on(&f, a, 1);
    assert_int_equal(take_on(&f, MIB, 1), a);
    assert_int_equal(seen.waits, 0);
    assert_true(take(&f, MIB) != a + MIB);
    close_fixture(&f);
}

// Without events no stream can be made to wait for another, but the host can.
static void where_no_event_can_be_made_the_host_waits(void **context)
{
    (void)context;
    struct fixture f = open_fixture(4 * MIB, 0, NULL, false);
    device_address a = take(&f, 4 * MIB), b;
    give(&f, a);
    seen.no_events = true;
    assert_int_equal(try_take(&f, MIB, 1, "other", &b), STATUS_OUT_OF_MEMORY);
    assert_int_equal(mem_pool_out_of_memory(f.pool)->cause, MEM_CAUSE_PENDING);
    assert_true(mem_pool_relieve(f.pool));
    assert_int_equal(seen.host_waits[0], 1);
    assert_int_equal(seen.waits, 0);
    take_on(&f, MIB, 1);
    close_fixture(&f);
}

// Two neighbours freed on two streams, neither large enough, are one block for a stream that comes after both.
static void blocks_of_two_streams_join_under_pressure(void **context)
{
    (void)context;
    struct fixture f = open_fixture(4 * MIB, 0, NULL, false);
    device_address a = take(&f, MIB), b = take(&f, MIB);
    take(&f, 2 * MIB);
    give_on(&f, a, 1);
    give_on(&f, b, 2);
    assert_int_equal(take(&f, 2 * MIB), a);
    assert_int_equal(seen.waits, 2);
    assert_int_equal(seen.passed[0][1], seen.now);
    assert_int_equal(seen.passed[0][2], seen.now);
    assert_int_equal(seen.host_waits[1] + seen.host_waits[2] + seen.synchronizes, 0);
    close_fixture(&f);
}

// The top is of another stream: too small as it is, large enough together with what the device still has.
static void growth_joins_the_top_of_another_stream(void **context)
{
    (void)context;
    struct fixture f = open_fixture(4 * MIB, 0, NULL, false);
    device_address a = take(&f, 2 * MIB);
    give_on(&f, a, 1);
    assert_int_equal(take(&f, 3 * MIB), a);
    assert_int_equal(seen.waits, 1);
    assert_int_equal(seen.passed[0][1], seen.now);
    assert_int_equal(held(&f), 3 * MIB);
    close_fixture(&f);
}

static void trimming_waits_for_those_who_used_what_goes_back(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    device_address a = take(&f, MIB), b = take(&f, MIB), c = take(&f, MIB);
    give_on(&f, a, 1);
    assert_int_equal(mem_pool_trim(f.pool, 0), 0);
    give_on(&f, c, 2);
    assert_int_equal(mem_pool_trim(f.pool, 0), MIB);
    assert_int_equal(seen.host_waits[0] + seen.host_waits[1] + seen.synchronizes, 0);
    assert_int_equal(seen.host_waits[2], 1);
    give_on(&f, b, 2);
    assert_int_equal(mem_pool_trim(f.pool, 0), 2 * MIB); // two blocks, of two streams
    assert_int_equal(seen.host_waits[1], 1);
    assert_int_equal(seen.host_waits[2], 2);
    close_fixture(&f);
}

// Two ends ---------------------------------------------------------------------------------------------------------

static void what_stays_and_what_a_step_uses_do_not_interleave(void **context)
{
    (void)context;
    struct fixture f = open_fixture(4 * MIB, 0, NULL, false);
    device_address weights = hold(&f, MIB), scratch = take(&f, MIB), state = hold(&f, MIB);
    assert_int_equal(state, weights + MIB);
    assert_int_equal(take(&f, MIB), scratch + MIB);
    assert_int_equal(stats_of(&f).segment.current, 2);
    give(&f, scratch);
    give(&f, scratch + MIB);
    assert_int_equal(mem_pool_trim(f.pool, 0), 2 * MIB); // no held block keeps it
    assert_int_equal(stats_of(&f).segment.current, 1);
    give(&f, weights);
    give(&f, state);
    close_fixture(&f);
}

// What is free at the other end serves where nothing else does, and what both have cached is joined by trimming.
static void what_is_cached_at_the_other_end_serves(void **context)
{
    (void)context;
    struct fixture f = open_fixture(4 * MIB, 0, NULL, false);
    device_address cached = hold(&f, 2 * MIB);
    give(&f, cached);
    assert_true(take(&f, 2 * MIB) != cached);
    assert_int_equal(take(&f, 2 * MIB), cached);
    char text[64];
    assert_int_equal(mem_pool_leaks(f.pool, text, sizeof(text)), 2);
    close_fixture(&f);
    f = open_fixture(4 * MIB, 0, NULL, false);
    give(&f, hold(&f, 2 * MIB));
    give(&f, take(&f, MIB));
    assert_int_equal(mem_pool_headroom(f.pool), 4 * MIB);
    assert_int_equal(refuse(&f, 3584 * KIB)->cause, MEM_CAUSE_FRAGMENTED);
    assert_true(mem_pool_relieve(f.pool));
    assert_int_equal(stats_of(&f).num_alloc_retries, 1);
    give(&f, take(&f, 3584 * KIB));
    assert_int_equal(refuse(&f, 5 * MIB)->cause, MEM_CAUSE_CAPACITY);
    assert_false(mem_pool_relieve(f.pool));
    hold(&f, 4 * MIB); // trims the step's end by itself
    assert_int_equal(stats_of(&f).num_alloc_retries, 2);
    close_fixture(&f);
}

static void memory_that_is_still_used_is_called_pending(void **context)
{
    (void)context;
    struct fixture f = open_fixture(4 * MIB, 0, NULL, false);
    give_on(&f, hold(&f, 2 * MIB), 1);
    give(&f, take(&f, MIB));
    seen.busy[1] = true;
    const struct mem_out_of_memory *report = refuse(&f, 3584 * KIB);
    assert_int_equal(report->cause, MEM_CAUSE_PENDING);
    assert_int_equal(report->pending_bytes, 2 * MIB);
    char text[1024];
    mem_out_of_memory_format(report, &device_cpu, text, sizeof(text));
    assert_non_null(strstr(text, "the largest free block 2.00 MiB, 2.00 MiB pending on streams. Cause: pending"));
    assert_int_equal(held(&f), 3 * MIB); // the refused call neither waits nor trims
    assert_int_equal(seen.host_waits[1], 0);
    assert_true(mem_pool_relieve(f.pool));
    assert_int_equal(seen.host_waits[1], 1);
    take(&f, 3584 * KIB);
    close_fixture(&f);
}

static void a_soft_limit_stops_growth_and_returns_what_is_cached(void **context)
{
    (void)context;
    struct fixture f = open_fixture(8 * MIB, 0, NULL, false);
    device_address kept = take(&f, 2 * MIB);
    give(&f, take(&f, 3 * MIB));
    mem_pool_set_soft_limit(f.pool, 4 * MIB);
    assert_int_equal(held(&f), 4 * MIB);
    assert_int_equal(mem_pool_headroom(f.pool), 2 * MIB);
    assert_int_equal(refuse(&f, 3 * MIB)->cause, MEM_CAUSE_EXTERNAL);
    assert_int_equal(mem_pool_out_of_memory(f.pool)->soft_limit_bytes, 4 * MIB);
    mem_pool_set_soft_limit(f.pool, MIB); // live blocks stay
    assert_int_equal(held(&f), 2 * MIB);
    assert_int_equal(mem_pool_headroom(f.pool), 0);
    assert_int_equal(refuse(&f, 1)->cause, MEM_CAUSE_EXTERNAL);
    mem_pool_set_soft_limit(f.pool, UINT64_MAX);
    assert_int_equal(mem_pool_headroom(f.pool), 6 * MIB);
    give(&f, take(&f, 6 * MIB));
    give(&f, kept);
    close_fixture(&f);
}

// Frees the fixture's block when asked.
struct owner {
    struct fixture *f;
    device_address block;
    uint64_t asked_bytes, calls;
};

static bool give_up_block(void *context, uint64_t bytes)
{
    struct owner *owner = context;
    owner->asked_bytes = bytes;
    owner->calls++;
    if (owner->block == 0) {
        return false;
    }
    mem_pool_free(owner->f->pool, owner->block, owner->f->streams[0]);
    owner->block = 0;
    return true;
}

static void owners_are_asked_before_a_request_is_refused(void **context)
{
    (void)context;
    struct fixture f = open_fixture(4 * MIB, 0, NULL, false);
    struct owner first = {.f = &f, .block = take(&f, MIB)}, last = {.f = &f, .block = take(&f, MIB)};
    struct mem_pressure first_pressure = {give_up_block, &first, NULL}, last_pressure = {give_up_block, &last, NULL};
    mem_pool_on_pressure(f.pool, &first_pressure);
    mem_pool_on_pressure(f.pool, &last_pressure);
    device_address a = take(&f, 2 * MIB);
    assert_int_equal(first.calls + last.calls, 0);
    device_address b = take(&f, MIB - 1);
    assert_int_equal(last.calls, 1);
    assert_int_equal(last.asked_bytes, MIB);
    assert_int_equal(first.calls, 0);
    refuse(&f, 2 * MIB);
    assert_int_equal(last.calls, 2);
    assert_int_equal(first.calls, 1);
    assert_int_equal(first.block, 0);
    assert_int_equal(stats_of(&f).num_ooms, 1);
    give(&f, a);
    give(&f, b);
    close_fixture(&f);
}

static void statistics_are_counted_as_pytorch_does(void **context)
{
    (void)context;
    struct fixture f = open_fixture(4 * MIB, 0, NULL, false);
    device_address a = take(&f, 100), b = take(&f, 1000), c = take(&f, 64 * KIB);
    give(&f, b);
    struct mem_pool_stats stats = stats_of(&f);
    assert_int_equal(stats.allocation.current, 2);
    assert_int_equal(stats.allocation.allocated, 3);
    assert_int_equal(stats.allocation.freed, 1);
    assert_int_equal(stats.allocation.peak, 3);
    assert_int_equal(stats.requested_bytes.current, 100 + 64 * KIB);
    assert_int_equal(stats.requested_bytes.peak, 1100 + 64 * KIB);
    assert_int_equal(stats.allocated_bytes.current, 512 + 64 * KIB);
    assert_int_equal(stats.inactive_split.current, 1);
    assert_int_equal(stats.inactive_split_bytes.current, 1024);
    give(&f, c);
    assert_int_equal(stats_of(&f).inactive_split.current, 1);
    assert_int_equal(stats_of(&f).inactive_split_bytes.current, 1024 + 64 * KIB);
    give(&f, a); // no longer split: the segment is free as a whole
    stats = stats_of(&f);
    assert_int_equal(stats.inactive_split.current, 0);
    assert_int_equal(stats.inactive_split_bytes.current, 0);
    assert_int_equal(stats.reserved_bytes.current, 128 * KIB);
    assert_int_equal(stats.segment.current, 1);
    mem_pool_trim(f.pool, 0);
    assert_int_equal(stats_of(&f).segment.freed, 1);
    assert_int_equal(stats_of(&f).reserved_bytes.freed, 128 * KIB);
    close_fixture(&f);
}

static void a_step_that_leaves_blocks_is_told_which(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    char text[256];
    device_address blocks[4];
    hold(&f, MIB);
    assert_int_equal(mem_pool_leaks(f.pool, text, sizeof(text)), 0);
    assert_string_equal(text, "");
    mem_pool_begin_step(f.pool, 3);
    assert_int_equal(try_take(&f, MIB, 0, "scratch", &blocks[0]), STATUS_OK);
    assert_int_equal(try_take(&f, 512, 0, "norm", &blocks[1]), STATUS_OK);
    mem_pool_begin_step(f.pool, 4);
    assert_int_equal(try_take(&f, MIB, 0, "scratch", &blocks[2]), STATUS_OK);
    assert_int_equal(try_take(&f, MIB, 0, "scratch", &blocks[3]), STATUS_OK);
    assert_int_equal(mem_pool_leaks(f.pool, text, sizeof(text)), 4);
    assert_string_equal(text, "1 of 'scratch' (1.00 MiB) since step 3, 1 of 'norm' (512 bytes) since step 3, 2 of "
                              "'scratch' (2.00 MiB) since step 4");
    assert_int_equal(mem_pool_leaks(f.pool, text, 8), 4);
    assert_string_equal(text, "1 of 's");
    struct mem_pool_kept kept[3];
    assert_int_equal(mem_pool_kept(f.pool, kept, 3), 2);
    assert_string_equal(kept[0].tag, "scratch");
    assert_int_equal(kept[0].blocks, 3);
    assert_int_equal(kept[0].bytes, 3 * MIB);
    assert_int_equal(kept[0].first_step, 3);
    assert_int_equal(kept[0].last_step, 4);
    assert_string_equal(kept[1].tag, "norm");
    assert_int_equal(kept[1].bytes, 512);
    assert_int_equal(mem_pool_kept(f.pool, kept, 1), 1);
    assert_int_equal(mem_pool_kept_bytes(f.pool, "scratch"), 3 * MIB);
    assert_int_equal(mem_pool_kept_bytes(f.pool, "held"), 0); // what stays is none of the step's
    for (int i = 0; i < 4; i++) {
        give(&f, blocks[i]);
    }
    assert_int_equal(mem_pool_leaks(f.pool, text, sizeof(text)), 0);
    close_fixture(&f);
}

// With a sanitizer ---------------------------------------------------------------------------------------------------

// On addresses at which AddressSanitizer does not look, so that what it would stop is left to the pool.
static struct fixture open_sanitized(void)
{
    struct fixture f = open_fixture(4 * MIB, 0, NULL, true);
    mem_pool_destroy(f.pool);
    f.device->ops = &device_cpu;
    assert_int_equal(sanitizer_attach(f.device, NULL), STATUS_OK);
    assert_int_equal(mem_pool_create(f.device, 0, &f.pool, NULL), STATUS_OK);
    mem_pool_sanitize(f.pool);
    return f;
}

static void expect_finding(struct fixture *f, const char *text)
{
    struct error error = {0};
    assert_int_equal(f->device->ops->check(f->device, &error), text == NULL ? STATUS_OK : STATUS_ERROR);
    if (text != NULL && strstr(error.text, text) == NULL) {
        fail_msg("'%s' is not in: %s", text, error.text);
    }
}

static void close_sanitized(struct fixture *f)
{
    sanitizer_detach(f->device);
    f->device->ops = watched_cpu();
    close_fixture(f);
}

static void what_is_new_or_free_reads_as_nan(void **context)
{
    (void)context;
    struct fixture f = open_sanitized();
    device_address a = take(&f, 1000);
    const unsigned char *bytes = device_cpu_pointer(a);
    for (size_t i = 0; i < 1000; i++) {
        assert_int_equal(bytes[i], 0xff);
    }
    memset(device_cpu_pointer(a), 1, 1000);
    assert_int_equal(stats_of(&f).allocated_bytes.current, 1024); // without the zones
    assert_int_equal(stats_of(&f).requested_bytes.current, 1000);
    give(&f, a);
    for (size_t i = 0; i < 1000; i++) {
        assert_int_equal(bytes[i], 0xff);
    }
    expect_finding(&f, NULL);
    uint64_t headroom = mem_pool_headroom(f.pool);
    assert_int_equal(headroom, 4 * MIB - 1024);
    give(&f, take(&f, headroom));
    close_sanitized(&f);
}

static void writes_outside_of_a_block_are_found(void **context)
{
    (void)context;
    static const struct {
        int64_t place;
        const char *finding;
    } writes[] = {{-1, "byte -1 is outside"},
                  {-512, "byte -512 is outside"},
                  {1000, "byte 1000 is outside"},
                  {1535, "byte 1535 is outside"}};
    for (size_t i = 0; i < sizeof(writes) / sizeof(writes[0]); i++) {
        struct fixture f = open_sanitized();
        mem_pool_begin_step(f.pool, 7);
        device_address a = take(&f, 1000);
        ((unsigned char *)device_cpu_pointer(a))[writes[i].place] = 0;
        expect_finding(&f, NULL);
        give(&f, a);
        expect_finding(&f, writes[i].finding);
        expect_finding(&f, "block 'test' of 1000 bytes, allocated in step 7");
        close_sanitized(&f);
    }
}

static void a_use_of_a_block_that_was_freed_is_found(void **context)
{
    (void)context;
    struct fixture f = open_sanitized();
    char bytes[512] = {0};
    device_address a = take(&f, 512);
    f.device->ops->copy_to_device(f.device, f.streams[1], a, bytes, sizeof(bytes));
    expect_finding(&f, NULL);
    give_on(&f, a, 1);
    f.device->ops->copy_to_device(f.device, f.streams[1], a, bytes, sizeof(bytes));
    expect_finding(&f, "copy_to_device on stream");
    expect_finding(&f, "of block 'test' after free on stream");
    close_sanitized(&f);
}

static void a_stream_that_does_not_wait_is_found(void **context)
{
    (void)context;
    struct fixture f = open_sanitized();
    char bytes[512] = {0};
    device_address a = take_on(&f, 512, 1);
    f.device->ops->copy_to_device(f.device, f.streams[1], a, bytes, sizeof(bytes));
    sanitizer_access(f.device, f.streams[2], a + 100, 10, false, "a kernel");
    expect_finding(&f, "a kernel on stream");
    expect_finding(&f, "bytes 100..109 of block 'test', which copy_to_device on stream");
    give_on(&f, a, 1);
    close_sanitized(&f);
}

// Without virtual memory --------------------------------------------------------------------------------------------

static struct fixture open_segmented(uint64_t capacity)
{
    return open_configured(&(struct device_config){.capacity_bytes = capacity, .plain = true}, 0);
}

static void a_plain_device_gives_whole_segments(void **context)
{
    (void)context;
    struct fixture f = open_segmented(16 * MIB);
    device_address a = take(&f, 100 * KIB), b = take(&f, MIB), c = take(&f, 5 * MIB);
    assert_int_equal(b, a + 100 * KIB);
    assert_int_equal(stats_of(&f).segment.current, 2);
    assert_int_equal(held(&f), 8 * MIB); // in twos
    assert_int_equal(mem_pool_headroom(f.pool), 8 * MIB);
    give(&f, a);
    give(&f, c);
    assert_int_equal(mem_pool_headroom(f.pool), 14 * MIB);
    assert_int_equal(take(&f, 6 * MIB), c);
    give(&f, c);
    assert_int_equal(mem_pool_trim(f.pool, 0), 6 * MIB);
    assert_int_equal(stats_of(&f).segment.current, 1);
    give(&f, b);
    assert_int_equal(mem_pool_trim(f.pool, 0), 2 * MIB);
    assert_int_equal(held(&f), 0);
    close_fixture(&f);
}

// A segment that no block is in must go before another size fits.
static void plain_segments_are_traded_by_trimming(void **context)
{
    (void)context;
    struct fixture f = open_segmented(8 * MIB);
    device_address a = take(&f, 3 * MIB), b = take(&f, 3 * MIB);
    give(&f, a);
    assert_int_equal(mem_pool_headroom(f.pool), 4 * MIB);
    assert_int_equal(refuse(&f, 4 * MIB + 1)->cause, MEM_CAUSE_FRAGMENTED);
    give(&f, b);
    assert_int_equal(refuse(&f, 7 * MIB)->cause, MEM_CAUSE_FRAGMENTED);
    seen.busy[0] = true;
    assert_int_equal(refuse(&f, 7 * MIB)->cause, MEM_CAUSE_PENDING);
    assert_true(mem_pool_relieve(f.pool));
    assert_false(seen.busy[0]);
    take(&f, 7 * MIB); // not in twos: eight are not to be had
    assert_int_equal(stats_of(&f).reserved_bytes.current, 8 * MIB);
    close_fixture(&f);
}

static void a_refused_plain_segment_leaves_nothing_behind(void **context)
{
    (void)context;
    struct fixture f = open_segmented(8 * MIB);
    take(&f, MIB);
    device_cpu_set_neighbour(f.device, 5 * MIB);
    assert_int_equal(refuse(&f, 2 * MIB)->cause, MEM_CAUSE_EXTERNAL);
    assert_int_equal(stats_of(&f).segment.current, 1);
    assert_int_equal(held(&f), 2 * MIB);
    take(&f, MIB);
    close_fixture(&f);
}

static void freeing_nothing_is_allowed(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    mem_pool_free(f.pool, 0, f.streams[0]);
    assert_int_equal(stats_of(&f).allocation.freed, 0);
    mem_pool_destroy(NULL);
    close_fixture(&f);
}

static void a_full_host_is_not_called_a_full_device(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    device_address address = 77;
    host_is_full = true;
    assert_int_equal(try_take(&f, 1, 0, "test", &address), STATUS_ERROR);
    host_is_full = false;
    assert_int_equal(address, 77);
    assert_int_equal(stats_of(&f).num_ooms, 0);
    assert_true(mem_pool_check(f.pool));
    take(&f, 1);
    refuse(&f, 17 * MIB);
    host_is_full = true;
    take(&f, 1); // what the first call made room for
    refuse(&f, 17 * MIB);
    host_is_full = false;
    close_fixture(&f);
}

static void the_host_never_touches_device_memory(void **context)
{
    (void)context;
    struct fixture f = open_fixture(8 * MIB, 0, NULL, true);
    device_address a = take(&f, MIB), b = take(&f, MIB);
    assert_null(device_cpu.host_pointer(f.device, a));
    memset(device_cpu_pointer(b), 1, MIB);
    give(&f, a);
    give(&f, b);
    mem_pool_trim(f.pool, 0);
    close_fixture(&f);
}

static void write_own_name(char *name, size_t size)
{
    snprintf(name, size, "test-pool-%d", (int)getpid());
}

static void sharers_divide_what_is_free(void **context)
{
    (void)context;
    char name[32];
    write_own_name(name, sizeof(name));
    struct fixture a = open_fixture(8 * MIB, 0, name, false), b = open_fixture(8 * MIB, 0, name, false);
    assert_int_equal(mem_pool_headroom(a.pool), 4 * MIB);
    device_address big = take(&a, 6 * MIB);
    assert_int_equal(mem_pool_headroom(b.pool), MIB);
    assert_int_equal(refuse(&b, 3 * MIB)->cause, MEM_CAUSE_EXTERNAL);
    give(&a, big);
    const struct mem_out_of_memory *report = refuse(&b, 3 * MIB); // cached by the other
    assert_int_equal(report->cause, MEM_CAUSE_EXTERNAL);
    assert_int_equal(report->device.others_bytes, 6 * MIB);
    assert_int_equal(report->device.sharers, 2);
    mem_pool_trim(a.pool, 0);
    give(&b, take(&b, 8 * MIB));
    close_fixture(&a);
    close_fixture(&b);
}

static uint64_t random_below(uint64_t *state, uint64_t bound)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*state >> 33) % bound;
}

#define RIVAL_BLOCKS     16
#define RIVAL_OPERATIONS 6000

static bool rivals_hold(const struct fixture *rivals)
{
    struct device_info info;
    rivals[0].device->ops->info(rivals[0].device, &info);
    uint64_t sum = stats_of(&rivals[0]).reserved_bytes.current + stats_of(&rivals[1]).reserved_bytes.current;
    return sum == info.held_bytes + info.others_bytes && sum + info.free_bytes == info.capacity_bytes &&
           mem_pool_check(rivals[0].pool) && mem_pool_check(rivals[1].pool);
}

static void rivals_never_hold_more_than_the_device(void **context)
{
    (void)context;
    char name[32];
    write_own_name(name, sizeof(name));
    struct fixture rivals[2];
    device_address blocks[2][RIVAL_BLOCKS] = {0};
    rivals[0] = open_fixture(8 * MIB, 0, name, false);
    rivals[1] = open_fixture(8 * MIB, 0, name, false);
    uint64_t state = 11, refusals = 0;
    for (int i = 0; i < RIVAL_OPERATIONS; i++) {
        size_t who = random_below(&state, 2);
        struct fixture *rival = &rivals[who];
        device_address *block = &blocks[who][random_below(&state, RIVAL_BLOCKS)];
        if (*block != 0) {
            mem_pool_free(rival->pool, *block, rival->streams[0]);
            *block = 0;
        } else if (try_take(rival, 1 + random_below(&state, MIB), 0, "rival", block) != STATUS_OK) {
            refusals++;
            mem_pool_trim(rivals[1 - who].pool, 0);
        }
        if (!rivals_hold(rivals)) {
            fail_msg("seed 11, operation %d", i);
        }
    }
    assert_in_range(refusals, 50, RIVAL_OPERATIONS / 4);
    close_fixture(&rivals[1]);
    mem_pool_trim(rivals[0].pool, 0);
    close_fixture(&rivals[0]);
}

#define FUZZ_BLOCKS     64
#define FUZZ_OPERATIONS 20000
#define FUZZ_LIMIT      (8 * MIB)
#define FUZZ_UNITS      (8 * 1024 * 1024 / 512)

struct shadow {
    device_address address;
    uint64_t bytes;
    unsigned char pattern;
};

struct fuzz {
    struct fixture f;
    uint64_t state, refusals;
    device_address base;
    struct shadow blocks[FUZZ_BLOCKS];
    struct {
        size_t stream;
        uint64_t at;     // 0: never freed
    } freed[FUZZ_UNITS]; // for each 512 bytes of the pool's range
};

static bool contents_hold(const struct shadow *block)
{
    const unsigned char *bytes = device_cpu_pointer(block->address);
    return bytes[0] == block->pattern && bytes[block->bytes / 2] == block->pattern &&
           bytes[block->bytes - 1] == block->pattern;
}

static bool overlaps_none(const struct shadow *blocks, const struct shadow *fresh)
{
    for (int i = 0; i < FUZZ_BLOCKS; i++) {
        const struct shadow *other = &blocks[i];
        if (other != fresh && other->address != 0 && fresh->address < other->address + other->bytes &&
            other->address < fresh->address + fresh->bytes) {
            return false;
        }
    }
    return true;
}

// `stream` waits for whoever freed what lies under the block.
static bool order_holds(const struct fuzz *fuzz, const struct shadow *block, size_t stream)
{
    uint64_t first = (block->address - fuzz->base) / 512, count = mem_pool_block_bytes(block->bytes) / 512;
    for (uint64_t i = first; i < first + count; i++) {
        size_t before = fuzz->freed[i].stream;
        if (before != stream && fuzz->freed[i].at > seen.passed[stream][before]) {
            return false;
        }
    }
    return true;
}

static bool sums_hold(const struct fuzz *fuzz)
{
    struct mem_pool_stats stats = stats_of(&fuzz->f);
    uint64_t allocated = 0;
    for (int i = 0; i < FUZZ_BLOCKS; i++) {
        allocated += fuzz->blocks[i].address == 0 ? 0 : mem_pool_block_bytes(fuzz->blocks[i].bytes);
    }
    return stats.allocated_bytes.current == allocated &&
           stats.allocated_bytes.current <= stats.reserved_bytes.current &&
           stats.reserved_bytes.current <= stats.limit_bytes && stats.reserved_bytes.current == held(&fuzz->f) &&
           mem_pool_check(fuzz->f.pool);
}

static bool fuzz_free(struct fuzz *fuzz, struct shadow *block, size_t stream)
{
    bool right = contents_hold(block);
    uint64_t first = (block->address - fuzz->base) / 512, count = mem_pool_block_bytes(block->bytes) / 512;
    seen.now++;
    mem_pool_free(fuzz->f.pool, block->address, fuzz->f.streams[stream]);
    for (uint64_t i = first; i < first + count; i++) {
        fuzz->freed[i].stream = stream;
        fuzz->freed[i].at = seen.now;
    }
    *block = (struct shadow){0};
    return right;
}

static bool fuzz_alloc(struct fuzz *fuzz, struct shadow *block, size_t stream, uint64_t bytes)
{
    if (try_take(&fuzz->f, bytes, stream, "fuzz", &block->address) != STATUS_OK) {
        fuzz->refusals++;
        return true;
    }
    block->bytes = bytes;
    block->pattern = (unsigned char)random_below(&fuzz->state, 256);
    memset(device_cpu_pointer(block->address), block->pattern, bytes);
    return overlaps_none(fuzz->blocks, block) && order_holds(fuzz, block, stream);
}

// What headroom promises, a request gets.
static bool headroom_holds(struct fuzz *fuzz, size_t stream)
{
    struct shadow block = {0};
    uint64_t headroom = mem_pool_headroom(fuzz->f.pool), refusals = fuzz->refusals;
    if (headroom < MEM_POOL_ALIGNMENT) {
        return true;
    }
    bool right = fuzz_alloc(fuzz, &block, stream, headroom);
    return right && fuzz->refusals == refusals && fuzz_free(fuzz, &block, stream);
}

static bool fuzz_step(struct fuzz *fuzz)
{
    struct shadow *block = &fuzz->blocks[random_below(&fuzz->state, FUZZ_BLOCKS)];
    size_t stream = random_below(&fuzz->state, 4) % STREAMS;
    uint64_t bytes = 1 + random_below(&fuzz->state, UINT64_C(1) << (6 + random_below(&fuzz->state, 17)));
    bool right = block->address != 0 ? fuzz_free(fuzz, block, stream) : fuzz_alloc(fuzz, block, stream, bytes);
    switch (random_below(&fuzz->state, 200)) {
    case 0:
        mem_pool_trim(fuzz->f.pool, random_below(&fuzz->state, FUZZ_LIMIT));
        break;
    case 1:
        device_cpu_set_neighbour(fuzz->f.device, random_below(&fuzz->state, 6 * MIB));
        break;
    case 2:
        right = right && headroom_holds(fuzz, stream);
        break;
    }
    return right && sums_hold(fuzz);
}

static void random_use_keeps_every_promise(void **context)
{
    (void)context;
    struct fuzz *fuzz = malloc(sizeof(*fuzz));
    assert_non_null(fuzz);
    for (uint64_t seed = 1; seed <= 3; seed++) {
        *fuzz = (struct fuzz){.f = open_fixture(10 * MIB, FUZZ_LIMIT, NULL, seed == 2), .state = seed};
        fuzz->base = take(&fuzz->f, 1);
        give(&fuzz->f, fuzz->base);
        for (int i = 0; i < FUZZ_OPERATIONS; i++) {
            if (!fuzz_step(fuzz)) {
                fail_msg("seed %d, operation %d", (int)seed, i);
            }
        }
        // Enough pressure to matter, not so much that nothing is placed.
        assert_in_range(fuzz->refusals, 50, FUZZ_OPERATIONS / 4);
        assert_true(seen.waits > 50 && seen.host_waits[0] + seen.host_waits[1] + seen.host_waits[2] > 10);
        close_fixture(&fuzz->f);
    }
    free(fuzz);
}

// The check that the other tests lean on finds each kind of damage, and nothing once it is repaired.
static void the_check_finds_damage(void **context)
{
    (void)context;
    struct blocks blocks;
    struct segment segment = {.base = MIB, .range_bytes = 64 * KIB, .held_bytes = 64 * KIB};
    struct arena arena = {.segments = &segment};
    segment.arena = &arena;
    assert_true(blocks_init(&blocks) && blocks_prepare(&blocks));
    struct block *live = blocks_append(&blocks, &segment, 64 * KIB, NULL);
    blocks_take(&blocks, live, KIB);
    struct block *unused = segment.last;
    assert_true(blocks_check(&blocks, &arena, 1));
    uint64_t *const counts[] = {&segment.held_bytes, &segment.live_bytes, &segment.live_count,
                                &segment.blocks,     &unused->address,    &live->bytes};
    const uint64_t damage[] = {-UINT64_C(512), 512, 1, 1, 512, 512};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        *counts[i] += damage[i];
        assert_false(blocks_check(&blocks, &arena, 1));
        *counts[i] -= damage[i];
        assert_true(blocks_check(&blocks, &arena, 1));
    }
    unused->previous = NULL;
    assert_false(blocks_check(&blocks, &arena, 1));
    unused->previous = live;
    unused->larger = live; // which comes before it
    assert_false(blocks_check(&blocks, &arena, 1));
    unused->larger = NULL;
    arena.used[0] ^= 2;
    assert_false(blocks_check(&blocks, &arena, 1));
    arena.used[0] ^= 2;
    blocks.live_count++;
    assert_false(blocks_check(&blocks, &arena, 1));
    blocks.live_count--;
    size_t empty = blocks.live[blocks.live_capacity / 2] == NULL ? blocks.live_capacity / 2 : 0;
    blocks.live[empty] = live; // found at its own place too
    assert_false(blocks_check(&blocks, &arena, 1));
    blocks.live[empty] = NULL;
    struct block *spare = blocks.spare;
    blocks.spare = spare->next;
    assert_false(blocks_check(&blocks, &arena, 1));
    blocks.spare = spare;
    assert_true(blocks_check(&blocks, &arena, 1));
    blocks_finish(&blocks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_rounded_to_the_alignment),
        cmocka_unit_test(memory_above_the_top_is_no_hole),
        cmocka_unit_test(the_best_fit_is_the_smallest_then_the_lowest),
        cmocka_unit_test(blocks_split_and_join_again),
        cmocka_unit_test(a_hit_leaves_the_device_alone),
        cmocka_unit_test(device_calls_are_commits_and_releases),
        cmocka_unit_test(growth_commits_only_what_is_missing_at_the_top),
        cmocka_unit_test(thousands_of_blocks_live_at_once),
        cmocka_unit_test(peaks_start_again_from_the_present),
        cmocka_unit_test(trimming_goes_as_far_as_live_blocks_allow),
        cmocka_unit_test(trimming_keeps_the_piece_that_a_live_block_ends_in),
        cmocka_unit_test(a_limit_is_whole_pieces_within_the_capacity),
        cmocka_unit_test(the_limit_is_hard),
        cmocka_unit_test(scattered_free_memory_is_called_fragmented),
        cmocka_unit_test(a_neighbour_is_called_external),
        cmocka_unit_test(a_neighbour_is_blamed_for_what_the_cached_top_lacks),
        cmocka_unit_test(headroom_shrinks_by_what_a_neighbour_took_too_much),
        cmocka_unit_test(injected_failures_come_when_asked),
        cmocka_unit_test(injected_failures_come_as_often_as_asked),
        cmocka_unit_test(a_block_that_shrinks_is_never_refused),
        cmocka_unit_test(a_block_grows_or_stays),
        cmocka_unit_test(a_block_that_grows_trims_what_is_in_its_way),
        cmocka_unit_test(the_report_says_what_holds_the_memory),
        cmocka_unit_test(a_reused_record_forgets_its_tag),
        cmocka_unit_test(sizes_are_written_in_the_unit_that_fits),
        cmocka_unit_test(one_byte_is_not_bytes),
        cmocka_unit_test(a_report_is_cut_where_its_room_ends),
        cmocka_unit_test(every_cause_has_a_name_and_an_explanation),
        cmocka_unit_test(another_stream_takes_fresh_memory_or_waits_for_a_block),
        cmocka_unit_test(a_block_belongs_to_the_stream_that_freed_it),
        cmocka_unit_test(where_no_event_can_be_made_the_host_waits),
        cmocka_unit_test(blocks_of_two_streams_join_under_pressure),
        cmocka_unit_test(growth_joins_the_top_of_another_stream),
        cmocka_unit_test(trimming_waits_for_those_who_used_what_goes_back),
        cmocka_unit_test(what_stays_and_what_a_step_uses_do_not_interleave),
        cmocka_unit_test(what_is_cached_at_the_other_end_serves),
        cmocka_unit_test(memory_that_is_still_used_is_called_pending),
        cmocka_unit_test(a_soft_limit_stops_growth_and_returns_what_is_cached),
        cmocka_unit_test(owners_are_asked_before_a_request_is_refused),
        cmocka_unit_test(statistics_are_counted_as_pytorch_does),
        cmocka_unit_test(a_step_that_leaves_blocks_is_told_which),
        cmocka_unit_test(what_is_new_or_free_reads_as_nan),
        cmocka_unit_test(writes_outside_of_a_block_are_found),
        cmocka_unit_test(a_use_of_a_block_that_was_freed_is_found),
        cmocka_unit_test(a_stream_that_does_not_wait_is_found),
        cmocka_unit_test(a_plain_device_gives_whole_segments),
        cmocka_unit_test(plain_segments_are_traded_by_trimming),
        cmocka_unit_test(a_refused_plain_segment_leaves_nothing_behind),
        cmocka_unit_test(freeing_nothing_is_allowed),
        cmocka_unit_test(a_full_host_is_not_called_a_full_device),
        cmocka_unit_test(the_host_never_touches_device_memory),
        cmocka_unit_test(sharers_divide_what_is_free),
        cmocka_unit_test(rivals_never_hold_more_than_the_device),
        cmocka_unit_test(random_use_keeps_every_promise),
        cmocka_unit_test(the_check_finds_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
