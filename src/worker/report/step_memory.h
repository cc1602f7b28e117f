// SPDX-License-Identifier: Apache-2.0
//
// What one micro-step holds on a device and when, operation by operation, priced from a run's configuration.
//
// Threads: one at a time. Ranks: nothing is collective, and no device is used.
#ifndef HEADROOM_WORKER_REPORT_STEP_MEMORY_H
#define HEADROOM_WORKER_REPORT_STEP_MEMORY_H

#include <stdint.h>

#include <jansson.h>

#include "mem/error.h"

struct step_memory_shape {
    uint64_t micro_batch;
    uint64_t levers; // of offers.h
    uint64_t ranks;
};

// Answers an object that the caller owns: "micro_batch", "levers", "samples' length", what rests on the device under
// "resting", the list's operations, its tensors with place and lifetime, and the bytes of the whole. STATUS_INVALID
// where the configuration cannot be read, STATUS_ERROR when the host's memory runs out.
enum status step_memory_price(const char *config_path, const struct step_memory_shape *shape, json_t **object_p,
                              struct error *error);

#endif
