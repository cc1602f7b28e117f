// SPDX-License-Identifier: Apache-2.0
//
// What the simulator's parts share. All of it is guarded by one lock, which `simulator_call` takes.
#ifndef HEADROOM_TESTS_SIMULATOR_STATE_H
#define HEADROOM_TESTS_SIMULATOR_STATE_H

#include <atomic>
#include <mutex>

#include "simulator.h"

#define SIMULATOR_GPUS_MAX    16
#define SIMULATOR_GRANULARITY (UINT64_C(2) << 20)

extern std::mutex simulator_mutex;
extern std::atomic<uint64_t> simulator_count_host_synchronizations, simulator_count_device_calls;

uint64_t simulator_setting(const char *variable, uint64_t otherwise);

// What every call must find: a driver, devices, no error that stays. CONTEXT makes the current GPU's context.
enum simulator_need { SIMULATOR_DRIVER, SIMULATOR_CONTEXT };
cudaError_t simulator_ready(enum simulator_need need);
void simulator_set_last_error(cudaError_t error);
int simulator_current_gpu();

// One runtime call: `body` under the lock, and its error as the thread's last one.
template <typename Body> cudaError_t simulator_call(enum simulator_need need, Body body)
{
    std::lock_guard<std::mutex> guard(simulator_mutex);
    cudaError_t error = simulator_ready(need);
    if (error == cudaSuccess) {
        error = body();
    }
    simulator_set_last_error(error);
    return error;
}

// memory.cc. GPUs are numbered as this process sees them.
int memory_gpus();
int memory_physical_gpu(int gpu);
cudaError_t memory_make_context(int gpu);
bool memory_take(int gpu, uint64_t bytes);
void memory_give(int gpu, uint64_t bytes);
void memory_info(int gpu, uint64_t *free_p, uint64_t *total_p);
bool memory_is_device(const void *address, size_t bytes);
bool memory_is_pinned(const void *address, size_t bytes);
bool memory_touches_device(const void *address);
// Lets the host into device memory while work runs.
void memory_open();
void memory_close();

// streams.cc
cudaError_t streams_enqueue(cudaStream_t stream, bool touches_memory, std::function<bool()> run);
// What simulator_enqueue does, and its error.
cudaError_t streams_launch(cudaStream_t stream, std::function<void()> run);
// Work that waits for another process: it is asked again, in turn with other streams, until it answers true.
cudaError_t streams_enqueue_polled(cudaStream_t stream, std::function<bool()> run);
void streams_drain(cudaStream_t stream);
void streams_drain_gpu(int gpu);

#endif
