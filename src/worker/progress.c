// SPDX-License-Identifier: Apache-2.0
#include "worker/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "mem/clock.h"
#include "mem/pool.h"
#include "mem/uint64.h"
#include "worker/comm/launcher.h"
#include "worker/terminal.h"

#define TERMINAL_PERIOD_NS UINT64_C(100000000)
#define SECOND_NS          UINT64_C(1000000000)
#define BAR_WIDTH          30

void progress_begin(struct progress *progress, const char *what, enum progress_unit unit, uint64_t total,
                    uint64_t log_seconds)
{
    *progress = (struct progress){.what = what, .unit = unit, .total = uint64_max(total, 1)};
    progress->terminal = launcher_is_watched();
    progress->period_ns = progress->terminal ? TERMINAL_PERIOD_NS : log_seconds * SECOND_NS;
    progress->start_ns = progress->line_ns = clock_ns();
}

static void print_amounts(const struct progress *progress, double per_second)
{
    char done[MEM_SIZE_TEXT_MAX], total[MEM_SIZE_TEXT_MAX];
    if (progress->unit == PROGRESS_BYTES) {
        printf("  %s of %s  %.1f MB/s", mem_size_text(progress->done, done), mem_size_text(progress->total, total),
               per_second / 1e6);
    } else {
        printf("  %" PRIu64 " of %" PRIu64 " samples  %.0f samples/s", progress->done, progress->total, per_second);
    }
}

static void print_line(const struct progress *progress)
{
    double part = (double)progress->done / (double)progress->total;
    double seconds = (double)(progress->line_ns - progress->start_ns) / 1e9,
           per_second = (double)progress->done / seconds;
    printf("%s  ", progress->what);
    if (progress->terminal) {
        char bar[BAR_WIDTH + 1] = {0};
        memset(bar, ' ', BAR_WIDTH);
        memset(bar, '=', (size_t)(part * BAR_WIDTH));
        printf("[%s] ", bar);
    }
    printf("%.0f %%", 100 * part);
    print_amounts(progress, per_second);
    if (progress->done > 0) {
        uint64_t left = (uint64_t)((double)(progress->total - progress->done) / per_second);
        printf("  left %" PRIu64 ":%02" PRIu64, left / 60, left % 60);
    }
}

static void show(struct progress *progress)
{
    fputs(progress->terminal ? TERMINAL_CLEAR_LINE TERMINAL_NO_WRAP : "", stdout);
    print_line(progress);
    fputs(progress->terminal ? TERMINAL_WRAP : "\n", stdout);
    fflush(stdout);
    progress->line_open = progress->terminal;
}

void progress_add(struct progress *progress, uint64_t count)
{
    if (progress->period_ns == 0) {
        return;
    }
    uint64_t now_ns = clock_ns();
    progress->done = uint64_min(progress->done + count, progress->total);
    if (now_ns - progress->line_ns >= progress->period_ns) {
        progress->line_ns = now_ns;
        show(progress);
    }
}

void progress_end(struct progress *progress)
{
    if (progress->line_open) {
        fputs(TERMINAL_CLEAR_LINE, stdout);
        fflush(stdout);
    }
    *progress = (struct progress){0};
}
