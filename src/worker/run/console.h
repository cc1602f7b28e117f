// SPDX-License-Identifier: Apache-2.0
//
// What a person sees while training: on a terminal one line that keeps changing, otherwise a plain line now and then.
// Of plans the first, then what ranks do with other levers, and where they rest or are back; all are in the ranks'
// logs. Rank 0 only.
#ifndef HEADROOM_WORKER_RUN_CONSOLE_H
#define HEADROOM_WORKER_RUN_CONSOLE_H

#include "worker/checkpoint/resume.h"
#include "worker/checkpoint/writer.h"
#include "worker/evaluate.h"
#include "worker/run/record.h"
#include "worker/step.h"

struct console;

// `terminal`: keep one line changing. The worker must outlive the console. NULL when the host's memory runs out.
struct console *console_create(FILE *file, bool terminal, const struct worker *worker);
// Accepts NULL.
void console_destroy(struct console *console);

void console_start(struct console *console, const char *folder, const struct resume *resume);
// `saved`: the part of a checkpoint that is written meanwhile; below 0: none is.
void console_step(struct console *console, const struct step_result *result, double saved);
void console_evaluation(struct console *console, uint64_t steps_done, const struct evaluation *evaluation);
// One that could not be written is a warning.
void console_checkpoint(struct console *console, const struct checkpoint_report *checkpoint);
// A line on the standard error. Accepts a NULL console: any rank may warn.
void console_warning(struct console *console, const char *text);
// What each rank did with its memory, if it did a step; the last evaluation; where the run folder is, and where it was
// told to stop, after how many steps.
void console_end(struct console *console, const char *folder, const struct record_end *end);

#endif
