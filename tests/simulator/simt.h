// SPDX-License-Identifier: Apache-2.0
//
// CUDA's device code as host code: included first where a .cu file is compiled as C++. The threads of a block run as
// fibers, one block after the other, in an order that SIMULATOR_SEED decides. Dynamic shared memory is poisoned before
// every block. What a GPU would not survive ends the program with a line: a barrier that some threads never reach, a
// warp function whose lanes do not agree.
//
// Kernels run one at a time, on whichever thread runs the simulator's streams.
#ifndef HEADROOM_TESTS_SIMT_H
#define HEADROOM_TESTS_SIMT_H

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#include <cuda_runtime.h>

#include <cuda_bf16.h>

#undef __shared__
#define __shared__ static
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __restrict__
#define __restrict__

// Of the fiber that runs.
extern uint3 simt_thread_index, simt_block_index;
extern dim3 simt_block_size, simt_grid_size;
#define threadIdx simt_thread_index
#define blockIdx  simt_block_index
#define blockDim  simt_block_size
#define gridDim   simt_grid_size
#define warpSize  32

// Runs the kernel over the grid. `name` is for messages.
void simt_run(const char *name, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &kernel);

// Whether a GPU would start such a launch; else its error becomes the thread's last one.
bool simt_accepts(const void *kernel, dim3 grid, dim3 block, size_t shared_bytes);
// Every launch of the kernel may have so much.
void simt_allow_shared(const void *kernel, size_t shared_bytes);

unsigned char *simt_shared();

enum simt_barrier { SIMT_BARRIER, SIMT_BARRIER_OR, SIMT_BARRIER_AND, SIMT_BARRIER_COUNT };

// Waits for every thread of the block that has not returned; answers what they said together.
int simt_synchronize(enum simt_barrier kind, int value);

#define SIMT_EXCHANGE_MAX 64 // bytes of one lane

// Waits for every lane in `mask`, which must all ask for the same `kind`, and answers at all[32][bytes] what each had
// at `mine`; the places of other lanes become 0. A `kind` is any literal: its address tells calls apart.
void simt_exchange(unsigned mask, const char *kind, const void *mine, size_t bytes, void *all);

inline unsigned simt_lane()
{
    return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32;
}

inline void __syncthreads()
{
    simt_synchronize(SIMT_BARRIER, 0);
}

inline int __syncthreads_or(int value)
{
    return simt_synchronize(SIMT_BARRIER_OR, value);
}

inline int __syncthreads_and(int value)
{
    return simt_synchronize(SIMT_BARRIER_AND, value);
}

inline int __syncthreads_count(int value)
{
    return simt_synchronize(SIMT_BARRIER_COUNT, value);
}

inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    char all[32], mine = 0;
    simt_exchange(mask, "__syncwarp", &mine, 1, all);
}

template <typename T> T simt_shuffle(unsigned mask, const char *kind, T value, unsigned from)
{
    T all[32];
    all[simt_lane()] = value;
    simt_exchange(mask, kind, &value, sizeof(T), all);
    return all[from];
}

template <typename T> T __shfl_sync(unsigned mask, T value, int lane, int width = 32)
{
    unsigned first = simt_lane() / (unsigned)width * (unsigned)width;
    return simt_shuffle(mask, "__shfl_sync", value, first + (unsigned)lane % (unsigned)width);
}

template <typename T> T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32)
{
    unsigned from = simt_lane() ^ (unsigned)lanes, end = (simt_lane() / (unsigned)width + 1) * (unsigned)width;
    return simt_shuffle(mask, "__shfl_xor_sync", value, from < end ? from : simt_lane());
}

template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32)
{
    unsigned place = simt_lane() % (unsigned)width;
    return simt_shuffle(mask, "__shfl_up_sync", value, place >= lanes ? simt_lane() - lanes : simt_lane());
}

template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32)
{
    unsigned place = simt_lane() % (unsigned)width;
    return simt_shuffle(mask, "__shfl_down_sync", value,
                        place + lanes < (unsigned)width ? simt_lane() + lanes : simt_lane());
}

inline unsigned __ballot_sync(unsigned mask, int value)
{
    char all[32] = {0}, mine = value != 0;
    simt_exchange(mask, "__ballot_sync", &mine, 1, all);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; lane++) {
        bits |= (unsigned)(all[lane] != 0) << lane;
    }
    return bits;
}

inline int __any_sync(unsigned mask, int value)
{
    return __ballot_sync(mask, value) != 0;
}

inline int __all_sync(unsigned mask, int value)
{
    return __ballot_sync(mask, value) == mask;
}

template <typename T, typename F> T simt_reduce(unsigned mask, const char *kind, T value, F combine)
{
    T all[32], result = value;
    simt_exchange(mask, kind, &value, sizeof(T), all);
    for (unsigned lane = 0; lane < 32; lane++) {
        if ((mask >> lane & 1) != 0 && lane != simt_lane()) {
            result = combine(result, all[lane]);
        }
    }
    return result;
}

template <typename T> T __reduce_add_sync(unsigned mask, T value)
{
    return simt_reduce(mask, "__reduce_add_sync", value, [](T a, T b) { return a + b; });
}

template <typename T> T __reduce_max_sync(unsigned mask, T value)
{
    return simt_reduce(mask, "__reduce_max_sync", value, [](T a, T b) { return std::max(a, b); });
}

template <typename T> T __reduce_min_sync(unsigned mask, T value)
{
    return simt_reduce(mask, "__reduce_min_sync", value, [](T a, T b) { return std::min(a, b); });
}

inline void __threadfence()
{
}

inline void __threadfence_block()
{
}

// Fibers change only at barriers, so plain operations are atomic.
template <typename T> T atomicAdd(T *address, T value)
{
    T before = *address;
    *address = before + value;
    return before;
}

template <typename T> T atomicMax(T *address, T value)
{
    T before = *address;
    *address = std::max(before, value);
    return before;
}

template <typename T> T atomicExch(T *address, T value)
{
    T before = *address;
    *address = value;
    return before;
}

template <typename T> T atomicCAS(T *address, T expected, T value)
{
    T before = *address;
    *address = before == expected ? value : before;
    return before;
}

template <typename T> T __ldg(const T *address)
{
    return *address;
}

template <typename T> T __ldcs(const T *address)
{
    return *address;
}

template <typename T> T __ldcg(const T *address)
{
    return *address;
}

template <typename T> void __stcs(T *address, T value)
{
    *address = value;
}

template <typename T> void __stcg(T *address, T value)
{
    *address = value;
}

inline float __expf(float x)
{
    return std::exp(x);
}

inline float __logf(float x)
{
    return std::log(x);
}

inline float __fdividef(float a, float b)
{
    return a / b;
}

inline float rsqrtf(float x)
{
    return 1 / std::sqrt(x);
}

inline int __popc(unsigned x)
{
    return std::popcount(x);
}

inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

inline int __clz(int x)
{
    return x == 0 ? 32 : __builtin_clz((unsigned)x);
}

inline unsigned __float_as_uint(float x)
{
    return std::bit_cast<unsigned>(x);
}

inline float __uint_as_float(unsigned x)
{
    return std::bit_cast<float>(x);
}

inline int __float_as_int(float x)
{
    return std::bit_cast<int>(x);
}

inline float __int_as_float(int x)
{
    return std::bit_cast<float>(x);
}

using std::max;
using std::min;

#endif
