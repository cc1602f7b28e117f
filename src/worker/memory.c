// SPDX-License-Identifier: Apache-2.0
//
// headroom memory replay: what a trace would take under our layout, our pool, and PyTorch's rules.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/clock.h"
#include "mem/pool.h"
#include "mem/replay.h"
#include "worker/commands.h"
#include "worker/launcher.h"

#define GRANULARITY UINT64_C(2097152) // of a GPU's memory

// Above the largest sum of live bytes.
static void print_row(const char *name, uint64_t bytes, uint64_t live_bytes)
{
    char text[MEM_SIZE_TEXT_MAX];
    double above = live_bytes == 0 ? 0 : 100 * ((double)bytes / (double)live_bytes - 1);
    printf("%-34s %14s %20" PRIu64 " %8.3f %%\n", name, mem_size_text(bytes, text), bytes, above);
}

static enum status print_online(const struct mem_trace *trace, uint64_t live_bytes, struct error *error)
{
    struct mem_trace_event *events = mem_trace_events(trace);
    uint64_t pool = UINT64_MAX, pytorch = UINT64_MAX;
    if (events != NULL) {
        pool = mem_replay_pool(trace, events, GRANULARITY);
        pytorch = mem_replay_pytorch(trace, events);
    }
    free(events);
    if (pool == UINT64_MAX || pytorch == UINT64_MAX) {
        return error_set(error, STATUS_ERROR, "out of host memory");
    }
    print_row("pool, as they come", pool, live_bytes);
    print_row("PyTorch's rules, as they come", pytorch, live_bytes);
    return STATUS_OK;
}

static enum status print_layout(const struct mem_trace *trace, uint64_t live_bytes, struct error *error)
{
    const struct mem_layout_goal goal = {.work = MEM_LAYOUT_WORK_MAX};
    uint64_t *offsets = calloc(trace->count, sizeof(*offsets)), start_ns = clock_ns();
    if (offsets == NULL) {
        return error_set(error, STATUS_ERROR, "out of host memory");
    }
    struct mem_layout layout;
    bool placed = mem_layout_place(trace->buffers, trace->count, 1, &goal, offsets, &layout);
    double seconds = (double)(clock_ns() - start_ns) / 1e9;
    bool valid = placed && mem_layout_valid(trace->buffers, offsets, trace->count, 1, layout.bytes);
    free(offsets);
    if (!placed) {
        return error_set(error, STATUS_ERROR, "out of host memory");
    }
    if (!valid) {
        return error_set(error, STATUS_ERROR, "the layout is not valid: this is a bug");
    }
    char name[48];
    snprintf(name, sizeof(name), "layout, known ahead (%.1f s)", seconds);
    print_row(name, layout.bytes, live_bytes);
    if (layout.optimal && layout.bytes > live_bytes) {
        printf("no layout takes less\n");
    }
    return STATUS_OK;
}

static enum status replay(const char *path, struct error *error)
{
    struct mem_trace trace;
    enum status status = mem_trace_read(path, &trace, error);
    if (status != STATUS_OK) {
        return status;
    }
    uint64_t live_bytes = mem_layout_lower_bound(trace.buffers, trace.count, 1);
    if (live_bytes == UINT64_MAX) {
        mem_trace_finish(&trace);
        return error_set(error, STATUS_ERROR, "out of host memory");
    }
    printf("%s: %zu buffers\n\n%-34s %14s %20s %10s\n", path, trace.count, "", "held", "bytes", "above live");
    print_row("largest sum of live bytes", live_bytes, live_bytes);
    status = print_online(&trace, live_bytes, error);
    if (status == STATUS_OK) {
        status = print_layout(&trace, live_bytes, error);
    }
    mem_trace_finish(&trace);
    return status;
}

int command_memory(char *const *arguments)
{
    struct error error = {0};
    if (launcher_started_several()) {
        error_set(&error, STATUS_INVALID, "memory runs without a launcher");
        return command_misused(&error);
    }
    if (arguments[0] == NULL || strcmp(arguments[0], "replay") != 0 || arguments[1] == NULL || arguments[2] != NULL) {
        error_set(&error, STATUS_INVALID, "memory takes: replay TRACE.csv; see headroom --help");
        return command_misused(&error);
    }
    return command_finish(replay(arguments[1], &error), &error);
}
