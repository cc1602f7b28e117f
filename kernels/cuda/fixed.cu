// SPDX-License-Identifier: Apache-2.0
//
// Sums of integers. What threads bring together by atomic operations is an integer, too, or the largest of numbers: the
// same in any order.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cuda/kernels.cuh"
#include "kernels/cuda/pack.cuh"

namespace
{

constexpr int threads = 256;
constexpr int blocks_per_multiprocessor = 64;
constexpr int width = cuda_wide<int64_t>;

template <int step> struct integers {
    int64_t at[step];
};

template <int step> __device__ __forceinline__ integers<step> load_integers(const int64_t *from)
{
    const cuda_pack<int64_t, step> pack = cuda_load_once<step>(from);
    integers<step> x;
    memcpy(&x, &pack, sizeof x);
    return x;
}

template <int step> __device__ __forceinline__ void store_integers(int64_t *to, const integers<step> &x)
{
    cuda_pack<int64_t, step> pack;
    memcpy(&pack, &x, sizeof x);
    cuda_store_once(to, pack);
}

struct add_rule {
    double scale;
    int64_t limit;

    // 1 where nothing is added.
    __device__ unsigned apply(int64_t *sum, float x) const
    {
        const double scaled = static_cast<double>(x) * scale;
        const bool in_range = fabs(scaled) < 0x1p63;
        const int64_t term = llrint(in_range ? scaled : 0);
        const bool fits = in_range && term >= -limit && term <= limit;

        *sum += fits ? term : 0;
        return fits ? 0 : 1;
    }
};

template <int step>
__device__ __forceinline__ unsigned add_at(size_t i, const struct add_rule &rule, int64_t *sums, const float *x)
{
    integers<step> sum = load_integers<step>(sums + i);
    const cuda_floats<step> terms = cuda_unpack(cuda_load_once<step>(x + i));
    unsigned spilling = 0;

#pragma unroll
    for (int lane = 0; lane < step; lane++) {
        spilling += rule.apply(&sum.at[lane], terms.at[lane]);
    }
    store_integers(sums + i, sum);
    return spilling;
}

__global__ void __launch_bounds__(threads)
    fixed_add(struct add_rule rule, int64_t *sums, const float *x, size_t count, unsigned long long *spilled)
{
    const size_t packs = count / width, first = blockIdx.x * size_t(threads) + threadIdx.x;
    unsigned spilling = 0;

    for (size_t i = first; i < packs; i += gridDim.x * size_t(threads)) {
        spilling += add_at<width>(i * width, rule, sums, x);
    }
    if (first < count % width) {
        spilling += add_at<1>(packs * width + first, rule, sums, x);
    }
    spilling = __reduce_add_sync(CUDA_ALL_LANES, spilling);
    if (spilling > 0 && threadIdx.x % CUDA_WARP == 0) {
        atomicAdd(spilled, static_cast<unsigned long long>(spilling));
    }
}

// The largest of what is written, as bits: floats that are not negative are in the order of theirs.
template <int step> __device__ __forceinline__ unsigned get_at(size_t i, double inverse, float *x, const int64_t *sums)
{
    const integers<step> sum = load_integers<step>(sums + i);
    cuda_floats<step> y;
    float largest = 0;

#pragma unroll
    for (int lane = 0; lane < step; lane++) {
        y.at[lane] = static_cast<float>(static_cast<double>(sum.at[lane]) * inverse);
        largest = fmaxf(largest, fabsf(y.at[lane]));
    }
    cuda_store_once(x + i, cuda_rounded<float>(y));
    return __float_as_uint(largest);
}

// `largest` is 0 at first.
__global__ void __launch_bounds__(threads)
    fixed_get(double inverse, float *x, const int64_t *sums, size_t count, unsigned *largest)
{
    const size_t packs = count / width, first = blockIdx.x * size_t(threads) + threadIdx.x;
    unsigned seen = 0;

    for (size_t i = first; i < packs; i += gridDim.x * size_t(threads)) {
        seen = max(seen, get_at<width>(i * width, inverse, x, sums));
    }
    if (first < count % width) {
        seen = max(seen, get_at<1>(packs * width + first, inverse, x, sums));
    }
    seen = __reduce_max_sync(CUDA_ALL_LANES, seen);
    if (threadIdx.x % CUDA_WARP == 0) {
        atomicMax(largest, seen);
    }
}

__global__ void fixed_add_tally(struct kernel_fixed_tally *sums, struct kernel_tally *tally)
{
    const bool fits = fabs(tally->loss) <= KERNEL_FIXED_LOSS_MAX;
    const double nats = fits ? floor(tally->loss) : 0;

    sums->nats += llrint(nats);
    sums->fraction += fits ? llrint((tally->loss - nats) * KERNEL_FIXED_LOSS_SCALE) : 0;
    sums->count += llrint(tally->count);
    sums->correct += llrint(tally->correct);
    sums->not_finite += fits ? 0 : 1;
    *tally = {};
}

__global__ void fixed_get_tally(struct kernel_tally *tally, const struct kernel_fixed_tally *sums)
{
    const double fraction = static_cast<double>(sums->fraction) / KERNEL_FIXED_LOSS_SCALE;

    tally->loss = sums->not_finite > 0 ? static_cast<double>(NAN) : static_cast<double>(sums->nats) + fraction;
    tally->count = static_cast<double>(sums->count);
    tally->correct = static_cast<double>(sums->correct);
}

dim3 blocks_for(const struct cuda_context *context, size_t count)
{
    return dim3(cuda_blocks(context, count, size_t(threads) * width, blocks_per_multiprocessor));
}

} // namespace

void cuda_fixed_add(struct kernel_context *context, device_address sums, device_address x, size_t count, double scale,
                    int64_t limit, device_address spilled)
{
    if (count > 0) {
        cuda_launch(cuda_of(context), fixed_add, blocks_for(cuda_of(context), count), dim3(threads), 0,
                    add_rule{scale, limit}, cuda_pointer<int64_t>(sums), cuda_pointer<const float>(x), count,
                    cuda_pointer<unsigned long long>(spilled));
    }
}

void cuda_fixed_get(struct kernel_context *context, device_address x, device_address sums, size_t count, double scale,
                    device_address largest)
{
    cudaMemsetAsync(cuda_pointer<void>(largest), 0, sizeof(float), cuda_of(context)->stream);
    if (count > 0) {
        cuda_launch(cuda_of(context), fixed_get, blocks_for(cuda_of(context), count), dim3(threads), 0, 1 / scale,
                    cuda_pointer<float>(x), cuda_pointer<const int64_t>(sums), count, cuda_pointer<unsigned>(largest));
    }
}

void cuda_fixed_add_tally(struct kernel_context *context, device_address sums, device_address tally)
{
    cuda_launch(cuda_of(context), fixed_add_tally, dim3(1), dim3(1), 0, cuda_pointer<struct kernel_fixed_tally>(sums),
                cuda_pointer<struct kernel_tally>(tally));
}

void cuda_fixed_get_tally(struct kernel_context *context, device_address tally, device_address sums)
{
    cuda_launch(cuda_of(context), fixed_get_tally, dim3(1), dim3(1), 0, cuda_pointer<struct kernel_tally>(tally),
                cuda_pointer<const struct kernel_fixed_tally>(sums));
}
