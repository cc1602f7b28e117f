// SPDX-License-Identifier: Apache-2.0
#include "worker/top/top.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/pool.h"
#include "mem/printable.h"
#include "mem/uint64.h"
#include "worker/duration.h"
#include "worker/figures.h"

#define AVERAGED    32 // steps
#define BAR_MOST    24 // columns
#define BAR_LEAST   8
#define BESIDE_BAR  62 // columns of what else of a rank is always to be seen
#define HEAD_ROWS   4
#define EVENT_ROWS  6 // with a line above them
#define LEAST_RANKS 1
#define PROGRESS    48 // bytes
#define LOSS        32 // bytes
#define LOSS_LARGE  1e7

void top_init(struct top *top, const char *folder, uint64_t steps)
{
    *top = (struct top){.folder = folder, .steps = steps};
}

void top_finish(struct top *top)
{
    free(top->step.ranks.rank);
}

static void __attribute__((format(printf, 2, 3))) add_event(struct top *top, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(top->events[top->event_count++ % TOP_EVENTS], TOP_EVENT_MAX, format, arguments);
    va_end(arguments);
}

static void note_ranks(struct top *top, const struct record_step *step)
{
    for (size_t i = 0; i < step->ranks.count; i++) {
        const struct record_rank *rank = &step->ranks.rank[i];
        const struct record_rank *before = top->seen && i < top->step.ranks.count ? &top->step.ranks.rank[i] : NULL;
        top->retries += rank->oom_retries;
        top->handed_back += rank->handed_back;
        if (rank->oom_retries > 0) {
            add_event(top,
                      "step %" PRIu64 ": rank %zu: allocations refused: %" PRIu64 ", samples handed back: %" PRIu64,
                      step->step, i, rank->oom_retries, rank->handed_back);
        }
        if (before != NULL && before->limit_bytes != rank->limit_bytes) {
            char limit[MEM_SIZE_TEXT_MAX];
            add_event(top, "step %" PRIu64 ": rank %zu may hold %s", step->step, i,
                      mem_size_text(rank->limit_bytes, limit));
        }
        if (before != NULL && (before->share == 0) != (rank->share == 0)) {
            add_event(top, "step %" PRIu64 ": rank %zu %s", step->step, i, rank->share == 0 ? "rests" : "is back");
        }
    }
}

static bool keep_step(struct top *top, const struct record_step *step)
{
    size_t count = step->ranks.count;
    struct record_rank *ranks = realloc(top->step.ranks.rank, count * sizeof(*ranks));
    if (ranks == NULL) {
        return false;
    }
    memcpy(ranks, step->ranks.rank, count * sizeof(*ranks));
    top->step = *step;
    top->step.ranks.rank = ranks;
    return true;
}

// The run went on from an earlier step, and its lines are read from the first one on.
static bool begins_anew(const struct top *top, const struct record_step *step)
{
    return top->seen && step->step <= top->step.step;
}

static bool note_step(struct top *top, const struct record_step *step)
{
    if (begins_anew(top, step)) {
        top->retries = top->handed_back = top->event_count = 0;
        top->seen = false;
    }
    note_ranks(top, step);
    top->mean_step_ms += top->seen ? (step->step_ms - top->mean_step_ms) / AVERAGED : step->step_ms;
    top->seen = true;
    top->ended = false;
    return keep_step(top, step);
}

static const char *loss_text(double loss, char text[LOSS])
{
    if (fabs(loss) < LOSS_LARGE) {
        snprintf(text, LOSS, "%.4f", loss);
    } else {
        snprintf(text, LOSS, "%.6g", loss);
    }
    return text;
}

bool top_note(struct top *top, const struct history_line *line)
{
    char loss[LOSS];
    switch (line->kind) {
    case HISTORY_STEP:
        return note_step(top, &line->step);
    case HISTORY_EVALUATION:
        add_event(top, "after %" PRIu64 " steps: validation loss %s, accuracy %.2f %%", line->evaluation.step,
                  loss_text(line->evaluation.loss, loss), 100 * line->evaluation.accuracy);
        break;
    case HISTORY_CHECKPOINT:
        add_event(top, "after %" PRIu64 " steps: %s%s", line->checkpoint.step,
                  line->checkpoint.written ? "checkpoint" : "no checkpoint: ", line->checkpoint.error);
        break;
    case HISTORY_RESUME:
        add_event(top, "goes on after %" PRIu64 " steps on %" PRIu64 " ranks", line->resume.step, line->resume.ranks);
        break;
    case HISTORY_END:
        add_event(top, "ended after %" PRIu64 " steps with exit code %d", line->end.step, (int)line->end.status);
        top->ended = true;
        top->end = line->end;
        break;
    case HISTORY_OTHER:
    case HISTORY_NOTHING:
        break;
    }
    return true;
}

struct page {
    struct top_row *rows;
    size_t row, height, width;
};

// One more row, cut to the width; nothing where the page is full.
static void __attribute__((format(printf, 3, 4))) put(struct page *page, enum top_style style, const char *format, ...)
{
    if (page->row == page->height) {
        return;
    }
    struct top_row *row = &page->rows[page->row++];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(row->text, page->width + 1, format, arguments);
    va_end(arguments);
    printable(row->text, row->text, sizeof(row->text));
    row->style = style;
}

static const char *step_text(const struct top *top, char text[PROGRESS])
{
    uint64_t done = top->step.step + 1;
    if (top->steps > 0) {
        snprintf(text, PROGRESS, "%" PRIu64 "/%" PRIu64, done, top->steps);
    } else {
        snprintf(text, PROGRESS, "%" PRIu64, done);
    }
    return text;
}

static const char *left_text(const struct top *top, char text[DURATION_TEXT_MAX])
{
    uint64_t left = top->steps > top->step.step ? top->steps - top->step.step - 1 : 0;
    double seconds = top->ended ? 0 : (double)left * top->mean_step_ms / 1e3;
    return duration_text(top->steps > 0 || top->ended ? seconds : NAN, text);
}

static void put_title(struct page *page, const struct top *top)
{
    if (!top->seen) {
        put(page, TOP_TITLE, "headroom top  no step yet  %s", top->folder);
        put(page, TOP_PLAIN, "%s", top->ended ? "ended" : "");
        return;
    }
    const struct record_step *step = &top->step;
    char progress[PROGRESS], left[DURATION_TEXT_MAX], loss[LOSS];
    put(page, TOP_TITLE, "headroom top  step %s  loss %s  %.0f tokens/s  %.1f ms/step  %s", step_text(top, progress),
        loss_text(step->loss, loss), step->tokens_per_s, step->step_ms, top->folder);
    struct figures line = figures_begin(page->width);
    figures_add(&line, "left %s", left_text(top, left));
    figures_add(&line, "  retries %" PRIu64 "  handed back %" PRIu64, top->retries, top->handed_back);
    figures_add(&line, "  waiting for data %.1f ms", step->data_wait_ms);
    figures_add(&line, "  all-reduce %.1f ms", step->comm_ms);
    figures_add(&line, "  coordination %.2f ms", step->coordination_ms);
    put(page, TOP_PLAIN, "%s", line.text);
}

static size_t bar_width(const struct page *page)
{
    size_t left = page->width - uint64_min(page->width, BESIDE_BAR);
    return uint64_max(uint64_min(left, BAR_MOST), BAR_LEAST);
}

// Of the limit: '#' the step's peak, 'o' what others hold, '.' what is left.
static const char *bar_of(const struct record_rank *rank, size_t width, char bar[BAR_MOST + 1])
{
    uint64_t limit = uint64_max(rank->limit_bytes, 1);
    size_t used = (size_t)(uint64_min(rank->allocated_peak_bytes, limit) * width / limit);
    size_t others = (size_t)(uint64_min(rank->others_bytes, limit) * width / limit);
    others = uint64_min(others, width - used);
    memset(bar, '.', width);
    memset(bar, '#', used);
    memset(bar + width - others, 'o', others);
    bar[width] = '\0';
    return bar;
}

// What a narrow screen does not show comes last.
static void put_columns(struct page *page)
{
    struct figures line = figures_begin(page->width);
    figures_add(&line, "%-5s", "rank");
    figures_add(&line, " %-*.*s", (int)bar_width(page) + 2, (int)bar_width(page) + 2, "peak #  others o");
    figures_add(&line, " %11s", "headroom");
    figures_add(&line, " %8s", "share");
    figures_add(&line, " %14s", "micro-batch");
    figures_add(&line, " %-9s", "levers");
    figures_add(&line, " %7s", "retries");
    figures_add(&line, " %11s", "peak");
    figures_add(&line, " %11s", "limit");
    put(page, TOP_HEADER, "%s", line.text);
}

static void put_rank(struct page *page, size_t number, const struct record_rank *rank)
{
    char limit[MEM_SIZE_TEXT_MAX], headroom[MEM_SIZE_TEXT_MAX], peak[MEM_SIZE_TEXT_MAX], bar[BAR_MOST + 1];
    struct figures line = figures_begin(page->width);
    figures_add(&line, "%-5zu", number);
    figures_add(&line, " [%s]", bar_of(rank, bar_width(page), bar));
    figures_add(&line, " %11s", mem_size_text(rank->headroom_bytes, headroom));
    figures_add(&line, " %8" PRIu64, rank->share);
    figures_add(&line, " %6" PRIu64 " x %-5" PRIu64, rank->micro_batch, rank->accumulation_steps);
    figures_add(&line, " %-9s", rank->share == 0 ? "rests" : rank->levers);
    figures_add(&line, " %7" PRIu64, rank->oom_retries);
    figures_add(&line, " %11s", mem_size_text(rank->allocated_peak_bytes, peak));
    figures_add(&line, " %11s", mem_size_text(rank->limit_bytes, limit));
    put(page, TOP_PLAIN, "%s", line.text);
}

// Says why nothing new is known, or so where they are not all.
static void put_range(struct page *page, const struct top *top, size_t first, size_t shown, size_t count)
{
    if (top->trouble != NULL && !top->ended) {
        put(page, TOP_TITLE, "%s", top->trouble);
    } else if (shown < count) {
        put(page, TOP_PLAIN, "ranks %zu to %zu of %zu; arrows and page keys move", first, first + shown - 1, count);
    } else {
        put(page, TOP_PLAIN, "%s", "");
    }
}

static size_t put_ranks(struct page *page, const struct top *top, size_t first_rank, size_t room)
{
    size_t count = top->seen ? top->step.ranks.count : 0, left = count > first_rank ? count - first_rank : 0;
    size_t shown = left < room ? left : room;
    put_range(page, top, first_rank, shown, count);
    put_columns(page);
    for (size_t i = first_rank; i < first_rank + shown; i++) {
        put_rank(page, i, &top->step.ranks.rank[i]);
    }
    return shown;
}

static void put_events(struct page *page, const struct top *top)
{
    put(page, TOP_PLAIN, "%s", "");
    uint64_t room = page->height - page->row, kept = uint64_min(top->event_count, TOP_EVENTS);
    for (uint64_t n = top->event_count - uint64_min(kept, room); n < top->event_count; n++) {
        put(page, TOP_PLAIN, "%s", top->events[n % TOP_EVENTS]);
    }
}

size_t top_height(const struct top *top)
{
    return HEAD_ROWS + (top->seen ? top->step.ranks.count : 0) + EVENT_ROWS;
}

size_t top_draw(const struct top *top, size_t first_rank, size_t width, size_t height, struct top_row *rows)
{
    struct page page = {.rows = rows, .height = height, .width = width};
    size_t taken = HEAD_ROWS + EVENT_ROWS, room = height > taken + LEAST_RANKS ? height - taken : LEAST_RANKS;
    put_title(&page, top);
    size_t shown = put_ranks(&page, top, first_rank, room);
    put_events(&page, top);
    while (page.row < height) {
        put(&page, TOP_PLAIN, "%s", "");
    }
    return shown;
}
