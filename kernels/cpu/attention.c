// SPDX-License-Identifier: Apache-2.0
//
// Causal attention over tiles of queries and keys, with a running softmax: Dao et al., "FlashAttention: fast and
// memory-efficient exact attention with IO-awareness" (2022), algorithms 1 and 4. Scratch is at most two tiles on each
// thread's stack, whatever the length. Threads divide the work outside of the products, each of which is too small for
// more than one.
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

#define TILE CPU_ATTENTION_TILE

// The head's part of the forward pass; dy, dq, dk and dv are left out.
static struct cpu_head head_at(size_t index, float *y, float *lse, const float *qkv, size_t length, size_t channels,
                               size_t heads)
{
    const size_t width = channels / heads;
    const size_t row = index / heads * length, column = index % heads * width;
    const float *q = qkv + row * 3 * channels + column;

    return (struct cpu_head){
        .length = length,
        .width = width,
        .stride = 3 * channels,
        .y_stride = channels,
        .scale = 1 / sqrtf((float)width),
        .q = q,
        .k = q + channels,
        .v = q + 2 * channels,
        .y = y + row * channels + column,
        .lse = lse + index * length,
    };
}

// s[row, key] = scale q k', TILE apart.
static void scores(float *s, const struct cpu_head *head, size_t query, size_t queries, size_t key, size_t keys)
{
    cpu_sgemm('N', 'T', queries, keys, head->width, head->scale, head->q + query * head->stride, head->stride,
              head->k + key * head->stride, head->stride, 0, s, TILE);
}

// Of `keys` from `key` on, those that `query` sees: up to its own position.
static size_t visible(size_t query, size_t key, size_t keys)
{
    return uint64_min(keys, query - key + 1);
}

// s = e^(s - max) for the first `seen` of `keys`, 0 for the others; returns the sum.
static float exponentials(float *s, float max, size_t seen, size_t keys)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < seen; i++) {
        s[i] = cpu_exp(s[i] - max);
        sum += s[i];
    }
    memset(s + seen, 0, (keys - seen) * sizeof *s);
    return sum;
}

static void scale_row(float *y, float factor, size_t width)
{
#pragma omp simd
    for (size_t i = 0; i < width; i++) {
        y[i] *= factor;
    }
}

// y collects e^(s - max) v with the maximum so far; when a later tile of keys raises the maximum, y and the sum are
// scaled down to it.
void cpu_attention_tile(const struct cpu_head *head, size_t query)
{
    _Alignas(64) float s[TILE * TILE];
    float max[TILE], sum[TILE];
    const size_t queries = uint64_min(TILE, head->length - query);
    float *y = head->y + query * head->y_stride;

    for (size_t row = 0; row < queries; row++) {
        max[row] = -FLT_MAX;
        sum[row] = 0;
    }
    for (size_t key = 0; key < query + queries; key += TILE) {
        const size_t keys = uint64_min(TILE, query + queries - key);
        scores(s, head, query, queries, key, keys);
        for (size_t row = 0; row < queries; row++) {
            size_t seen = visible(query + row, key, keys);
            float raised = cpu_max(s + row * TILE, seen, max[row]);
            float factor = cpu_exp(max[row] - raised);
            max[row] = raised;
            sum[row] = sum[row] * factor + exponentials(s + row * TILE, raised, seen, keys);
            if (key > 0) {
                scale_row(y + row * head->y_stride, factor, head->width);
            }
        }
        cpu_sgemm('N', 'N', queries, head->width, keys, 1, s, TILE, head->v + key * head->stride, head->stride, key > 0,
                  y, head->y_stride);
    }
    for (size_t row = 0; row < queries; row++) {
        scale_row(y + row * head->y_stride, 1 / sum[row], head->width);
        head->lse[query + row] = max[row] + logf(sum[row]);
    }
}

void cpu_attention_fp32(struct kernel_context *context, device_address y_at, device_address lse_at,
                        device_address qkv_at, size_t batch, size_t length, size_t channels, size_t heads)
{
    (void)context;
    float *y = device_cpu_pointer(y_at), *lse = device_cpu_pointer(lse_at);
    const float *qkv = device_cpu_pointer(qkv_at);
    const size_t tiles = (length + TILE - 1) / TILE;

    // Later tiles see more keys: dynamic.
#pragma omp parallel for schedule(dynamic)
    for (size_t task = 0; task < batch * heads * tiles; task++) {
        struct cpu_head head = head_at(task / tiles, y, lse, qkv, length, channels, heads);
        cpu_attention_tile(&head, task % tiles * TILE);
    }
}

// p = e^(s - lse) over s, and ds = p (dp - d) over dp, where the query sees the key, else 0.
static void softmax_backward(float *s, float *dp, float lse, float d, size_t seen, size_t keys)
{
#pragma omp simd
    for (size_t i = 0; i < seen; i++) {
        s[i] = cpu_exp(s[i] - lse);
        dp[i] = s[i] * (dp[i] - d);
    }
    memset(s + seen, 0, (keys - seen) * sizeof *s);
    memset(dp + seen, 0, (keys - seen) * sizeof *dp);
}

// The sum of dy y over the head's channels, which is the sum of p dp over all keys.
static float row_product(const struct cpu_head *head, size_t row)
{
    const float *y = head->y + row * head->y_stride, *dy = head->dy + row * head->y_stride;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < head->width; i++) {
        sum += dy[i] * y[i];
    }
    return sum;
}

// Gradients from one tile of queries and one of keys. The first tile of keys writes dq, the tile of queries that is
// the first to see the keys writes dk and dv, all others add.
static void backward_tile(const struct cpu_head *head, size_t query, size_t queries, size_t key, size_t keys,
                          const float *d)
{
    _Alignas(64) float s[TILE * TILE], dp[TILE * TILE];
    const size_t width = head->width, stride = head->stride;
    const float *dy = head->dy + query * head->y_stride;

    scores(s, head, query, queries, key, keys);
    cpu_sgemm('N', 'T', queries, keys, width, 1, dy, head->y_stride, head->v + key * stride, stride, 0, dp, TILE);
    for (size_t row = 0; row < queries; row++) {
        softmax_backward(s + row * TILE, dp + row * TILE, head->lse[query + row], d[row],
                         visible(query + row, key, keys), keys);
    }
    cpu_sgemm('N', 'N', queries, width, keys, head->scale, dp, TILE, head->k + key * stride, stride, key > 0,
              head->dq + query * stride, stride);
    cpu_sgemm('T', 'N', keys, width, queries, head->scale, dp, TILE, head->q + query * stride, stride, query > key,
              head->dk + key * stride, stride);
    cpu_sgemm('T', 'N', keys, width, queries, 1, s, TILE, dy, head->y_stride, query > key, head->dv + key * stride,
              stride);
}

void cpu_attention_backward_head(const struct cpu_head *head)
{
    for (size_t query = 0; query < head->length; query += TILE) {
        const size_t queries = uint64_min(TILE, head->length - query);
        float d[TILE];
        for (size_t row = 0; row < queries; row++) {
            d[row] = row_product(head, query + row);
        }
        for (size_t key = 0; key < query + queries; key += TILE) {
            backward_tile(head, query, queries, key, uint64_min(TILE, query + queries - key), d);
        }
    }
}

void cpu_attention_backward_fp32(struct kernel_context *context, device_address dqkv_at, device_address delta,
                                 device_address dy_at, device_address qkv_at, device_address y_at,
                                 device_address lse_at, size_t batch, size_t length, size_t channels, size_t heads)
{
    (void)context, (void)delta;
    float *dqkv = device_cpu_pointer(dqkv_at), *y = device_cpu_pointer(y_at), *lse = device_cpu_pointer(lse_at);
    const float *dy = device_cpu_pointer(dy_at), *qkv = device_cpu_pointer(qkv_at);

#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < batch * heads; i++) {
        struct cpu_head head = head_at(i, y, lse, qkv, length, channels, heads);
        head.dy = dy + (head.y - y);
        head.dq = dqkv + (head.q - qkv);
        head.dk = head.dq + channels;
        head.dv = head.dk + channels;
        cpu_attention_backward_head(&head);
    }
}
