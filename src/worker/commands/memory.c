// SPDX-License-Identifier: Apache-2.0
//
// headroom memory replay: what a trace would take under our layout, our pool, and PyTorch's rules; and headroom memory
// snapshot: asks running ranks for a snapshot.
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/clock.h"
#include "mem/pool.h"
#include "mem/replay.h"
#include "worker/commands/commands.h"
#include "worker/regular_file.h"

#define LAYOUT_ALIGNMENT UINT64_C(1) // as the traces' own figures are

// How far above the largest sum of live bytes, where anything is live at all.
static void print_row(const char *name, uint64_t alignment, uint64_t bytes, uint64_t live_bytes)
{
    char held[MEM_SIZE_TEXT_MAX], above[32] = "-";
    if (live_bytes > 0) {
        snprintf(above, sizeof(above), "%.3f %%", 100 * ((double)bytes / (double)live_bytes - 1));
    }
    printf("%-34s %10" PRIu64 " %14s %20" PRIu64 " %10s\n", name, alignment, mem_size_text(bytes, held), bytes, above);
}

static enum status print_online(const struct mem_trace *trace, uint64_t live_bytes, struct error *error)
{
    struct mem_trace_event *events = mem_trace_events(trace);
    uint64_t pool = UINT64_MAX, plain = UINT64_MAX, pytorch = UINT64_MAX;
    if (events != NULL) {
        pool = mem_replay_pool(trace, events, DEVICE_CUDA_GRANULARITY, false);
        plain = mem_replay_pool(trace, events, DEVICE_CUDA_GRANULARITY, true);
        pytorch = mem_replay_pytorch(trace, events);
    }
    free(events);
    if (pool == UINT64_MAX || plain == UINT64_MAX || pytorch == UINT64_MAX) {
        return error_out_of_host_memory(error);
    }
    print_row("pool, as they come", MEM_POOL_ALIGNMENT, pool, live_bytes);
    print_row("pool in plain segments", MEM_POOL_ALIGNMENT, plain, live_bytes);
    print_row("PyTorch's rules, as they come", MEM_POOL_ALIGNMENT, pytorch, live_bytes);
    return STATUS_OK;
}

static enum status print_layout(const struct mem_trace *trace, uint64_t live_bytes, struct error *error)
{
    const struct mem_layout_goal goal = {.work = MEM_LAYOUT_WORK_MAX};
    uint64_t *offsets = calloc(trace->count, sizeof(*offsets)), start_ns = clock_ns();
    if (offsets == NULL) {
        return error_out_of_host_memory(error);
    }
    struct mem_layout layout;
    bool placed = mem_layout_place(trace->buffers, trace->count, LAYOUT_ALIGNMENT, &goal, offsets, &layout);
    double seconds = (double)(clock_ns() - start_ns) / 1e9;
    bool valid = placed && mem_layout_valid(trace->buffers, offsets, trace->count, LAYOUT_ALIGNMENT, layout.bytes);
    free(offsets);
    if (!placed) {
        return error_out_of_host_memory(error);
    }
    if (!valid) {
        return error_set(error, STATUS_ERROR, "the layout is not valid: this is a bug");
    }
    char name[48];
    snprintf(name, sizeof(name), "layout, known ahead (%.1f s)", seconds);
    print_row(name, LAYOUT_ALIGNMENT, layout.bytes, live_bytes);
    if (layout.optimal && layout.bytes > live_bytes) {
        printf("no layout takes less\n");
    }
    return STATUS_OK;
}

static enum status open_trace(const char *path, FILE **file_p, struct error *error)
{
    int descriptor;
    uint64_t bytes;
    enum status status = regular_file_open(path, &descriptor, &bytes, error);
    if (status != STATUS_OK) {
        return status;
    }
    *file_p = fdopen(descriptor, "r");
    if (*file_p == NULL) {
        close(descriptor);
        return error_out_of_host_memory(error);
    }
    return STATUS_OK;
}

static enum status replay(const char *path, struct error *error)
{
    FILE *file;
    struct mem_trace trace;
    enum status status = open_trace(path, &file, error);
    if (status != STATUS_OK) {
        return status;
    }
    status = mem_trace_read(path, file, &trace, error);
    fclose(file);
    if (status != STATUS_OK) {
        return status;
    }
    uint64_t live_bytes = mem_layout_lower_bound(trace.buffers, trace.count, LAYOUT_ALIGNMENT);
    if (live_bytes == UINT64_MAX) {
        mem_trace_finish(&trace);
        return error_out_of_host_memory(error);
    }
    printf("%s: %zu buffers\n\n%-34s %10s %14s %20s %10s\n", path, trace.count, "", "rounded to", "held", "bytes",
           "above live");
    print_row("largest sum of live bytes", LAYOUT_ALIGNMENT, live_bytes, live_bytes);
    status = print_online(&trace, live_bytes, error);
    if (status == STATUS_OK) {
        fflush(stdout); // what follows may take a while
        status = print_layout(&trace, live_bytes, error);
    }
    mem_trace_finish(&trace);
    return status;
}

// The program that a process runs; "" where there is none, or it is another user's.
static void find_program(const char *process, char *path, size_t size)
{
    static const char built_anew[] = " (deleted)";
    char link[64];
    snprintf(link, sizeof(link), "/proc/%s/exe", process);
    ssize_t length = readlink(link, path, size - 1);
    path[length < 0 ? 0 : length] = '\0';
    char *end = strstr(path, built_anew);
    if (end != NULL && end[sizeof(built_anew) - 1] == '\0') {
        *end = '\0';
    }
}

// A process that still starts would be ended by the signal.
static bool blocks_signal(const char *process)
{
    char path[64], line[256];
    unsigned long long blocked = 0;
    snprintf(path, sizeof(path), "/proc/%s/status", process);
    FILE *file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL && sscanf(line, "SigBlk: %llx", &blocked) != 1) {
    }
    if (file != NULL) {
        fclose(file);
    }
    return (blocked >> (SIGUSR2 - 1) & 1) != 0;
}

// The signal would end any other program.
static enum status ask_for_snapshot(const char *process, struct error *error)
{
    char own[1024], other[1024];
    char *end;
    long number = strtol(process, &end, 10);
    find_program("self", own, sizeof(own));
    find_program(process, other, sizeof(other));
    if (own[0] == '\0' || number > INT32_MAX || *end != '\0' || *process < '1' || *process > '9' ||
        strcmp(own, other) != 0) {
        return error_set(error, STATUS_INVALID, "'%s' is no process of this program and user on this machine", process);
    }
    if (!blocks_signal(process)) {
        return error_set(error, STATUS_ERROR, "process %s has only just started: ask again", process);
    }
    if (kill((pid_t)number, SIGUSR2) != 0) {
        return error_set(error, STATUS_ERROR, "process %s: %s", process, strerror(errno));
    }
    printf("process %s was asked: while it trains, it writes a snapshot at the end of its step\n", process);
    return STATUS_OK;
}

static enum status run_replay(char *const *arguments, struct error *error)
{
    const char *path = NULL;
    const struct command_argument takes[] = {{"TRACE.csv", .text = &path, .needed = true}};
    enum status status = command_parse("memory replay", takes, 1, arguments, error);
    return status == STATUS_OK ? replay(path, error) : status;
}

static enum status run_snapshot(char *const *arguments, struct error *error)
{
    enum status status =
        arguments[0] != NULL
            ? STATUS_OK
            : error_set(error, STATUS_INVALID, "memory snapshot needs PROCESS; see headroom memory snapshot --help");
    for (size_t i = 0; status == STATUS_OK && arguments[i] != NULL; i++) {
        status = ask_for_snapshot(arguments[i], error);
    }
    return status;
}

int command_memory_replay(char *const *arguments)
{
    struct error error = {0};
    return command_finish(run_replay(arguments, &error), &error);
}

int command_memory_snapshot(char *const *arguments)
{
    struct error error = {0};
    return command_finish(run_snapshot(arguments, &error), &error);
}
