// SPDX-License-Identifier: Apache-2.0
//
// Random numbers for tests, the same in every run: SplitMix64 with its state.
#ifndef HEADROOM_TESTS_RANDOM_BITS_H
#define HEADROOM_TESTS_RANDOM_BITS_H

#include "mem/random.h"

static inline uint64_t random_bits(uint64_t *state)
{
    return random_mix(*state += UINT64_C(0x9e3779b97f4a7c15));
}

// In [-1, 1).
static inline double random_real(uint64_t *state)
{
    return (double)(random_bits(state) >> 11) * 0x1p-52 - 1;
}

#endif
