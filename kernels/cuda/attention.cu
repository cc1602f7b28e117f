// SPDX-License-Identifier: Apache-2.0
//
// Attention forward: FlashAttention-2, algorithm 1. A block has a tile of queries and goes over the keys up to its
// last query, with a running softmax.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_plain.cuh"
#include "kernels/cuda/attention_tensor.cuh"

namespace
{

// Tensor cores ------------------------------------------------------------------------------------------------------

template <int depth> struct tensor {
    static constexpr int row_tiles = depth <= 64 ? 2 : 1; // of a warp: as many as there are registers for
    static constexpr int queries = 2 * ATTENTION_STEP;    // of a block, so that a stage has room for them
    static constexpr int threads = queries / 16 / row_tiles * CUDA_WARP;
    static constexpr int tile_size = ATTENTION_STEP * attention_pitch<depth>;
    static constexpr int stage_size = 2 * tile_size; // keys and values
    static constexpr size_t shared_bytes = 2 * stage_size * sizeof(__nv_bfloat16);
};

// What a warp knows of its queries so far: sums of e^(s - max) v, and of e^(s - max), each lane's own; scores
// before they are scaled.
template <int depth> struct running {
    static constexpr int row_tiles = tensor<depth>::row_tiles;
    float y[row_tiles][depth / 8][4];
    float max[row_tiles][2], sum[row_tiles][2];

    __device__ __forceinline__ void init()
    {
        attention_for_each(y, [](float &x, int, int, int) { x = 0; });
        for (int r = 0; r < row_tiles; r++) {
            max[r][0] = max[r][1] = -INFINITY;
            sum[r][0] = sum[r][1] = 0;
        }
    }

    // Raises the maxima to those of s and scales what there is down to them. A row's lanes are four neighbours.
    template <int blocks> __device__ __forceinline__ void raise(float (&s)[row_tiles][blocks][4], float scale)
    {
        float raised[row_tiles][2], factor[row_tiles][2];
        memcpy(raised, max, sizeof raised);
        attention_for_each(s, [&](float x, int r, int, int i) { raised[r][i / 2] = fmaxf(raised[r][i / 2], x); });
#pragma unroll
        for (int r = 0; r < row_tiles; r++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                raised[r][i] = fmaxf(raised[r][i], __shfl_xor_sync(CUDA_ALL_LANES, raised[r][i], 1));
                raised[r][i] = fmaxf(raised[r][i], __shfl_xor_sync(CUDA_ALL_LANES, raised[r][i], 2));
                factor[r][i] = ptx_exp2((max[r][i] - raised[r][i]) * scale);
                max[r][i] = raised[r][i];
                sum[r][i] *= factor[r][i];
            }
        }
        attention_for_each(y, [&](float &x, int r, int, int i) { x *= factor[r][i / 2]; });
    }

    // Scores of one tile of keys; `scale` is in powers of two.
    template <int blocks>
    __device__ __forceinline__ void add(float (&s)[row_tiles][blocks][4], const __nv_bfloat16 *values, float scale)
    {
        raise(s, scale);
        attention_for_each(s, [&](float &x, int r, int, int i) {
            x = ptx_exp2(x * scale - max[r][i / 2] * scale);
            sum[r][i / 2] += x;
        });
        attention_add<depth>(y, s, values);
    }

    __device__ __forceinline__ void finish()
    {
        float share[row_tiles][2];
#pragma unroll
        for (int r = 0; r < row_tiles; r++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                sum[r][i] += __shfl_xor_sync(CUDA_ALL_LANES, sum[r][i], 1);
                sum[r][i] += __shfl_xor_sync(CUDA_ALL_LANES, sum[r][i], 2);
                share[r][i] = 1 / sum[r][i];
            }
        }
        attention_for_each(y, [&](float &x, int r, int, int i) { x *= share[r][i / 2]; });
    }
};

template <int depth>
__global__ void __launch_bounds__(tensor<depth>::threads)
    tensor_forward(__nv_bfloat16 *y, float *lse, const __nv_bfloat16 *qkv, struct attention_shape shape)
{
    using t = tensor<depth>;
    const auto q = attention_rows_of(qkv, ATTENTION_Q, shape), k = attention_rows_of(qkv, ATTENTION_K, shape),
               v = attention_rows_of(qkv, ATTENTION_V, shape);
    const int warp_row = static_cast<int>(threadIdx.x / CUDA_WARP) * 16 * t::row_tiles;
    const size_t block_query = attention_tile_from_last(shape) * t::queries, query = block_query + warp_row;
    const size_t end = min(block_query + t::queries, shape.length); // of keys
    const float scale = shape.scale * attention_log2_e;
    __nv_bfloat16 *shared = reinterpret_cast<__nv_bfloat16 *>(cuda_shared());
    unsigned queries[t::row_tiles][depth / 16][4];
    running<depth> softmax;

    const auto copy_keys = [&](int stage, size_t key) {
        __nv_bfloat16 *to = shared + stage * t::stage_size;
        attention_copy<depth, ATTENTION_STEP, t::threads>(to, k, key);
        attention_copy<depth, ATTENTION_STEP, t::threads>(to + t::tile_size, v, key);
    };

    copy_keys(0, 0);
    attention_copy<depth, t::queries, t::threads>(shared + t::stage_size, q, block_query);
    ptx_copy_wait();
    __syncthreads();
    attention_load<depth>(queries, shared + t::stage_size, warp_row);
    softmax.init();

    int stage = 0;
    for (size_t key = 0; key < end; key += ATTENTION_STEP, stage ^= 1) {
        const __nv_bfloat16 *keys = shared + stage * t::stage_size, *values = keys + t::tile_size;
        ptx_copy_wait();
        __syncthreads(); // the tile is there, and the other stage is read
        if (key + ATTENTION_STEP < end) {
            copy_keys(stage ^ 1, key + ATTENTION_STEP);
        }
        if (key < query + 16 * t::row_tiles) {
            float s[t::row_tiles][ATTENTION_STEP / 8][4];
            attention_scores<depth>(s, queries, keys);
            if (key + ATTENTION_STEP > query + 1) {
                const int ahead = static_cast<int>(key - query);
                attention_for_each(s, [&](float &x, int r, int n, int i) {
                    x = attention_column(n, i) + ahead > attention_row(r, i) ? -INFINITY : x;
                });
            }
            softmax.add(s, values, scale);
        }
    }

    softmax.finish();
    __syncthreads(); // all tiles are read
    attention_store<depth>(attention_rows_of(y, shape), query, softmax.y, shared + warp_row * attention_pitch<depth>);
#pragma unroll
    for (int r = 0; r < t::row_tiles; r++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const size_t row = query + attention_row(r, 2 * i);
            if (attention_lane() % 4 == 0 && row < shape.length) {
                attention_row_numbers(lse, shape)[row] = softmax.max[r][i] * shape.scale + logf(softmax.sum[r][i]);
            }
        }
    }
}

// Plain -------------------------------------------------------------------------------------------------------------

template <typename function> __device__ __forceinline__ float over_row(float x, function combine)
{
#pragma unroll
    for (int offset = PLAIN_LANES / 2; offset > 0; offset /= 2) {
        x = combine(x, __shfl_xor_sync(CUDA_ALL_LANES, x, offset));
    }
    return x;
}

template <typename real>
__global__ void __launch_bounds__(PLAIN_THREADS, 2)
    plain_forward(real *y, float *lse, const real *qkv, struct attention_shape shape)
{
    const auto q = attention_rows_of(qkv, ATTENTION_Q, shape), k = attention_rows_of(qkv, ATTENTION_K, shape),
               v = attention_rows_of(qkv, ATTENTION_V, shape);
    const size_t query = attention_tile_from_last(shape) * PLAIN_TILE;
    const unsigned channel = blockIdx.y * PLAIN_TILE;
    float sums[4][4] = {}, max[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, sum[4] = {};

    for (size_t key = 0; key <= query; key += PLAIN_TILE) {
        float s[4][4];
        plain_scores(s, q, query, k, key);
        plain_for_each([&](int i, int j) {
            const bool seen = key + plain_column() + j <= query + plain_row() + i;
            s[i][j] = seen ? s[i][j] * shape.scale : -INFINITY;
        });
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float raised = fmaxf(fmaxf(s[i][0], s[i][1]), fmaxf(s[i][2], s[i][3]));
            raised = fmaxf(max[i], over_row(raised, fmaxf));
            const float factor = expf(max[i] - raised);
            max[i] = raised;
            sum[i] *= factor;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                sums[i][j] *= factor;
                s[i][j] = expf(s[i][j] - raised);
                sum[i] += s[i][j];
            }
        }
        plain_add(sums, s, v, key, channel);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const size_t row = query + plain_row() + i;
        sum[i] = over_row(sum[i], [](float a, float b) { return a + b; });
        if (threadIdx.x % PLAIN_LANES == 0 && blockIdx.y == 0 && row < shape.length) {
            attention_row_numbers(lse, shape)[row] = max[i] + logf(sum[i]);
        }
    }
    plain_for_each([&](int i, int j) { sums[i][j] /= sum[i]; });
    plain_store(attention_rows_of(y, shape), query, channel, sums);
}

} // namespace

template <typename real>
void cuda_kernels<real>::attention(struct kernel_context *base, device_address y, device_address lse,
                                   device_address qkv, size_t batch, size_t length, size_t channels, size_t heads)
{
    const struct cuda_context *context = cuda_of(base);
    const struct attention_shape shape = attention_shape_of(length, channels, heads);

    if (batch == 0 || length == 0 || channels == 0) {
        return;
    }
    const bool done = attention_with_depth<real>(shape, [&](auto depth) {
        using t = tensor<depth>;
        const struct attention_shape tiled = attention_tiled(shape, t::queries);
        cuda_allow_shared(tensor_forward<depth>, t::shared_bytes);
        cuda_launch(context, tensor_forward<depth>, attention_grid(tiled, batch, 1), dim3(t::threads), t::shared_bytes,
                    cuda_pointer<__nv_bfloat16>(y), cuda_pointer<float>(lse), cuda_pointer<const __nv_bfloat16>(qkv),
                    tiled);
    });
    if (!done) {
        const struct attention_shape tiled = attention_tiled(shape, PLAIN_TILE);
        cuda_launch(context, plain_forward<real>, plain_grid(tiled, batch), dim3(PLAIN_THREADS), plain_shared_bytes,
                    cuda_pointer<real>(y), cuda_pointer<float>(lse), cuda_pointer<const real>(qkv), tiled);
    }
}

template decltype(cuda_kernels<float>::attention) cuda_kernels<float>::attention;
template decltype(cuda_kernels<__nv_bfloat16>::attention) cuda_kernels<__nv_bfloat16>::attention;
