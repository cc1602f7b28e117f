// SPDX-License-Identifier: Apache-2.0
//
// Arithmetic on counts and sizes.
#ifndef HEADROOM_MEM_UINT64_H
#define HEADROOM_MEM_UINT64_H

#include <stdint.h>

static inline uint64_t uint64_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t uint64_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

// The least multiple of `multiple` that is not below `value`; UINT64_MAX where that is beyond 64 bits.
static inline uint64_t uint64_round_up(uint64_t value, uint64_t multiple)
{
    uint64_t over = value % multiple, missing = over == 0 ? 0 : multiple - over;
    return missing > UINT64_MAX - value ? UINT64_MAX : value + missing;
}

#endif
