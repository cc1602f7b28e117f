// SPDX-License-Identifier: Apache-2.0
#include "sched/speed.h"

#include <assert.h>

// Each measurement weighs 31/32 of the next one: about the last 32 count.
#define FADE 0.96875
// Before anything is measured a micro-step is held to cost nothing but its samples, give or take half of that. What is
// held to be so then goes after what was measured, as fast as that fades.
#define PRIOR_SPREAD 0.5
// No single measurement is taken to be better than 5 %: sizes that hardly differ must not turn the clock's noise into
// a slope.
#define LEAST_NOISE 0.05
// A measurement counts as at most so many times what was expected. A rank that became slower than that is still
// followed, as what is expected grows with each.
#define LARGEST_JUMP 4

static double clamp(double value, double low, double high)
{
    return value < low ? low : value > high ? high : value;
}

// The variance of one measurement about the least-squares line.
static double noise(double variance_n, double variance_t, double covariance, double t)
{
    double explained = variance_n > 0 ? covariance * covariance / variance_n : 0;
    double residual = variance_t > explained ? variance_t - explained : 0;
    return residual + LEAST_NOISE * LEAST_NOISE * t * t;
}

struct line {
    double samples, time_ns; // of the mean micro-step
    double slope;            // nanoseconds a sample
    double trust;            // from 0, where the slope is the prior's, to 1, where it is the measurements'
};

static struct line draw(const struct sched_speed *speed)
{
    double n = speed->samples / speed->weight, t = speed->time_ns / speed->weight;
    double variance_n = speed->samples_squared / speed->weight - n * n;
    double variance_t = speed->time_squared / speed->weight - t * t;
    double covariance = speed->samples_time_ns / speed->weight - n * t;
    double proportional = t / n, spread = PRIOR_SPREAD * proportional, slope = t / (n + speed->overhead_samples);
    if (t == 0) {
        return (struct line){.samples = n};
    }
    double prior = noise(variance_n, variance_t, covariance, t) / (spread * spread * speed->weight);
    slope = clamp((covariance + prior * slope) / (variance_n + prior), 0, proportional);
    return (struct line){n, t, slope, clamp(variance_n / (variance_n + prior), 0, 1)};
}

void sched_speed_get(const struct sched_speed *speed, uint64_t *overhead_ns_p, uint64_t *sample_ns_p)
{
    struct line line = speed->weight > 0 ? draw(speed) : (struct line){0};
    *overhead_ns_p = (uint64_t)(line.time_ns - line.slope * line.samples + 0.5);
    *sample_ns_p = speed->weight > 0 && line.slope < 1 ? 1 : (uint64_t)(line.slope + 0.5);
}

// A process that was stopped or swapped out says nothing about its speed.
static double credible(const struct sched_speed *speed, double samples, double time_ns)
{
    uint64_t overhead_ns, sample_ns;
    sched_speed_get(speed, &overhead_ns, &sample_ns);
    double most = LARGEST_JUMP * ((double)overhead_ns + samples * (double)sample_ns);
    return speed->weight > 0 && time_ns > most ? most : time_ns;
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

void sched_speed_observe(struct sched_speed *speed, uint64_t samples, uint64_t time_ns)
{
    assert(samples > 0);
    double n = (double)samples, t = credible(speed, n, (double)time_ns);
    speed->weight = FADE * speed->weight + 1;
    speed->samples = FADE * speed->samples + n;
    speed->samples_squared = FADE * speed->samples_squared + n * n;
    speed->time_ns = FADE * speed->time_ns + t;
    speed->time_squared = FADE * speed->time_squared + t * t;
    speed->samples_time_ns = FADE * speed->samples_time_ns + n * t;
    remember(speed);
}
