// SPDX-License-Identifier: Apache-2.0
//
// Arithmetic on counts and nanoseconds.
#ifndef HEADROOM_SCHED_ARITHMETIC_H
#define HEADROOM_SCHED_ARITHMETIC_H

#include <stdint.h>

static inline uint64_t sched_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t sched_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

// To the nearest.
static inline uint64_t sched_scaled(uint64_t figure, double factor)
{
    return (uint64_t)((double)figure * factor + 0.5);
}

#endif
