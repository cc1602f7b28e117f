// SPDX-License-Identifier: Apache-2.0
//
// Random numbers without state: any number of a sequence by its place in it. SplitMix64 (Steele, Lea and Flood, "Fast
// splittable pseudorandom number generators", 2014), whose sequences are so made; all arithmetic is modulo 2^64.
#ifndef HEADROOM_WORKER_RANDOM_H
#define HEADROOM_WORKER_RANDOM_H

#include <stdint.h>

// Number `place`, counted from 0, of the sequence that starts at `key`:
//   z = key + (place + 1) * 0x9e3779b97f4a7c15
//   z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;  z = (z ^ z >> 27) * 0x94d049bb133111eb;  z ^ z >> 31
// A number drawn serves in turn as the key of a sequence of its own.
static inline uint64_t random_draw(uint64_t key, uint64_t place)
{
    uint64_t z = key + (place + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

// What the sequences of a run are for: the key of purpose p is random_draw(train.seed, p).
enum random_purpose { RANDOM_TRAIN, RANDOM_VALIDATION, RANDOM_CENTRES, RANDOM_ORDER };

#endif
