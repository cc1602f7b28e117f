// SPDX-License-Identifier: Apache-2.0
//
// What to change where memory is short, as users read it.
//
// Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_ADVICE_H
#define HEADROOM_WORKER_ADVICE_H

#include "worker/worker.h"

// "set train.recompute: ...", to what may do with less memory than the configuration allows; NULL: nothing may.
const char *advice_more_levers(const struct config *config);

// What to change where memory was refused for good, in a sentence; `training`: to a micro-step with a backward pass.
// Writes and answers `text`, of ADVICE_MAX bytes.
const char *advice_out_of_memory(const struct worker *worker, enum mem_cause cause, bool training, char *text);

// "a single sample", or "a grain of 4 samples": what a rank does at least. Writes and answers `text`, of
// ADVICE_GRAIN_NAME_MAX bytes.
#define ADVICE_GRAIN_NAME_MAX 48
const char *advice_grain_name(const struct worker *worker, char *text);

#endif
