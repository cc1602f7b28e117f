// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

void cpu_relu(struct stream *stream, device_address x_at, size_t count)
{
    (void)stream;
    float *x = device_cpu_pointer(x_at);

#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        x[i] = x[i] < 0 ? 0 : x[i]; // NaN stays
    }
}

void cpu_relu_backward(struct stream *stream, device_address dx_at, device_address dy_at, device_address y_at,
                       size_t count)
{
    (void)stream;
    float *dx = device_cpu_pointer(dx_at);
    const float *dy = device_cpu_pointer(dy_at), *y = device_cpu_pointer(y_at);

#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        dx[i] = y[i] > 0 ? dy[i] : 0;
    }
}

// (1 + tanh(u)) / 2 = 1 / (1 + e^-2u) turns gelu(x) into x / (1 + e^(-x (GELU_LINEAR + GELU_CUBIC x^2))).
#define GELU_LINEAR 1.5957691216f // 2 sqrt(2 / pi)
#define GELU_CUBIC  (GELU_LINEAR * 0.044715f)

static inline float gelu_gate(float x)
{
    return 1 / (1 + cpu_exp(-x * (GELU_LINEAR + GELU_CUBIC * x * x)));
}

static inline float gelu_slope(float x)
{
    float gate = gelu_gate(x);
    return gate + x * gate * (1 - gate) * (GELU_LINEAR + 3 * GELU_CUBIC * x * x);
}

void cpu_gelu(struct stream *stream, device_address y_at, device_address x_at, size_t count)
{
    (void)stream;
    float *y = device_cpu_pointer(y_at);
    const float *x = device_cpu_pointer(x_at);

#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        y[i] = x[i] * gelu_gate(x[i]);
    }
}

void cpu_gelu_backward(struct stream *stream, device_address dx_at, device_address dy_at, device_address x_at,
                       size_t count)
{
    (void)stream;
    float *dx = device_cpu_pointer(dx_at);
    const float *dy = device_cpu_pointer(dy_at), *x = device_cpu_pointer(x_at);

#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        dx[i] = dy[i] * gelu_slope(x[i]);
    }
}

void cpu_add(struct stream *stream, device_address y_at, device_address a_at, device_address b_at, size_t count)
{
    (void)stream;
    float *y = device_cpu_pointer(y_at);
    const float *a = device_cpu_pointer(a_at), *b = device_cpu_pointer(b_at);

#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        y[i] = a[i] + b[i];
    }
}
