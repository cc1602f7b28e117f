// SPDX-License-Identifier: Apache-2.0
//
// The bits of a float32, and bfloat16 on the host: their upper half.
#ifndef HEADROOM_KERNELS_BFLOAT16_H
#define HEADROOM_KERNELS_BFLOAT16_H

#include <stdint.h>
#include <string.h>

static inline float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float bfloat16_to_float(uint16_t x)
{
    return float_of_bits((uint32_t)x << 16);
}

// To nearest, ties to even; NaN stays NaN. Without branches, so that loops over it become vector code.
static inline uint16_t bfloat16_from_float(float value)
{
    uint32_t bits = bits_of_float(value);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    uint32_t quiet = bits >> 16 | 0x40;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
}

#endif
