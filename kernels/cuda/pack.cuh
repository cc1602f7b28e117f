// SPDX-License-Identifier: Apache-2.0
//
// How kernels read and write rows: in packs of 16 bytes where they lie so, as float32 in registers. And sums over the
// threads of a warp or block, always in the same order.
#ifndef HEADROOM_KERNELS_CUDA_PACK_CUH
#define HEADROOM_KERNELS_CUDA_PACK_CUH

#include <cstring>
#include <type_traits>

#include <cuda_bf16.h>

#define CUDA_WARP      32
#define CUDA_ALL_LANES 0xffffffffu

// Numbers per 16 bytes.
template <typename type> inline constexpr int cuda_wide = 16 / static_cast<int>(sizeof(type));

// Calls start(width) with the pack in which rows of `columns` numbers can be read, as a constant: 16 bytes, or a
// single number where some rows would not begin at a multiple of 16 bytes.
template <typename real, typename function> void cuda_with_width(size_t columns, function start)
{
    if (columns % cuda_wide<real> == 0) {
        start(std::integral_constant<int, cuda_wide<real>>());
    } else {
        start(std::integral_constant<int, 1>());
    }
}

template <int bytes> struct cuda_word;
template <> struct cuda_word<16> {
    using type = uint4;
};
template <> struct cuda_word<8> {
    using type = uint2;
};
template <> struct cuda_word<4> {
    using type = unsigned;
};
template <> struct cuda_word<2> {
    using type = unsigned short;
};

// `width` numbers as they lie in memory, and as float32.
template <typename type, int width> struct cuda_pack {
    static constexpr int total_bytes = width * static_cast<int>(sizeof(type));
    static constexpr int word_bytes = total_bytes < 16 ? total_bytes : 16;
    static constexpr int words = total_bytes / word_bytes;
    using word = typename cuda_word<word_bytes>::type;

    word bits[words];
};

template <int width> struct cuda_floats {
    float at[width];
};

template <int width, typename type> __device__ __forceinline__ cuda_pack<type, width> cuda_load(const type *from)
{
    using pack = cuda_pack<type, width>;
    pack x;
#pragma unroll
    for (int i = 0; i < pack::words; i++) {
        x.bits[i] = reinterpret_cast<const typename pack::word *>(from)[i];
    }
    return x;
}

// For what is not read again soon.
template <int width, typename type> __device__ __forceinline__ cuda_pack<type, width> cuda_load_once(const type *from)
{
    using pack = cuda_pack<type, width>;
    pack x;
#pragma unroll
    for (int i = 0; i < pack::words; i++) {
        x.bits[i] = __ldcs(reinterpret_cast<const typename pack::word *>(from) + i);
    }
    return x;
}

template <typename type, int width>
__device__ __forceinline__ void cuda_store(type *to, const cuda_pack<type, width> &x)
{
    using pack = cuda_pack<type, width>;
#pragma unroll
    for (int i = 0; i < pack::words; i++) {
        reinterpret_cast<typename pack::word *>(to)[i] = x.bits[i];
    }
}

template <typename type, int width>
__device__ __forceinline__ void cuda_store_once(type *to, const cuda_pack<type, width> &x)
{
    using pack = cuda_pack<type, width>;
#pragma unroll
    for (int i = 0; i < pack::words; i++) {
        __stcs(reinterpret_cast<typename pack::word *>(to) + i, x.bits[i]);
    }
}

template <int width> __device__ __forceinline__ cuda_floats<width> cuda_unpack(const cuda_pack<float, width> &x)
{
    cuda_floats<width> y;
    memcpy(&y, &x, sizeof y);
    return y;
}

template <int width> __device__ __forceinline__ cuda_floats<width> cuda_unpack(const cuda_pack<__nv_bfloat16, width> &x)
{
    __nv_bfloat16 values[width];
    cuda_floats<width> y;
    memcpy(static_cast<void *>(values), &x, sizeof values);
#pragma unroll
    for (int i = 0; i < width; i++) {
        y.at[i] = __bfloat162float(values[i]);
    }
    return y;
}

template <int width> __device__ __forceinline__ void cuda_round(cuda_pack<float, width> *y, const cuda_floats<width> &x)
{
    memcpy(y, &x, sizeof x);
}

template <int width>
__device__ __forceinline__ void cuda_round(cuda_pack<__nv_bfloat16, width> *y, const cuda_floats<width> &x)
{
    if constexpr (width == 1) {
        const __nv_bfloat16 value = __float2bfloat16_rn(x.at[0]);
        memcpy(y, &value, sizeof value);
    } else {
        __nv_bfloat162 pairs[width / 2]; // one instruction rounds two
#pragma unroll
        for (int i = 0; i < width / 2; i++) {
            pairs[i] = __floats2bfloat162_rn(x.at[2 * i], x.at[2 * i + 1]);
        }
        memcpy(y, pairs, sizeof pairs);
    }
}

template <typename type, int width>
__device__ __forceinline__ cuda_pack<type, width> cuda_rounded(const cuda_floats<width> &x)
{
    cuda_pack<type, width> y;
    cuda_round(&y, x);
    return y;
}

template <int width> __device__ __forceinline__ void cuda_add_to(cuda_floats<width> *sum, const cuda_floats<width> &x)
{
#pragma unroll
    for (int i = 0; i < width; i++) {
        sum->at[i] += x.at[i];
    }
}

// Every lane gets the same bits: at each level two lanes add the same two numbers.
template <typename type> __device__ __forceinline__ type cuda_warp_sum(type x)
{
#pragma unroll
    for (int offset = CUDA_WARP / 2; offset > 0; offset /= 2) {
        x += __shfl_xor_sync(CUDA_ALL_LANES, x, offset);
    }
    return x;
}

// The sum over a block of one dimension, the same bits in every thread. `scratch[CUDA_WARP]` is shared memory that
// the block does not use otherwise.
template <typename type> __device__ __forceinline__ type cuda_block_sum(type x, type *scratch)
{
    const unsigned lane = threadIdx.x % CUDA_WARP;

    x = cuda_warp_sum(x);
    __syncthreads(); // an earlier sum is read
    if (lane == 0) {
        scratch[threadIdx.x / CUDA_WARP] = x;
    }
    __syncthreads();
    return cuda_warp_sum(lane < blockDim.x / CUDA_WARP ? scratch[lane] : type(0));
}

#endif
