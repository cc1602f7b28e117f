// SPDX-License-Identifier: Apache-2.0
//
// A run: its steps one after the other, with validations and checkpoints when they are due.
#ifndef HEADROOM_WORKER_LOOP_H
#define HEADROOM_WORKER_LOOP_H

#include "worker/checkpoint/resume.h"
#include "worker/run/reporter.h"

// From worker->first_step to the end, or until a rank is told to stop. `*steps_done_p` counts from the first step of
// all. Collective; the status is the same on every rank, and what only one rank meets ends the job from there.
// STATUS_STOPPED, STATUS_OUT_OF_MEMORY and STATUS_DIVERGED as their names say; STATUS_ERROR where the checkpoint at the
// end, or of a stop, could not be written.
enum status loop_run(struct worker *worker, struct reporter *reporter, const struct resume *resume,
                     uint64_t *steps_done_p, struct error *error);

#endif
