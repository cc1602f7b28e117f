// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

// A row is read once: each block of it is searched for its maximum and summed while it is in the first-level cache.
#define BLOCK 1024

// The sum of e^(x - max).
static double sum_of_exponentials(const real *x, float max, size_t count)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < count; i++) {
        sum += cpu_exp(cpu_float(x[i]) - max);
    }
    return (double)sum;
}

// log(sum(e^x)) with a running maximum (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
static float log_sum_exp(const real *x, size_t count, float *max_p)
{
    float max = -FLT_MAX;
    double sum = 0;

    for (size_t i = 0; i < count; i += BLOCK) {
        size_t width = uint64_min(BLOCK, count - i);
        float raised = cpu_max(x + i, width, max);
        sum = sum * exp((double)(max - raised)) + sum_of_exponentials(x + i, raised, width);
        max = raised;
    }
    *max_p = max;
    return (float)((double)max + log(sum));
}

// Whether the first of the row's largest values is at `target`.
static bool largest_is_at(const real *x, float max, size_t target)
{
    if (cpu_float(x[target]) != max) {
        return false;
    }
    for (size_t i = 0; i < target; i++) {
        if (cpu_float(x[i]) == max) {
            return false;
        }
    }
    return true;
}

static struct kernel_tally row_tally(const real *x, float lse, float max, size_t target)
{
    return (struct kernel_tally){
        .loss = (double)lse - (double)cpu_float(x[target]), .count = 1, .correct = largest_is_at(x, max, target)};
}

static void row_gradient(real *x, float lse, size_t target, size_t classes, size_t stride)
{
    const float at_target = cpu_exp(cpu_float(x[target]) - lse) - 1;
#pragma omp simd
    for (size_t i = 0; i < classes; i++) {
        x[i] = cpu_real(cpu_exp(cpu_float(x[i]) - lse));
    }
    x[target] = cpu_real(at_target);
    memset(x + classes, 0, (stride - classes) * sizeof *x);
}

static struct kernel_tally row_loss(real *x, int32_t target, size_t classes, size_t stride, bool gradient)
{
    if (target == KERNEL_TARGET_NONE) {
        memset(x, 0, gradient ? stride * sizeof *x : 0);
        return (struct kernel_tally){0};
    }
    float max, lse = log_sum_exp(x, classes, &max);
    struct kernel_tally tally = row_tally(x, lse, max, (size_t)target);
    if (gradient) {
        row_gradient(x, lse, (size_t)target, classes, stride);
    }
    return tally;
}

// Rows are summed by parts of this many, so that the sum has the same bits with any number of threads.
#define PART 64

static struct kernel_tally part_loss(real *logits, const int32_t *targets, size_t rows, size_t classes, size_t stride,
                                     bool gradient)
{
    struct kernel_tally sum = {0};
    for (size_t row = 0; row < rows; row++) {
        struct kernel_tally one = row_loss(logits + row * stride, targets[row], classes, stride, gradient);
        sum.loss += one.loss;
        sum.count += one.count;
        sum.correct += one.correct;
    }
    return sum;
}

void cpu_cross_entropy(struct kernel_context *context, device_address tally_at, device_address logits_at,
                       device_address targets_at, size_t rows, size_t classes, size_t stride, bool gradient)
{
    (void)context;
    struct kernel_tally *tally = device_cpu_pointer(tally_at);
    real *logits = device_cpu_pointer(logits_at);
    const int32_t *targets = device_cpu_pointer(targets_at);

#pragma omp parallel for ordered schedule(static, 1) if (rows * classes > CPU_PARALLEL_MIN)
    for (size_t row = 0; row < rows; row += PART) {
        struct kernel_tally part =
            part_loss(logits + row * stride, targets + row, uint64_min(PART, rows - row), classes, stride, gradient);
#pragma omp ordered
        {
            tally->loss += part.loss;
            tally->count += part.count;
            tally->correct += part.correct;
        }
    }
}
