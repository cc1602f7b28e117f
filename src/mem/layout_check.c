// SPDX-License-Identifier: Apache-2.0
//
// Shares nothing with what places buffers: every pair is looked at that may be alive together.
#include "mem/layout.h"

static bool is_in_order_of_birth(const struct mem_buffer *buffers, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        if (buffers[i].birth < buffers[i - 1].birth) {
            return false;
        }
    }
    return true;
}

bool mem_layout_valid(const struct mem_buffer *buffers, const uint64_t *offsets, size_t count, uint64_t alignment,
                      uint64_t bytes)
{
    bool ordered = is_in_order_of_birth(buffers, count);
    for (size_t i = 0; i < count; i++) {
        const struct mem_buffer *a = &buffers[i];
        bool within = offsets[i] <= bytes && a->bytes <= bytes - offsets[i];
        if (a->bytes > 0 && (offsets[i] % alignment != 0 || !within)) {
            return false;
        }
        for (size_t j = i + 1; j < count && !(ordered && buffers[j].birth > a->death); j++) {
            const struct mem_buffer *b = &buffers[j];
            bool together = a->birth <= b->death && b->birth <= a->death;
            bool apart = offsets[i] + a->bytes <= offsets[j] || offsets[j] + b->bytes <= offsets[i];
            if (a->bytes > 0 && b->bytes > 0 && together && !apart) {
                return false;
            }
        }
    }
    return true;
}
