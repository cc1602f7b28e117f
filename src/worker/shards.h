// SPDX-License-Identifier: Apache-2.0
//
// Which rank holds the optimizer's state of which elements, and updates them, where the ranks have it between them:
// neighbouring ranges in the order of the ranks. Rajbhandari et al., "ZeRO: memory optimizations toward training
// trillion parameter models" (2020), stage 1; there the ranges are equal, here they follow headroom.
//
// Pure functions, so that all ranks have the same shards.
#ifndef HEADROOM_WORKER_SHARDS_H
#define HEADROOM_WORKER_SHARDS_H

#include <stdint.h>

#define SHARD_MULTIPLE UINT64_C(64) // elements

struct shard {
    uint64_t first, elements; // multiples of SHARD_MULTIPLE
};

// Cuts `elements`, a multiple of SHARD_MULTIPLE, so that every rank gives the same part of its headroom; equally where
// none has any. A shard may be empty.
void shards_cut(uint64_t elements, const uint64_t *headroom_bytes, uint32_t ranks, struct shard *shards);

#endif
