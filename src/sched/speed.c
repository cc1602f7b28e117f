// SPDX-License-Identifier: Apache-2.0
#include "sched/speed.h"

#include <assert.h>

// Each measurement weighs 15/16 of the next one: about the last 16 count.
#define FADE 0.9375
// How far the line is drawn to the origin, against a spread of sizes measured in squares of their mean. The slope of
// sizes that differ by 10 % is taken nearly as it is, that of sizes that differ by 1 % nearly ignored: dividing by so
// small a spread would turn the clock's noise into a slope.
#define ORIGIN_PULL 0.001

void sched_speed_observe(struct sched_speed *speed, uint64_t samples, uint64_t time_ns)
{
    assert(samples > 0);
    double n = (double)samples, t = (double)time_ns;
    speed->weight = FADE * speed->weight + 1;
    speed->samples = FADE * speed->samples + n;
    speed->samples_squared = FADE * speed->samples_squared + n * n;
    speed->time_ns = FADE * speed->time_ns + t;
    speed->samples_time_ns = FADE * speed->samples_time_ns + n * t;
}

static double clamp(double value, double low, double high)
{
    return value < low ? low : value > high ? high : value;
}

void sched_speed_get(const struct sched_speed *speed, uint64_t *overhead_ns_p, uint64_t *sample_ns_p)
{
    *overhead_ns_p = 0;
    *sample_ns_p = 0;
    if (speed->weight == 0) {
        return;
    }
    double n = speed->samples / speed->weight, t = speed->time_ns / speed->weight;
    double variance = speed->samples_squared / speed->weight - n * n;
    double covariance = speed->samples_time_ns / speed->weight - n * t;
    double slope = (covariance + ORIGIN_PULL * n * t) / (variance + ORIGIN_PULL * n * n);
    slope = clamp(slope, 0, t / n);
    *overhead_ns_p = (uint64_t)(t - slope * n + 0.5);
    *sample_ns_p = slope < 1 ? 1 : (uint64_t)(slope + 0.5);
}
