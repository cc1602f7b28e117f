// SPDX-License-Identifier: Apache-2.0
//
// What the tests of lists, models and the optimizer share: arrays on the host that the CPU's kernels take as device
// addresses, and pseudo-random numbers.
#ifndef HEADROOM_TESTS_HOST_MEMORY_H
#define HEADROOM_TESTS_HOST_MEMORY_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/list.h"
#include "random_bits.h"

static inline device_address address_of(const void *pointer)
{
    return (device_address)(uintptr_t)pointer;
}

// Of the exact size, so that a sanitizer sees the first byte beyond it. `byte` fills it: 0xff makes floats NaN.
static inline void *host_array(size_t bytes, int byte)
{
    void *pointer = NULL;
    if (posix_memalign(&pointer, 256, bytes) != 0) {
        perror("posix_memalign");
        abort();
    }
    memset(pointer, byte, bytes);
    return pointer;
}

static inline size_t random_below(uint64_t *state, size_t bound)
{
    return (size_t)(random_bits(state) % bound);
}

// In [-0.5, 0.5), a multiple of 2^-12, so that adding a small power of two is exact.
static inline float random_float(uint64_t *state)
{
    return (float)(random_bits(state) >> 52) * 0x1p-12f - 0.5f;
}

#endif
