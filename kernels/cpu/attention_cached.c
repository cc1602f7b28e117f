// SPDX-License-Identifier: Apache-2.0
//
// Attention of a few new tokens to many that are kept: reading those is what takes time, so each head's rows are read
// once for each token, in plain loops.
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

static void keep(real *cache, const real *qkv, size_t rows, size_t first, size_t capacity, size_t channels)
{
    for (size_t row = 0; row < rows; row++) {
        for (size_t part = 0; part < 2; part++) {
            memcpy(cache + (part * capacity + first + row) * channels, qkv + (3 * row + 1 + part) * channels,
                   channels * sizeof *cache);
        }
    }
}

static float dot(const real *a, const real *b, size_t count)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < count; i++) {
        sum += cpu_float(a[i]) * cpu_float(b[i]);
    }
    return sum;
}

// s = e^(s - the largest of s); answers their sum.
static float exponentials(float *s, size_t keys)
{
    float max = -FLT_MAX, sum = 0;
#pragma omp simd reduction(max : max)
    for (size_t i = 0; i < keys; i++) {
        max = s[i] > max ? s[i] : max;
    }
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < keys; i++) {
        s[i] = cpu_exp(s[i] - max);
        sum += s[i];
    }
    return sum;
}

// One head of one token. Keys and values are `stride` apart. `scratch` has room for the keys and for the head.
static void attend(real *y, const real *q, const real *k, const real *v, size_t keys, size_t width, size_t stride,
                   float *scratch)
{
    float *s = scratch, *sums = scratch + keys;
    const float scale = 1 / sqrtf((float)width);
    for (size_t key = 0; key < keys; key++) {
        s[key] = scale * dot(q, k + key * stride, width);
    }
    const float sum = exponentials(s, keys);
    memset(sums, 0, width * sizeof *sums);
    for (size_t key = 0; key < keys; key++) {
#pragma omp simd
        for (size_t i = 0; i < width; i++) {
            sums[i] += s[key] * cpu_float(v[key * stride + i]);
        }
    }
    for (size_t i = 0; i < width; i++) {
        y[i] = cpu_real(sums[i] / sum);
    }
}

void cpu_attention_cached(struct kernel_context *context, device_address y_at, device_address cache_at,
                          device_address qkv_at, size_t rows, size_t first, size_t capacity, size_t channels,
                          size_t heads)
{
    real *y = device_cpu_pointer(y_at), *cache = device_cpu_pointer(cache_at);
    const real *qkv = device_cpu_pointer(qkv_at);
    const size_t width = channels / heads, room = first + rows + width;
    float *scratch = cpu_scratch(context, (size_t)omp_get_max_threads() * room);

    keep(cache, qkv, rows, first, capacity, channels);
#pragma omp parallel for schedule(dynamic) if (rows * heads * room >= CPU_PARALLEL_MIN / 16)
    for (size_t task = 0; task < rows * heads; task++) {
        const size_t row = task / heads, column = task % heads * width;
        const real *k = cache + column, *v = k + capacity * channels;
        attend(y + row * channels + column, qkv + 3 * row * channels + column, k, v, first + row + 1, width, channels,
               scratch + (size_t)omp_get_thread_num() * room);
    }
}
