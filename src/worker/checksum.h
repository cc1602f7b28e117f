// SPDX-License-Identifier: Apache-2.0
//
// A checksum of the weights, by which two runs are told apart.
#ifndef HEADROOM_WORKER_CHECKSUM_H
#define HEADROOM_WORKER_CHECKSUM_H

#include "worker/worker.h"

// XXH3 with 64 bits, over the float32 bits of all parameters, in the model's order. Waits for the device. STATUS_ERROR
// where the host's memory runs out or work before has failed.
enum status checksum_weights(struct worker *worker, uint64_t *checksum_p, struct error *error);

#endif
