// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <math.h>

static void sgd_plain(struct kernel_sgd args, float scale, float *w, const float *g, size_t count)
{
#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        float d = scale * g[i] + args.weight_decay * w[i];
        w[i] -= args.learning_rate * d;
    }
}

static void sgd_with_momentum(struct kernel_sgd args, float scale, float *w, const float *g, float *velocity,
                              size_t count)
{
#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        float d = scale * g[i] + args.weight_decay * w[i];
        float v = args.momentum * velocity[i] + d;
        velocity[i] = v;
        w[i] -= args.learning_rate * v;
    }
}

static void copy_weights(struct kernel_context *context, device_address copy, device_address weights, size_t count)
{
    if (copy != 0) {
        cpu_convert(context, copy, weights, count);
    }
}

void cpu_sgd(struct kernel_context *context, const struct kernel_sgd *args, device_address weights, device_address copy,
             device_address gradients, device_address velocity, device_address scale_at, size_t count)
{
    const float scale = *(const float *)device_cpu_pointer(scale_at);
    assert((velocity == 0) == (args->momentum == 0));
    if (!isfinite(scale)) {
        return;
    }
    if (velocity == 0) {
        sgd_plain(*args, scale, device_cpu_pointer(weights), device_cpu_pointer(gradients), count);
    } else {
        sgd_with_momentum(*args, scale, device_cpu_pointer(weights), device_cpu_pointer(gradients),
                          device_cpu_pointer(velocity), count);
    }
    copy_weights(context, copy, weights, count);
}

// What changes from step to step and from weight to weight.
struct adamw_rates {
    float scale, rate, root; // of the gradient, of the step, of the second moment's root
    float keep;              // what decay leaves of a weight
};

// Weights [first, end).
static void adamw_range(const struct kernel_adamw *args, struct adamw_rates rates, float *w, const float *g, float *m,
                        float *v, size_t first, size_t end)
{
    const float beta1 = args->beta1, beta2 = args->beta2, epsilon = args->epsilon;

#pragma omp parallel for simd if (parallel : end - first > CPU_PARALLEL_MIN)
    for (size_t i = first; i < end; i++) {
        float d = rates.scale * g[i];
        m[i] = beta1 * m[i] + (1 - beta1) * d;
        v[i] = beta2 * v[i] + (1 - beta2) * d * d;
        w[i] = rates.keep * w[i] - rates.rate * m[i] / (rates.root * sqrtf(v[i]) + epsilon);
    }
}

void cpu_adamw(struct kernel_context *context, const struct kernel_adamw *args, device_address weights,
               device_address copy, device_address gradients, device_address first_moment, device_address second_moment,
               device_address scale, size_t count)
{
    assert(args->step > 0 && args->decaying <= count);
    float *w = device_cpu_pointer(weights), *m = device_cpu_pointer(first_moment),
          *v = device_cpu_pointer(second_moment);
    const float *g = device_cpu_pointer(gradients);
    struct adamw_rates rates = {
        .scale = *(const float *)device_cpu_pointer(scale),
        .rate = (float)((double)args->learning_rate / (1 - pow((double)args->beta1, (double)args->step))),
        .root = (float)(1 / sqrt(1 - pow((double)args->beta2, (double)args->step))),
        .keep = 1 - args->learning_rate * args->weight_decay,
    };
    if (!isfinite(rates.scale)) {
        return;
    }
    adamw_range(args, rates, w, g, m, v, 0, args->decaying);
    rates.keep = 1;
    adamw_range(args, rates, w, g, m, v, args->decaying, count);
    copy_weights(context, copy, weights, count);
}
