// SPDX-License-Identifier: Apache-2.0
#include "worker/shards.h"

void shards_cut(uint64_t elements, const uint64_t *headroom_bytes, uint32_t ranks, struct shard *shards)
{
    unsigned __int128 all = 0, before = 0;
    for (uint32_t i = 0; i < ranks; i++) {
        all += headroom_bytes[i];
    }
    uint64_t multiples = elements / SHARD_MULTIPLE, first = 0;
    for (uint32_t i = 0; i < ranks; i++) {
        before += all == 0 ? 1 : headroom_bytes[i];
        uint64_t end = (uint64_t)(multiples * before / (all == 0 ? ranks : all)) * SHARD_MULTIPLE;
        shards[i] = (struct shard){.first = first, .elements = end - first};
        first = end;
    }
}
