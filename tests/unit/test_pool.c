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

#include "mem/device_cpu.h"
#include "mem/pool.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)

// A device of 16 MiB, a pool without a limit of its own, and two streams.
struct fixture {
    struct device *device;
    struct mem_pool *pool;
    struct stream *stream, *other;
};

static struct fixture open_fixture(uint64_t capacity, uint64_t limit, const char *name, bool faulting)
{
    struct fixture f = {0};
    struct error error;
    struct device_config config = {.name = name, .capacity_bytes = capacity, .faulting_addresses = faulting};
    assert_int_equal(device_cpu.create(&config, &f.device, &error), STATUS_OK);
    assert_int_equal(device_cpu.stream_create(f.device, &f.stream), STATUS_OK);
    assert_int_equal(device_cpu.stream_create(f.device, &f.other), STATUS_OK);
    assert_int_equal(mem_pool_create(f.device, limit, &f.pool, &error), STATUS_OK);
    return f;
}

static void close_fixture(struct fixture *f)
{
    mem_pool_destroy(f->pool);
    struct device_info info;
    f->device->ops->info(f->device, &info);
    assert_int_equal(info.held_bytes, 0);
    device_cpu.stream_destroy(f->device, f->stream);
    device_cpu.stream_destroy(f->device, f->other);
    device_cpu.destroy(f->device);
}

static struct fixture open_plain(void)
{
    return open_fixture(16 * MIB, 0, NULL, false);
}

static device_address take(struct fixture *f, uint64_t bytes)
{
    device_address address = 0;
    assert_int_equal(mem_pool_alloc(f->pool, bytes, f->stream, "test", &address), STATUS_OK);
    assert_true(mem_pool_check(f->pool));
    return address;
}

static void give(struct fixture *f, device_address address)
{
    mem_pool_free(f->pool, address, f->stream);
    assert_true(mem_pool_check(f->pool));
}

static const struct mem_out_of_memory *refuse(struct fixture *f, uint64_t bytes)
{
    device_address address = 77;
    assert_int_equal(mem_pool_alloc(f->pool, bytes, f->stream, "refused", &address), STATUS_OUT_OF_MEMORY);
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

static uint64_t held(const struct fixture *f)
{
    struct device_info info;
    f->device->ops->info(f->device, &info);
    return info.held_bytes;
}

static void blocks_are_rounded_to_the_alignment(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    assert_int_equal(mem_pool_block_bytes(0), MEM_POOL_ALIGNMENT);
    assert_int_equal(mem_pool_block_bytes(MEM_POOL_ALIGNMENT), MEM_POOL_ALIGNMENT);
    assert_int_equal(mem_pool_block_bytes(MEM_POOL_ALIGNMENT + 1), 2 * MEM_POOL_ALIGNMENT);
    device_address a = take(&f, 1), b = take(&f, 0), c = take(&f, 513);
    assert_int_equal(a % MEM_POOL_ALIGNMENT + b % MEM_POOL_ALIGNMENT + c % MEM_POOL_ALIGNMENT, 0);
    assert_int_equal(stats_of(&f).allocated_bytes, 4 * MEM_POOL_ALIGNMENT);
    assert_int_equal(stats_of(&f).live_blocks, 3);
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
    assert_int_equal(stats_of(&f).reserved_bytes, MIB);
    close_fixture(&f);
}

static void a_hit_leaves_the_device_alone(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    give(&f, take(&f, MIB));
    uint64_t calls = stats_of(&f).device_calls;
    for (int i = 0; i < 100; i++) {
        give(&f, take(&f, MIB));
        give(&f, take(&f, 100 * KIB));
    }
    assert_int_equal(stats_of(&f).device_calls, calls);
    assert_int_equal(stats_of(&f).alloc_count, 201);
    assert_int_equal(stats_of(&f).free_count, 201);
    close_fixture(&f);
}

static void what_is_freed_at_the_top_grows_into_a_larger_block(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    device_address below = take(&f, 100 * KIB), small = take(&f, MIB);
    give(&f, small);
    assert_int_equal(take(&f, 2 * MIB), small);
    assert_true(stats_of(&f).reserved_bytes <= 2 * MIB + 192 * KIB);
    assert_int_equal(stats_of(&f).reserved_bytes, held(&f));
    give(&f, below);
    close_fixture(&f);
}

static void peaks_start_again_from_the_present(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    device_address kept = take(&f, MIB);
    give(&f, take(&f, 2 * MIB));
    assert_int_equal(stats_of(&f).allocated_bytes, MIB);
    assert_int_equal(stats_of(&f).allocated_peak_bytes, 3 * MIB);
    assert_int_equal(stats_of(&f).reserved_peak_bytes, 3 * MIB);
    mem_pool_empty_cache(f.pool);
    mem_pool_reset_peaks(f.pool);
    assert_int_equal(stats_of(&f).allocated_peak_bytes, MIB);
    assert_int_equal(stats_of(&f).reserved_peak_bytes, MIB);
    give(&f, kept);
    close_fixture(&f);
}

static void trimming_goes_as_far_as_live_blocks_allow(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    device_address low = take(&f, MIB), middle = take(&f, MIB), high = take(&f, 4 * MIB);
    give(&f, low);
    assert_int_equal(mem_pool_empty_cache(f.pool), 0);
    give(&f, high);
    assert_int_equal(mem_pool_trim(f.pool, 3 * MIB), 3 * MIB);
    assert_int_equal(held(&f), 3 * MIB);
    assert_int_equal(mem_pool_trim(f.pool, 3 * MIB), 0);
    assert_int_equal(mem_pool_empty_cache(f.pool), MIB);
    assert_int_equal(held(&f), 2 * MIB);
    give(&f, middle);
    assert_int_equal(mem_pool_empty_cache(f.pool), 2 * MIB);
    assert_int_equal(held(&f), 0);
    assert_int_equal(stats_of(&f).reserved_bytes, 0);
    assert_true(mem_pool_check(f.pool));
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
    assert_int_equal(stats_of(&f).reserved_bytes, 4 * MIB);
    assert_int_equal(stats_of(&f).out_of_memory_count, 1);
    refuse(&f, UINT64_MAX);
    give(&f, a);
    give(&f, b);
    close_fixture(&f);
}

static void scattered_free_memory_is_called_fragmented(void **context)
{
    (void)context;
    struct fixture f = open_fixture(4 * MIB, 0, NULL, false);
    device_address blocks[4];
    for (int i = 0; i < 4; i++) {
        blocks[i] = take(&f, MIB);
    }
    give(&f, blocks[0]);
    give(&f, blocks[2]);
    const struct mem_out_of_memory *report = refuse(&f, 2 * MIB);
    assert_int_equal(report->cause, MEM_CAUSE_FRAGMENTED);
    assert_int_equal(report->largest_free_bytes, MIB);
    assert_int_equal(report->reserved_bytes - report->allocated_bytes, 2 * MIB);
    assert_int_equal(report->pending_bytes, 0);
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

static void injected_failures_come_as_often_as_asked(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    take(&f, 512);
    mem_pool_inject_failures(f.pool, 3);
    for (int round = 0; round < 4; round++) {
        take(&f, 512);
        take(&f, 512);
        assert_int_equal(refuse(&f, 512)->cause, MEM_CAUSE_INJECTED);
    }
    mem_pool_inject_failures(f.pool, 0);
    for (int i = 0; i < 10; i++) {
        take(&f, 512);
    }
    close_fixture(&f);
}

static void the_report_says_what_holds_the_memory(void **context)
{
    (void)context;
    struct fixture f = open_fixture(8 * MIB, 0, NULL, false);
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
        assert_int_equal(mem_pool_alloc(f.pool, blocks[i].bytes, f.stream, blocks[i].tag, &address), STATUS_OK);
    }
    const struct mem_out_of_memory *report = refuse(&f, 3 * MIB);
    assert_string_equal(report->tag, "refused");
    assert_string_equal(report->top[0].tag, "a tag that is longer than thirt");
    assert_int_equal(report->top[0].bytes, 2 * MIB);
    assert_string_equal(report->top[1].tag, "state");
    assert_int_equal(report->top[1].bytes, 1152 * KIB);
    assert_string_equal(report->top[2].tag, "gradients");
    assert_string_equal(report->top[3].tag, "weights");
    char text[1024];
    mem_out_of_memory_format(report, &device_cpu, text, sizeof(text));
    assert_string_equal(text,
                        "CPU out of memory. Tried to allocate 3.00 MiB (refused). The device has a total capacity of "
                        "8.00 MiB of which 2.81 MiB is free; others hold 0 bytes. Under the limit of 8.00 MiB, 5.13 "
                        "MiB is allocated, and 62.00 KiB is reserved but unallocated, the largest free block 62.00 "
                        "KiB. Cause: capacity (what is live and the request together exceed the limit). Largest: "
                        "a tag that is longer than thirt 2.00 MiB, state 1.12 MiB, gradients 1.00 MiB, weights 1.00 "
                        "MiB.");
    char cut[40];
    mem_out_of_memory_format(report, &device_cpu, cut, sizeof(cut));
    assert_string_equal(cut, "CPU out of memory. Tried to allocate 3.");
    close_fixture(&f);
}

// The CPU's streams are never behind, so what the pool asks of them is noted.
static struct stream *recorded, *waiting;

static void note_record(struct device *device, struct event *event, struct stream *stream)
{
    recorded = stream;
    device_cpu.event_record(device, event, stream);
}

static void note_wait(struct device *device, struct stream *stream, struct event *event)
{
    waiting = stream;
    device_cpu.event_wait(device, stream, event);
}

static void another_stream_takes_fresh_memory_or_waits_for_a_block(void **context)
{
    (void)context;
    struct fixture f = open_fixture(4 * MIB, 0, NULL, false);
    struct device_ops ops = device_cpu;
    ops.event_record = note_record;
    ops.event_wait = note_wait;
    f.device->ops = &ops;
    device_address a = take(&f, MIB), b, c, d;
    give(&f, a);
    assert_int_equal(mem_pool_alloc(f.pool, MIB, f.other, "other", &b), STATUS_OK);
    assert_true(b != a);
    assert_int_equal(take(&f, MIB), a);
    give(&f, a);
    assert_int_equal(mem_pool_alloc(f.pool, 2 * MIB, f.other, "other", &c), STATUS_OK);
    assert_null(waiting);
    assert_int_equal(mem_pool_alloc(f.pool, MIB, f.other, "other", &d), STATUS_OK); // nothing else is left
    assert_int_equal(d, a);
    assert_ptr_equal(recorded, f.stream);
    assert_ptr_equal(waiting, f.other);
    assert_true(mem_pool_check(f.pool));
    close_fixture(&f);
}

// Two halves freed on two streams are one block again once both have passed.
static void blocks_of_two_streams_join_under_pressure(void **context)
{
    (void)context;
    struct fixture f = open_fixture(4 * MIB, 0, NULL, false);
    device_address a = take(&f, 2 * MIB), b = take(&f, 2 * MIB);
    mem_pool_free(f.pool, a, f.stream);
    mem_pool_free(f.pool, b, f.other);
    assert_true(mem_pool_check(f.pool));
    assert_int_equal(take(&f, 4 * MIB), a);
    close_fixture(&f);
}

static void freeing_nothing_is_allowed(void **context)
{
    (void)context;
    struct fixture f = open_plain();
    mem_pool_free(f.pool, 0, f.stream);
    assert_int_equal(stats_of(&f).free_count, 0);
    mem_pool_destroy(NULL);
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
    mem_pool_empty_cache(f.pool);
    close_fixture(&f);
}

static void sharers_divide_what_is_free(void **context)
{
    (void)context;
    char name[32];
    snprintf(name, sizeof(name), "test-pool-%d", (int)getpid());
    struct fixture a = open_fixture(8 * MIB, 0, name, false), b = open_fixture(8 * MIB, 0, name, false);
    assert_int_equal(mem_pool_headroom(a.pool), 4 * MIB);
    device_address big = take(&a, 6 * MIB);
    assert_int_equal(mem_pool_headroom(b.pool), MIB);
    assert_int_equal(refuse(&b, 3 * MIB)->cause, MEM_CAUSE_EXTERNAL);
    give(&a, big);
    assert_int_equal(refuse(&b, 3 * MIB)->cause, MEM_CAUSE_EXTERNAL); // cached by the other
    mem_pool_empty_cache(a.pool);
    give(&b, take(&b, 8 * MIB));
    close_fixture(&a);
    close_fixture(&b);
}

#define FUZZ_BLOCKS     64
#define FUZZ_OPERATIONS 20000

struct shadow {
    device_address address;
    uint64_t bytes;
    unsigned char pattern;
};

static uint64_t random_below(uint64_t *state, uint64_t bound)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*state >> 33) % bound;
}

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

static bool sums_hold(const struct fixture *f, const struct shadow *blocks)
{
    struct mem_pool_stats stats = stats_of(f);
    uint64_t allocated = 0;
    for (int i = 0; i < FUZZ_BLOCKS; i++) {
        allocated += blocks[i].address == 0 ? 0 : mem_pool_block_bytes(blocks[i].bytes);
    }
    return stats.allocated_bytes == allocated && stats.allocated_bytes <= stats.reserved_bytes &&
           stats.reserved_bytes <= stats.limit_bytes && stats.reserved_bytes == held(f) && mem_pool_check(f->pool);
}

// What headroom promises, a request gets.
static bool headroom_holds(struct fixture *f, struct stream *stream)
{
    uint64_t headroom = mem_pool_headroom(f->pool);
    device_address address;
    if (headroom < MEM_POOL_ALIGNMENT) {
        return true;
    }
    if (mem_pool_alloc(f->pool, headroom, stream, "headroom", &address) != STATUS_OK) {
        return false;
    }
    mem_pool_free(f->pool, address, stream);
    return true;
}

static void random_use_keeps_every_promise(void **context)
{
    (void)context;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct fixture f = open_fixture(10 * MIB, 8 * MIB, NULL, seed == 2);
        struct shadow blocks[FUZZ_BLOCKS] = {0};
        uint64_t state = seed, refusals = 0;
        for (int i = 0; i < FUZZ_OPERATIONS; i++) {
            struct shadow *block = &blocks[random_below(&state, FUZZ_BLOCKS)];
            struct stream *stream = random_below(&state, 4) == 0 ? f.other : f.stream;
            bool right = true;
            if (block->address != 0) {
                right = contents_hold(block);
                mem_pool_free(f.pool, block->address, stream);
                *block = (struct shadow){0};
            } else {
                uint64_t bytes = 1 + random_below(&state, UINT64_C(1) << (6 + random_below(&state, 17)));
                if (mem_pool_alloc(f.pool, bytes, stream, "fuzz", &block->address) == STATUS_OK) {
                    block->bytes = bytes;
                    block->pattern = (unsigned char)random_below(&state, 256);
                    memset(device_cpu_pointer(block->address), block->pattern, bytes);
                    right = overlaps_none(blocks, block);
                } else {
                    refusals++;
                }
            }
            uint64_t chance = random_below(&state, 200);
            if (chance == 0) {
                mem_pool_trim(f.pool, random_below(&state, 8 * MIB));
            } else if (chance == 1) {
                device_cpu_set_neighbour(f.device, random_below(&state, 6 * MIB));
            } else if (chance == 2) {
                right = right && headroom_holds(&f, stream);
            }
            if (!right || !sums_hold(&f, blocks)) {
                fail_msg("seed %llu, operation %d", (unsigned long long)seed, i);
            }
        }
        print_message("seed %llu: %llu of %d operations refused\n", (unsigned long long)seed,
                      (unsigned long long)refusals, FUZZ_OPERATIONS);
        assert_in_range(refusals, 50, FUZZ_OPERATIONS / 4);
        close_fixture(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_rounded_to_the_alignment),
        cmocka_unit_test(the_best_fit_is_the_smallest_then_the_lowest),
        cmocka_unit_test(blocks_split_and_join_again),
        cmocka_unit_test(a_hit_leaves_the_device_alone),
        cmocka_unit_test(what_is_freed_at_the_top_grows_into_a_larger_block),
        cmocka_unit_test(peaks_start_again_from_the_present),
        cmocka_unit_test(trimming_goes_as_far_as_live_blocks_allow),
        cmocka_unit_test(the_limit_is_hard),
        cmocka_unit_test(scattered_free_memory_is_called_fragmented),
        cmocka_unit_test(a_neighbour_is_called_external),
        cmocka_unit_test(headroom_shrinks_by_what_a_neighbour_took_too_much),
        cmocka_unit_test(injected_failures_come_as_often_as_asked),
        cmocka_unit_test(the_report_says_what_holds_the_memory),
        cmocka_unit_test(another_stream_takes_fresh_memory_or_waits_for_a_block),
        cmocka_unit_test(blocks_of_two_streams_join_under_pressure),
        cmocka_unit_test(freeing_nothing_is_allowed),
        cmocka_unit_test(the_host_never_touches_device_memory),
        cmocka_unit_test(sharers_divide_what_is_free),
        cmocka_unit_test(random_use_keeps_every_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
