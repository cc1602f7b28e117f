// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/reduce.h"

#include "kernels/cuda/kernels.cuh"
#include "kernels/cuda/pack.cuh"

namespace
{

// --- Sums of columns: a block takes 32 packs of columns and a chunk of rows, of which each of its warps adds every
// eighth.

constexpr int warps = 8;
constexpr int batch = 4;                // loads under way at once
constexpr size_t chunk_rows_max = 4096; // keeps a float32 sum's chain short
constexpr size_t chunks_max = 65535;    // CUDA's, blocks along y
constexpr int blocks_per_multiprocessor = 4;

template <typename real, int width>
__global__ void __launch_bounds__(CUDA_WARP *warps)
    column_sums(float *sums, bool add, const real *x, size_t rows, size_t n, size_t chunk_rows)
{
    constexpr unsigned columns = CUDA_WARP * width;
    float *shared = reinterpret_cast<float *>(cuda_shared()); // [warps, columns]
    const size_t begin = blockIdx.y * chunk_rows, end = begin + chunk_rows < rows ? begin + chunk_rows : rows;
    const size_t column = blockIdx.x * size_t(columns) + threadIdx.x * width;
    cuda_floats<width> sum = {};

    if (column < n) {
        for (size_t row = begin + threadIdx.y; row < end; row += batch * warps) {
            cuda_pack<real, width> packs[batch] = {};
#pragma unroll
            for (int i = 0; i < batch; i++) {
                if (row + i * warps < end) {
                    packs[i] = cuda_load_once<width>(x + (row + i * warps) * n + column);
                }
            }
#pragma unroll
            for (int i = 0; i < batch; i++) {
                cuda_add_to(&sum, cuda_unpack(packs[i]));
            }
        }
    }
    cuda_store(shared + threadIdx.y * columns + threadIdx.x * width, cuda_rounded<float>(sum));
    __syncthreads();

    const unsigned mine = threadIdx.y * CUDA_WARP + threadIdx.x;
    const size_t at = blockIdx.x * size_t(columns) + mine;
    if (mine < columns && at < n) {
        float total = shared[mine];
        for (int warp = 1; warp < warps; warp++) {
            total += shared[warp * columns + mine];
        }
        sums[blockIdx.y * n + at] = add ? sums[blockIdx.y * n + at] + total : total;
    }
}

// Chunks of rows such that every multiprocessor has work, chains are short and the partial sums fit.
size_t chunks_of(const struct cuda_context *context, size_t rows, size_t n, size_t slabs)
{
    const size_t busy = size_t(context->multiprocessors) * blocks_per_multiprocessor / slabs;
    const size_t worthwhile = (rows + 4 * warps - 1) / (4 * warps);
    const size_t precise = (rows + chunk_rows_max - 1) / chunk_rows_max;
    const size_t room = KERNELS_CUDA_WORKSPACE_BYTES / sizeof(float) / n;
    size_t chunks = busy < worthwhile ? busy : worthwhile;

    chunks = chunks > precise ? chunks : precise;
    chunks = chunks < room ? chunks : room;
    chunks = chunks < chunks_max ? chunks : chunks_max;
    return chunks > 1 ? chunks : 1;
}

template <typename real, int width>
void add_column_sums(const struct cuda_context *context, float *sums, const real *x, size_t rows, size_t n)
{
    constexpr size_t columns = CUDA_WARP * width;
    const size_t slabs = (n + columns - 1) / columns;
    const size_t chunk_rows = (rows - 1) / chunks_of(context, rows, n, slabs) + 1;
    const size_t chunks = (rows - 1) / chunk_rows + 1;

    cuda_launch(context, column_sums<real, width>, dim3(unsigned(slabs), unsigned(chunks)), dim3(CUDA_WARP, warps),
                warps * columns * sizeof(float), chunks == 1 ? sums : static_cast<float *>(context->workspace),
                chunks == 1, x, rows, n, chunk_rows);
    if (chunks > 1) {
        cuda_add_partials(context, sums, nullptr, chunks, n);
    }
}

// --- The second launch.

constexpr int partial_warps = 32;

__global__ void __launch_bounds__(CUDA_WARP *partial_warps)
    add_partials(float *first, float *second, const float *partials, size_t parts, size_t n)
{
    float *shared = reinterpret_cast<float *>(cuda_shared()); // [partial_warps, CUDA_WARP]
    float *sums = blockIdx.y == 0 ? first : second;
    const size_t column = blockIdx.x * size_t(CUDA_WARP) + threadIdx.x;
    float sum = 0;

    if (column < n) {
        for (size_t part = threadIdx.y; part < parts; part += batch * partial_warps) {
            float values[batch] = {};
#pragma unroll
            for (int i = 0; i < batch; i++) {
                if (part + i * partial_warps < parts) {
                    values[i] = partials[(blockIdx.y * parts + part + i * partial_warps) * n + column];
                }
            }
#pragma unroll
            for (int i = 0; i < batch; i++) {
                sum += values[i];
            }
        }
    }
    shared[threadIdx.y * CUDA_WARP + threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < n) {
        for (int warp = 1; warp < partial_warps; warp++) {
            sum += shared[warp * CUDA_WARP + threadIdx.x];
        }
        sums[column] += sum;
    }
}

} // namespace

void cuda_add_partials(const struct cuda_context *context, float *first, float *second, size_t parts, size_t n)
{
    const unsigned slabs = unsigned((n + CUDA_WARP - 1) / CUDA_WARP);

    cuda_launch(context, add_partials, dim3(slabs, second != nullptr ? 2 : 1), dim3(CUDA_WARP, partial_warps),
                partial_warps * CUDA_WARP * sizeof(float), first, second,
                static_cast<const float *>(context->workspace), parts, n);
}

template <typename real>
void cuda_kernels<real>::bias_backward(struct kernel_context *context, device_address dbias, device_address dy,
                                       size_t rows, size_t n)
{
    if (rows > 0 && n > 0) {
        cuda_with_width<real>(n, [&](auto width) {
            add_column_sums<real, width>(cuda_of(context), cuda_pointer<float>(dbias), cuda_pointer<const real>(dy),
                                         rows, n);
        });
    }
}

template decltype(cuda_kernels<float>::bias_backward) cuda_kernels<float>::bias_backward;
template decltype(cuda_kernels<__nv_bfloat16>::bias_backward) cuda_kernels<__nv_bfloat16>::bias_backward;
