// SPDX-License-Identifier: Apache-2.0
//
// metrics.jsonl: one JSON object a line, each written whole. docs/metrics.md documents every field. Rank 0 only.
#ifndef HEADROOM_WORKER_RUN_METRICS_H
#define HEADROOM_WORKER_RUN_METRICS_H

#include "worker/checkpoint/writer.h"
#include "worker/evaluate.h"
#include "worker/step.h"

struct metrics;

// Opens FOLDER/metrics.jsonl. The caller owns it. What an earlier process has written there stays where it is of steps
// before `first_step`, and goes where they will be done again.
enum status metrics_open(const char *folder, uint64_t first_step, struct metrics **metrics_p, struct error *error);
// Accepts NULL.
void metrics_close(struct metrics *metrics);

// Each answers STATUS_ERROR with a line when the file cannot be written.
enum status metrics_step(struct metrics *metrics, const struct worker *worker, const struct step_result *result,
                         struct error *error);
enum status metrics_evaluation(struct metrics *metrics, const struct worker *worker, uint64_t steps_done,
                               const struct evaluation *evaluation, struct error *error);
// The run goes on from the checkpoint `found`.
enum status metrics_resume(struct metrics *metrics, const struct worker *worker, const char *found,
                           struct error *error);
enum status metrics_checkpoint(struct metrics *metrics, const struct checkpoint_report *checkpoint,
                               struct error *error);
struct run_end {
    uint64_t steps_done;
    double seconds;
    enum status status;
    const uint64_t *checksum_p; // of the weights; NULL: it was not made
};
enum status metrics_end(struct metrics *metrics, const struct run_end *end, struct error *error);

#endif
