// SPDX-License-Identifier: Apache-2.0
//
// Offline placement: every buffer's size and lifetime are known, so offsets are chosen before anything runs and the
// whole set becomes one block. First fit in a few orders comes first, and where it misses the goal a search does.
//
// All sizes together, rounded up, are below 2^63 bytes.
//
// Pure functions: no device, no clock, no thread or rank rules; the same input gives the same offsets everywhere.
#ifndef HEADROOM_MEM_LAYOUT_H
#define HEADROOM_MEM_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mem_buffer {
    uint64_t bytes;
    uint32_t birth; // first moment of use
    uint32_t death; // last moment of use, inclusive; birth <= death
};

// As much work as is worth while for a set that is placed once: most of a minute, half of it for the goal itself.
#define MEM_LAYOUT_WORK_MAX UINT64_C(30000000000)

// When a layout is good enough.
struct mem_layout_goal {
    uint64_t bytes; // of the whole; 0: the lower bound
    uint64_t work;  // that a search may take beyond first fit, in steps of a nanosecond or two each; 0: none
};

struct mem_layout {
    uint64_t bytes;             // of the whole: the end of the highest buffer
    uint64_t lower_bound_bytes; // that of mem_layout_lower_bound
    bool optimal;               // proved: no layout takes less
};

// Fills offsets[count], each a multiple of `alignment` (a power of two), so that buffers alive at the same moment never
// overlap. Buffers of 0 bytes get offset 0. First fit, which no work counts, takes O(count^2): half a second for 20,000
// buffers, several for 40,000. False when the host's memory runs out.
bool mem_layout_place(const struct mem_buffer *buffers, size_t count, uint64_t alignment,
                      const struct mem_layout_goal *goal, uint64_t *offsets, struct mem_layout *layout_p);

// The largest sum of live bytes at any moment, each size rounded up to `alignment`: no layout needs less. UINT64_MAX
// when the host's memory runs out.
uint64_t mem_layout_lower_bound(const struct mem_buffer *buffers, size_t count, uint64_t alignment);

// True when every offset is a multiple of `alignment`, no two buffers alive at the same moment overlap, and all end
// within `bytes`. Looks at every pair.
bool mem_layout_valid(const struct mem_buffer *buffers, const uint64_t *offsets, size_t count, uint64_t alignment,
                      uint64_t bytes);

#endif
