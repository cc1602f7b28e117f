// SPDX-License-Identifier: Apache-2.0
//
// All sinks that the configuration chooses. What one of them cannot do is a warning, and the run goes on.
//
// Threads: one. Ranks: rank 0 only; nothing is collective.
#ifndef HEADROOM_WORKER_SINKS_SINKS_H
#define HEADROOM_WORKER_SINKS_SINKS_H

#include "worker/run/console.h"
#include "worker/run/record.h"
#include "worker/worker.h"

struct sinks;

// Opens them, after metrics.jsonl; one that cannot be opened is left out. Worker, folder and console must outlive the
// sinks, which the caller owns. NULL when the host's memory runs out.
struct sinks *sinks_open(struct worker *worker, const char *folder, struct console *console);
// Also says what is missing where, and writes into the rank's log how long each took. Accepts NULL.
void sinks_close(struct sinks *sinks);

void sinks_step(struct sinks *sinks, const struct record_step *step);
void sinks_evaluation(struct sinks *sinks, const struct record_evaluation *evaluation);

#endif
