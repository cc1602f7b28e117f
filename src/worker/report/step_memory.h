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

// Answers an object that the caller owns: the shape ("micro_batch", "levers", "length" of a sample in targets), bytes
// of what rests on the device ("resting", where the optimizer's state is an equal shard if "sharded"), of the
// micro-step's block and of its inputs, and the least that a layout could take; "operations" as [kind, tensor], the
// first "forward_count" of them of the forward pass; and "tensors" with category, offset into the block, and the first
// and last operation at which each is there. STATUS_INVALID where the configuration cannot be read, STATUS_ERROR when
// the host's memory runs out.
enum status step_memory_price(const char *config_path, const struct step_memory_shape *shape, json_t **object_p,
                              struct error *error);

#endif
