// SPDX-License-Identifier: Apache-2.0
//
// Attention's tiles for every precision and width, in float32. A block makes 64 x 64 scores at a time; of outputs it
// has 64 channels, and where heads are wider more blocks make the same scores again. A thread has 4 x 4 of each, in
// rows 4 (thread / 16) and columns 4 (thread % 16).
#ifndef HEADROOM_KERNELS_CUDA_ATTENTION_PLAIN_CUH
#define HEADROOM_KERNELS_CUDA_ATTENTION_PLAIN_CUH

#include "kernels/cuda/attention.cuh"

#define PLAIN_TILE    64
#define PLAIN_THREADS 256
#define PLAIN_LANES   16 // threads that share rows

constexpr int plain_pitch = PLAIN_TILE + 4; // keeps 16 bytes together and columns in different banks
constexpr int plain_channels = 16;          // of scores at a time
constexpr size_t plain_shared_bytes = 2 * PLAIN_TILE * plain_pitch * sizeof(float);

// Both of the block's arrays are [PLAIN_TILE, plain_pitch].
__device__ __forceinline__ float *plain_weights()
{
    return reinterpret_cast<float *>(cuda_shared());
}

__device__ __forceinline__ float *plain_operands()
{
    return plain_weights() + PLAIN_TILE * plain_pitch;
}

__device__ __forceinline__ unsigned plain_row()
{
    return threadIdx.x / PLAIN_LANES * 4;
}

__device__ __forceinline__ unsigned plain_column()
{
    return threadIdx.x % PLAIN_LANES * 4;
}

template <typename real>
__device__ __forceinline__ float plain_get(const attention_rows<const real> &from, size_t row, unsigned channel)
{
    return from.has(row, channel) ? cuda_unpack(cuda_load<1>(from.at(row, channel))).at[0] : 0;
}

// c += a' b for a[count, rows] and b[count, columns] in shared memory.
__device__ __forceinline__ void plain_multiply(float (&c)[4][4], const float *a, const float *b, int count)
{
#pragma unroll 8
    for (int k = 0; k < count; k++) {
        const cuda_floats<4> x = cuda_unpack(cuda_load<4>(a + k * plain_pitch + plain_row()));
        const cuda_floats<4> y = cuda_unpack(cuda_load<4>(b + k * plain_pitch + plain_column()));
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                c[i][j] += x.at[i] * y.at[j];
            }
        }
    }
}

// to[channel, row] from a tile of rows.
template <typename real>
__device__ __forceinline__ void plain_transpose(float *to, const attention_rows<const real> &from, size_t first,
                                                unsigned channel)
{
    for (unsigned i = threadIdx.x; i < PLAIN_TILE * plain_channels; i += PLAIN_THREADS) {
        const unsigned row = i / plain_channels, column = i % plain_channels;
        to[column * plain_pitch + row] = plain_get(from, first + row, channel + column);
    }
}

// c = a b' of two tiles of rows.
template <typename real>
__device__ __forceinline__ void plain_scores(float (&c)[4][4], const attention_rows<const real> &a, size_t a_first,
                                             const attention_rows<const real> &b, size_t b_first)
{
    float *a_part = plain_operands(), *b_part = a_part + plain_channels * plain_pitch;

    memset(c, 0, sizeof c);
    for (unsigned channel = 0; channel < a.width; channel += plain_channels) {
        __syncthreads(); // earlier operands are read
        plain_transpose(a_part, a, a_first, channel);
        plain_transpose(b_part, b, b_first, channel);
        __syncthreads();
        plain_multiply(c, a_part, b_part, plain_channels);
    }
}

// c += p b, with a tile of rows as b, of which 64 channels from `channel` on.
template <typename real>
__device__ __forceinline__ void plain_add(float (&c)[4][4], const float (&p)[4][4], const attention_rows<const real> &b,
                                          size_t b_first, unsigned channel)
{
    float *weights = plain_weights(), *operands = plain_operands(); // [column of p, row], [row of b, channel]

    __syncthreads(); // earlier weights and operands are read
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const cuda_floats<4> column = {{p[0][j], p[1][j], p[2][j], p[3][j]}};
        cuda_store(weights + (plain_column() + j) * plain_pitch + plain_row(), cuda_rounded<float>(column));
    }
    for (unsigned i = threadIdx.x; i < PLAIN_TILE * PLAIN_TILE; i += PLAIN_THREADS) {
        const unsigned row = i / PLAIN_TILE, column = i % PLAIN_TILE;
        operands[row * plain_pitch + column] = plain_get(b, b_first + row, channel + column);
    }
    __syncthreads();
    plain_multiply(c, weights, operands, PLAIN_TILE);
}

template <typename real>
__device__ __forceinline__ void plain_store(const attention_rows<real> &to, size_t first, unsigned channel,
                                            const float (&c)[4][4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const size_t row = first + plain_row() + i;
            const unsigned column = channel + plain_column() + j;
            if (to.has(row, column)) {
                cuda_store(to.at(row, column), cuda_rounded<real>(cuda_floats<1>{{c[i][j]}}));
            }
        }
    }
}

// Calls visit(i, j) for each of the thread's numbers.
template <typename function> __device__ __forceinline__ void plain_for_each(function visit)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            visit(i, j);
        }
    }
}

inline dim3 plain_grid(const struct attention_shape &shape, size_t batch)
{
    return attention_grid(shape, batch, (shape.width + PLAIN_TILE - 1) / PLAIN_TILE);
}

#endif
