// SPDX-License-Identifier: Apache-2.0
//
// Which token comes next, by a model's logits: the most likely, or one that is drawn with the probabilities that they
// give, at a temperature and from the `top_k` most likely (Fan, Lewis and Dauphin, "Hierarchical neural story
// generation", 2018).
//
// Pure functions.
#ifndef HEADROOM_WORKER_GENERATE_SAMPLER_H
#define HEADROOM_WORKER_GENERATE_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

struct sampler {
    double temperature; // 0: the most likely, of equals the first
    size_t top_k;       // 0: all
};

// Of `count` logits, at least 1, none of which is a NaN; `scratch` has room for as many. `chance` is in [0, 1).
size_t sampler_choose(const struct sampler *sampler, const float *logits, size_t count, double chance, float *scratch);

#endif
