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
// A rank that was held up for some steps is no slower. Within so many after a change as many in a row whose first
// measurement is nearer to what was known before it, and not off there, bring that back.
#define RECENT 16
#define BACK   2
// Irregular steps make the noise so large that nothing is off any more. So many steps in a row on the same side, whose
// mean is off by so many times their own noise, have a speed of their own: what came before them is forgotten.
#define RUN   8
#define APART 2.5

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

static struct line draw(const struct sched_evidence *evidence, double overhead_samples)
{
    double part = 1 / evidence->weight, n = evidence->samples * part, t = evidence->time_ns * part;
    double variance_n = evidence->samples_squared * part - n * n;
    double variance_t = evidence->time_squared * part - t * t;
    double covariance = evidence->samples_time_ns * part - n * t;
    double proportional = t / n, spread = PRIOR_SPREAD * proportional, slope = t / (n + overhead_samples);
    if (t == 0) {
        return (struct line){.samples = n};
    }
    double variance = noise_variance(variance_n, variance_t, covariance, t);
    double prior = variance / (spread * spread * fmin(evidence->weight, AVERAGED));
    double trust = clamp(variance_n / (variance_n + prior), 0, 1);
    slope = clamp((covariance + prior * slope) / (variance_n + prior), 0, proportional);
    return (struct line){n, t, slope, spread * sqrt(1 - trust), sqrt(variance), trust};
}

static struct line line_of(const struct sched_speed *speed)
{
    return speed->evidence.weight > 0 ? draw(&speed->evidence, speed->overhead_samples) : (struct line){0};
}

void sched_speed_get(const struct sched_speed *speed, uint64_t *overhead_ns_p, uint64_t *sample_ns_p)
{
    struct line line = line_of(speed);
    *overhead_ns_p = (uint64_t)(line.time_ns - line.slope * line.samples + 0.5);
    *sample_ns_p = speed->evidence.weight > 0 && line.slope < 1 ? 1 : (uint64_t)(line.slope + 0.5);
}

uint8_t sched_speed_noise(const struct sched_speed *speed)
{
    struct line line = line_of(speed);
    return line.time_ns > 0 ? (uint8_t)clamp(100 * line.noise_ns / line.time_ns + 0.5, 0, UINT8_MAX) : 0;
}

// Relative slopes, at the mean size, are what is averaged: they have bounds.
static void remember(struct sched_speed *speed)
{
    struct line line = line_of(speed);
    double prior = line.samples / (line.samples + speed->overhead_samples);
    double learned = line.time_ns > 0 ? line.slope * line.samples / line.time_ns : prior;
    double slope = prior + (1 - FADE) * line.trust * (learned - prior);
    speed->overhead_samples = line.samples * (1 / slope - 1);
}

static void scale(struct sched_evidence *evidence, double ratio)
{
    evidence->time_ns *= ratio;
    evidence->time_squared *= ratio * ratio;
    evidence->samples_time_ns *= ratio;
}

void sched_speed_scale(struct sched_speed *speed, double ratio)
{
    scale(&speed->evidence, ratio);
    scale(&speed->run, ratio);
    scale(&speed->before, ratio);
}

// What was measured weighs so much of what it did.
static void fade(struct sched_evidence *evidence, double part)
{
    evidence->weight *= part;
    evidence->samples *= part;
    evidence->samples_squared *= part;
    evidence->time_ns *= part;
    evidence->time_squared *= part;
    evidence->samples_time_ns *= part;
}

static void add(struct sched_evidence *evidence, double n, double t)
{
    evidence->weight += 1;
    evidence->samples += n;
    evidence->samples_squared += n * n;
    evidence->time_ns += t;
    evidence->time_squared += t * t;
    evidence->samples_time_ns += n * t;
}

static void begin_run(struct sched_speed *speed)
{
    speed->run = (struct sched_evidence){0};
    speed->steps = 0;
    speed->off = 0;
}

// Counts steps whose first measurement is on the same side of the line, and those that are off.
static void follow(struct sched_speed *speed, double error)
{
    if ((error > 0) != (speed->steps > 0)) {
        begin_run(speed);
    }
    speed->steps += error > 0 ? 1 : -1;
    speed->off = fabs(error) < OFF ? 0 : speed->off + 1;
}

// A rank that became slower or faster did so as a whole: what was measured before is brought to its speed of now, and
// weighs less.
static void change(struct sched_speed *speed, double ratio)
{
    speed->before = speed->evidence;
    speed->recent = RECENT;
    speed->back = 0;
    fade(&speed->evidence, CHANGED_FADE);
    scale(&speed->evidence, ratio);
    begin_run(speed);
}

static double expect(const struct line *line, double n)
{
    return fmax(line->time_ns + line->slope * (n - line->samples), 1);
}

// How far off a measurement is, in times the noise.
static double error_of(const struct line *line, double n, double t)
{
    double slope_noise_ns = line->slope_noise * (n - line->samples);
    return (t - expect(line, n)) / (sqrt(line->noise_ns * line->noise_ns + slope_noise_ns * slope_noise_ns) + 1);
}

// Whether a recent change is over: what was known before it holds again.
static bool is_back(struct sched_speed *speed, const struct line *line, double n, double t)
{
    if (speed->recent == 0) {
        return false;
    }
    speed->recent--;
    struct line before = draw(&speed->before, speed->overhead_samples);
    bool nearer = fabs(t - expect(&before, n)) < fabs(t - expect(line, n));
    speed->back = nearer && fabs(error_of(&before, n, t)) < OFF ? speed->back + 1 : 0;
    return speed->back == BACK;
}

static void go_back(struct sched_speed *speed)
{
    speed->evidence = speed->before;
    speed->recent = 0;
    begin_run(speed);
}

// Counts how long measurements are off. Until it is clear that the speed has changed, one counts as at most so far off:
// a process that was stopped or swapped out says nothing about its speed.
static double judge(struct sched_speed *speed, double n, double t, bool first)
{
    struct line line = line_of(speed);
    double expected = expect(&line, n), error = error_of(&line, n, t);
    if (first && is_back(speed, &line, n, t)) {
        go_back(speed);
        return t;
    }
    if (first) {
        follow(speed, error);
        if (speed->off == CHANGED) {
            change(speed, t / expected);
            return t;
        }
    }
    double believed = fabs(error) <= OFF_MOST ? t : expected + (t - expected) * OFF_MOST / fabs(error);
    return fmax(believed, 0);
}

// Of a whole run: one that its own noise does not bring to the line takes the place of what was measured before.
static void judge_run(struct sched_speed *speed)
{
    struct line line = line_of(speed), run = draw(&speed->run, speed->overhead_samples);
    if (fabs(run.time_ns - expect(&line, run.samples)) > APART * run.noise_ns) {
        speed->evidence = speed->run;
    }
    begin_run(speed);
}

void sched_speed_begin_step(struct sched_speed *speed)
{
    speed->counted = 0;
}

void sched_speed_observe(struct sched_speed *speed, uint64_t samples, uint64_t time_ns)
{
    assert(samples > 0);
    double n = (double)samples, t = (double)time_ns;
    double believed = speed->evidence.weight > 0 ? judge(speed, n, t, speed->counted == 0) : t;
    if (speed->counted++ < FADES_OF_STEP) {
        fade(&speed->evidence, FADE);
    }
    add(&speed->evidence, n, believed);
    add(&speed->run, n, t);
    if (abs(speed->steps) == RUN) {
        judge_run(speed);
    }
    remember(speed);
}
