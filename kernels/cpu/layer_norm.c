// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

#include <math.h>

#define EPSILON 1e-5f

// Sums in float64: where values cancel, the mean is as precise as where they do not.
static float row_mean(const real *x, size_t channels)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < channels; i++) {
        sum += (double)cpu_float(x[i]);
    }
    return (float)(sum / (double)channels);
}

static float row_variance(const real *x, float mean, size_t channels)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < channels; i++) {
        double centred = (double)(cpu_float(x[i]) - mean);
        sum += centred * centred;
    }
    return (float)(sum / (double)channels);
}

static void normalise_rows(real *y, float *mean, float *rstd, const real *x, const real *gamma, const real *beta,
                           size_t rows, size_t channels)
{
#pragma omp parallel for if (rows * channels > CPU_PARALLEL_MIN)
    for (size_t row = 0; row < rows; row++) {
        const real *from = x + row * channels;
        real *to = y + row * channels;
        float m = row_mean(from, channels);
        float r = 1 / sqrtf(row_variance(from, m, channels) + EPSILON);

#pragma omp simd
        for (size_t i = 0; i < channels; i++) {
            to[i] = cpu_real((cpu_float(from[i]) - m) * r * cpu_float(gamma[i]) + cpu_float(beta[i]));
        }
        mean[row] = m;
        rstd[row] = r;
    }
}

void cpu_layer_norm(struct kernel_context *context, device_address y, device_address sum, device_address mean,
                    device_address rstd, device_address x, device_address residual, device_address gamma,
                    device_address beta, size_t rows, size_t channels)
{
    if (residual != 0) {
        cpu_add(context, sum, x, residual, rows * channels);
    }
    normalise_rows(device_cpu_pointer(y), device_cpu_pointer(mean), device_cpu_pointer(rstd),
                   device_cpu_pointer(residual != 0 ? sum : x), device_cpu_pointer(gamma), device_cpu_pointer(beta),
                   rows, channels);
}

// With n = (x - mean) rstd and g = dy gamma: dx = rstd (g - mean(g) - n mean(g n)), means over the channels.
static void row_backward(real *dx, const real *dy, const real *x, float mean, float rstd, const real *gamma,
                         size_t channels, bool accumulate)
{
    float g_sum = 0, gn_sum = 0;
#pragma omp simd reduction(+ : g_sum, gn_sum)
    for (size_t i = 0; i < channels; i++) {
        float g = cpu_float(dy[i]) * cpu_float(gamma[i]);
        g_sum += g;
        gn_sum += g * (cpu_float(x[i]) - mean) * rstd;
    }

    float g_mean = g_sum / (float)channels, gn_mean = gn_sum / (float)channels;
#pragma omp simd
    for (size_t i = 0; i < channels; i++) {
        float g = cpu_float(dy[i]) * cpu_float(gamma[i]);
        float d = rstd * (g - g_mean - (cpu_float(x[i]) - mean) * rstd * gn_mean);
        dx[i] = cpu_real(accumulate ? cpu_float(dx[i]) + d : d);
    }
}

// dgamma[width] and dbeta[width] are added to: the sums over rows of `width` columns of dy n and of dy.
static void columns_backward(float *dgamma, float *dbeta, const real *dy, const real *x, const float *mean,
                             const float *rstd, size_t rows, size_t channels, size_t width)
{
    double gamma_sum[CPU_COLUMN_BLOCK] = {0}, beta_sum[CPU_COLUMN_BLOCK] = {0};

    for (size_t row = 0; row < rows; row++) {
        const real *from = x + row * channels, *d = dy + row * channels;
#pragma omp simd
        for (size_t i = 0; i < width; i++) {
            gamma_sum[i] += (double)(cpu_float(d[i]) * (cpu_float(from[i]) - mean[row]) * rstd[row]);
            beta_sum[i] += (double)cpu_float(d[i]);
        }
    }
    for (size_t i = 0; i < width; i++) {
        dgamma[i] += (float)gamma_sum[i];
        dbeta[i] += (float)beta_sum[i];
    }
}

void cpu_layer_norm_backward(struct kernel_context *context, device_address dx_at, device_address dgamma_at,
                             device_address dbeta_at, device_address dy_at, device_address x_at, device_address mean_at,
                             device_address rstd_at, device_address gamma_at, size_t rows, size_t channels,
                             bool accumulate)
{
    (void)context;
    real *dx = device_cpu_pointer(dx_at);
    float *dgamma = device_cpu_pointer(dgamma_at), *dbeta = device_cpu_pointer(dbeta_at);
    const real *dy = device_cpu_pointer(dy_at), *x = device_cpu_pointer(x_at), *gamma = device_cpu_pointer(gamma_at);
    const float *mean = device_cpu_pointer(mean_at), *rstd = device_cpu_pointer(rstd_at);

#pragma omp parallel for if (rows * channels > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < channels; i += CPU_COLUMN_BLOCK) {
        columns_backward(dgamma + i, dbeta + i, dy + i, x + i, mean, rstd, rows, channels,
                         uint64_min(CPU_COLUMN_BLOCK, channels - i));
    }
#pragma omp parallel for if (rows * channels > CPU_PARALLEL_MIN)
    for (size_t row = 0; row < rows; row++) {
        row_backward(dx + row * channels, dy + row * channels, x + row * channels, mean[row], rstd[row], gamma,
                     channels, accumulate);
    }
}
