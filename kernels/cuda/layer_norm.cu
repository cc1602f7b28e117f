// SPDX-License-Identifier: Apache-2.0
//
// A block takes one or more rows at a time. A thread keeps one pack of its row in registers, so a row is read once.
// Rows too long for that are read again for each use.
#include <algorithm>

#include "kernels/cuda/kernels.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.h"

namespace
{

constexpr float epsilon = 1e-5f;
constexpr unsigned threads_max = 512;
constexpr unsigned forward_threads = 128;  // short rows share a block of about so many
constexpr unsigned backward_threads = 192; // more, because each block leaves partial sums
constexpr int forward_blocks_per_multiprocessor = 32;
constexpr int backward_threads_per_multiprocessor = 1024; // as many as there are registers for

// The thread's pack of a row in registers, or where not `held` its packs in memory.
template <typename real, int width, bool held> struct row_part {
    const real *row;
    cuda_pack<real, width> pack;

    __device__ __forceinline__ void read(const real *from, size_t channels)
    {
        const size_t i = threadIdx.x * size_t(width);
        row = from;
        pack = {};
        if (held && i < channels) {
            pack = cuda_load<width>(from + i);
        }
    }

    __device__ __forceinline__ cuda_floats<width> at(size_t i) const
    {
        return cuda_unpack(held ? pack : cuda_load<width>(row + i));
    }
};

// Calls visit(i) for each of the thread's packs, which begins at channel i.
template <int width, bool held, typename function>
__device__ __forceinline__ void for_each_pack(size_t channels, function visit)
{
    for (size_t i = threadIdx.x * size_t(width); i < channels; i += blockDim.x * size_t(width)) {
        visit(i);
        if constexpr (held) {
            break;
        }
    }
}

// Sums over the threads of each of a block's rows. All threads of the block take part.
template <int count> struct row_sums {
    float *scratch = reinterpret_cast<float *>(cuda_shared()); // two buffers, so that one barrier per sum is enough
    unsigned turn = 0;

    __device__ __forceinline__ cuda_floats<count> of(cuda_floats<count> x)
    {
        const unsigned lane = threadIdx.x % CUDA_WARP, warps = blockDim.x / CUDA_WARP;
#pragma unroll
        for (int i = 0; i < count; i++) {
            x.at[i] = cuda_warp_sum(x.at[i]);
        }
        if (warps > 1) {
            float *row = scratch + (turn * blockDim.y + threadIdx.y) * warps * count;
            if (lane == 0) {
                cuda_store(row + threadIdx.x / CUDA_WARP * count, cuda_rounded<float>(x));
            }
            turn ^= 1;
            __syncthreads();
            x = {};
            for (unsigned warp = 0; warp < warps; warp++) {
                cuda_add_to(&x, cuda_unpack(cuda_load<count>(row + warp * count)));
            }
        }
        return x;
    }

    static size_t shared_bytes(dim3 block)
    {
        return 2 * block.y * (block.x / CUDA_WARP) * count * sizeof(float);
    }
};

template <int width> __device__ __forceinline__ float sum_of(const cuda_floats<width> &x)
{
    float sum = 0;
#pragma unroll
    for (int lane = 0; lane < width; lane++) {
        sum += x.at[lane];
    }
    return sum;
}

template <typename real, int width, bool held>
__global__ void __launch_bounds__(threads_max, 3)
    forward(real *y, real *sum, float *means, float *rstds, const real *x, const real *residual, const real *gamma,
            const real *beta, size_t rows, size_t channels)
{
    const float share = 1 / static_cast<float>(channels);
    row_part<real, width, held> scale, shift;
    row_sums<1> sums;
    scale.read(gamma, channels);
    shift.read(beta, channels);

    for (size_t first = blockIdx.x * size_t(blockDim.y); first < rows; first += gridDim.x * size_t(blockDim.y)) {
        const size_t row = first + threadIdx.y;
        const size_t part = row < rows ? channels : 0; // of the row, which the block's last may not have
        row_part<real, width, held> s;

        s.read(x + row * channels, part);
        if (residual != nullptr) {
            row_part<real, width, held> other;
            other.read(residual + row * channels, part);
            for_each_pack<width, held>(part, [&](size_t i) {
                cuda_floats<width> value = s.at(i);
                cuda_add_to(&value, other.at(i));
                s.pack = cuda_rounded<real>(value);
                cuda_store(sum + row * channels + i, s.pack);
            });
            s.row = sum + row * channels;
        }

        float total = 0;
        for_each_pack<width, held>(part, [&](size_t i) { total += sum_of(s.at(i)); });
        const float mean = sums.of({total}).at[0] * share;

        float squares = 0;
        for_each_pack<width, held>(part, [&](size_t i) {
            cuda_floats<width> value = s.at(i);
#pragma unroll
            for (int lane = 0; lane < width; lane++) {
                value.at[lane] = (value.at[lane] - mean) * (value.at[lane] - mean);
            }
            squares += sum_of(value);
        });
        const float rstd = 1 / sqrtf(sums.of({squares}).at[0] * share + epsilon);

        for_each_pack<width, held>(part, [&](size_t i) {
            const cuda_floats<width> g = scale.at(i), b = shift.at(i);
            cuda_floats<width> value = s.at(i);
#pragma unroll
            for (int lane = 0; lane < width; lane++) {
                value.at[lane] = (value.at[lane] - mean) * rstd * g.at[lane] + b.at[lane];
            }
            cuda_store(y + row * channels + i, cuda_rounded<real>(value));
        });
        if (threadIdx.x == 0 && row < rows) {
            means[row] = mean;
            rstds[row] = rstd;
        }
    }
}

// What a thread adds up over its rows for its channels: in a register, or where not `held` in memory, of which each
// number is one thread's.
template <int width, bool held> struct column_part {
    cuda_floats<width> sum;
    float *columns;

    __device__ __forceinline__ void init(float *to, bool add, size_t channels)
    {
        columns = to;
        sum = {};
        if (!held && !add) {
            for_each_pack<width, held>(channels, [&](size_t i) { cuda_store(columns + i, cuda_rounded<float>(sum)); });
        }
    }

    __device__ __forceinline__ void add(size_t i, const cuda_floats<width> &x)
    {
        if constexpr (held) {
            cuda_add_to(&sum, x);
        } else {
            add_in_memory(columns + i, x);
        }
    }

    // The block's rows in their order are added up and written, or added to memory.
    __device__ __forceinline__ void finish(bool add, size_t channels)
    {
        const size_t i = threadIdx.x * size_t(width);
        float *shared = reinterpret_cast<float *>(cuda_shared()); // [rows, channels]

        if constexpr (held) {
            __syncthreads();
            if (i < channels) {
                cuda_store(shared + threadIdx.y * channels + i, cuda_rounded<float>(sum));
            }
            __syncthreads();
            if (i < channels && threadIdx.y == 0) {
                for (unsigned row = 1; row < blockDim.y; row++) {
                    cuda_add_to(&sum, cuda_unpack(cuda_load<width>(shared + row * channels + i)));
                }
                if (add) {
                    add_in_memory(columns + i, sum);
                } else {
                    cuda_store(columns + i, cuda_rounded<float>(sum));
                }
            }
        }
    }

    static __device__ __forceinline__ void add_in_memory(float *to, cuda_floats<width> x)
    {
        cuda_add_to(&x, cuda_unpack(cuda_load<width>(to)));
        cuda_store(to, cuda_rounded<float>(x));
    }

    static size_t shared_bytes(dim3 block, size_t channels)
    {
        return held ? block.y * channels * sizeof(float) : 0;
    }
};

// With n = (x - mean) rstd and g = dy gamma: dx = rstd (g - mean(g) - n mean(g n)), means over the channels. Block b
// leaves the sums over its rows of dy n in the b-th row of dgammas, and of dy in that of dbetas.
template <typename real, int width, bool held>
__global__ void __launch_bounds__(threads_max, 2)
    backward(real *dx, float *dgammas, float *dbetas, bool add_columns, const real *dy, const real *x,
             const float *means, const float *rstds, const real *gamma, size_t rows, size_t channels, bool accumulate)
{
    const float share = 1 / static_cast<float>(channels);
    column_part<width, held> dgamma, dbeta;
    row_part<real, width, held> scale;
    row_sums<2> sums;
    dgamma.init(dgammas + blockIdx.x * channels, add_columns, channels);
    dbeta.init(dbetas + blockIdx.x * channels, add_columns, channels);
    scale.read(gamma, channels);

    for (size_t first = blockIdx.x * size_t(blockDim.y); first < rows; first += gridDim.x * size_t(blockDim.y)) {
        const size_t row = first + threadIdx.y;
        const size_t part = row < rows ? channels : 0;
        const float mean = row < rows ? means[row] : 0, rstd = row < rows ? rstds[row] : 0;
        row_part<real, width, held> values, gradients, before;

        values.read(x + row * channels, part);
        gradients.read(dy + row * channels, part);
        before.read(dx + row * channels, accumulate ? part : 0);

        cuda_floats<2> totals = {};
        for_each_pack<width, held>(part, [&](size_t i) {
            const cuda_floats<width> d = gradients.at(i), c = scale.at(i);
            cuda_floats<width> n = values.at(i);
#pragma unroll
            for (int lane = 0; lane < width; lane++) {
                n.at[lane] = (n.at[lane] - mean) * rstd * d.at[lane];
                totals.at[0] += d.at[lane] * c.at[lane];
                totals.at[1] += n.at[lane] * c.at[lane];
            }
            dgamma.add(i, n);
            dbeta.add(i, d);
        });
        totals = sums.of(totals);

        for_each_pack<width, held>(part, [&](size_t i) {
            const cuda_floats<width> v = values.at(i), d = gradients.at(i), c = scale.at(i);
            cuda_floats<width> result = accumulate ? before.at(i) : cuda_floats<width>{};
#pragma unroll
            for (int lane = 0; lane < width; lane++) {
                const float n = (v.at[lane] - mean) * rstd;
                result.at[lane] += rstd * (d.at[lane] * c.at[lane] - share * (totals.at[0] + n * totals.at[1]));
            }
            cuda_store(dx + row * channels + i, cuda_rounded<real>(result));
        });
    }
    dgamma.finish(add_columns, channels);
    dbeta.finish(add_columns, channels);
}

// A block of about so many threads: rows of one thread per pack, or where not `held` one row.
dim3 block_of(size_t packs, bool held, unsigned threads)
{
    if (!held) {
        return dim3(threads_max);
    }
    const unsigned row = unsigned((packs + CUDA_WARP - 1) / CUDA_WARP * CUDA_WARP);
    return dim3(row, threads > row ? threads / row : 1);
}

// Calls start(width, held) for rows of so many channels, as constants.
template <typename real, typename function> void with_row(size_t channels, function start)
{
    cuda_with_width<real>(channels, [&](auto width) {
        if (channels <= threads_max * size_t(width)) {
            start(width, std::true_type());
        } else {
            start(width, std::false_type());
        }
    });
}

// Blocks of the backward pass: what runs at once, as far as there is room for their sums of columns.
unsigned backward_blocks(const struct cuda_context *context, dim3 block, size_t rows, size_t channels)
{
    const int resident = backward_threads_per_multiprocessor / int(block.x * block.y);
    const unsigned blocks = cuda_blocks(context, rows, block.y, resident);
    const size_t room = KERNELS_CUDA_WORKSPACE_BYTES / (2 * sizeof(float)) / channels;

    return room >= blocks ? blocks : room > 1 ? unsigned(room) : 1;
}

} // namespace

template <typename real>
void cuda_kernels<real>::layer_norm(struct kernel_context *context, device_address y, device_address sum,
                                    device_address mean, device_address rstd, device_address x, device_address residual,
                                    device_address gamma, device_address beta, size_t rows, size_t channels)
{
    if (rows == 0 || channels == 0) {
        return;
    }
    with_row<real>(channels, [&](auto width, auto held) {
        const dim3 block = block_of(channels / width, held, forward_threads);
        cuda_launch(cuda_of(context), forward<real, width, held>,
                    dim3(cuda_blocks(cuda_of(context), rows, block.y, forward_blocks_per_multiprocessor)), block,
                    row_sums<1>::shared_bytes(block), cuda_pointer<real>(y), cuda_pointer<real>(sum),
                    cuda_pointer<float>(mean), cuda_pointer<float>(rstd), cuda_pointer<const real>(x),
                    cuda_pointer<const real>(residual), cuda_pointer<const real>(gamma), cuda_pointer<const real>(beta),
                    rows, channels);
    });
}

template <typename real>
void cuda_kernels<real>::layer_norm_backward(struct kernel_context *base, device_address dx, device_address dgamma,
                                             device_address dbeta, device_address dy, device_address x,
                                             device_address mean, device_address rstd, device_address gamma,
                                             size_t rows, size_t channels, bool accumulate)
{
    if (rows == 0 || channels == 0) {
        return;
    }
    with_row<real>(channels, [&](auto width, auto held) {
        const struct cuda_context *context = cuda_of(base);
        const dim3 block = block_of(channels / width, held, backward_threads);
        const unsigned blocks = backward_blocks(context, block, rows, channels);
        const size_t sums_bytes = row_sums<2>::shared_bytes(block);
        const size_t columns_bytes = column_part<width, held>::shared_bytes(block, channels);
        float *partials = static_cast<float *>(context->workspace);
        float *dgammas = blocks == 1 ? cuda_pointer<float>(dgamma) : partials;
        float *dbetas = blocks == 1 ? cuda_pointer<float>(dbeta) : partials + blocks * channels;

        cuda_launch(context, backward<real, width, held>, dim3(blocks), block, std::max(sums_bytes, columns_bytes),
                    cuda_pointer<real>(dx), dgammas, dbetas, blocks == 1, cuda_pointer<const real>(dy),
                    cuda_pointer<const real>(x), cuda_pointer<const float>(mean), cuda_pointer<const float>(rstd),
                    cuda_pointer<const real>(gamma), rows, channels, accumulate);
        if (blocks > 1) {
            cuda_add_partials(context, cuda_pointer<float>(dgamma), cuda_pointer<float>(dbeta), blocks, channels);
        }
    });
}

template decltype(cuda_kernels<float>::layer_norm) cuda_kernels<float>::layer_norm;
template decltype(cuda_kernels<float>::layer_norm_backward) cuda_kernels<float>::layer_norm_backward;
template decltype(cuda_kernels<__nv_bfloat16>::layer_norm) cuda_kernels<__nv_bfloat16>::layer_norm;
template decltype(cuda_kernels<__nv_bfloat16>::layer_norm_backward) cuda_kernels<__nv_bfloat16>::layer_norm_backward;
