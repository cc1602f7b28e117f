// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cassert>

#include "kernels/cuda/kernels.cuh"
#include "kernels/cuda/pack.cuh"

namespace
{

constexpr int rows_per_block = 8; // a warp's each
constexpr int blocks_per_multiprocessor = 32;

template <typename real, int width>
__global__ void __launch_bounds__(CUDA_WARP *rows_per_block)
    forward(real *y, const int32_t *tokens, const real *wte, const real *wpe, size_t rows, size_t length,
            size_t channels)
{
    for (size_t row = blockIdx.x * size_t(rows_per_block) + threadIdx.y; row < rows;
         row += gridDim.x * size_t(rows_per_block)) {
        const real *token = wte + static_cast<size_t>(tokens[row]) * channels,
                   *position = wpe + row % length * channels;

        for (size_t i = threadIdx.x * size_t(width); i < channels; i += CUDA_WARP * width) {
            cuda_floats<width> sum = cuda_unpack(cuda_load<width>(token + i));
            cuda_add_to(&sum, cuda_unpack(cuda_load<width>(position + i)));
            cuda_store(y + row * channels + i, cuda_rounded<real>(sum));
        }
    }
}

// --- Gradient of the tokens' vectors. Each token belongs to one block for each slab of channels, which reads all
// tokens and collects the rows of its own. It sorts those by token and row, cuts them into one slice for each of its
// warps, and each warp adds up the runs of one token in its slice; a run that was cut is finished by the warp where it
// began. So every gradient is read and written once, by one thread, for thousands of rows.

constexpr int warps = 32;
constexpr int threads = CUDA_WARP * warps;
constexpr int batch = 4;                // a warp's loads under way at once
constexpr unsigned tile = 4 * threads;  // tokens that are read at once
constexpr unsigned capacity = 2 * tile; // of collected rows

using entry = uint64_t; // a token and its row, in the order in which they are sorted

__device__ size_t token_of(entry entry)
{
    return static_cast<size_t>(entry >> 32);
}

__device__ size_t row_of(entry entry)
{
    return static_cast<size_t>(entry & UINT32_MAX);
}

struct collected {
    entry *entries; // [capacity]
    unsigned *count;
};

// The thread's four tokens of the tile that begins at `row`; -1 beyond the end.
__device__ int4 tokens_at(const int32_t *tokens, size_t row, size_t rows)
{
    row += 4 * threadIdx.x;
    if (row + 4 <= rows) {
        return *reinterpret_cast<const int4 *>(tokens + row);
    }
    return make_int4(row < rows ? tokens[row] : -1, row + 1 < rows ? tokens[row + 1] : -1,
                     row + 2 < rows ? tokens[row + 2] : -1, -1);
}

__device__ void collect(const struct collected &own, int32_t token, size_t row)
{
    if (token >= 0 && static_cast<unsigned>(token) % gridDim.x == blockIdx.x) {
        own.entries[atomicAdd(own.count, 1u)] = static_cast<entry>(token) << 32 | row;
    }
}

// Batcher's bitonic sorting network (1968), of which each level's pairs are divided among the threads.
__device__ void sort(entry *entries, unsigned count)
{
    unsigned size = 1;
    while (size < count) {
        size *= 2;
    }
    for (unsigned i = count + threadIdx.x; i < size; i += threads) {
        entries[i] = UINT64_MAX;
    }
    for (unsigned span = 2; span <= size; span *= 2) {
        for (unsigned distance = span / 2; distance > 0; distance /= 2) {
            __syncthreads();
            for (unsigned pair = threadIdx.x; pair < size / 2; pair += threads) {
                const unsigned low = 2 * pair - (pair & (distance - 1)), high = low + distance;
                const entry a = entries[low], b = entries[high];
                if ((a > b) == ((low & span) == 0)) {
                    entries[low] = b;
                    entries[high] = a;
                }
            }
        }
    }
    __syncthreads();
}

template <int width> __device__ __forceinline__ void add_to_memory(float *to, cuda_floats<width> x)
{
    cuda_add_to(&x, cuda_unpack(cuda_load<width>(to)));
    cuda_store(to, cuda_rounded<float>(x));
}

// Adds the sorted entries' rows of dy to their tokens' rows of dwte, of both the thread's pack at `column`.
template <typename real, int width>
__device__ void add_rows(float *dwte, const real *dy, const entry *entries, unsigned count, float *heads, size_t column,
                         size_t channels)
{
    const unsigned warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const unsigned slice = (count + warps - 1) / warps;
    const unsigned begin = min(count, warp * slice), end = min(count, begin + slice);
    float *head = heads + lane * width; // [warps]: the first run's part in a warp's slice, where it began before
    constexpr size_t head_stride = CUDA_WARP * width;
    cuda_floats<width> sum = {};

    for (unsigned first = begin; first < end && column < channels; first += batch) {
        cuda_pack<real, width> packs[batch] = {};
#pragma unroll
        for (int i = 0; i < batch; i++) {
            if (first + i < end) {
                packs[i] = cuda_load_once<width>(dy + row_of(entries[first + i]) * channels + column);
            }
        }
#pragma unroll
        for (int i = 0; i < batch; i++) {
            const unsigned next = first + i + 1;
            if (next > end) {
                break;
            }
            const size_t token = token_of(entries[next - 1]);
            cuda_add_to(&sum, cuda_unpack(packs[i]));
            if (next < end && token_of(entries[next]) == token) {
                continue;
            }
            if (begin > 0 && token_of(entries[begin - 1]) == token) {
                cuda_store(head + warp * head_stride, cuda_rounded<float>(sum));
            } else if (next < count && token_of(entries[next]) == token) {
                break; // the next warps have the rest
            } else {
                add_to_memory(dwte + token * channels + column, sum);
            }
            sum = {};
        }
    }
    __syncthreads();
    if (begin < end && end < count && column < channels) {
        const size_t token = token_of(entries[end - 1]);
        const bool mine = begin == 0 || token_of(entries[begin - 1]) != token;
        if (mine && token_of(entries[end]) == token) {
            for (unsigned next = end; next < count && token_of(entries[next]) == token; next += slice) {
                cuda_add_to(&sum, cuda_unpack(cuda_load<width>(head + next / slice * head_stride)));
            }
            add_to_memory(dwte + token * channels + column, sum);
        }
    }
    __syncthreads();
}

template <int width> constexpr size_t shared_bytes()
{
    return capacity * sizeof(entry) + size_t(warps) * CUDA_WARP * width * sizeof(float) + sizeof(unsigned);
}

template <typename real, int width>
__global__ void __launch_bounds__(threads)
    backward(float *dwte, const real *dy, const int32_t *tokens, size_t rows, size_t channels)
{
    entry *entries = reinterpret_cast<entry *>(cuda_shared());
    float *heads = reinterpret_cast<float *>(entries + capacity);
    unsigned *count = reinterpret_cast<unsigned *>(heads + warps * CUDA_WARP * width);
    const struct collected own = {entries, count};
    const size_t column = (blockIdx.y * size_t(CUDA_WARP) + threadIdx.x % CUDA_WARP) * width;
    int4 read = tokens_at(tokens, 0, rows);

    if (threadIdx.x == 0) {
        *count = 0;
    }
    __syncthreads();
    for (size_t row = 0; row < rows; row += tile) {
        const int4 next = tokens_at(tokens, row + tile, rows);
        const size_t at = row + 4 * threadIdx.x;
        collect(own, read.x, at);
        collect(own, read.y, at + 1);
        collect(own, read.z, at + 2);
        collect(own, read.w, at + 3);
        read = next;
        __syncthreads();
        const unsigned found = *count;
        if (found > capacity - tile || row + tile >= rows) {
            sort(entries, found);
            add_rows<real, width>(dwte, dy, entries, found, heads, column, channels);
            if (threadIdx.x == 0) {
                *count = 0;
            }
        }
        __syncthreads();
    }
}

} // namespace

template <typename real>
void cuda_kernels<real>::embedding(struct kernel_context *context, device_address y, device_address tokens,
                                   device_address wte, device_address wpe, size_t batch, size_t length, size_t channels)
{
    const size_t rows = batch * length;

    if (rows == 0 || channels == 0) {
        return;
    }
    cuda_with_width<real>(channels, [&](auto width) {
        cuda_launch(cuda_of(context), forward<real, width>,
                    dim3(cuda_blocks(cuda_of(context), rows, rows_per_block, blocks_per_multiprocessor)),
                    dim3(CUDA_WARP, rows_per_block), 0, cuda_pointer<real>(y), cuda_pointer<const int32_t>(tokens),
                    cuda_pointer<const real>(wte), cuda_pointer<const real>(wpe), rows, length, channels);
    });
}

template <typename real>
void cuda_kernels<real>::embedding_backward(struct kernel_context *base, device_address dwte, device_address dwpe,
                                            device_address dy, device_address tokens, size_t batch, size_t length,
                                            size_t channels, size_t vocabulary)
{
    const size_t rows = batch * length;

    if (rows == 0 || channels == 0) {
        return;
    }
    assert(rows <= UINT32_MAX);
    cuda_with_width<real>(channels, [&](auto width) {
        const struct cuda_context *context = cuda_of(base);
        const size_t slabs = (channels + CUDA_WARP * width - 1) / (CUDA_WARP * width);
        // A block of so many threads fills its multiprocessor.
        const size_t classes = std::max(size_t(1), std::min(size_t(context->multiprocessors) / slabs, vocabulary));

        cuda_allow_shared(backward<real, width>, shared_bytes<width>());
        cuda_launch(context, backward<real, width>, dim3(unsigned(classes), unsigned(slabs)), dim3(threads),
                    shared_bytes<width>(), cuda_pointer<float>(dwte), cuda_pointer<const real>(dy),
                    cuda_pointer<const int32_t>(tokens), rows, channels);
    });
    // A position's gradient is the sum of its column over the batch.
    bias_backward(base, dwpe, dy, batch, length * channels);
}

template decltype(cuda_kernels<float>::embedding) cuda_kernels<float>::embedding;
template decltype(cuda_kernels<float>::embedding_backward) cuda_kernels<float>::embedding_backward;
template decltype(cuda_kernels<__nv_bfloat16>::embedding) cuda_kernels<__nv_bfloat16>::embedding;
template decltype(cuda_kernels<__nv_bfloat16>::embedding_backward) cuda_kernels<__nv_bfloat16>::embedding_backward;
