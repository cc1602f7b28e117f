// SPDX-License-Identifier: Apache-2.0
//
// Every trace (*.csv, or */*.csv) of the folder that HEADROOM_TRACES names. Where a file's name says a capacity, as
// A.1048576.csv does, the layout must fit it, else come within 0.76 % of the largest sum of live bytes; at resnet50.csv
// it must be the largest sum. The pool must
// hold no more than one growable arena with best fit would, in whole granules. Where the trace is so large that
// granules do not matter, it must waste less than half of what PyTorch's rules do.
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mem/replay.h"

#define GRANULARITY UINT64_C(2097152)
#define ALIGNMENT   UINT64_C(512)
#define LARGE       (64 * GRANULARITY)
#define GAP_MAX     0.76 // %
#define SKIPPED     77

static const char *const tight[] = {"resnet50.csv"}; // are packed without a gap

// The plainest arena there is: blocks in an array, in order of address.
struct block {
    uint64_t bytes;
    uint32_t buffer; // FREE, or whose it is
};

struct arena {
    struct block *blocks;
    size_t count;
    uint64_t bytes;
};

#define FREE UINT32_MAX

static void insert(struct arena *arena, size_t at, struct block block)
{
    memmove(&arena->blocks[at + 1], &arena->blocks[at], (arena->count - at) * sizeof(block));
    arena->blocks[at] = block;
    arena->count++;
}

static void delete (struct arena *arena, size_t at)
{
    arena->count--;
    memmove(&arena->blocks[at], &arena->blocks[at + 1], (arena->count - at) * sizeof(arena->blocks[0]));
}

static void arena_take(struct arena *arena, uint32_t buffer, uint64_t bytes)
{
    size_t best = arena->count;
    for (size_t i = 0; i < arena->count; i++) {
        bool fits = arena->blocks[i].buffer == FREE && arena->blocks[i].bytes >= bytes;
        if (fits && (best == arena->count || arena->blocks[i].bytes < arena->blocks[best].bytes)) {
            best = i;
        }
    }
    if (best == arena->count) { // what is free at the top grows
        if (best == 0 || arena->blocks[best - 1].buffer != FREE) {
            insert(arena, best, (struct block){0, FREE});
        } else {
            best--;
        }
        arena->bytes += bytes - arena->blocks[best].bytes;
        arena->blocks[best].bytes = bytes;
    }
    uint64_t left = arena->blocks[best].bytes - bytes;
    arena->blocks[best] = (struct block){bytes, buffer};
    if (left > 0) {
        insert(arena, best + 1, (struct block){left, FREE});
    }
}

static void arena_give(struct arena *arena, uint32_t buffer)
{
    size_t at = 0;
    while (arena->blocks[at].buffer != buffer) {
        at++;
    }
    arena->blocks[at].buffer = FREE;
    if (at + 1 < arena->count && arena->blocks[at + 1].buffer == FREE) {
        arena->blocks[at].bytes += arena->blocks[at + 1].bytes;
        delete (arena, at + 1);
    }
    if (at > 0 && arena->blocks[at - 1].buffer == FREE) {
        arena->blocks[at - 1].bytes += arena->blocks[at].bytes;
        delete (arena, at);
    }
}

static uint64_t replay_arena(const struct mem_trace *trace, const struct mem_trace_event *events)
{
    struct arena arena = {.blocks = calloc(2 * trace->count + 2, sizeof(*arena.blocks))};
    assert_non_null(arena.blocks);
    for (size_t i = 0; i < 2 * trace->count; i++) {
        uint64_t bytes = trace->buffers[events[i].buffer].bytes;
        if (events[i].frees) {
            arena_give(&arena, events[i].buffer);
        } else {
            arena_take(&arena, events[i].buffer, ((bytes > 0 ? bytes : 1) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
        }
    }
    free(arena.blocks);
    return arena.bytes;
}

// In percent.
static double above(uint64_t bytes, uint64_t live_bytes)
{
    return 100 * ((double)bytes / (double)live_bytes - 1);
}

static void check_online(const struct mem_trace *trace, uint64_t live_bytes)
{
    struct mem_trace_event *events = mem_trace_events(trace);
    assert_non_null(events);
    uint64_t pool = mem_replay_pool(trace, events, GRANULARITY, false), arena = replay_arena(trace, events);
    uint64_t pytorch = mem_replay_pytorch(trace, events);
    print_message("; online: pool %.3f %%, plain arena %.3f %%, PyTorch's rules %.3f %%\n", above(pool, live_bytes),
                  above(arena, live_bytes), above(pytorch, live_bytes));
    assert_true(pool <= (arena + GRANULARITY - 1) / GRANULARITY * GRANULARITY);
    assert_true(live_bytes < LARGE || above(pool, live_bytes) < above(pytorch, live_bytes) / 2);
    free(events);
}

static double gap_max(const char *name)
{
    for (size_t i = 0; i < sizeof(tight) / sizeof(tight[0]); i++) {
        if (strcmp(name, tight[i]) == 0) {
            return 0;
        }
    }
    return GAP_MAX;
}

static void check_trace(const char *path)
{
    const char *name = strrchr(path, '/') + 1;
    struct mem_trace trace;
    struct error error;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    if (mem_trace_read(path, file, &trace, &error) != STATUS_OK) {
        fail_msg("%s", error.text);
    }
    fclose(file);
    const struct mem_layout_goal goal = {.bytes = mem_trace_capacity(path), .work = MEM_LAYOUT_WORK_MAX};
    uint64_t *offsets = calloc(trace.count, sizeof(*offsets));
    assert_non_null(offsets);
    struct mem_layout layout;
    assert_true(mem_layout_place(trace.buffers, trace.count, 1, &goal, offsets, &layout));
    uint64_t bytes = layout.bytes, live_bytes = layout.lower_bound_bytes;
    print_message("%s, above the largest sum of live bytes: layout %.3f %%", name, above(bytes, live_bytes));
    assert_true(mem_layout_valid(trace.buffers, offsets, trace.count, 1, bytes));
    assert_true(goal.bytes > 0 ? bytes <= goal.bytes : above(bytes, live_bytes) <= gap_max(name));
    check_online(&trace, live_bytes);
    free(offsets);
    mem_trace_finish(&trace);
}

static void every_trace(void **state)
{
    const glob_t *found = *state;
    for (size_t i = 0; i < found->gl_pathc; i++) {
        check_trace(found->gl_pathv[i]);
    }
}

int main(void)
{
    const char *folder = getenv("HEADROOM_TRACES");
    char pattern[4096];
    glob_t found = {0};
    if (folder == NULL) {
        printf("skipped: HEADROOM_TRACES names no folder of traces\n");
        return SKIPPED;
    }
    snprintf(pattern, sizeof(pattern), "%s/*.csv", folder);
    int first = glob(pattern, 0, NULL, &found);
    snprintf(pattern, sizeof(pattern), "%s/*/*.csv", folder);
    int second = glob(pattern, first == 0 ? GLOB_APPEND : 0, NULL, &found);
    if (first != 0 && second != 0) {
        printf("there is no trace in %s\n", folder);
        return EXIT_FAILURE;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(every_trace, &found)};
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    globfree(&found);
    return failures;
}
