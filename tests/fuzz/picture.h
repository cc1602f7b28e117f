// SPDX-License-Identifier: Apache-2.0
//
// All blocks, segments and statistics of a pool at one moment, to compare and to decide from without the pool's index.
#ifndef HEADROOM_TESTS_PICTURE_H
#define HEADROOM_TESTS_PICTURE_H

#include "mem/pool_state.h"

#define PICTURE_BLOCKS   2048
#define PICTURE_SEGMENTS 160

struct picture_block {
    device_address address;
    uint64_t bytes, requested_bytes, step;
    const struct stream *stream;
    uint64_t live, stays, segment;
    char tag[TAG_MAX];
};

struct picture_segment {
    device_address base;
    uint64_t range_bytes, held_bytes, lifetime;
    uint64_t first, count; // of its blocks
};

struct picture {
    struct mem_pool_stats stats; // but for num_ooms
    size_t block_count, segment_count;
    struct picture_segment segments[PICTURE_SEGMENTS];
    struct picture_block blocks[PICTURE_BLOCKS];
};

void picture_take(struct picture *picture, const struct mem_pool *pool);
bool picture_equal(const struct picture *a, const struct picture *b);
// Whether the live blocks are the same, whatever is free.
bool picture_same_live(const struct picture *a, const struct picture *b);

// Where a pool must place a request at one end, and what that takes.
struct placement {
    enum { PLACE_NONE, PLACE_HIT, PLACE_GROWTH, PLACE_SEGMENT, PLACE_RUN, PLACE_RUN_GROWTH } how;
    device_address address;
    uint64_t commit_bytes;
};

// What a request may take, and from whom.
struct placement_request {
    uint64_t bytes; // of the block
    const struct stream *stream;
    uint64_t lifetime;    // whose end
    uint64_t limit_bytes; // of the pool
    uint64_t room;        // bytes that the limits allow to be added
    uint64_t free_bytes;  // that the device has
    uint64_t granularity; // of the device
    bool plain;
};

struct placement picture_place(const struct picture *picture, const struct placement_request *request);

#endif
