// SPDX-License-Identifier: Apache-2.0
//
// Attention backward: FlashAttention-2, algorithm 2, but with two kernels, so that no sum needs atomic additions: one
// has a tile of keys and goes over the queries that see them, for dk and dv; the other has a tile of queries and goes
// over the keys that they see, for dq. Both make the scores again.
//
// With p = e^(scale q k' - lse) and dp = dy v': dv = p' dy, ds = p (dp - delta), dq = scale ds k, dk = scale ds' q, and
// delta, the mean of dp under p, is the sum of dy y over the head's channels.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_plain.cuh"
#include "kernels/cuda/attention_tensor.cuh"

namespace
{

constexpr int delta_threads = 256;

constexpr int delta_rows = 64; // of a block

// A warp for each row.
template <typename real, int width>
__global__ void __launch_bounds__(delta_threads)
    make_delta(float *delta, const real *dy, const real *y, struct attention_shape shape)
{
    const size_t first = attention_tile(shape) * delta_rows, end = min(first + delta_rows, shape.length);
    const auto dy_rows = attention_rows_of(dy, shape), y_rows = attention_rows_of(y, shape);
    const unsigned lane = threadIdx.x % CUDA_WARP;

    for (size_t row = first + threadIdx.x / CUDA_WARP; row < end; row += delta_threads / CUDA_WARP) {
        float sum = 0;
        for (unsigned channel = lane * width; channel < shape.width; channel += CUDA_WARP * width) {
            const cuda_floats<width> a = cuda_unpack(cuda_load<width>(dy_rows.at(row, channel)));
            const cuda_floats<width> b = cuda_unpack(cuda_load<width>(y_rows.at(row, channel)));
#pragma unroll
            for (int i = 0; i < width; i++) {
                sum += a.at[i] * b.at[i];
            }
        }
        sum = cuda_warp_sum(sum);
        if (lane == 0) {
            attention_row_numbers(delta, shape)[row] = sum;
        }
    }
}

// Tensor cores ------------------------------------------------------------------------------------------------------

template <int depth> struct tensor {
    static constexpr int slice = depth <= 64 ? 32 : 16; // scores of a row at a time: as registers allow
    static constexpr int threads = ATTENTION_STEP / 16 * CUDA_WARP;
    static constexpr int tile_size = ATTENTION_STEP * attention_pitch<depth>;
    static constexpr int stage_size = 2 * tile_size;
    static constexpr size_t shared_bytes = 2 * stage_size * sizeof(__nv_bfloat16);
    static constexpr size_t keys_shared_bytes = shared_bytes + 2 * 2 * ATTENTION_STEP * sizeof(float);
};

template <int depth>
__global__ void __launch_bounds__(tensor<depth>::threads)
    tensor_keys_backward(__nv_bfloat16 *dqkv, const __nv_bfloat16 *dy, const __nv_bfloat16 *qkv, const float *lse,
                         const float *delta, struct attention_shape shape)
{
    using t = tensor<depth>;
    const auto q = attention_rows_of(qkv, ATTENTION_Q, shape), k = attention_rows_of(qkv, ATTENTION_K, shape),
               v = attention_rows_of(qkv, ATTENTION_V, shape), d = attention_rows_of(dy, shape);
    const int warp_row = static_cast<int>(threadIdx.x / CUDA_WARP) * 16;
    const size_t block_key = attention_tile(shape) * ATTENTION_STEP, key = block_key + warp_row;
    const float scale = shape.scale * attention_log2_e;
    __nv_bfloat16 *shared = reinterpret_cast<__nv_bfloat16 *>(cuda_shared());
    float *numbers = reinterpret_cast<float *>(shared + 2 * t::stage_size); // [stage, lse and delta, query]
    unsigned keys[1][depth / 16][4], values[1][depth / 16][4];
    float dk[1][depth / 8][4] = {}, dv[1][depth / 8][4] = {};

    const auto copy_queries = [&](int stage, size_t query) {
        __nv_bfloat16 *to = shared + stage * t::stage_size;
        const size_t row = query + threadIdx.x % ATTENTION_STEP;
        const float *from = attention_row_numbers(threadIdx.x < ATTENTION_STEP ? lse : delta, shape);
        static_assert(t::threads == 2 * ATTENTION_STEP);
        attention_copy<depth, ATTENTION_STEP, t::threads>(to, q, query);
        attention_copy<depth, ATTENTION_STEP, t::threads>(to + t::tile_size, d, query);
        ptx_copy<4>(numbers + stage * t::threads + threadIdx.x, row < shape.length ? from + row : from,
                    row < shape.length);
    };

    copy_queries(0, block_key);
    attention_copy<depth, ATTENTION_STEP, t::threads>(shared + t::stage_size, k, block_key);
    attention_copy<depth, ATTENTION_STEP, t::threads>(shared + t::stage_size + t::tile_size, v, block_key);
    ptx_copy_wait();
    __syncthreads();
    attention_load<depth>(keys, shared + t::stage_size, warp_row);
    attention_load<depth>(values, shared + t::stage_size + t::tile_size, warp_row);

    // Queries beyond the last have q, dy, lse and delta of 0, and so add 0.
    int stage = 0;
    for (size_t tile = block_key; tile < shape.length; tile += ATTENTION_STEP, stage ^= 1) {
        ptx_copy_wait();
        __syncthreads(); // the tile is there, and the other stage is read
        if (tile + ATTENTION_STEP < shape.length) {
            copy_queries(stage ^ 1, tile + ATTENTION_STEP);
        }
#pragma unroll 1
        for (int slice = 0; slice < ATTENTION_STEP; slice += t::slice) {
            const __nv_bfloat16 *queries = shared + stage * t::stage_size + slice * attention_pitch<depth>;
            const __nv_bfloat16 *gradients = queries + t::tile_size;
            const float *lses = numbers + stage * t::threads + slice, *deltas = lses + ATTENTION_STEP;
            const size_t query = tile + slice;
            float p[1][t::slice / 8][4], ds[1][t::slice / 8][4]; // of keys and queries: transposed

            if (query + t::slice <= key) {
                continue;
            }
            attention_scores<depth>(p, keys, queries);
            if (query < key + 15) {
                const int ahead = static_cast<int>(key - query);
                attention_for_each(p, [&](float &x, int r, int n, int i) {
                    x = attention_row(r, i) + ahead > attention_column(n, i) ? -INFINITY : x;
                });
            }
            attention_for_each(p, [&](float &x, int, int n, int i) {
                x = ptx_exp2(x * scale - lses[attention_column(n, i)] * attention_log2_e);
            });
            attention_scores<depth>(ds, values, gradients);
            attention_for_each(
                ds, [&](float &x, int r, int n, int i) { x = p[r][n][i] * (x - deltas[attention_column(n, i)]); });
            attention_add<depth>(dv, p, gradients);
            attention_add<depth>(dk, ds, queries);
        }
    }

    __nv_bfloat16 *own = shared + warp_row * attention_pitch<depth>;
    attention_for_each(dk, [&](float &x, int, int, int) { x *= shape.scale; });
    __syncthreads(); // all tiles are read
    attention_store<depth>(attention_rows_of(dqkv, ATTENTION_K, shape), key, dk, own);
    attention_store<depth>(attention_rows_of(dqkv, ATTENTION_V, shape), key, dv, own);
}

template <int depth>
__global__ void __launch_bounds__(tensor<depth>::threads)
    tensor_queries_backward(__nv_bfloat16 *dqkv, const __nv_bfloat16 *dy, const __nv_bfloat16 *qkv, const float *lse,
                            const float *delta, struct attention_shape shape)
{
    using t = tensor<depth>;
    const auto q = attention_rows_of(qkv, ATTENTION_Q, shape), k = attention_rows_of(qkv, ATTENTION_K, shape),
               v = attention_rows_of(qkv, ATTENTION_V, shape), d = attention_rows_of(dy, shape);
    const int warp_row = static_cast<int>(threadIdx.x / CUDA_WARP) * 16;
    const size_t block_query = attention_tile_from_last(shape) * ATTENTION_STEP;
    const size_t query = block_query + warp_row;
    const float scale = shape.scale * attention_log2_e;
    __nv_bfloat16 *shared = reinterpret_cast<__nv_bfloat16 *>(cuda_shared());
    unsigned queries[1][depth / 16][4], gradients[1][depth / 16][4];
    float dq[1][depth / 8][4] = {}, own_lse[2], own_delta[2];

    const auto copy_keys = [&](int stage, size_t key) {
        __nv_bfloat16 *to = shared + stage * t::stage_size;
        attention_copy<depth, ATTENTION_STEP, t::threads>(to, k, key);
        attention_copy<depth, ATTENTION_STEP, t::threads>(to + t::tile_size, v, key);
    };

    copy_keys(0, 0);
    attention_copy<depth, ATTENTION_STEP, t::threads>(shared + t::stage_size, q, block_query);
    attention_copy<depth, ATTENTION_STEP, t::threads>(shared + t::stage_size + t::tile_size, d, block_query);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const size_t row = min(query + attention_row(0, 2 * i), shape.length - 1);
        own_lse[i] = attention_row_numbers(lse, shape)[row] * attention_log2_e;
        own_delta[i] = attention_row_numbers(delta, shape)[row];
    }
    ptx_copy_wait();
    __syncthreads();
    attention_load<depth>(queries, shared + t::stage_size, warp_row);
    attention_load<depth>(gradients, shared + t::stage_size + t::tile_size, warp_row);

    int stage = 0;
    for (size_t tile = 0; tile <= block_query; tile += ATTENTION_STEP, stage ^= 1) {
        ptx_copy_wait();
        __syncthreads(); // the tile is there, and the other stage is read
        if (tile < block_query) {
            copy_keys(stage ^ 1, tile + ATTENTION_STEP);
        }
#pragma unroll 1
        for (int slice = 0; slice < ATTENTION_STEP; slice += t::slice) {
            const __nv_bfloat16 *keys = shared + stage * t::stage_size + slice * attention_pitch<depth>;
            const __nv_bfloat16 *values = keys + t::tile_size;
            const size_t key = tile + slice;
            float p[1][t::slice / 8][4], ds[1][t::slice / 8][4];

            if (key > query + 15) {
                break;
            }
            attention_scores<depth>(p, queries, keys);
            if (key + t::slice > query + 1) {
                const int ahead = static_cast<int>(key - query);
                attention_for_each(p, [&](float &x, int r, int n, int i) {
                    x = attention_column(n, i) + ahead > attention_row(r, i) ? -INFINITY : x;
                });
            }
            attention_scores<depth>(ds, gradients, values);
            attention_for_each(ds, [&](float &x, int r, int n, int i) {
                x = ptx_exp2(p[r][n][i] * scale - own_lse[i / 2]) * (x - own_delta[i / 2]);
            });
            attention_add<depth>(dq, ds, keys);
        }
    }

    attention_for_each(dq, [&](float &x, int, int, int) { x *= shape.scale; });
    __syncthreads(); // all tiles are read
    attention_store<depth>(attention_rows_of(dqkv, ATTENTION_Q, shape), query, dq,
                           shared + warp_row * attention_pitch<depth>);
}

// Plain -------------------------------------------------------------------------------------------------------------

// p and, over dp, ds for one query and one key.
__device__ __forceinline__ void plain_gradient(float *s, float *dp, const struct attention_shape &shape, size_t query,
                                               size_t key, const float *lse, const float *delta)
{
    const bool seen = key <= query && query < shape.length;
    *s = seen ? expf(*s * shape.scale - lse[query]) : 0;
    *dp = seen ? *s * (*dp - delta[query]) : 0;
}

template <typename real>
__global__ void __launch_bounds__(PLAIN_THREADS, 2)
    plain_keys_backward(real *dqkv, const real *dy, const real *qkv, const float *lses, const float *deltas,
                        struct attention_shape shape)
{
    const auto q = attention_rows_of(qkv, ATTENTION_Q, shape), k = attention_rows_of(qkv, ATTENTION_K, shape),
               v = attention_rows_of(qkv, ATTENTION_V, shape), d = attention_rows_of(dy, shape);
    const float *lse = attention_row_numbers(lses, shape), *delta = attention_row_numbers(deltas, shape);
    const size_t key = attention_tile(shape) * PLAIN_TILE;
    const unsigned channel = blockIdx.y * PLAIN_TILE;
    float dk[4][4] = {}, dv[4][4] = {};

    for (size_t query = key; query < shape.length; query += PLAIN_TILE) {
        float p[4][4], ds[4][4]; // of keys and queries: transposed
        plain_scores(p, k, key, q, query);
        plain_scores(ds, v, key, d, query);
        plain_for_each([&](int i, int j) {
            plain_gradient(&p[i][j], &ds[i][j], shape, query + plain_column() + j, key + plain_row() + i, lse, delta);
        });
        plain_add(dv, p, d, query, channel);
        plain_add(dk, ds, q, query, channel);
    }
    plain_for_each([&](int i, int j) { dk[i][j] *= shape.scale; });
    plain_store(attention_rows_of(dqkv, ATTENTION_K, shape), key, channel, dk);
    plain_store(attention_rows_of(dqkv, ATTENTION_V, shape), key, channel, dv);
}

template <typename real>
__global__ void __launch_bounds__(PLAIN_THREADS, 2)
    plain_queries_backward(real *dqkv, const real *dy, const real *qkv, const float *lses, const float *deltas,
                           struct attention_shape shape)
{
    const auto q = attention_rows_of(qkv, ATTENTION_Q, shape), k = attention_rows_of(qkv, ATTENTION_K, shape),
               v = attention_rows_of(qkv, ATTENTION_V, shape), d = attention_rows_of(dy, shape);
    const float *lse = attention_row_numbers(lses, shape), *delta = attention_row_numbers(deltas, shape);
    const size_t query = attention_tile_from_last(shape) * PLAIN_TILE;
    const unsigned channel = blockIdx.y * PLAIN_TILE;
    float dq[4][4] = {};

    for (size_t key = 0; key <= query; key += PLAIN_TILE) {
        float p[4][4], ds[4][4];
        plain_scores(p, q, query, k, key);
        plain_scores(ds, d, query, v, key);
        plain_for_each([&](int i, int j) {
            plain_gradient(&p[i][j], &ds[i][j], shape, query + plain_row() + i, key + plain_column() + j, lse, delta);
        });
        plain_add(dq, ds, k, key, channel);
    }
    plain_for_each([&](int i, int j) { dq[i][j] *= shape.scale; });
    plain_store(attention_rows_of(dqkv, ATTENTION_Q, shape), query, channel, dq);
}

} // namespace

template <typename real>
void cuda_kernels<real>::attention_backward(struct kernel_context *base, device_address dqkv_at,
                                            device_address delta_at, device_address dy_at, device_address qkv_at,
                                            device_address y_at, device_address lse_at, size_t batch, size_t length,
                                            size_t channels, size_t heads)
{
    const struct cuda_context *context = cuda_of(base);
    const struct attention_shape shape = attention_shape_of(length, channels, heads);
    const real *dy = cuda_pointer<const real>(dy_at), *qkv = cuda_pointer<const real>(qkv_at);
    const float *lse = cuda_pointer<const float>(lse_at);
    real *dqkv = cuda_pointer<real>(dqkv_at);
    float *delta = cuda_pointer<float>(delta_at);

    if (batch == 0 || length == 0 || channels == 0) {
        return;
    }
    cuda_with_width<real>(shape.width, [&](auto width) {
        const struct attention_shape tiled = attention_tiled(shape, delta_rows);
        cuda_launch(context, make_delta<real, width>, attention_grid(tiled, batch, 1), dim3(delta_threads), 0, delta,
                    dy, cuda_pointer<const real>(y_at), tiled);
    });
    const bool done = attention_with_depth<real>(shape, [&](auto depth) {
        using t = tensor<depth>;
        const struct attention_shape tiled = attention_tiled(shape, ATTENTION_STEP);
        const dim3 grid = attention_grid(tiled, batch, 1);
        cuda_allow_shared(tensor_keys_backward<depth>, t::keys_shared_bytes);
        cuda_allow_shared(tensor_queries_backward<depth>, t::shared_bytes);
        cuda_launch(context, tensor_keys_backward<depth>, grid, dim3(t::threads), t::keys_shared_bytes, dqkv, dy, qkv,
                    lse, delta, tiled);
        cuda_launch(context, tensor_queries_backward<depth>, grid, dim3(t::threads), t::shared_bytes, dqkv, dy, qkv,
                    lse, delta, tiled);
    });
    if (!done) {
        const struct attention_shape tiled = attention_tiled(shape, PLAIN_TILE);
        const dim3 grid = plain_grid(tiled, batch);
        cuda_launch(context, plain_keys_backward<real>, grid, dim3(PLAIN_THREADS), plain_shared_bytes, dqkv, dy, qkv,
                    lse, delta, tiled);
        cuda_launch(context, plain_queries_backward<real>, grid, dim3(PLAIN_THREADS), plain_shared_bytes, dqkv, dy, qkv,
                    lse, delta, tiled);
    }
}

template decltype(cuda_kernels<float>::attention_backward) cuda_kernels<float>::attention_backward;
template decltype(cuda_kernels<__nv_bfloat16>::attention_backward) cuda_kernels<__nv_bfloat16>::attention_backward;
