// SPDX-License-Identifier: Apache-2.0
//
// What a run tells while it goes: into its folder, and on rank 0 to a person.
//
// Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_RUN_REPORTER_H
#define HEADROOM_WORKER_RUN_REPORTER_H

#include "worker/checkpoint/resume.h"
#include "worker/checkpoint/writer.h"
#include "worker/doctor/doctor.h"
#include "worker/evaluate.h"
#include "worker/run/console.h"
#include "worker/run/metrics.h"
#include "worker/run/run_folder.h"
#include "worker/sinks/sinks.h"
#include "worker/step.h"

struct reporter {
    struct worker *worker;
    struct line_file *metrics; // rank 0, as is what follows
    struct console *console;
    struct sinks *sinks;
    struct record_ranks ranks; // scratch
    struct doctor *doctor;
    bool warned[DOCTOR_CAUSES]; // of it
    char folder[RUN_FOLDER_MAX];
    uint64_t start_ns;
};

// Opens what is written into reporter->folder. reporter_close is due in any case.
enum status reporter_open(struct reporter *reporter, struct error *error);
void reporter_close(struct reporter *reporter);

// Where what they have to say cannot be written they warn, and the run goes on.
void reporter_start(struct reporter *reporter, const struct resume *resume);
// `saved`: as for console_step.
void reporter_step(struct reporter *reporter, const struct step_result *result, double saved);
void reporter_evaluation(struct reporter *reporter, uint64_t steps_done, const struct evaluation *evaluation);
void reporter_checkpoint(struct reporter *reporter, const struct checkpoint_report *checkpoint);
// Also writes what a run leaves behind of memory and costs, on every rank, and says how many lines are missing.
// `checksum_p`: of the weights; NULL: it was not made. `shortage`: without a cause where there is none.
void reporter_end(struct reporter *reporter, uint64_t steps_done, enum status status, const uint64_t *checksum_p,
                  const struct record_shortage *shortage);

#endif
