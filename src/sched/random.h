// SPDX-License-Identifier: Apache-2.0
//
// Random numbers for the simulator, the same everywhere: SplitMix64 (Steele, Lea and Flood, "Fast splittable
// pseudorandom number generators", 2014).
#ifndef HEADROOM_SCHED_RANDOM_H
#define HEADROOM_SCHED_RANDOM_H

#include <stdint.h>

static inline uint64_t sched_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

// In [low, high].
static inline uint64_t sched_random_between(uint64_t *state, uint64_t low, uint64_t high)
{
    return low + sched_random(state) % (high - low + 1);
}

// In [0, 1).
static inline double sched_random_real(uint64_t *state)
{
    return (double)(sched_random(state) >> 11) * 0x1p-53;
}

#endif
