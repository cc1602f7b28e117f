// SPDX-License-Identifier: Apache-2.0
#include <cassert>
#include <cmath>

#include "kernels/cuda/kernels.cuh"
#include "kernels/cuda/pack.cuh"

namespace
{

constexpr int threads = 256;
constexpr int blocks_per_multiprocessor = 64;
constexpr int sum_blocks_per_multiprocessor = 8; // each leaves one partial sum
constexpr int batch = 4;                         // of a sum's loads, under way at once
constexpr int width = cuda_wide<float>;

using quad = cuda_floats<width>;

// --- Sum of squares and what follows from it.

__device__ double squares_of(const quad &x)
{
    double sum = 0;
#pragma unroll
    for (int i = 0; i < width; i++) {
        sum += static_cast<double>(x.at[i]) * static_cast<double>(x.at[i]);
    }
    return sum;
}

__global__ void __launch_bounds__(threads) sum_of_squares(double *partials, const float *x, size_t count)
{
    const size_t packs = count / width, stride = gridDim.x * size_t(threads);
    const size_t first = blockIdx.x * size_t(threads) + threadIdx.x;
    double sum = 0;

    for (size_t i = first; i < packs; i += batch * stride) {
        cuda_pack<float, width> loaded[batch] = {};
#pragma unroll
        for (int j = 0; j < batch; j++) {
            if (i + j * stride < packs) {
                loaded[j] = cuda_load_once<width>(x + (i + j * stride) * width);
            }
        }
#pragma unroll
        for (int j = 0; j < batch; j++) {
            sum += squares_of(cuda_unpack(loaded[j]));
        }
    }
    if (first < count % width) {
        const double value = static_cast<double>(x[packs * width + first]);
        sum += value * value;
    }
    sum = cuda_block_sum(sum, reinterpret_cast<double *>(cuda_shared()));
    if (threadIdx.x == 0) {
        partials[blockIdx.x] = sum;
    }
}

__global__ void __launch_bounds__(threads) add_squares(double *total, const double *partials, unsigned parts)
{
    double sum = 0;
    for (unsigned i = threadIdx.x; i < parts; i += threads) {
        sum += partials[i];
    }
    sum = cuda_block_sum(sum, reinterpret_cast<double *>(cuda_shared()));
    if (threadIdx.x == 0) {
        *total = sum;
    }
}

__global__ void gradient_scale(float *scale_p, const struct kernel_tally *tally, const double *squares, double clip)
{
    double scale = tally->count == 0 ? 1 : 1 / tally->count;
    const double norm = sqrt(*squares) * scale;

    if (clip > 0 && norm > clip) {
        scale *= clip / norm;
    }
    *scale_p = isfinite(tally->loss) && isfinite(norm) ? static_cast<float>(scale) : NAN;
}

// --- Optimizers: one thread's four weights at a time, then what is left of them one by one.

struct sgd_rule {
    float learning_rate, momentum, weight_decay;

    __device__ void apply(float *w, float *velocity, float g) const
    {
        g += weight_decay * *w;
        *velocity = momentum * *velocity + g;
        *w -= learning_rate * *velocity;
    }
};

struct adamw_rule {
    float beta1, beta2, epsilon;
    float decay;      // share of a weight that decays
    float rate, root; // the learning rate and 1 / sqrt(second moment), corrected for the bias

    __device__ void apply(float *w, float *m, float *v, float g, bool decays) const
    {
        *m = beta1 * *m + (1 - beta1) * g;
        *v = beta2 * *v + (1 - beta2) * g * g;
        *w -= (decays ? decay : 0) * *w + rate * *m / (root * sqrtf(*v) + epsilon);
    }
};

template <typename real, int step, bool momentum>
__device__ __forceinline__ void sgd_at(size_t i, const struct sgd_rule &rule, float scale, float *weights, real *copy,
                                       const float *gradients, float *velocity)
{
    cuda_floats<step> w = cuda_unpack(cuda_load_once<step>(weights + i)), v = {};
    const cuda_floats<step> g = cuda_unpack(cuda_load_once<step>(gradients + i));

    if constexpr (momentum) {
        v = cuda_unpack(cuda_load_once<step>(velocity + i));
    }
#pragma unroll
    for (int lane = 0; lane < step; lane++) {
        rule.apply(&w.at[lane], &v.at[lane], scale * g.at[lane]);
    }
    cuda_store_once(weights + i, cuda_rounded<float>(w));
    if constexpr (momentum) {
        cuda_store_once(velocity + i, cuda_rounded<float>(v));
    }
    if (copy != nullptr) {
        cuda_store(copy + i, cuda_rounded<real>(w));
    }
}

template <typename real, bool momentum>
__global__ void __launch_bounds__(threads) sgd(struct sgd_rule rule, float *weights, real *copy, const float *gradients,
                                               float *velocity, const float *scale_p, size_t count)
{
    const float scale = *scale_p;
    const size_t packs = count / width, first = blockIdx.x * size_t(threads) + threadIdx.x;

    if (!isfinite(scale)) {
        return;
    }
    for (size_t i = first; i < packs; i += gridDim.x * size_t(threads)) {
        sgd_at<real, width, momentum>(i * width, rule, scale, weights, copy, gradients, velocity);
    }
    if (first < count % width) {
        sgd_at<real, 1, momentum>(packs * width + first, rule, scale, weights, copy, gradients, velocity);
    }
}

template <typename real, int step>
__device__ __forceinline__ void adamw_at(size_t i, const struct adamw_rule &rule, float scale, float *weights,
                                         real *copy, const float *gradients, float *first_moment, float *second_moment,
                                         size_t decaying)
{
    cuda_floats<step> w = cuda_unpack(cuda_load_once<step>(weights + i));
    cuda_floats<step> m = cuda_unpack(cuda_load_once<step>(first_moment + i));
    cuda_floats<step> v = cuda_unpack(cuda_load_once<step>(second_moment + i));
    const cuda_floats<step> g = cuda_unpack(cuda_load_once<step>(gradients + i));

#pragma unroll
    for (int lane = 0; lane < step; lane++) {
        rule.apply(&w.at[lane], &m.at[lane], &v.at[lane], scale * g.at[lane], i + lane < decaying);
    }
    cuda_store_once(weights + i, cuda_rounded<float>(w));
    cuda_store_once(first_moment + i, cuda_rounded<float>(m));
    cuda_store_once(second_moment + i, cuda_rounded<float>(v));
    if (copy != nullptr) {
        cuda_store(copy + i, cuda_rounded<real>(w));
    }
}

template <typename real>
__global__ void __launch_bounds__(threads)
    adamw(struct adamw_rule rule, float *weights, real *copy, const float *gradients, float *first_moment,
          float *second_moment, const float *scale_p, size_t decaying, size_t count)
{
    const float scale = *scale_p;
    const size_t packs = count / width, first = blockIdx.x * size_t(threads) + threadIdx.x;

    if (!isfinite(scale)) {
        return;
    }
    for (size_t i = first; i < packs; i += gridDim.x * size_t(threads)) {
        adamw_at<real, width>(i * width, rule, scale, weights, copy, gradients, first_moment, second_moment, decaying);
    }
    if (first < count % width) {
        adamw_at<real, 1>(packs * width + first, rule, scale, weights, copy, gradients, first_moment, second_moment,
                          decaying);
    }
}

unsigned blocks_for(const struct cuda_context *context, size_t count)
{
    return cuda_blocks(context, count, size_t(threads) * width, blocks_per_multiprocessor);
}

} // namespace

void cuda_sum_of_squares(struct kernel_context *base, device_address sum, device_address x, size_t count)
{
    const struct cuda_context *context = cuda_of(base);
    const unsigned blocks = cuda_blocks(context, count, size_t(threads) * width, sum_blocks_per_multiprocessor);
    double *partials = static_cast<double *>(context->workspace);

    if (blocks > 0) {
        cuda_launch(context, sum_of_squares, dim3(blocks), dim3(threads), CUDA_WARP * sizeof(double), partials,
                    cuda_pointer<const float>(x), count);
    }
    cuda_launch(context, add_squares, dim3(1), dim3(threads), CUDA_WARP * sizeof(double), cuda_pointer<double>(sum),
                static_cast<const double *>(partials), blocks);
}

void cuda_gradient_scale(struct kernel_context *context, device_address scale, device_address tally,
                         device_address squares, double clip)
{
    cuda_launch(cuda_of(context), gradient_scale, dim3(1), dim3(1), 0, cuda_pointer<float>(scale),
                cuda_pointer<const struct kernel_tally>(tally), cuda_pointer<const double>(squares), clip);
}

template <typename real>
void cuda_kernels<real>::sgd(struct kernel_context *context, const struct kernel_sgd *args, device_address weights,
                             device_address copy, device_address gradients, device_address velocity,
                             device_address scale, size_t count)
{
    const struct sgd_rule rule = {args->learning_rate, args->momentum, args->weight_decay};

    assert((velocity == 0) == (args->momentum == 0));
    if (count > 0) {
        cuda_launch(cuda_of(context), velocity != 0 ? ::sgd<real, true> : ::sgd<real, false>,
                    dim3(blocks_for(cuda_of(context), count)), dim3(threads), 0, rule, cuda_pointer<float>(weights),
                    cuda_pointer<real>(copy), cuda_pointer<const float>(gradients), cuda_pointer<float>(velocity),
                    cuda_pointer<const float>(scale), count);
    }
}

template <typename real>
void cuda_kernels<real>::adamw(struct kernel_context *context, const struct kernel_adamw *args, device_address weights,
                               device_address copy, device_address gradients, device_address first_moment,
                               device_address second_moment, device_address scale, size_t count)
{
    const double beta1 = static_cast<double>(args->beta1), beta2 = static_cast<double>(args->beta2);
    const double step = static_cast<double>(args->step);
    struct adamw_rule rule = {};

    assert(args->step > 0);
    rule.beta1 = args->beta1;
    rule.beta2 = args->beta2;
    rule.epsilon = args->epsilon;
    rule.decay = args->learning_rate * args->weight_decay;
    rule.rate = static_cast<float>(static_cast<double>(args->learning_rate) / (1 - std::pow(beta1, step)));
    rule.root = static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, step)));
    if (count > 0) {
        cuda_launch(cuda_of(context), ::adamw<real>, dim3(blocks_for(cuda_of(context), count)), dim3(threads), 0, rule,
                    cuda_pointer<float>(weights), cuda_pointer<real>(copy), cuda_pointer<const float>(gradients),
                    cuda_pointer<float>(first_moment), cuda_pointer<float>(second_moment),
                    cuda_pointer<const float>(scale), static_cast<size_t>(args->decaying), count);
    }
}

template decltype(cuda_kernels<float>::sgd) cuda_kernels<float>::sgd;
template decltype(cuda_kernels<float>::adamw) cuda_kernels<float>::adamw;
template decltype(cuda_kernels<__nv_bfloat16>::sgd) cuda_kernels<__nv_bfloat16>::sgd;
template decltype(cuda_kernels<__nv_bfloat16>::adamw) cuda_kernels<__nv_bfloat16>::adamw;
