// SPDX-License-Identifier: Apache-2.0
//
// A model at work on one sequence of tokens: its weights on a device, and from the same pool the keys and values of the
// tokens that it has read, so that each is read once.
//
// Threads: one at a time. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_GENERATE_GENERATOR_H
#define HEADROOM_WORKER_GENERATE_GENERATOR_H

#include "mem/device.h"
#include "worker/exchange/weights.h"

struct generator;

// On a device of this kind, the first, of which it holds at most `limit_bytes`; 0: what there is. Reads all weights,
// which need not stay; their model, a gpt, must. STATUS_OUT_OF_MEMORY with a line that says what was held where the
// device has not enough.
enum status generator_create(const struct device_ops *device, uint64_t limit_bytes, const struct weights *weights,
                             struct generator **generator_p, struct error *error);
// Accepts NULL.
void generator_destroy(struct generator *generator);

// Reads `count` tokens, at least 1, each below the vocabulary's size; all that are read are at most the model's
// seq_len.
// `*logits_p` becomes what the model says of the one after them, one number for each token of the vocabulary, until the
// next call. Blocks. STATUS_OUT_OF_MEMORY as above; STATUS_DIVERGED where a logit is not finite.
enum status generator_read(struct generator *generator, const int32_t *tokens, size_t count, const float **logits_p,
                           struct error *error);

// Bytes of the device that were held at the most.
uint64_t generator_peak_bytes(const struct generator *generator);

#endif
