// SPDX-License-Identifier: Apache-2.0
//
// Attention in bfloat16: each head becomes float32, is computed with as such, and its results are rounded.
#include <math.h>
#include <omp.h>

#include "kernels/cpu/cpu.h"

// Where a head's rows lie in arrays that hold all heads side by side.
struct place {
    size_t length, width, channels;
    size_t qkv, y; // first elements
};

static struct place place_of(size_t index, size_t length, size_t channels, size_t heads)
{
    const size_t width = channels / heads, row = index / heads * length, column = index % heads * width;
    return (struct place){.length = length,
                          .width = width,
                          .channels = channels,
                          .qkv = row * 3 * channels + column,
                          .y = row * channels + column};
}

static void read_rows(float *to, const uint16_t *from, size_t rows, size_t width, size_t stride)
{
    for (size_t row = 0; row < rows; row++) {
#pragma omp simd
        for (size_t i = 0; i < width; i++) {
            to[row * width + i] = bfloat16_to_float(from[row * stride + i]);
        }
    }
}

static void write_rows(uint16_t *to, const float *from, size_t rows, size_t width, size_t stride)
{
    for (size_t row = 0; row < rows; row++) {
#pragma omp simd
        for (size_t i = 0; i < width; i++) {
            to[row * stride + i] = bfloat16_from_float(from[row * width + i]);
        }
    }
}

// The thread's part of the scratch, room for `arrays` arrays of a head.
static float *own_scratch(float *scratch, size_t arrays, const struct place *place)
{
    return scratch + (size_t)omp_get_thread_num() * arrays * place->length * place->width;
}

// q, k, v from `qkv`, packed one after the other from `at` on; y after them.
static struct cpu_head read_head(float *at, const uint16_t *qkv, const struct place *place, float *lse)
{
    const size_t count = place->length * place->width;
    for (size_t part = 0; part < 3; part++) {
        read_rows(at + part * count, qkv + place->qkv + part * place->channels, place->length, place->width,
                  3 * place->channels);
    }
    return (struct cpu_head){.length = place->length,
                             .width = place->width,
                             .stride = place->width,
                             .y_stride = place->width,
                             .scale = 1 / sqrtf((float)place->width),
                             .q = at,
                             .k = at + count,
                             .v = at + 2 * count,
                             .y = at + 3 * count,
                             .lse = lse};
}

void cpu_attention_bf16(struct kernel_context *context, device_address y_at, device_address lse_at,
                        device_address qkv_at, size_t batch, size_t length, size_t channels, size_t heads)
{
    enum { ARRAYS = 4 };
    uint16_t *y = device_cpu_pointer(y_at);
    float *lse = device_cpu_pointer(lse_at);
    const uint16_t *qkv = device_cpu_pointer(qkv_at);
    float *scratch = cpu_scratch(context, (size_t)omp_get_max_threads() * ARRAYS * length * (channels / heads));

#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < batch * heads; i++) {
        const struct place place = place_of(i, length, channels, heads);
        struct cpu_head head = read_head(own_scratch(scratch, ARRAYS, &place), qkv, &place, lse + i * length);
        for (size_t query = 0; query < length; query += CPU_ATTENTION_TILE) {
            cpu_attention_tile(&head, query);
        }
        write_rows(y + place.y, head.y, length, place.width, channels);
    }
}

void cpu_attention_backward_bf16(struct kernel_context *context, device_address dqkv_at, device_address delta,
                                 device_address dy_at, device_address qkv_at, device_address y_at,
                                 device_address lse_at, size_t batch, size_t length, size_t channels, size_t heads)
{
    (void)delta;
    enum { ARRAYS = 8 };
    uint16_t *dqkv = device_cpu_pointer(dqkv_at);
    const uint16_t *dy = device_cpu_pointer(dy_at), *qkv = device_cpu_pointer(qkv_at), *y = device_cpu_pointer(y_at);
    float *lse = device_cpu_pointer(lse_at);
    float *scratch = cpu_scratch(context, (size_t)omp_get_max_threads() * ARRAYS * length * (channels / heads));

#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < batch * heads; i++) {
        const struct place place = place_of(i, length, channels, heads);
        const size_t count = length * place.width;
        struct cpu_head head = read_head(own_scratch(scratch, ARRAYS, &place), qkv, &place, lse + i * length);
        float *dy_rows = head.y + count;
        head.dy = dy_rows;
        head.dq = dy_rows + count;
        head.dk = head.dq + count;
        head.dv = head.dk + count;
        read_rows(head.y, y + place.y, length, place.width, channels);
        read_rows(dy_rows, dy + place.y, length, place.width, channels);
        cpu_attention_backward_head(&head);
        for (size_t part = 0; part < 3; part++) {
            write_rows(dqkv + place.qkv + part * channels, head.dq + part * count, length, place.width, 3 * channels);
        }
    }
}
