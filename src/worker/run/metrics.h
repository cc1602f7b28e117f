// SPDX-License-Identifier: Apache-2.0
//
// metrics.jsonl: one JSON object a line, each whole or absent. docs/metrics.md documents every field. Rank 0 only.
#ifndef HEADROOM_WORKER_RUN_METRICS_H
#define HEADROOM_WORKER_RUN_METRICS_H

#include "worker/run/line_file.h"
#include "worker/run/record.h"

// Opens FOLDER/metrics.jsonl. The caller owns it. What an earlier process has written there stays where it is of steps
// before `first_step`, and goes where they will be done again. STATUS_ERROR where it cannot be written.
enum status metrics_open(const char *folder, uint64_t first_step, struct line_file **metrics_p, struct error *error);

void metrics_step(struct line_file *metrics, const struct record_step *step);
void metrics_evaluation(struct line_file *metrics, const struct record_evaluation *evaluation);
void metrics_resume(struct line_file *metrics, const struct record_resume *resume);
void metrics_checkpoint(struct line_file *metrics, const struct record_checkpoint *checkpoint);
void metrics_end(struct line_file *metrics, const struct record_end *end);

#endif
