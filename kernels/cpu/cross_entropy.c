// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

#include <math.h>

// A row is read once: each block of it is searched for its maximum and summed while it is in the first-level cache.
#define BLOCK 1024

// The sum of e^(x - max).
static double sum_of_exponentials(const float *x, float max, size_t count)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < count; i++) {
        sum += cpu_exp(x[i] - max);
    }
    return (double)sum;
}

// log(sum(e^x)) with a running maximum (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
static float log_sum_exp(const float *x, size_t count, float *max_p)
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
static bool largest_is_at(const float *x, float max, size_t target)
{
    if (x[target] != max) {
        return false;
    }
    for (size_t i = 0; i < target; i++) {
        if (x[i] == max) {
            return false;
        }
    }
    return true;
}

void cpu_cross_entropy(struct stream *stream, device_address tally_at, device_address lse_at, device_address logits_at,
                       device_address targets_at, size_t rows, size_t classes, size_t stride)
{
    (void)stream;
    struct kernel_tally *tally = device_cpu_pointer(tally_at);
    float *lse = device_cpu_pointer(lse_at);
    const float *logits = device_cpu_pointer(logits_at);
    const int32_t *targets = device_cpu_pointer(targets_at);
    size_t correct = 0;

#pragma omp parallel for reduction(+ : correct) if (rows * classes > CPU_PARALLEL_MIN)
    for (size_t row = 0; row < rows; row++) {
        const float *x = logits + row * stride;
        float max;
        lse[row] = log_sum_exp(x, classes, &max);
        correct += targets[row] != KERNEL_TARGET_NONE && largest_is_at(x, max, (size_t)targets[row]);
    }
    tally->correct += (double)correct;

    for (size_t row = 0; row < rows; row++) {
        if (targets[row] != KERNEL_TARGET_NONE) {
            tally->loss += (double)lse[row] - (double)logits[row * stride + (size_t)targets[row]];
            tally->count += 1;
        }
    }
}

static void row_backward(float *x, float lse, int32_t target, size_t classes, size_t stride)
{
    if (target == KERNEL_TARGET_NONE) {
        memset(x, 0, stride * sizeof *x);
        return;
    }
#pragma omp simd
    for (size_t i = 0; i < classes; i++) {
        x[i] = cpu_exp(x[i] - lse);
    }
    x[target] -= 1;
    memset(x + classes, 0, (stride - classes) * sizeof *x);
}

void cpu_cross_entropy_backward(struct stream *stream, device_address logits_at, device_address lse_at,
                                device_address targets_at, size_t rows, size_t classes, size_t stride)
{
    (void)stream;
    float *logits = device_cpu_pointer(logits_at);
    const float *lse = device_cpu_pointer(lse_at);
    const int32_t *targets = device_cpu_pointer(targets_at);

#pragma omp parallel for if (rows * stride > CPU_PARALLEL_MIN)
    for (size_t row = 0; row < rows; row++) {
        row_backward(logits + row * stride, lse[row], targets[row], classes, stride);
    }
}
