// SPDX-License-Identifier: Apache-2.0
//
// What headroom top knows of a run, and how a screen shows it.
//
// Threads: one. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_TOP_TOP_H
#define HEADROOM_WORKER_TOP_TOP_H

#include "worker/run/history.h"

#define TOP_EVENTS      64  // the newest that are kept
#define TOP_EVENT_MAX   160 // bytes, with the one that ends it
#define TOP_COLUMNS_MAX 256

struct top {
    const char *folder;
    uint64_t steps;          // of the whole run; 0: not known
    const char *trouble;     // why nothing new is known; NULL: there is none
    struct record_step step; // the newest, if `seen`; with ranks of its own
    bool seen, ended;
    struct record_end end;
    uint64_t retries, handed_back; // in all steps
    double mean_step_ms;           // of the latest dozens
    char events[TOP_EVENTS][TOP_EVENT_MAX];
    uint64_t event_count; // that there were; event n is events[n % TOP_EVENTS]
};

// Nothing is known yet. `folder` must outlive it.
void top_init(struct top *top, const char *folder, uint64_t steps);
void top_finish(struct top *top);

// False where the host's memory runs out.
bool top_note(struct top *top, const struct history_line *line);

enum top_style { TOP_PLAIN, TOP_TITLE, TOP_HEADER };

struct top_row {
    enum top_style style;
    char text[TOP_COLUMNS_MAX + 1];
};

// How many rows show all ranks.
size_t top_height(const struct top *top);

// Fills rows[height], of at most `width` columns (up to TOP_COLUMNS_MAX), with ranks from `first_rank` on as far as
// they fit, and the newest events below. Answers how many ranks are shown.
size_t top_draw(const struct top *top, size_t first_rank, size_t width, size_t height, struct top_row *rows);

#endif
