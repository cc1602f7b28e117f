// SPDX-License-Identifier: Apache-2.0
//
// Attention's tiles for tensor cores. A tile is rows of `depth` bfloat16 in shared memory. A warp has `row_tiles` times
// 16 rows of a product in registers, as ptx_mma lays them out: c[row tile][8 columns][4].
#ifndef HEADROOM_KERNELS_CUDA_ATTENTION_TENSOR_CUH
#define HEADROOM_KERNELS_CUDA_ATTENTION_TENSOR_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/ptx.cuh"

#define ATTENTION_STEP 64 // rows of the tiles that a block goes over

constexpr float attention_log2_e = 1.44269504f;

// 16 bytes between rows let ldmatrix read eight of them from different banks.
template <int depth> inline constexpr int attention_pitch = depth + 8;

__device__ __forceinline__ unsigned attention_lane()
{
    return threadIdx.x % CUDA_WARP;
}

// Where in a row tile the lane's number c[..][block][i] is.
__device__ __forceinline__ int attention_row(int row_tile, int i)
{
    return 16 * row_tile + 8 * (i / 2) + static_cast<int>(attention_lane() / 4);
}

__device__ __forceinline__ int attention_column(int block, int i)
{
    return 8 * block + 2 * static_cast<int>(attention_lane() % 4) + i % 2;
}

// Starts to copy rows from `first` on; zeros beyond the last row and the head's width.
template <int depth, int rows, int threads>
__device__ __forceinline__ void attention_copy(__nv_bfloat16 *tile, const attention_rows<const __nv_bfloat16> &from,
                                               size_t first)
{
    constexpr int packs = depth / 8;
    static_assert(rows * packs % threads == 0);
#pragma unroll
    for (int step = 0; step < rows * packs / threads; step++) {
        const unsigned i = threadIdx.x + step * threads, row = i / packs, channel = i % packs * 8;
        const bool valid = from.has(first + row, channel);
        ptx_copy<16>(tile + row * attention_pitch<depth> + channel, valid ? from.at(first + row, channel) : from.first,
                     valid);
    }
}

// The warp's rows of a tile, from `row` on, as ptx_mma's first operands.
template <int depth, int row_tiles>
__device__ __forceinline__ void attention_load(unsigned (&a)[row_tiles][depth / 16][4], const __nv_bfloat16 *tile,
                                               int row)
{
    const __nv_bfloat16 *from =
        tile + (row + attention_lane() % 16) * attention_pitch<depth> + attention_lane() / 16 * 8;
#pragma unroll
    for (int r = 0; r < row_tiles; r++) {
#pragma unroll
        for (int k = 0; k < depth / 16; k++) {
            ptx_load_matrices(a[r][k], from + 16 * r * attention_pitch<depth> + 16 * k);
        }
    }
}

// c = a b' with the tile's first `columns` rows as b.
template <int depth, int row_tiles, int blocks>
__device__ __forceinline__ void attention_scores(float (&c)[row_tiles][blocks][4],
                                                 const unsigned (&a)[row_tiles][depth / 16][4],
                                                 const __nv_bfloat16 *tile)
{
    const unsigned lane = attention_lane();
    const __nv_bfloat16 *from = tile + (lane % 8 + lane / 16 * 8) * attention_pitch<depth> + lane / 8 % 2 * 8;
#pragma unroll
    for (int r = 0; r < row_tiles; r++) {
#pragma unroll
        for (int n = 0; n < blocks; n++) {
            c[r][n][0] = c[r][n][1] = c[r][n][2] = c[r][n][3] = 0;
        }
    }
#pragma unroll
    for (int k = 0; k < depth / 16; k++) {
#pragma unroll
        for (int n = 0; n < blocks; n += 2) {
            unsigned b[4];
            ptx_load_matrices(b, from + 8 * n * attention_pitch<depth> + 16 * k);
#pragma unroll
            for (int r = 0; r < row_tiles; r++) {
                ptx_mma(c[r][n], a[r][k], b[0], b[1]);
                ptx_mma(c[r][n + 1], a[r][k], b[2], b[3]);
            }
        }
    }
}

__device__ __forceinline__ unsigned attention_pair(float low, float high)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    unsigned bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

// c += p b, with p rounded and the tile's first rows as b: a product's layout is that of the next one's operand.
template <int depth, int row_tiles, int blocks>
__device__ __forceinline__ void attention_add(float (&c)[row_tiles][depth / 8][4],
                                              const float (&p)[row_tiles][blocks][4], const __nv_bfloat16 *tile)
{
    const __nv_bfloat16 *from = tile + attention_lane() % 16 * attention_pitch<depth> + attention_lane() / 16 * 8;
#pragma unroll
    for (int k = 0; k < blocks / 2; k++) {
        unsigned a[row_tiles][4];
#pragma unroll
        for (int r = 0; r < row_tiles; r++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                a[r][i] = attention_pair(p[r][2 * k + i / 2][i % 2 * 2], p[r][2 * k + i / 2][i % 2 * 2 + 1]);
            }
        }
#pragma unroll
        for (int n = 0; n < depth / 8; n += 2) {
            unsigned b[4];
            ptx_load_transposed(b, from + 16 * k * attention_pitch<depth> + 8 * n);
#pragma unroll
            for (int r = 0; r < row_tiles; r++) {
                ptx_mma(c[r][n], a[r], b[0], b[1]);
                ptx_mma(c[r][n + 1], a[r], b[2], b[3]);
            }
        }
    }
}

// Calls visit(number, row tile, block, i) for each of the lane's numbers.
template <int row_tiles, int blocks, typename function>
__device__ __forceinline__ void attention_for_each(float (&c)[row_tiles][blocks][4], function visit)
{
#pragma unroll
    for (int r = 0; r < row_tiles; r++) {
#pragma unroll
        for (int n = 0; n < blocks; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                visit(c[r][n][i], r, n, i);
            }
        }
    }
}

// Rounds c and writes it as the head's rows from `first` on, by way of the warp's own rows in shared memory.
template <int depth, int row_tiles>
__device__ __forceinline__ void attention_store(const attention_rows<__nv_bfloat16> &to, size_t first,
                                                const float (&c)[row_tiles][depth / 8][4], __nv_bfloat16 *shared)
{
    constexpr int packs = depth / 8;
#pragma unroll
    for (int r = 0; r < row_tiles; r++) {
#pragma unroll
        for (int n = 0; n < packs; n++) {
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                cuda_store(shared + attention_row(r, i) * attention_pitch<depth> + attention_column(n, i),
                           cuda_rounded<__nv_bfloat16>(cuda_floats<2>{{c[r][n][i], c[r][n][i + 1]}}));
            }
        }
    }
    __syncwarp();
    for (unsigned i = attention_lane(); i < row_tiles * 16 * packs; i += CUDA_WARP) {
        const unsigned row = i / packs, channel = i % packs * 8;
        if (to.has(first + row, channel)) {
            cuda_store(to.at(first + row, channel), cuda_load<8>(shared + row * attention_pitch<depth> + channel));
        }
    }
    __syncwarp();
}

#endif
