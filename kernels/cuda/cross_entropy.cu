// SPDX-License-Identifier: Apache-2.0
//
// A block takes one row at a time and reads it once from device memory: on the way it finds the largest logit and the
// sum of exponentials relative to it (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018), and
// keeps the row in shared memory for the gradient. Only a row that does not fit there is read twice.
#include <algorithm>
#include <cfloat>
#include <climits>

#include "kernels/cuda/kernels.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/ptx.cuh"

namespace
{

constexpr unsigned threads_max = 512;
constexpr unsigned sum_threads = 256;
constexpr unsigned threads_per_multiprocessor = 2048;
constexpr int batch = 4; // loads under way at once
constexpr float log2_e = 1.4426950409f;

__device__ __forceinline__ float exponential(float x)
{
    return ptx_exp2(x * log2_e);
}

// Of the logits seen so far: the largest, where it is first, and the sum of e^(x - largest).
struct softmax {
    float largest, sum;
    int first;
};

// Before any. Not infinity: infinity less infinity is not a number.
__device__ __forceinline__ struct softmax softmax_of_none()
{
    return {-FLT_MAX, 0, INT_MAX};
}

__device__ __forceinline__ struct softmax merged(const struct softmax &a, const struct softmax &b)
{
    const float largest = fmaxf(a.largest, b.largest);
    const float sum = a.sum * exponential(a.largest - largest) + b.sum * exponential(b.largest - largest);
    const bool from_a = a.largest != b.largest ? a.largest > b.largest : a.first < b.first;
    return {largest, sum, from_a ? a.first : b.first};
}

// Columns from `classes` on are nothing to a softmax.
template <int width>
__device__ __forceinline__ cuda_floats<width> counting(cuda_floats<width> x, int column, int classes)
{
    if (column + width > classes) {
#pragma unroll
        for (int i = 0; i < width; i++) {
            x.at[i] = column + i < classes ? x.at[i] : -INFINITY;
        }
    }
    return x;
}

template <int width> __device__ __forceinline__ void take(struct softmax *seen, const cuda_floats<width> &x, int column)
{
    float largest = x.at[0];
#pragma unroll
    for (int i = 1; i < width; i++) {
        largest = fmaxf(largest, x.at[i]); // passes over NaN, which the sum keeps
    }
    if (largest > seen->largest) {
        seen->sum *= exponential(seen->largest - largest);
        seen->largest = largest;
#pragma unroll
        for (int i = width - 1; i >= 0; i--) {
            seen->first = x.at[i] == largest ? column + i : seen->first;
        }
    }
#pragma unroll
    for (int i = 0; i < width; i++) {
        seen->sum += exponential(x.at[i] - seen->largest);
    }
}

// The same bits in every thread.
__device__ struct softmax over_block(struct softmax mine, struct softmax *scratch)
{
    const unsigned lane = threadIdx.x % CUDA_WARP, warps = blockDim.x / CUDA_WARP;

    for (int offset = CUDA_WARP / 2; offset > 0; offset /= 2) {
        const struct softmax other = {__shfl_down_sync(CUDA_ALL_LANES, mine.largest, offset),
                                      __shfl_down_sync(CUDA_ALL_LANES, mine.sum, offset),
                                      __shfl_down_sync(CUDA_ALL_LANES, mine.first, offset)};
        mine = merged(mine, other);
    }
    __syncthreads(); // the row before is done with
    if (lane == 0) {
        scratch[threadIdx.x / CUDA_WARP] = mine;
    }
    __syncthreads();
    mine = scratch[0];
    for (unsigned warp = 1; warp < warps; warp++) {
        mine = merged(mine, scratch[warp]);
    }
    return mine;
}

// Calls visit(pack, column) for each of the thread's packs of x[columns], with batches of loads under way.
template <typename real, int width, typename function>
__device__ __forceinline__ void for_each_pack(const real *x, int columns, function visit)
{
    const int step = static_cast<int>(blockDim.x) * width;

    for (int first = static_cast<int>(threadIdx.x) * width; first < columns; first += batch * step) {
        cuda_pack<real, width> packs[batch];
#pragma unroll
        for (int i = 0; i < batch; i++) {
            if (first + i * step < columns) {
                packs[i] = cuda_load<width>(x + first + i * step);
            }
        }
#pragma unroll
        for (int i = 0; i < batch; i++) {
            if (first + i * step < columns) {
                visit(packs[i], first + i * step);
            }
        }
    }
}

struct row_of_logits {
    int target, classes, stride;
};

// softmax - onehot(target) over x, in place; columns from `classes` on become 0. `all` is the row's softmax, of whose
// sum log2_sum is the logarithm.
template <int width>
__device__ __forceinline__ cuda_floats<width> gradient_of(cuda_floats<width> x, int column,
                                                          const struct row_of_logits &row, const struct softmax &all,
                                                          float log2_sum)
{
#pragma unroll
    for (int i = 0; i < width; i++) {
        x.at[i] = ptx_exp2((x.at[i] - all.largest) * log2_e - log2_sum);
    }
    if (column + width > row.classes) {
#pragma unroll
        for (int i = 0; i < width; i++) {
            x.at[i] = column + i < row.classes ? x.at[i] : 0;
        }
    }
    if (column <= row.target && row.target < column + width) {
#pragma unroll
        for (int i = 0; i < width; i++) {
            x.at[i] -= column + i == row.target ? 1 : 0;
        }
    }
    return x;
}

template <typename real, int width> __device__ __forceinline__ void clear(real *x, int columns)
{
    for (int i = static_cast<int>(threadIdx.x) * width; i < columns; i += static_cast<int>(blockDim.x) * width) {
        cuda_store_once(x + i, cuda_pack<real, width>());
    }
}

// `tallies` gets one for each block. `held`: rows are kept in shared memory for the gradient.
template <typename real, int width, bool held>
__global__ void __launch_bounds__(threads_max, 2)
    cross_entropy(struct kernel_tally *tallies, real *logits, const int32_t *targets, size_t rows, int classes,
                  int stride, bool gradient)
{
    struct softmax *scratch = reinterpret_cast<struct softmax *>(cuda_shared());
    real *kept = reinterpret_cast<real *>(scratch + CUDA_WARP); // of each pack, only by the thread that has read it
    struct kernel_tally tally = {};

    for (size_t i = blockIdx.x; i < rows; i += gridDim.x) {
        const struct row_of_logits row = {targets[i], classes, stride};
        real *x = logits + i * static_cast<size_t>(stride);

        if (row.target == KERNEL_TARGET_NONE) {
            if (gradient) {
                clear<real, width>(x, stride);
            }
            continue;
        }

        struct softmax mine = softmax_of_none();
        const float logit = static_cast<float>(x[row.target]);
        for_each_pack<real, width>(x, classes, [&](const cuda_pack<real, width> &pack, int column) {
            if constexpr (held) {
                cuda_store(kept + column, pack);
            }
            take(&mine, counting(cuda_unpack(pack), column, classes), column);
        });
        const struct softmax all = over_block(mine, scratch);

        if (gradient) {
            const float log2_sum = log2f(all.sum);
            const auto write = [&](const cuda_pack<real, width> &pack, int column) {
                const cuda_floats<width> g = gradient_of(cuda_unpack(pack), column, row, all, log2_sum);
                cuda_store_once(x + column, cuda_rounded<real>(g));
            };
            for_each_pack<real, width>(held ? kept : x, classes, write);
            const int written = (classes + width - 1) / width * width;
            clear<real, width>(x + written, stride - written);
        }
        tally.loss +=
            static_cast<double>(logf(all.sum)) + (static_cast<double>(all.largest) - static_cast<double>(logit));
        tally.count += 1;
        tally.correct += all.first == row.target ? 1 : 0;
    }
    if (threadIdx.x == 0) {
        tallies[blockIdx.x] = tally;
    }
}

__global__ void __launch_bounds__(sum_threads)
    add_tallies(struct kernel_tally *total, const struct kernel_tally *tallies, unsigned count)
{
    double *scratch = reinterpret_cast<double *>(cuda_shared());
    struct kernel_tally sum = {};

    for (unsigned i = threadIdx.x; i < count; i += sum_threads) {
        sum.loss += tallies[i].loss;
        sum.count += tallies[i].count;
        sum.correct += tallies[i].correct;
    }
    sum.loss = cuda_block_sum(sum.loss, scratch);
    sum.count = cuda_block_sum(sum.count, scratch);
    sum.correct = cuda_block_sum(sum.correct, scratch);
    if (threadIdx.x == 0) {
        total->loss += sum.loss;
        total->count += sum.count;
        total->correct += sum.correct;
    }
}

// As many threads as a row has packs, up to a limit.
unsigned threads_for(size_t packs)
{
    const size_t threads = (packs + CUDA_WARP - 1) / CUDA_WARP * CUDA_WARP;
    return unsigned(std::min(std::max(threads, size_t(CUDA_WARP)), size_t(threads_max)));
}

} // namespace

template <typename real>
void cuda_kernels<real>::cross_entropy(struct kernel_context *base, device_address tally, device_address logits,
                                       device_address targets, size_t rows, size_t classes, size_t stride,
                                       bool gradient)
{
    const struct cuda_context *context = cuda_of(base);
    struct kernel_tally *tallies = static_cast<struct kernel_tally *>(context->workspace);

    if (rows == 0) {
        return;
    }
    cuda_with_width<real>(stride, [&](auto width) {
        const unsigned threads = threads_for(stride / width);
        const unsigned blocks = cuda_blocks(context, rows, 1, int(threads_per_multiprocessor / threads));
        const size_t scratch_bytes = CUDA_WARP * sizeof(struct softmax);
        const size_t held_bytes = scratch_bytes + stride * sizeof(real);
        const bool held = gradient && held_bytes <= size_t(context->shared_bytes);
        const auto kernel = held ? ::cross_entropy<real, width, true> : ::cross_entropy<real, width, false>;
        const size_t shared_bytes = held ? held_bytes : scratch_bytes;

        cuda_allow_shared(kernel, shared_bytes);
        cuda_launch(context, kernel, dim3(blocks), dim3(threads), shared_bytes, tallies, cuda_pointer<real>(logits),
                    cuda_pointer<const int32_t>(targets), rows, int(classes), int(stride), gradient);
        cuda_launch(context, add_tallies, dim3(1), dim3(sum_threads), CUDA_WARP * sizeof(double),
                    cuda_pointer<struct kernel_tally>(tally), static_cast<const struct kernel_tally *>(tallies),
                    blocks);
    });
}

template decltype(cuda_kernels<float>::cross_entropy) cuda_kernels<float>::cross_entropy;
template decltype(cuda_kernels<__nv_bfloat16>::cross_entropy) cuda_kernels<__nv_bfloat16>::cross_entropy;
