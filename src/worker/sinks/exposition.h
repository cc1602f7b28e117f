// SPDX-License-Identifier: Apache-2.0
//
// The newest figures of a run as Prometheus reads them: its text format, version 0.0.4. docs/metrics.md names the
// metrics. Units are seconds, bytes and ratios; counters count from the start of the process.
//
// Threads: one at a time.
#ifndef HEADROOM_WORKER_SINKS_EXPOSITION_H
#define HEADROOM_WORKER_SINKS_EXPOSITION_H

#include <stdio.h>

#include "worker/run/record.h"

struct exposition;

// `run`: the label of that name. The caller owns the exposition. NULL when the host's memory runs out.
struct exposition *exposition_create(const char *run, size_t ranks);
// Accepts NULL.
void exposition_destroy(struct exposition *exposition);

void exposition_step(struct exposition *exposition, const struct record_step *step);
void exposition_evaluation(struct exposition *exposition, const struct record_evaluation *evaluation);

// Nothing before the first step.
void exposition_put(FILE *to, const struct exposition *exposition);
// The same, as a text that the caller frees. NULL when the host's memory runs out.
char *exposition_text(const struct exposition *exposition, size_t *bytes_p);

#endif
