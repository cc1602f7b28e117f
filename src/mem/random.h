// SPDX-License-Identifier: Apache-2.0
//
// Random numbers without state: any number of a sequence by its place in it. SplitMix64 (Steele, Lea and Flood, "Fast
// splittable pseudorandom number generators", 2014), whose sequences are so made; all arithmetic is modulo 2^64.
#ifndef HEADROOM_MEM_RANDOM_H
#define HEADROOM_MEM_RANDOM_H

#include <stdint.h>

static inline uint64_t random_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

// Number `place`, counted from 0, of the sequence that starts at `key`. A number drawn serves in turn as the key of a
// sequence of its own.
static inline uint64_t random_draw(uint64_t key, uint64_t place)
{
    return random_mix(key + (place + 1) * UINT64_C(0x9e3779b97f4a7c15));
}

// The same as a fraction, in [0, 1).
static inline double random_fraction(uint64_t key, uint64_t place)
{
    return (double)(random_draw(key, place) >> 11) * 0x1p-53;
}

#endif
