// SPDX-License-Identifier: Apache-2.0
//
// GPUs load code when it first runs, and libraries take what they need when they are first called: memory of the device
// that must be gone before anybody counts what is free.
#ifndef HEADROOM_WORKER_WARM_UP_H
#define HEADROOM_WORKER_WARM_UP_H

#include "worker/worker.h"

// Runs what a step and an evaluation run, with the largest micro-batch that an equal share would have and a smaller
// one, on resting memory that is zero, and leaves weights and the optimizer's state so; gradients and sums are then
// undefined, as between steps. Where there is no room for a sample it runs the rest: what is missing is told when the
// step is planned. Does nothing on devices of the host's memory. Blocks.
enum status warm_up_kernels(struct worker *worker, struct error *error);

// Adds up the gradients, whatever they are, bucket by bucket as every step will. Collective. Blocks.
enum status warm_up_reduce(struct worker *worker, struct error *error);

#endif
