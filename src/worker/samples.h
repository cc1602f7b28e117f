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
    uint64_t micro_batch;  // to begin with
};

struct sample_outcome {
    uint64_t samples;             // done
    uint64_t position_hash;       // sum of position_hash() over them
    uint64_t micro_batch_largest; // that ran
    uint64_t oom_retries;         // allocations that failed on the way
};

// Spreads positions so that their sum tells whether each was done exactly once.
uint64_t position_hash(uint64_t position);

// Runs every sample of the range once; gradients and the tally are added to. A micro-step whose memory is refused has
// not touched anything: it is cut in half and tried again. STATUS_OUT_OF_MEMORY only when one sample is refused even
// after all cached memory went back to the device. Not collective.
enum status samples_run(struct worker *worker, const struct sample_range *range, struct sample_outcome *outcome_p,
                        struct error *error);

#endif
