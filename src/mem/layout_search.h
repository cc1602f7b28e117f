// SPDX-License-Identifier: Apache-2.0
//
// Search for a placement within a given number of bytes, which is found or not: the last solver that mem_layout_place
// asks.
#ifndef HEADROOM_MEM_LAYOUT_SEARCH_H
#define HEADROOM_MEM_LAYOUT_SEARCH_H

#include "mem/layout.h"

// Looks for offsets[count] so that all buffers, none of them empty, end within `capacity` bytes. Answers whether there
// they are; false says that none were found with that much work, or that the host's memory ran out, and leaves offsets
// undefined. Work is counted in looks at a buffer or a section, a nanosecond or two each; what was done is taken from
// *work. The same input gives the same answer.
bool layout_search(const struct mem_buffer *buffers, size_t count, uint64_t capacity, uint64_t *work,
                   uint64_t *offsets);

#endif
