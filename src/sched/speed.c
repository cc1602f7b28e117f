// SPDX-License-Identifier: Apache-2.0
#include "sched/speed.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

// A measurement makes those before it weigh 63/64 of what they did, but for all after the first four of a step: about
// the last 64 count, and of a rank with many short micro-steps, whose times vary most, those of the last 16 steps.
#define FADE          0.984375
#define FADES_OF_STEP 4
// Before anything is measured a micro-step is held to cost nothing but its samples, give or take half of that. What is
// held to be so then goes after what was measured, as fast as that fades.
#define PRIOR_SPREAD 0.5
// No single measurement is taken to be better than 5 %: sizes that hardly differ must not turn the clock's noise into
// a slope.
#define LEAST_NOISE 0.05
// What is wrong with a slope does not average out beyond so many measurements: a rank that becomes slower is given
// other sizes, and that is no slope.
#define AVERAGED 4
// So many steps in a row whose first measurement is off to the same side, by so many times the noise, are no noise: the
// rank's speed has changed. What slows down one micro-step often does so to the rest of its step. Older ones then weigh
// so much of what they did. Fewer count as off by at most so many times the noise.
#define CHANGED      3
#define OFF          2
#define CHANGED_FADE 0.125
#define OFF_MOST     3

static double clamp(double value, double low, double high)
{
    return value < low ? low : value > high ? high : value;
}

// The variance of one measurement about the least-squares line.
static double noise_variance(double variance_n, double variance_t, double covariance, double t)
{
    double explained = variance_n > 0 ? covariance * covariance / variance_n : 0;
    double residual = variance_t > explained ? variance_t - explained : 0;
    return residual + LEAST_NOISE * LEAST_NOISE * t * t;
}

struct line {
    double samples, time_ns; // of the mean micro-step
    double slope;            // nanoseconds a sample
    double slope_noise;      // by which it may be wrong
    double noise_ns;         // of one measurement about it
    double trust;            // from 0, where the slope is the prior's, to 1, where it is the measurements'
};

static struct line draw(const struct sched_speed *speed)
{
    double part = 1 / speed->weight, n = speed->samples * part, t = speed->time_ns * part;
    double variance_n = speed->samples_squared * part - n * n;
    double variance_t = speed->time_squared * part - t * t;
    double covariance = speed->samples_time_ns * part - n * t;
    double proportional = t / n, spread = PRIOR_SPREAD * proportional, slope = t / (n + speed->overhead_samples);
    if (t == 0) {
        return (struct line){.samples = n};
    }
    double variance = noise_variance(variance_n, variance_t, covariance, t);
    double prior = variance / (spread * spread * fmin(speed->weight, AVERAGED));
    double trust = clamp(variance_n / (variance_n + prior), 0, 1);
    slope = clamp((covariance + prior * slope) / (variance_n + prior), 0, proportional);
    return (struct line){n, t, slope, spread * sqrt(1 - trust), sqrt(variance), trust};
}

void sched_speed_get(const struct sched_speed *speed, uint64_t *overhead_ns_p, uint64_t *sample_ns_p)
{
    struct line line = speed->weight > 0 ? draw(speed) : (struct line){0};
    *overhead_ns_p = (uint64_t)(line.time_ns - line.slope * line.samples + 0.5);
    *sample_ns_p = speed->weight > 0 && line.slope < 1 ? 1 : (uint64_t)(line.slope + 0.5);
}

uint8_t sched_speed_noise(const struct sched_speed *speed)
{
    struct line line = speed->weight > 0 ? draw(speed) : (struct line){0};
    return line.time_ns > 0 ? (uint8_t)clamp(100 * line.noise_ns / line.time_ns + 0.5, 0, UINT8_MAX) : 0;
}

// Relative slopes, at the mean size, are what is averaged: they have bounds.
static void remember(struct sched_speed *speed)
{
    struct line line = draw(speed);
    double prior = line.samples / (line.samples + speed->overhead_samples);
    double learned = line.time_ns > 0 ? line.slope * line.samples / line.time_ns : prior;
    double slope = prior + (1 - FADE) * line.trust * (learned - prior);
    speed->overhead_samples = line.samples * (1 / slope - 1);
}

// Counts measurements that are off to the same side. Positive: slower than expected.
static int32_t count_off(int32_t off, double error)
{
    if (fabs(error) < OFF) {
        return 0;
    }
    return error > 0 ? (off > 0 ? off : 0) + 1 : (off < 0 ? off : 0) - 1;
}

void sched_speed_scale(struct sched_speed *speed, double ratio)
{
    speed->time_ns *= ratio;
    speed->time_squared *= ratio * ratio;
    speed->samples_time_ns *= ratio;
}

// What was measured weighs so much of what it did.
static void fade(struct sched_speed *speed, double part)
{
    speed->weight *= part;
    speed->samples *= part;
    speed->samples_squared *= part;
    speed->time_ns *= part;
    speed->time_squared *= part;
    speed->samples_time_ns *= part;
}

// A rank that became slower or faster did so as a whole: what was measured before is brought to its speed of now, and
// weighs less.
static void change(struct sched_speed *speed, double ratio)
{
    fade(speed, CHANGED_FADE);
    sched_speed_scale(speed, ratio);
}

// Counts how long measurements are off. Until it is clear that the speed has changed, one counts as at most so far off:
// a process that was stopped or swapped out says nothing about its speed.
static double judge(struct sched_speed *speed, double n, double t, bool first)
{
    struct line line = draw(speed);
    double expected = fmax(line.time_ns + line.slope * (n - line.samples), 1);
    double slope_noise_ns = line.slope_noise * (n - line.samples);
    double noise = sqrt(line.noise_ns * line.noise_ns + slope_noise_ns * slope_noise_ns) + 1;
    double error = (t - expected) / noise;
    if (first) {
        speed->off = count_off(speed->off, error);
        if (abs(speed->off) >= CHANGED) {
            change(speed, t / expected);
            return t;
        }
    }
    return fmax(expected + clamp(error, -OFF_MOST, OFF_MOST) * noise, 0);
}

void sched_speed_begin_step(struct sched_speed *speed)
{
    speed->counted = 0;
}

void sched_speed_observe(struct sched_speed *speed, uint64_t samples, uint64_t time_ns)
{
    assert(samples > 0);
    double n = (double)samples, t = (double)time_ns;
    bool first = speed->counted == 0;
    if (speed->weight > 0) {
        t = judge(speed, n, t, first);
    }
    if (speed->counted++ < FADES_OF_STEP) {
        fade(speed, FADE);
    }
    speed->weight += 1;
    speed->samples += n;
    speed->samples_squared += n * n;
    speed->time_ns += t;
    speed->time_squared += t * t;
    speed->samples_time_ns += n * t;
    remember(speed);
}
