// SPDX-License-Identifier: Apache-2.0
//
// Attention of a few new tokens to many that are kept. A block has one head of one token and goes over the keys, a tile
// at a time, with a running softmax: first a thread has a key, then a channel.
#include <cmath>

#include "kernels/cuda/kernels.cuh"
#include "kernels/cuda/pack.cuh"

namespace
{

constexpr unsigned threads = 128; // and keys of a tile
constexpr int blocks_per_multiprocessor = 16;

template <typename real>
__global__ void __launch_bounds__(threads)
    keep(real *cache, const real *qkv, size_t rows, size_t first, size_t capacity, size_t channels)
{
    const size_t count = rows * 2 * channels;
    for (size_t i = blockIdx.x * size_t(threads) + threadIdx.x; i < count; i += gridDim.x * size_t(threads)) {
        const size_t row = i / (2 * channels), column = i % (2 * channels), part = column / channels;
        cache[(part * capacity + first + row) * channels + column % channels] = qkv[(3 * row + 1) * channels + column];
    }
}

// q k' over the head's channels.
template <int pack, typename real>
__device__ __forceinline__ float product(const real *q, const real *k, unsigned width)
{
    float sum = 0;
    for (unsigned i = 0; i < width; i += pack) {
        const cuda_floats<pack> a = cuda_unpack(cuda_load<pack>(q + i)), b = cuda_unpack(cuda_load<pack>(k + i));
#pragma unroll
        for (int j = 0; j < pack; j++) {
            sum += a.at[j] * b.at[j];
        }
    }
    return sum;
}

template <int pack, typename real>
__global__ void __launch_bounds__(threads) attend(real *y, const real *cache, const real *qkv, size_t first,
                                                  size_t capacity, size_t channels, unsigned width, float scale)
{
    float *s = reinterpret_cast<float *>(cuda_shared()), *sums = s + threads; // sums of e^(s - max) v
    const size_t row = blockIdx.x, column = size_t(blockIdx.y) * width, keys = first + row + 1;
    const real *q = qkv + 3 * row * channels + column, *k = cache + column, *v = k + capacity * channels;
    float max = -INFINITY, sum = 0;

    for (unsigned i = threadIdx.x; i < width; i += threads) {
        sums[i] = 0;
    }
    for (size_t tile = 0; tile < keys; tile += threads) {
        const unsigned seen = static_cast<unsigned>(min(keys - tile, size_t(threads)));
        const bool sees = threadIdx.x < seen;
        const float own = sees ? scale * product<pack>(q, k + (tile + threadIdx.x) * channels, width) : 0;
        s[threadIdx.x] = own;
        __syncthreads();
        float raised = max;
        for (unsigned i = 0; i < seen; i++) {
            raised = fmaxf(raised, s[i]);
        }
        __syncthreads(); // all have read the scores
        s[threadIdx.x] = sees ? expf(own - raised) : 0;
        __syncthreads();
        const float factor = expf(max - raised);
        max = raised;
        sum *= factor;
        for (unsigned i = 0; i < seen; i++) {
            sum += s[i];
        }
        for (unsigned channel = threadIdx.x; channel < width; channel += threads) {
            float collected = sums[channel] * factor;
            for (unsigned i = 0; i < seen; i++) {
                collected += s[i] * static_cast<float>(v[(tile + i) * channels + channel]);
            }
            sums[channel] = collected;
        }
        __syncthreads(); // the next tile's scores take their place
    }
    for (unsigned i = threadIdx.x; i < width; i += threads) {
        y[row * channels + column + i] = static_cast<real>(sums[i] / sum);
    }
}

} // namespace

template <typename real>
void cuda_kernels<real>::attention_cached(struct kernel_context *base, device_address y, device_address cache,
                                          device_address qkv, size_t rows, size_t first, size_t capacity,
                                          size_t channels, size_t heads)
{
    const struct cuda_context *context = cuda_of(base);
    if (rows == 0 || channels == 0) {
        return;
    }
    const unsigned width = static_cast<unsigned>(channels / heads);
    const size_t shared_bytes = (threads + width) * sizeof(float);
    cuda_launch(context, keep<real>,
                dim3(cuda_blocks(context, rows * 2 * channels, threads, blocks_per_multiprocessor)), dim3(threads), 0,
                cuda_pointer<real>(cache), cuda_pointer<const real>(qkv), rows, first, capacity, channels);
    cuda_with_width<real>(width, [&](auto pack) {
        cuda_allow_shared(attend<pack, real>, shared_bytes);
        cuda_launch(context, attend<pack, real>, dim3(static_cast<unsigned>(rows), static_cast<unsigned>(heads)),
                    dim3(threads), shared_bytes, cuda_pointer<real>(y), cuda_pointer<const real>(cache),
                    cuda_pointer<const real>(qkv), first, capacity, channels, width,
                    1 / std::sqrt(static_cast<float>(width)));
    });
}

template decltype(cuda_kernels<float>::attention_cached) cuda_kernels<float>::attention_cached;
template decltype(cuda_kernels<__nv_bfloat16>::attention_cached) cuda_kernels<__nv_bfloat16>::attention_cached;
