// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

void cpu_convert(struct kernel_context *context, device_address y_at, device_address x_at, size_t count)
{
    (void)context;
    real *y = device_cpu_pointer(y_at);
    const float *x = device_cpu_pointer(x_at);

#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        y[i] = cpu_real(x[i]);
    }
}

void cpu_relu(struct kernel_context *context, device_address x_at, size_t count)
{
    (void)context;
    real *x = device_cpu_pointer(x_at);

#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        x[i] = cpu_float(x[i]) < 0 ? 0 : x[i]; // NaN stays
    }
}

void cpu_relu_backward(struct kernel_context *context, device_address dx_at, device_address dy_at, device_address y_at,
                       size_t count)
{
    (void)context;
    real *dx = device_cpu_pointer(dx_at);
    const real *dy = device_cpu_pointer(dy_at), *y = device_cpu_pointer(y_at);

#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        dx[i] = cpu_float(y[i]) > 0 ? dy[i] : 0;
    }
}

void cpu_gelu(struct kernel_context *context, device_address y_at, device_address x_at, size_t count)
{
    (void)context;
    real *y = device_cpu_pointer(y_at);
    const real *x = device_cpu_pointer(x_at);

#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        float value = cpu_float(x[i]);
        y[i] = cpu_real(value * cpu_gelu_gate(value));
    }
}

void cpu_gelu_backward(struct kernel_context *context, device_address dx_at, device_address dy_at, device_address x_at,
                       size_t count)
{
    (void)context;
    real *dx = device_cpu_pointer(dx_at);
    const real *dy = device_cpu_pointer(dy_at), *x = device_cpu_pointer(x_at);

#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        dx[i] = cpu_real(cpu_float(dy[i]) * cpu_gelu_slope(cpu_float(x[i])));
    }
}

void cpu_add(struct kernel_context *context, device_address y_at, device_address a_at, device_address b_at,
             size_t count)
{
    (void)context;
    real *y = device_cpu_pointer(y_at);
    const real *a = device_cpu_pointer(a_at), *b = device_cpu_pointer(b_at);

#pragma omp parallel for simd if (parallel : count > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) {
        y[i] = cpu_real(cpu_float(a[i]) + cpu_float(b[i]));
    }
}
