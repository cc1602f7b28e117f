// SPDX-License-Identifier: Apache-2.0
//
// Running a range of samples in micro-steps, whatever happens to memory on the way.
#ifndef HEADROOM_WORKER_SAMPLES_H
#define HEADROOM_WORKER_SAMPLES_H

#include "worker/worker.h"

struct sample_range {
    enum list_purpose purpose;
    struct loader *loader;
    uint64_t first, count; // positions
    uint64_t micro_batch;  // to begin with, at least 1
};

// Spreads positions so that their sum tells whether each was done exactly once.
uint64_t position_hash(uint64_t position);

// Enqueues every sample of the range once, adds to the gradients and to worker->values' tally, and leaves in
// worker->message what was done and what it took; its report is empty. A micro-step whose memory is refused has not
// touched anything: it is cut in half and tried again. STATUS_OUT_OF_MEMORY only when one sample is refused even after
// all cached memory went back to the device. Where the range is for training, the sums of buckets that become ready
// before the last operation are started. Collective only in that.
enum status samples_run(struct worker *worker, const struct sample_range *range, struct error *error);

// Collective: starts the sums over ranks of the buckets from `first_bucket` on, and the tally's. Work enqueued from
// then on sees all sums that were started.
void samples_reduce(struct worker *worker, size_t first_bucket);

#endif
