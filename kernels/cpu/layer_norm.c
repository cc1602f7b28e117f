// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

#include <math.h>

#define EPSILON 1e-5f

// Sums in float64: where values cancel, the mean is as precise as where they do not.
static float row_mean(const float *x, size_t channels)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < channels; i++) {
        sum += (double)x[i];
    }
    return (float)(sum / (double)channels);
}

static float row_variance(const float *x, float mean, size_t channels)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < channels; i++) {
        double centred = (double)(x[i] - mean);
        sum += centred * centred;
    }
    return (float)(sum / (double)channels);
}

void cpu_layer_norm(struct stream *stream, device_address y_at, device_address mean_at, device_address rstd_at,
                    device_address x_at, device_address gamma_at, device_address beta_at, size_t rows, size_t channels)
{
    (void)stream;
    float *y = device_cpu_pointer(y_at), *mean = device_cpu_pointer(mean_at), *rstd = device_cpu_pointer(rstd_at);
    const float *x = device_cpu_pointer(x_at), *gamma = device_cpu_pointer(gamma_at),
                *beta = device_cpu_pointer(beta_at);

#pragma omp parallel for if (rows * channels > CPU_PARALLEL_MIN)
    for (size_t row = 0; row < rows; row++) {
        const float *from = x + row * channels;
        float *to = y + row * channels;
        float m = row_mean(from, channels);
        float r = 1 / sqrtf(row_variance(from, m, channels) + EPSILON);

#pragma omp simd
        for (size_t i = 0; i < channels; i++) {
            to[i] = (from[i] - m) * r * gamma[i] + beta[i];
        }
        mean[row] = m;
        rstd[row] = r;
    }
}

// With n = (x - mean) rstd and g = dy gamma: dx = rstd (g - mean(g) - n mean(g n)), means over the channels.
static void row_backward(float *dx, const float *dy, const float *x, float mean, float rstd, const float *gamma,
                         size_t channels, bool accumulate)
{
    float g_sum = 0, gn_sum = 0;
#pragma omp simd reduction(+ : g_sum, gn_sum)
    for (size_t i = 0; i < channels; i++) {
        float g = dy[i] * gamma[i];
        g_sum += g;
        gn_sum += g * (x[i] - mean) * rstd;
    }

    float g_mean = g_sum / (float)channels, gn_mean = gn_sum / (float)channels;
#pragma omp simd
    for (size_t i = 0; i < channels; i++) {
        float d = rstd * (dy[i] * gamma[i] - g_mean - (x[i] - mean) * rstd * gn_mean);
        dx[i] = accumulate ? dx[i] + d : d;
    }
}

// dgamma[width] and dbeta[width] are added to: the sums over rows of `width` columns of dy n and of dy.
static void columns_backward(float *dgamma, float *dbeta, const float *dy, const float *x, const float *mean,
                             const float *rstd, size_t rows, size_t channels, size_t width)
{
    double gamma_sum[CPU_COLUMN_BLOCK] = {0}, beta_sum[CPU_COLUMN_BLOCK] = {0};

    for (size_t row = 0; row < rows; row++) {
        const float *from = x + row * channels, *d = dy + row * channels;
#pragma omp simd
        for (size_t i = 0; i < width; i++) {
            gamma_sum[i] += (double)(d[i] * (from[i] - mean[row]) * rstd[row]);
            beta_sum[i] += (double)d[i];
        }
    }
    for (size_t i = 0; i < width; i++) {
        dgamma[i] += (float)gamma_sum[i];
        dbeta[i] += (float)beta_sum[i];
    }
}

void cpu_layer_norm_backward(struct stream *stream, device_address dx_at, device_address dgamma_at,
                             device_address dbeta_at, device_address dy_at, device_address x_at, device_address mean_at,
                             device_address rstd_at, device_address gamma_at, size_t rows, size_t channels,
                             bool accumulate)
{
    (void)stream;
    float *dx = device_cpu_pointer(dx_at), *dgamma = device_cpu_pointer(dgamma_at),
          *dbeta = device_cpu_pointer(dbeta_at);
    const float *dy = device_cpu_pointer(dy_at), *x = device_cpu_pointer(x_at), *mean = device_cpu_pointer(mean_at),
                *rstd = device_cpu_pointer(rstd_at), *gamma = device_cpu_pointer(gamma_at);

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
