// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

#include <math.h>

// A sum is cut into this many parts whatever the number of threads, so that it has the same bits with any.
#define PARTS 64

static double sum_between(const float *x, size_t begin, size_t end)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = begin; i < end; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    return sum;
}

void cpu_sum_of_squares(struct kernel_context *context, device_address sum_at, device_address x_at, size_t count)
{
    (void)context;
    double *sum = device_cpu_pointer(sum_at);
    const float *x = device_cpu_pointer(x_at);
    double parts[PARTS];

#pragma omp parallel for if (count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < PARTS; i++) {
        parts[i] = sum_between(x, count * i / PARTS, count * (i + 1) / PARTS);
    }
    *sum = 0;
    for (size_t i = 0; i < PARTS; i++) {
        *sum += parts[i];
    }
}

void cpu_gradient_scale(struct kernel_context *context, device_address scale_at, device_address tally_at,
                        device_address squares_at, double clip)
{
    (void)context;
    float *scale = device_cpu_pointer(scale_at);
    const struct kernel_tally *tally = device_cpu_pointer(tally_at);
    const double count = tally->count > 0 ? tally->count : 1;
    const double norm = sqrt(*(const double *)device_cpu_pointer(squares_at)) / count;

    if (!isfinite(tally->loss) || !isfinite(norm)) {
        *scale = NAN;
    } else {
        *scale = (float)(clip > 0 && norm > clip ? clip / norm / count : 1 / count);
    }
}
