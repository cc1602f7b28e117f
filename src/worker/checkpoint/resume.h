// SPDX-License-Identifier: Apache-2.0
//
// Going on from a checkpoint: on any number of ranks, on any devices.
//
// Ranks: every rank reads the files for itself, so all must see the folder.
#ifndef HEADROOM_WORKER_CHECKPOINT_RESUME_H
#define HEADROOM_WORKER_CHECKPOINT_RESUME_H

#include "worker/checkpoint/folder.h"
#include "worker/worker.h"

// Finds what train.resume names, `run` being where a run with that configuration would write, and tells all ranks:
// `found` is "" where nothing is to be resumed, for nothing is there yet. Collective; the status is the same on every
// rank, the line is rank 0's. The owner of `state` frees its plan.
enum status resume_find(struct worker *worker, const char *run, char found[CHECKPOINT_PATH_MAX],
                        struct checkpoint_state *state, struct error *error);

// Puts weights and the optimizer's state of the checkpoint on the device, and lets the worker begin at its step and its
// place in the data. STATUS_INVALID with the first difference where it is of another model or optimizer. Not
// collective. Blocks until it is done.
enum status resume_load(struct worker *worker, const char *found, const struct checkpoint_state *state,
                        struct error *error);

// Weights alone, as for a model that is trained further on other data: from a safetensors file with a tensor for each
// parameter.
enum status resume_load_weights(struct worker *worker, const char *path, struct error *error);

#endif
