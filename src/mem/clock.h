// SPDX-License-Identifier: Apache-2.0
#ifndef HEADROOM_MEM_CLOCK_H
#define HEADROOM_MEM_CLOCK_H

#include <stdint.h>
#include <time.h>

// Nanoseconds of a clock that never goes back.
static inline uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

// So many nanoseconds from now, by `clock`.
static inline struct timespec clock_after(clockid_t clock, uint64_t ns)
{
    struct timespec then;
    clock_gettime(clock, &then);
    ns += (uint64_t)then.tv_nsec;
    then.tv_sec += (time_t)(ns / UINT64_C(1000000000));
    then.tv_nsec = (long)(ns % UINT64_C(1000000000));
    return then;
}

#endif
