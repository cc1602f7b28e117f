// SPDX-License-Identifier: Apache-2.0
//
// metrics.jsonl: one JSON object a line, each whole or absent. docs/metrics.md documents every field. Rank 0 only.
#ifndef HEADROOM_WORKER_RUN_METRICS_H
#define HEADROOM_WORKER_RUN_METRICS_H

#include "worker/checkpoint/writer.h"
#include "worker/evaluate.h"
#include "worker/run/line_file.h"
#include "worker/step.h"

// Opens FOLDER/metrics.jsonl. The caller owns it. What an earlier process has written there stays where it is of steps
// before `first_step`, and goes where they will be done again. STATUS_ERROR where it cannot be written.
enum status metrics_open(const char *folder, uint64_t first_step, struct line_file **metrics_p, struct error *error);

void metrics_step(struct line_file *metrics, const struct worker *worker, const struct step_result *result);
void metrics_evaluation(struct line_file *metrics, const struct worker *worker, uint64_t steps_done,
                        const struct evaluation *evaluation);
// The run goes on from the checkpoint `found`.
void metrics_resume(struct line_file *metrics, const struct worker *worker, const char *found);
void metrics_checkpoint(struct line_file *metrics, const struct checkpoint_report *checkpoint);
struct run_end {
    uint64_t steps_done;
    double seconds;
    enum status status;
    const uint64_t *checksum_p; // of the weights; NULL: it was not made
};
void metrics_end(struct line_file *metrics, const struct run_end *end);

#endif
