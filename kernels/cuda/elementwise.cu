// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/kernels.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/pack.cuh"

namespace
{

constexpr int threads = 256;
constexpr int blocks_per_multiprocessor = 64;

struct identity {
    static __device__ float apply(float x)
    {
        return x;
    }
};

struct relu {
    static __device__ float apply(float x)
    {
        return x < 0 ? 0 : x; // NaN stays
    }
};

struct relu_backward {
    static __device__ float apply(float dy, float y)
    {
        return y > 0 ? dy : 0;
    }
};

// (1 + tanh(u)) / 2 = 1 / (1 + e^-2u) turns gelu(x) into x / (1 + e^(-x (linear + cubic x^2))).
constexpr float linear = 1.5957691216f; // 2 sqrt(2 / pi)
constexpr float cubic = linear * 0.044715f;
constexpr float log2_e = 1.4426950409f;

__device__ float gelu_gate(float x)
{
    return __fdividef(1, 1 + exp2f(-x * (log2_e * linear + log2_e * cubic * x * x)));
}

struct gelu {
    static __device__ float apply(float x)
    {
        return x * gelu_gate(x);
    }
};

struct gelu_backward {
    static __device__ float apply(float dy, float x)
    {
        const float gate = gelu_gate(x);
        return dy * (gate + x * gate * (1 - gate) * (linear + 3 * cubic * x * x));
    }
};

struct add {
    static __device__ float apply(float a, float b)
    {
        return a + b;
    }
};

template <typename operation, int width, typename... inputs>
__device__ __forceinline__ cuda_floats<width> apply(const inputs &...x)
{
    cuda_floats<width> y;
#pragma unroll
    for (int i = 0; i < width; i++) {
        y.at[i] = operation::apply(x.at[i]...);
    }
    return y;
}

// Numbers of a pack, such that the widest type's takes 16 bytes.
template <typename... types>
constexpr int common_width = cuda_wide<std::conditional_t<(... || (sizeof(types) == 4)), float, __nv_bfloat16>>;

// y[i] = operation(x[i]...); y may be one of x.
template <typename operation, typename to, typename... from>
__global__ void __launch_bounds__(threads) elementwise(size_t count, to *y, const from *...x)
{
    constexpr int width = common_width<to, from...>;
    const size_t packs = count / width;

    for (size_t i = blockIdx.x * size_t(threads) + threadIdx.x; i < packs; i += gridDim.x * size_t(threads)) {
        cuda_store(y + i * width,
                   cuda_rounded<to>(apply<operation, width>(cuda_unpack(cuda_load_once<width>(x + i * width))...)));
    }
    if (blockIdx.x == 0 && threadIdx.x < count % width) {
        const size_t i = packs * width + threadIdx.x;
        cuda_store(y + i, cuda_rounded<to>(apply<operation, 1>(cuda_unpack(cuda_load_once<1>(x + i))...)));
    }
}

template <typename operation, typename to, typename... from>
void start(struct kernel_context *context, size_t count, to *y, const from *...x)
{
    if (count > 0) {
        const size_t items = size_t(threads) * common_width<to, from...>;
        cuda_launch(cuda_of(context), elementwise<operation, to, from...>,
                    dim3(cuda_blocks(cuda_of(context), count, items, blocks_per_multiprocessor)), dim3(threads), 0,
                    count, y, x...);
    }
}

template <typename real> __global__ void add_to_rows(real *c, const real *bias, size_t rows, size_t n)
{
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        for (size_t i = threadIdx.x; i < n; i += blockDim.x) {
            c[row * n + i] = static_cast<real>(static_cast<float>(c[row * n + i]) + static_cast<float>(bias[i]));
        }
    }
}

template <typename real>
void start_add_to_rows(const struct cuda_context *context, device_address c, device_address bias, size_t rows, size_t n)
{
    cuda_launch(context, add_to_rows<real>, dim3(cuda_blocks(context, rows, 1, blocks_per_multiprocessor)),
                dim3(threads), 0, cuda_pointer<real>(c), cuda_pointer<const real>(bias), rows, n);
}

} // namespace

template <typename real>
void cuda_kernels<real>::convert(struct kernel_context *context, device_address y, device_address x, size_t count)
{
    start<identity>(context, count, cuda_pointer<real>(y), cuda_pointer<const float>(x));
}

template <typename real> void cuda_kernels<real>::relu(struct kernel_context *context, device_address x, size_t count)
{
    start<::relu>(context, count, cuda_pointer<real>(x), cuda_pointer<const real>(x));
}

template <typename real>
void cuda_kernels<real>::relu_backward(struct kernel_context *context, device_address dx, device_address dy,
                                       device_address y, size_t count)
{
    start<::relu_backward>(context, count, cuda_pointer<real>(dx), cuda_pointer<const real>(dy),
                           cuda_pointer<const real>(y));
}

template <typename real>
void cuda_kernels<real>::gelu(struct kernel_context *context, device_address y, device_address x, size_t count)
{
    start<::gelu>(context, count, cuda_pointer<real>(y), cuda_pointer<const real>(x));
}

template <typename real>
void cuda_kernels<real>::gelu_backward(struct kernel_context *context, device_address dx, device_address dy,
                                       device_address x, size_t count)
{
    start<::gelu_backward>(context, count, cuda_pointer<real>(dx), cuda_pointer<const real>(dy),
                           cuda_pointer<const real>(x));
}

template <typename real>
void cuda_kernels<real>::add(struct kernel_context *context, device_address y, device_address a, device_address b,
                             size_t count)
{
    start<::add>(context, count, cuda_pointer<real>(y), cuda_pointer<const real>(a), cuda_pointer<const real>(b));
}

void cuda_add_to_rows(struct cuda_context *context, device_address c, device_address bias, size_t rows, size_t n)
{
    if (context->base.kernels->precision == KERNEL_BF16) {
        start_add_to_rows<__nv_bfloat16>(context, c, bias, rows, n);
    } else {
        start_add_to_rows<float>(context, c, bias, rows, n);
    }
}

template decltype(cuda_kernels<float>::convert) cuda_kernels<float>::convert;
template decltype(cuda_kernels<float>::relu) cuda_kernels<float>::relu;
template decltype(cuda_kernels<float>::relu_backward) cuda_kernels<float>::relu_backward;
template decltype(cuda_kernels<float>::gelu) cuda_kernels<float>::gelu;
template decltype(cuda_kernels<float>::gelu_backward) cuda_kernels<float>::gelu_backward;
template decltype(cuda_kernels<float>::add) cuda_kernels<float>::add;
template decltype(cuda_kernels<__nv_bfloat16>::convert) cuda_kernels<__nv_bfloat16>::convert;
template decltype(cuda_kernels<__nv_bfloat16>::relu) cuda_kernels<__nv_bfloat16>::relu;
template decltype(cuda_kernels<__nv_bfloat16>::relu_backward) cuda_kernels<__nv_bfloat16>::relu_backward;
template decltype(cuda_kernels<__nv_bfloat16>::gelu) cuda_kernels<__nv_bfloat16>::gelu;
template decltype(cuda_kernels<__nv_bfloat16>::gelu_backward) cuda_kernels<__nv_bfloat16>::gelu_backward;
template decltype(cuda_kernels<__nv_bfloat16>::add) cuda_kernels<__nv_bfloat16>::add;
