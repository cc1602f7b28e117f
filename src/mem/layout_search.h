// SPDX-License-Identifier: Apache-2.0
//
// Search for a placement within a given number of bytes: the last solver that mem_layout_place asks.
//
// Work is counted in looks at a buffer or a section, a nanosecond or two each; what was done is taken from *work. The
// same calls give the same answers.
#ifndef HEADROOM_MEM_LAYOUT_SEARCH_H
#define HEADROOM_MEM_LAYOUT_SEARCH_H

#include "mem/layout.h"

struct layout_search;

enum layout_answer {
    LAYOUT_FITS,
    LAYOUT_IMPOSSIBLE, // proved: there is no placement
    LAYOUT_GIVEN_UP,   // for want of work, or of the host's memory
};

// For buffers none of which is empty; they need not outlive the call. NULL where preparing would take more work than
// there is, or where the host's memory does not suffice.
struct layout_search *layout_search_create(const struct mem_buffer *buffers, size_t count, uint64_t *work);
void layout_search_destroy(struct layout_search *search); // accepts NULL

// Looks for offsets[count] so that all buffers end within `capacity` bytes; sets them only where they fit.
enum layout_answer layout_search_run(struct layout_search *search, uint64_t capacity, uint64_t *work,
                                     uint64_t *offsets);

#endif
