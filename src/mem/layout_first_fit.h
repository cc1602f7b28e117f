// SPDX-License-Identifier: Apache-2.0
//
// The quick solver of mem_layout_place.
#ifndef HEADROOM_MEM_LAYOUT_FIRST_FIT_H
#define HEADROOM_MEM_LAYOUT_FIRST_FIT_H

#include "mem/layout.h"

// Places the buffers, none of them empty, by first fit in decreasing order of size, area, duration and in order of
// birth, until the end of the highest is at `goal_bytes` or below; answers the lowest such end, and its offsets[count].
// UINT64_MAX where the host's memory ran out. Takes O(count^2) a try.
uint64_t layout_first_fit(const struct mem_buffer *buffers, size_t count, uint64_t goal_bytes, uint64_t *offsets);

#endif
