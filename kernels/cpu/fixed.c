// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

#include <math.h>

// x rounded, at `term`; 0 and false where that is beyond +-limit or no number. Without branches.
static inline bool to_fixed(double x, int64_t limit, int64_t *term)
{
    const bool in_range = fabs(x) < 0x1p63;
    const int64_t rounded = llrint(in_range ? x : 0);
    const bool fits = in_range && rounded >= -limit && rounded <= limit;

    *term = fits ? rounded : 0;
    return fits;
}

void cpu_fixed_add(struct kernel_context *context, device_address sums_at, device_address x_at, size_t count,
                   double scale, int64_t limit, device_address spilled_at)
{
    (void)context;
    int64_t *sums = device_cpu_pointer(sums_at), *spilled = device_cpu_pointer(spilled_at), spilling = 0;
    const float *x = device_cpu_pointer(x_at);

#pragma omp parallel for simd reduction(+ : spilling) if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        int64_t term;
        spilling += to_fixed((double)x[i] * scale, limit, &term) ? 0 : 1;
        sums[i] += term;
    }
    *spilled += spilling;
}

void cpu_fixed_get(struct kernel_context *context, device_address x_at, device_address sums_at, size_t count,
                   double scale, device_address largest_at)
{
    (void)context;
    float *x = device_cpu_pointer(x_at), largest = 0;
    const int64_t *sums = device_cpu_pointer(sums_at);
    const double inverse = 1 / scale; // exact

#pragma omp parallel for simd reduction(max : largest) if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        x[i] = (float)((double)sums[i] * inverse);
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    }
    *(float *)device_cpu_pointer(largest_at) = largest;
}

void cpu_fixed_add_tally(struct kernel_context *context, device_address sums_at, device_address tally_at)
{
    (void)context;
    struct kernel_fixed_tally *sums = device_cpu_pointer(sums_at);
    struct kernel_tally *tally = device_cpu_pointer(tally_at);
    const bool fits = fabs(tally->loss) <= KERNEL_FIXED_LOSS_MAX;
    const double nats = fits ? floor(tally->loss) : 0;

    sums->nats += llrint(nats);
    sums->fraction += fits ? llrint((tally->loss - nats) * KERNEL_FIXED_LOSS_SCALE) : 0;
    sums->count += llrint(tally->count);
    sums->correct += llrint(tally->correct);
    sums->not_finite += fits ? 0 : 1;
    *tally = (struct kernel_tally){0};
}

void cpu_fixed_get_tally(struct kernel_context *context, device_address tally_at, device_address sums_at)
{
    (void)context;
    const struct kernel_fixed_tally *sums = device_cpu_pointer(sums_at);
    const double loss = (double)sums->nats + (double)sums->fraction / KERNEL_FIXED_LOSS_SCALE;

    *(struct kernel_tally *)device_cpu_pointer(tally_at) = (struct kernel_tally){
        .loss = sums->not_finite > 0 ? (double)NAN : loss,
        .count = (double)sums->count,
        .correct = (double)sums->correct,
    };
}
