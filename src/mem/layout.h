// SPDX-License-Identifier: Apache-2.0
//
// Offline placement: every buffer's size and lifetime are known, so offsets are chosen before anything runs and the
// whole set becomes one block. Placement is first fit in decreasing order of size, ties by birth; the order that
// packs tightest among a few is kept. First fit by size for dynamic storage allocation: Sekiyama et al.,
// "Profile-guided memory optimization for deep neural networks" (2018); Pisarchyk and Lee, "Efficient memory management
// for deep neural net inference" (2020), Algorithm 3.
//
// Pure functions: no device, no thread or rank rules.
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

// Fills offsets[count], each a multiple of `alignment` (a power of two), so that buffers alive at the same moment never
// overlap, and answers the bytes of the whole (the end of the highest buffer). Buffers of 0 bytes get offset 0.
uint64_t mem_layout_place(const struct mem_buffer *buffers, size_t count, uint64_t alignment, uint64_t *offsets);

// The largest sum of live bytes at any moment, each size rounded up to `alignment`: no layout needs less.
uint64_t mem_layout_lower_bound(const struct mem_buffer *buffers, size_t count, uint64_t alignment);

// True when no two buffers alive at the same moment overlap and all end within `bytes`.
bool mem_layout_valid(const struct mem_buffer *buffers, const uint64_t *offsets, size_t count, uint64_t bytes);

#endif
