// SPDX-License-Identifier: Apache-2.0
//
// A CUDA device in software, for tests: what tests and the simulator's own parts call beside CUDA's entries. README.md
// says what is simulated and which environment variables steer it.
//
// Threads: any.
#ifndef HEADROOM_TESTS_SIMULATOR_H
#define HEADROOM_TESTS_SIMULATOR_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#include <functional>

// Code goes to the current GPU when it is first run, and takes memory there that stays taken. False where there is
// none: cudaErrorMemoryAllocation is the last error of the thread then.
bool simulator_load(uint64_t code);

// A kernel launch: `work` runs when the stream comes to it, with device memory open to the host. It must not call CUDA.
void simulator_enqueue(cudaStream_t stream, std::function<void()> work);

extern "C" {
#endif

// What failed while work ran stays, as on a GPU: every later call answers it, and no further work runs. Errors that
// only refuse one call, such as cudaErrorInvalidConfiguration, become the calling thread's last error instead.
void simulator_fail(cudaError_t error);

// Whether the range is device memory that kernels may use.
bool simulator_is_device_memory(const void *address, size_t bytes);
// Of the GPU that the calling thread uses: the same for two processes that share it.
void simulator_gpu_identity(char *buffer, size_t size);

// How often the host blocked for the device, as CUDA says that it does or may: synchronisations, blocking copies,
// cudaFree, and making or returning pinned memory.
uint64_t simulator_host_synchronizations(void);
// Calls that make, map, unmap or return device memory.
uint64_t simulator_device_calls(void);
// Kernels, cuBLASLt's included, that were enqueued.
uint64_t simulator_launches(void);
void simulator_reset_counters(void);

#ifdef __cplusplus
}
#endif

#endif
