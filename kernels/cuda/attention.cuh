// SPDX-License-Identifier: Apache-2.0
//
// What the forward and the backward pass of attention share. Both follow Dao, "FlashAttention-2: faster attention with
// better parallelism and work partitioning" (2023): tiles of scores live in registers and shared memory only, and each
// output has one block that adds it up in a fixed order.
//
// Grids: x is the head of a sequence and in it a tile of rows, y a part of the channels. The tiles of one head run
// together, so that what they share stays in the cache.
#ifndef HEADROOM_KERNELS_CUDA_ATTENTION_CUH
#define HEADROOM_KERNELS_CUDA_ATTENTION_CUH

#include <cmath>
#include <type_traits>

#include "kernels/cuda/kernels.cuh"
#include "kernels/cuda/pack.cuh"

struct attention_shape {
    size_t length, channels;
    unsigned heads, width; // of a head
    unsigned tiles;        // of rows, of each head in the grid at hand
    float scale;           // of scores
};

inline struct attention_shape attention_shape_of(size_t length, size_t channels, size_t heads)
{
    const size_t width = channels / heads;
    return {length,
            channels,
            static_cast<unsigned>(heads),
            static_cast<unsigned>(width),
            0,
            1 / std::sqrt(static_cast<float>(width))};
}

// In tiles of so many rows.
inline struct attention_shape attention_tiled(struct attention_shape shape, unsigned rows)
{
    shape.tiles = static_cast<unsigned>((shape.length + rows - 1) / rows);
    return shape;
}

inline dim3 attention_grid(const struct attention_shape &shape, size_t batch, unsigned parts)
{
    return dim3(static_cast<unsigned>(batch) * shape.heads * shape.tiles, parts);
}

// The block's head, counted over all sequences, and its tile there.
__device__ __forceinline__ size_t attention_head(const struct attention_shape &shape)
{
    return blockIdx.x / shape.tiles;
}

__device__ __forceinline__ size_t attention_tile(const struct attention_shape &shape)
{
    return blockIdx.x % shape.tiles;
}

// The same from the last tile on: where later ones have more to do, those come first.
__device__ __forceinline__ size_t attention_tile_from_last(const struct attention_shape &shape)
{
    return shape.tiles - 1 - attention_tile(shape);
}

// Calls start(depth) with the channels of tensor cores' tiles that take such heads, as a constant. False where there
// are none: rows must begin at multiples of 16 bytes.
template <typename real, typename function>
bool attention_with_depth(const struct attention_shape &shape, function start)
{
    if constexpr (std::is_same_v<real, __nv_bfloat16>) {
        if (shape.width % 8 == 0 && shape.width <= 128) {
            if (shape.width <= 32) {
                start(std::integral_constant<int, 32>());
            } else if (shape.width <= 64) {
                start(std::integral_constant<int, 64>());
            } else {
                start(std::integral_constant<int, 128>());
            }
            return true;
        }
    }
    return false;
}

// The block's head in an array of rows.
template <typename real> struct attention_rows {
    real *first;
    size_t stride, length;
    unsigned width;

    __device__ __forceinline__ bool has(size_t row, unsigned channel) const
    {
        return row < length && channel < width;
    }

    __device__ __forceinline__ real *at(size_t row, unsigned channel) const
    {
        return first + row * stride + channel;
    }
};

template <typename real>
__device__ __forceinline__ attention_rows<real> attention_rows_of(real *array, size_t stride,
                                                                  const struct attention_shape &shape)
{
    const size_t sequence = attention_head(shape) / shape.heads, head = attention_head(shape) % shape.heads;
    return {array + sequence * shape.length * stride + head * shape.width, stride, shape.length, shape.width};
}

enum attention_part { ATTENTION_Q, ATTENTION_K, ATTENTION_V };

// Of qkv[B, T, 3C] or its gradient.
template <typename real>
__device__ __forceinline__ attention_rows<real> attention_rows_of(real *qkv, enum attention_part part,
                                                                  const struct attention_shape &shape)
{
    return attention_rows_of(qkv + part * shape.channels, 3 * shape.channels, shape);
}

// Of y[B, T, C] or its gradient.
template <typename real>
__device__ __forceinline__ attention_rows<real> attention_rows_of(real *y, const struct attention_shape &shape)
{
    return attention_rows_of(y, shape.channels, shape);
}

// The block's head in lse[B, H, T] or delta.
template <typename type>
__device__ __forceinline__ type *attention_row_numbers(type *array, const struct attention_shape &shape)
{
    return array + attention_head(shape) * shape.length;
}

#endif
