// SPDX-License-Identifier: Apache-2.0
#include "worker/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "mem/clock.h"
#include "mem/pool.h"
#include "mem/uint64.h"
#include "worker/comm/launcher.h"
#include "worker/duration.h"
#include "worker/figures.h"
#include "worker/terminal.h"

#define TERMINAL_PERIOD_NS UINT64_C(100000000)
#define SECOND_NS          UINT64_C(1000000000)
#define BAR_WIDTH          30 // columns
#define BAR_LEAST          4

void progress_begin(struct progress *progress, const char *what, enum progress_unit unit, uint64_t total,
                    uint64_t log_seconds)
{
    *progress = (struct progress){.what = what, .unit = unit, .total = uint64_max(total, 1)};
    progress->terminal = launcher_is_watched();
    progress->period_ns = progress->terminal ? TERMINAL_PERIOD_NS : log_seconds * SECOND_NS;
    progress->start_ns = progress->line_ns = clock_ns();
}

static void add_amounts(const struct progress *progress, double per_second, struct figures *line)
{
    char done[MEM_SIZE_TEXT_MAX], total[MEM_SIZE_TEXT_MAX];
    if (progress->unit == PROGRESS_BYTES) {
        figures_add(line, "  %s of %s", mem_size_text(progress->done, done), mem_size_text(progress->total, total));
        figures_add(line, "  %.1f MB/s", per_second / 1e6);
    } else {
        figures_add(line, "  %" PRIu64 " of %" PRIu64 " samples", progress->done, progress->total);
        figures_add(line, "  %.0f samples/s", per_second);
    }
}

// As wide as there is room for.
static void add_bar(double part, struct figures *line)
{
    size_t most = line->room - uint64_min(line->room, strlen("  []")), width = uint64_min(most, BAR_WIDTH);
    char bar[BAR_WIDTH + 1] = {0};
    memset(bar, ' ', width);
    memset(bar, '=', (size_t)(part * (double)width));
    if (width >= BAR_LEAST) {
        figures_add(line, "  [%s]", bar);
    }
}

static struct figures make_line(const struct progress *progress)
{
    struct figures line = figures_begin(progress->terminal ? launcher_columns() - 1 : SIZE_MAX);
    double part = (double)progress->done / (double)progress->total;
    double seconds = (double)(progress->line_ns - progress->start_ns) / 1e9,
           per_second = (double)progress->done / seconds;
    figures_add(&line, "%s  %.0f %%", progress->what, 100 * part);
    if (progress->done > 0) {
        char left[DURATION_TEXT_MAX];
        figures_add(&line, "  left %s", duration_text((double)(progress->total - progress->done) / per_second, left));
    }
    add_amounts(progress, per_second, &line);
    if (progress->terminal) {
        add_bar(part, &line);
    }
    return line;
}

static void show(struct progress *progress)
{
    struct figures line = make_line(progress);
    printf("%s%s%s", progress->terminal ? TERMINAL_CLEAR_LINE : "", line.text, progress->terminal ? "" : "\n");
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
