// SPDX-License-Identifier: Apache-2.0
//
// What a run has written into metrics.jsonl, read back line by line, also while the run goes on.
//
// Threads: one. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_RUN_HISTORY_H
#define HEADROOM_WORKER_RUN_HISTORY_H

#include "worker/run/record.h"

struct history;

enum history_kind {
    HISTORY_NOTHING, // more than what was read, for now
    HISTORY_STEP,
    HISTORY_EVALUATION,
    HISTORY_CHECKPOINT,
    HISTORY_RESUME,
    HISTORY_END,
    HISTORY_OTHER // an event that this version does not know
};

// What it points to is valid until the next one is read.
struct history_line {
    enum history_kind kind;
    union {
        struct record_step step;
        struct record_evaluation evaluation;
        struct record_checkpoint checkpoint;
        struct record_resume resume;
        struct record_end end;
    };
};

// Opens FOLDER/metrics.jsonl; the caller owns the history. STATUS_INVALID with a line where the folder is no run's,
// STATUS_ERROR where the file cannot be read.
enum status history_open(const char *folder, struct history **history_p, struct error *error);
// One of lines that come from elsewhere, which errors call `name`. NULL when the host's memory runs out.
struct history *history_create(const char *name);
// Accepts NULL.
void history_close(struct history *history);

// The next line. One that is not whole yet is read by a later call, and after a run that goes on has written the file
// anew, its first line is the next. Does not block but on the disk. STATUS_INVALID with file and line where it is none
// of a run's, after which the history can only be closed.
enum status history_next(struct history *history, struct history_line *line_p, struct error *error);
// The same of a line that came from elsewhere, without its newline.
enum status history_read(struct history *history, const char *text, size_t length, struct history_line *line_p,
                         struct error *error);

#endif
