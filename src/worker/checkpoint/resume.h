// SPDX-License-Identifier: Apache-2.0
//
// Going on from a checkpoint, or beginning anew with its weights: on any number of ranks, on any devices.
//
// Ranks: every rank reads the files for itself, so all must see the folder.
#ifndef HEADROOM_WORKER_CHECKPOINT_RESUME_H
#define HEADROOM_WORKER_CHECKPOINT_RESUME_H

#include "worker/checkpoint/folder.h"
#include "worker/worker.h"

struct resume {
    char found[CHECKPOINT_PATH_MAX];   // the checkpoint that the run goes on from; "": none
    char weights[CHECKPOINT_PATH_MAX]; // that whose weights alone it begins with; "": none
    struct checkpoint_state state;     // of `found`; its plan is freed by whoever owns this
};

// Finds what checkpoint.resume names, `run` being the folder that the run writes into, and tells all ranks: none where
// nothing is to be resumed, or nothing is there yet; then what checkpoint.weights names. Collective; the status is the
// same on every rank, the line is rank 0's.
enum status resume_find(struct worker *worker, const char *run, struct resume *resume, struct error *error);

// Puts weights and the optimizer's state of the checkpoint on the device, and lets the worker begin at its step and its
// place in the data; or puts the weights alone there; or does nothing, as was found. STATUS_INVALID with the first
// difference where the checkpoint is of another model or optimizer. Not collective. Blocks until it is done.
enum status resume_load(struct worker *worker, const struct resume *resume, struct error *error);

#endif
