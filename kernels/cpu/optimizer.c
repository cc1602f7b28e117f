// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

#include <assert.h>
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

void cpu_sum_of_squares(struct stream *stream, device_address sum_at, device_address x_at, size_t count)
{
    (void)stream;
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

static void sgd_plain(struct kernel_sgd args, float *w, const float *g, size_t count)
{
#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        float d = args.gradient_scale * g[i] + args.weight_decay * w[i];
        w[i] -= args.learning_rate * d;
    }
}

static void sgd_with_momentum(struct kernel_sgd args, float *w, const float *g, float *velocity, size_t count)
{
#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        float d = args.gradient_scale * g[i] + args.weight_decay * w[i];
        float v = args.momentum * velocity[i] + d;
        velocity[i] = v;
        w[i] -= args.learning_rate * v;
    }
}

void cpu_sgd(struct stream *stream, const struct kernel_sgd *args, device_address weights, device_address gradients,
             device_address velocity, size_t count)
{
    (void)stream;
    assert((velocity == 0) == (args->momentum == 0));
    if (velocity == 0) {
        sgd_plain(*args, device_cpu_pointer(weights), device_cpu_pointer(gradients), count);
    } else {
        sgd_with_momentum(*args, device_cpu_pointer(weights), device_cpu_pointer(gradients),
                          device_cpu_pointer(velocity), count);
    }
}

void cpu_adamw(struct stream *stream, const struct kernel_adamw *args, device_address weights, device_address gradients,
               device_address first_moment, device_address second_moment, size_t count)
{
    (void)stream;
    assert(args->step > 0);
    float *w = device_cpu_pointer(weights), *m = device_cpu_pointer(first_moment),
          *v = device_cpu_pointer(second_moment);
    const float *g = device_cpu_pointer(gradients);

    const float scale = args->gradient_scale, beta1 = args->beta1, beta2 = args->beta2, epsilon = args->epsilon;
    const float keep = 1 - args->learning_rate * args->weight_decay;
    const float rate = (float)((double)args->learning_rate / (1 - pow((double)beta1, (double)args->step)));
    const float root = (float)(1 / sqrt(1 - pow((double)beta2, (double)args->step)));

#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        float d = scale * g[i];
        m[i] = beta1 * m[i] + (1 - beta1) * d;
        v[i] = beta2 * v[i] + (1 - beta2) * d * d;
        w[i] = keep * w[i] - rate * m[i] / (root * sqrtf(v[i]) + epsilon);
    }
}
