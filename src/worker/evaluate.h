// SPDX-License-Identifier: Apache-2.0
#ifndef HEADROOM_WORKER_EVALUATE_H
#define HEADROOM_WORKER_EVALUATE_H

#include "worker/worker.h"

struct evaluation {
    double loss;     // mean over what counts
    double accuracy; // share of it where the largest logit is the target
    uint64_t samples;
};

// The loss of the whole validation set, each rank doing its part of it with the memory it has, and what others cannot
// do; worker->messages tells what each did, with its headroom before it. Collective. STATUS_DIVERGED on every rank when
// the loss is not finite, STATUS_OUT_OF_MEMORY when no rank can hold a sample that is left. Any other failure is this
// rank's alone: the caller must abort the communicator.
enum status evaluate(struct worker *worker, struct evaluation *evaluation_p, struct error *error);

#endif
