// SPDX-License-Identifier: Apache-2.0
//
// Kernels in the simulator: threads, barriers, warp functions and shared memory as on a GPU, and a line where a GPU
// would not survive. Each test runs in a process of its own.
#include <cuda_runtime.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

extern "C" {
#include <cmocka.h>
}

#include "expect.h"
#include "kernels/cuda/kernels.cuh"
#include "kernels/cuda/pack.cuh"

#define THREADS 96

// Runs `body` in a process of its own and answers what it wrote on stderr; `*ended_well` when it left by returning.
template <typename Body> static std::string in_child(Body body, bool *ended_well)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        body();
        _exit(0);
    }
    close(ends[1]);
    std::string text;
    char buffer[512];
    for (ssize_t got; (got = read(ends[0], buffer, sizeof(buffer))) > 0;) {
        text.append(buffer, static_cast<size_t>(got));
    }
    close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    *ended_well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    return text;
}

// Runs the kernel over device memory that holds `values`, and reads it back.
template <typename... Parameters>
static std::vector<int> run(void (*kernel)(int *, Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                            std::vector<int> values, Parameters... arguments)
{
    const size_t bytes = values.size() * sizeof(int);
    struct cuda_context context = {};
    void *memory = nullptr;
    cudaMalloc(&memory, bytes);
    cudaStreamCreate(&context.stream);
    cudaMemcpy(memory, values.data(), bytes, cudaMemcpyHostToDevice);
    cuda_launch(&context, kernel, grid, block, shared_bytes, static_cast<int *>(memory), arguments...);
    cudaStreamSynchronize(context.stream);
    cudaMemcpy(values.data(), memory, bytes, cudaMemcpyDeviceToHost);
    return values;
}

template <typename Body> static void passes(Body body)
{
    bool ended_well = false;
    const std::string text = in_child(body, &ended_well);
    if (!ended_well) {
        fail_msg("%s", text.c_str());
    }
}

template <typename Body> static void ends_with_a_line(Body body, const char *line)
{
    bool ended_well = true;
    const std::string text = in_child(body, &ended_well);
    assert_false(ended_well);
    if (text.find(line) == std::string::npos) {
        fail_msg("no \"%s\" in: %s", line, text.c_str());
    }
}

// Each thread writes its place in the whole grid.
static __global__ void write_places(int *out)
{
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block * threads + thread] += static_cast<int>(block * threads + thread);
}

static void test_every_thread_runs_once(void **)
{
    passes([] {
        const std::vector<int> out = run(write_places, {3, 2, 2}, {5, 3, 2}, 0, std::vector<int>(360, 1000));
        for (int i = 0; i < 360; i++) {
            EXPECT(out[i] == 1000 + i);
        }
    });
}

// Reverses the block's numbers through shared memory.
static __global__ void reverse(int *values)
{
    int *shared = reinterpret_cast<int *>(cuda_shared());
    shared[threadIdx.x] = values[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    values[blockIdx.x * blockDim.x + threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

static void test_barriers_and_shared_memory(void **)
{
    passes([] {
        std::vector<int> values(2 * THREADS);
        for (int i = 0; i < 2 * THREADS; i++) {
            values[i] = i;
        }
        const std::vector<int> out = run(reverse, 2, THREADS, THREADS * sizeof(int), values);
        for (int i = 0; i < 2 * THREADS; i++) {
            EXPECT(out[i] == (i / THREADS) * THREADS + THREADS - 1 - i % THREADS);
        }
    });
}

static __global__ void read_unwritten(int *out)
{
    out[threadIdx.x] = reinterpret_cast<int *>(cuda_shared())[threadIdx.x];
}

static void test_shared_memory_starts_poisoned(void **)
{
    passes([] {
        for (int value : run(read_unwritten, 1, 8, 8 * sizeof(int), std::vector<int>(8, 5))) {
            EXPECT(value == -1);
        }
    });
}

// What every warp function answers, one after the other in `out`, for lane values of lane * lane.
static __global__ void ask_warp(int *out)
{
    const int lane = static_cast<int>(threadIdx.x), value = lane * lane;
    out[lane] = __shfl_sync(CUDA_ALL_LANES, value, 7);
    out[32 + lane] = __shfl_xor_sync(CUDA_ALL_LANES, value, 5);
    out[64 + lane] = __shfl_up_sync(CUDA_ALL_LANES, value, 3);
    out[96 + lane] = __shfl_down_sync(CUDA_ALL_LANES, value, 3, 16);
    out[128 + lane] = static_cast<int>(__ballot_sync(CUDA_ALL_LANES, lane % 3 == 0));
    out[160 + lane] = cuda_warp_sum(value);
    out[192 + lane] = __syncthreads_count(lane < 10) * 10 + __syncthreads_or(lane == 31) * 2 + __syncthreads_and(lane);
    if (lane >= 16) {
        out[224 + lane] = __shfl_sync(0xffff0000u, value, 16);
    }
}

static void test_warp_functions(void **)
{
    passes([] {
        const std::vector<int> out = run(ask_warp, 1, 32, 0, std::vector<int>(256, -7));
        for (int lane = 0; lane < 32; lane++) {
            const int up = lane < 3 ? lane : lane - 3, down = lane % 16 < 13 ? lane + 3 : lane;
            EXPECT(out[lane] == 49);
            EXPECT(out[32 + lane] == (lane ^ 5) * (lane ^ 5));
            EXPECT(out[64 + lane] == up * up);
            EXPECT(out[96 + lane] == down * down);
            EXPECT(out[128 + lane] == 0x49249249);
            EXPECT(out[160 + lane] == 31 * 32 * 63 / 6);
            EXPECT(out[192 + lane] == 102);
            EXPECT(out[224 + lane] == (lane < 16 ? -7 : 256));
        }
    });
}

static __global__ void sum_block(int *out)
{
    __shared__ int scratch[CUDA_WARP];
    const int sum = cuda_block_sum(static_cast<int>(threadIdx.x), scratch);
    const int again = cuda_block_sum(1, scratch);
    out[threadIdx.x] = sum * 1000 + again;
}

static void test_block_sums(void **)
{
    passes([] {
        for (int value : run(sum_block, 1, THREADS, 0, std::vector<int>(THREADS))) {
            EXPECT(value == THREADS * (THREADS - 1) / 2 * 1000 + THREADS);
        }
    });
}

static __global__ void leave_before_barrier(int *out)
{
    if (threadIdx.x == 1) {
        __syncwarp(2);
        __shfl_sync(6, 1, 1);
    }
    __syncthreads();
    out[threadIdx.x] = 1;
}

static void test_lanes_that_never_come(void **)
{
    ends_with_a_line([] { run(leave_before_barrier, 1, THREADS, 0, std::vector<int>(THREADS)); },
                     "no thread can go on");
}

static __global__ void shuffle_apart(int *out)
{
    out[threadIdx.x] = threadIdx.x % 2 ? __shfl_sync(CUDA_ALL_LANES, 1, 0) : __shfl_xor_sync(CUDA_ALL_LANES, 1, 1);
}

static void test_lanes_that_disagree(void **)
{
    ends_with_a_line([] { run(shuffle_apart, 1, 32, 0, std::vector<int>(32)); }, "different warp functions");
}

static void test_launches_that_a_gpu_refuses(void **)
{
    passes([] {
        const size_t too_much = (size_t{48} << 10) + 4;
        struct cuda_context context = {};
        cuda_launch(&context, reverse, 1, 1025, 4100, static_cast<int *>(nullptr));
        EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
        cuda_launch(&context, reverse, dim3(1, 65536), 1, 4, static_cast<int *>(nullptr));
        EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
        cuda_launch(&context, reverse, 1, 8, too_much, static_cast<int *>(nullptr));
        EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
        cuda_allow_shared(reverse, too_much);
        EXPECT(run(reverse, 1, 8, too_much, std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7})[0] == 7);
    });
}

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_thread_runs_once),
        cmocka_unit_test(test_barriers_and_shared_memory),
        cmocka_unit_test(test_shared_memory_starts_poisoned),
        cmocka_unit_test(test_warp_functions),
        cmocka_unit_test(test_block_sums),
        cmocka_unit_test(test_lanes_that_never_come),
        cmocka_unit_test(test_lanes_that_disagree),
        cmocka_unit_test(test_launches_that_a_gpu_refuses),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
