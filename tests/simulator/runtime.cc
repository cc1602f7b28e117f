// SPDX-License-Identifier: Apache-2.0
//
// The CUDA runtime's entries for errors, devices and copies, and the way to the driver's entries.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <memory>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "state.h"

std::mutex simulator_mutex;
std::atomic<uint64_t> simulator_count_host_synchronizations, simulator_count_device_calls;

static std::atomic<cudaError_t> failure; // stays
static thread_local cudaError_t last_error;
static thread_local int current_gpu;

// Copies of pageable memory up to here are taken at the call; larger ones make the host wait for the stream first.
#define STAGED_BYTES 65536

// "64", "64MiB" and the like; anything else ends the program, so that a mistyped test does not pass.
uint64_t simulator_setting(const char *variable, uint64_t otherwise)
{
    const char *text = getenv(variable);
    if (text == nullptr) {
        return otherwise;
    }
    static const struct {
        const char *name;
        uint64_t bytes;
    } units[] = {{"", 1}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}};
    char *end = nullptr;
    uint64_t number = strtoull(text, &end, 10);
    for (const auto &unit : units) {
        if (end != text && strcmp(end, unit.name) == 0) {
            return number * unit.bytes;
        }
    }
    fprintf(stderr, "simulator: %s=%s is no number\n", variable, text);
    exit(2);
}

// ---- Errors ----

// Without a driver the runtime of CUDA 13 says the same as with one that is too old.
static cudaError_t driver_error()
{
    const char *driver = getenv("SIMULATOR_DRIVER");
    return driver != nullptr ? cudaErrorInsufficientDriver : memory_gpus() == 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t simulator_ready(enum simulator_need need)
{
    cudaError_t error = driver_error();
    if (error == cudaSuccess) {
        error = failure;
    }
    return error == cudaSuccess && need == SIMULATOR_CONTEXT ? memory_make_context(current_gpu) : error;
}

void simulator_set_last_error(cudaError_t error)
{
    if (error != cudaSuccess) {
        last_error = error;
    }
}

static bool stays(cudaError_t error)
{
    switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorUnknown:
        return true;
    default:
        return false;
    }
}

void simulator_fail(cudaError_t error)
{
    cudaError_t none = cudaSuccess;
    if (stays(error)) {
        failure.compare_exchange_strong(none, error);
    }
    simulator_set_last_error(error);
}

cudaError_t cudaPeekAtLastError(void)
{
    return failure != cudaSuccess ? failure.load() : last_error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return error;
}

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorSymbolNotFound, "cudaErrorSymbolNotFound", "named symbol not found"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources", "too many resources requested for launch"},
    {cudaErrorAssert, "cudaErrorAssert", "device-side assert triggered"},
    {cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered",
     "part or all of the requested memory range is already mapped"},
    {cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered",
     "pointer does not correspond to a registered memory region"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &known : errors) {
        if (known.error == error) {
            return known.name;
        }
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    for (const auto &known : errors) {
        if (known.error == error) {
            return known.text;
        }
    }
    return "unrecognized error code";
}

uint64_t simulator_host_synchronizations(void)
{
    return simulator_count_host_synchronizations;
}

uint64_t simulator_device_calls(void)
{
    return simulator_count_device_calls;
}

// ---- Devices ----

int simulator_current_gpu()
{
    return current_gpu;
}

cudaError_t cudaDriverGetVersion(int *version_p)
{
    const char *driver = getenv("SIMULATOR_DRIVER");
    *version_p = driver == nullptr ? CUDART_VERSION : strcmp(driver, "none") == 0 ? 0 : 11040;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version_p)
{
    *version_p = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count_p)
{
    return simulator_call(SIMULATOR_DRIVER, [&] {
        *count_p = memory_gpus();
        return cudaSuccess;
    });
}

cudaError_t cudaSetDevice(int gpu)
{
    return simulator_call(SIMULATOR_DRIVER, [&] {
        if (gpu < 0 || gpu >= memory_gpus()) {
            return cudaErrorInvalidDevice;
        }
        current_gpu = gpu;
        return memory_make_context(gpu);
    });
}

cudaError_t cudaGetDevice(int *gpu_p)
{
    return simulator_call(SIMULATOR_DRIVER, [&] {
        *gpu_p = current_gpu;
        return cudaSuccess;
    });
}

cudaError_t cudaSetDeviceFlags(unsigned)
{
    return simulator_call(SIMULATOR_DRIVER, [] { return cudaSuccess; });
}

static const struct {
    enum cudaDeviceAttr attribute;
    int value;
} attributes[] = {
    {cudaDevAttrMaxThreadsPerBlock, 1024},
    {cudaDevAttrMaxBlockDimX, 1024},
    {cudaDevAttrMaxBlockDimY, 1024},
    {cudaDevAttrMaxBlockDimZ, 64},
    {cudaDevAttrMaxGridDimX, 2147483647},
    {cudaDevAttrMaxGridDimY, 65535},
    {cudaDevAttrMaxGridDimZ, 65535},
    {cudaDevAttrMaxSharedMemoryPerBlock, 49152},
    {cudaDevAttrWarpSize, 32},
    {cudaDevAttrMultiProcessorCount, 4},
    {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
    {cudaDevAttrConcurrentKernels, 1},
    {cudaDevAttrUnifiedAddressing, 1},
    {cudaDevAttrIntegrated, 0},
    {cudaDevAttrAsyncEngineCount, 3},
    {cudaDevAttrComputeCapabilityMajor, 9},
    {cudaDevAttrComputeCapabilityMinor, 0},
    {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 228 * 1024},
    {cudaDevAttrMaxRegistersPerBlock, 65536},
    {cudaDevAttrMaxRegistersPerMultiprocessor, 65536},
    {cudaDevAttrMaxSharedMemoryPerBlockOptin, 227 * 1024},
    {cudaDevAttrReservedSharedMemoryPerBlock, 1024},
    {cudaDevAttrL2CacheSize, 50 << 20},
    {cudaDevAttrHostRegisterSupported, 1},
};

cudaError_t cudaDeviceGetAttribute(int *value_p, enum cudaDeviceAttr attribute, int gpu)
{
    return simulator_call(SIMULATOR_DRIVER, [&] {
        if (gpu < 0 || gpu >= memory_gpus()) {
            return cudaErrorInvalidDevice;
        }
        if (attribute == cudaDevAttrPciBusId) {
            *value_p = memory_physical_gpu(gpu) + 1;
            return cudaSuccess;
        }
        for (const auto &known : attributes) {
            if (known.attribute == attribute) {
                *value_p = known.value;
                return cudaSuccess;
            }
        }
        return cudaErrorInvalidValue;
    });
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int gpu)
{
    return simulator_call(SIMULATOR_DRIVER, [&] {
        if (gpu < 0 || gpu >= memory_gpus()) {
            return cudaErrorInvalidDevice;
        }
        *properties = {};
        snprintf(properties->name, sizeof(properties->name), "Simulated GPU");
        properties->totalGlobalMem = simulator_setting("SIMULATOR_GPU_BYTES", UINT64_C(256) << 20);
        properties->sharedMemPerBlock = 49152;
        properties->sharedMemPerBlockOptin = 227 * 1024;
        properties->sharedMemPerMultiprocessor = 228 * 1024;
        properties->reservedSharedMemPerBlock = 1024;
        properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
        properties->warpSize = 32;
        properties->maxThreadsPerBlock = properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
        properties->maxThreadsDim[2] = 64;
        properties->maxGridSize[0] = 2147483647;
        properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
        properties->maxThreadsPerMultiProcessor = 2048;
        properties->major = 9;
        properties->multiProcessorCount = 4;
        properties->concurrentKernels = properties->unifiedAddressing = 1;
        properties->asyncEngineCount = 3;
        properties->l2CacheSize = 50 << 20;
        properties->uuid.bytes[0] = static_cast<char>(memory_physical_gpu(gpu) + 1);
        properties->pciBusID = memory_physical_gpu(gpu) + 1;
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetPCIBusId(char *buffer, int size, int gpu)
{
    return simulator_call(SIMULATOR_DRIVER, [&] {
        if (gpu < 0 || gpu >= memory_gpus()) {
            return cudaErrorInvalidDevice;
        }
        if (buffer == nullptr || size < 13) {
            return cudaErrorInvalidValue;
        }
        snprintf(buffer, static_cast<size_t>(size), "0000:%02X:00.0", memory_physical_gpu(gpu) + 1);
        return cudaSuccess;
    });
}

// ---- Copies ----

// Where a piece of a copy lies, as it must still be when the copy runs.
enum place { PAGEABLE, PINNED, DEVICE };

static enum place place_of(const void *address, size_t bytes)
{
    return memory_touches_device(address) ? DEVICE : memory_is_pinned(address, bytes) ? PINNED : PAGEABLE;
}

static bool still_there(enum place place, const void *address, size_t bytes)
{
    return place == DEVICE ? memory_is_device(address, bytes) : place == PAGEABLE || memory_is_pinned(address, bytes);
}

static bool fits_kind(enum cudaMemcpyKind kind, enum place to, enum place from)
{
    switch (kind) {
    case cudaMemcpyDefault:
        return true;
    case cudaMemcpyHostToDevice:
        return to == DEVICE && from != DEVICE;
    case cudaMemcpyDeviceToHost:
        return to != DEVICE && from == DEVICE;
    case cudaMemcpyDeviceToDevice:
        return to == DEVICE && from == DEVICE;
    default:
        return to != DEVICE && from != DEVICE;
    }
}

static cudaError_t enqueue_copy(cudaStream_t stream, void *to, enum place to_place, const void *from,
                                enum place from_place, size_t bytes)
{
    return streams_enqueue(stream, true, [=] {
        if (still_there(to_place, to, bytes) && still_there(from_place, from, bytes)) {
            memmove(to, from, bytes);
        } else {
            simulator_fail(cudaErrorIllegalAddress);
        }
        return true;
    });
}

static cudaError_t enqueue_staged(cudaStream_t stream, void *to, const void *from, size_t bytes)
{
    const char *source = static_cast<const char *>(from);
    auto staged = std::make_shared<std::vector<char>>(source, source + bytes);
    return streams_enqueue(stream, true, [=] {
        if (memory_is_device(to, bytes)) {
            memcpy(to, staged->data(), bytes);
        } else {
            simulator_fail(cudaErrorIllegalAddress);
        }
        return true;
    });
}

// Under the lock. Blocks where the host's side is pageable, as CUDA does, or where `blocks` says so.
static cudaError_t copy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream,
                        bool blocks)
{
    enum place to_place = place_of(to, bytes), from_place = place_of(from, bytes);
    if (bytes == 0) {
        return cudaSuccess;
    }
    if (!fits_kind(kind, to_place, from_place) || !still_there(to_place, to, bytes) ||
        !still_there(from_place, from, bytes)) {
        return cudaErrorInvalidValue;
    }
    bool staged = from_place == PAGEABLE && to_place == DEVICE;
    blocks = blocks || (staged ? bytes > STAGED_BYTES : to_place == PAGEABLE || from_place == PAGEABLE);
    cudaError_t error = staged && !blocks ? enqueue_staged(stream, to, from, bytes)
                                          : enqueue_copy(stream, to, to_place, from, from_place, bytes);
    if (error == cudaSuccess && blocks) {
        simulator_count_host_synchronizations++;
        streams_drain(stream);
        error = simulator_ready(SIMULATOR_DRIVER);
    }
    return error;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] { return copy(to, from, bytes, kind, stream, false); });
}

// Waits for its own copy, not for other streams: none of the product's streams synchronises with the null stream.
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] { return copy(to, from, bytes, kind, nullptr, true); });
}

static cudaError_t fill(void *to, int value, size_t bytes, cudaStream_t stream)
{
    if (bytes == 0) {
        return cudaSuccess;
    }
    if (!memory_is_device(to, bytes)) {
        return cudaErrorInvalidValue;
    }
    return streams_enqueue(stream, true, [=] {
        if (memory_is_device(to, bytes)) {
            memset(to, value, bytes);
        } else {
            simulator_fail(cudaErrorIllegalAddress);
        }
        return true;
    });
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] { return fill(to, value, bytes, stream); });
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] { return fill(to, value, bytes, nullptr); });
}

// ---- The driver ----

CUresult cuInit(unsigned)
{
    return static_cast<CUresult>(driver_error());
}

CUresult cuGetErrorString(CUresult error, const char **text_p)
{
    *text_p = cudaGetErrorString(static_cast<cudaError_t>(error));
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char **name_p)
{
    static const struct {
        CUresult error;
        const char *name;
    } names[] = {
        {CUDA_SUCCESS, "CUDA_SUCCESS"},
        {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
        {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
    };
    *name_p = "CUDA_ERROR_UNKNOWN";
    for (const auto &known : names) {
        if (known.error == error) {
            *name_p = known.name;
        }
    }
    return CUDA_SUCCESS;
}

struct driver_entry {
    const char *symbol;
    void *function;
    unsigned since; // the driver's version
};

template <typename Function> static struct driver_entry entry_of(const char *symbol, Function *function, unsigned since)
{
    return {symbol, reinterpret_cast<void *>(function), since};
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function_p, unsigned version,
                                             unsigned long long, enum cudaDriverEntryPointQueryResult *result_p)
{
    static const struct driver_entry entries[] = {
        entry_of("cuInit", cuInit, 2000),
        entry_of("cuGetErrorString", cuGetErrorString, 6000),
        entry_of("cuGetErrorName", cuGetErrorName, 6000),
        entry_of("cuMemAddressReserve", cuMemAddressReserve, 10020),
        entry_of("cuMemAddressFree", cuMemAddressFree, 10020),
        entry_of("cuMemCreate", cuMemCreate, 10020),
        entry_of("cuMemRelease", cuMemRelease, 10020),
        entry_of("cuMemMap", cuMemMap, 10020),
        entry_of("cuMemUnmap", cuMemUnmap, 10020),
        entry_of("cuMemSetAccess", cuMemSetAccess, 10020),
        entry_of("cuMemGetAllocationGranularity", cuMemGetAllocationGranularity, 10020),
    };
    return simulator_call(SIMULATOR_DRIVER, [&] {
        enum cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
        *function_p = nullptr;
        for (const auto &entry : entries) {
            if (strcmp(entry.symbol, symbol) == 0) {
                result = version < entry.since ? cudaDriverEntryPointVersionNotSufficent : cudaDriverEntryPointSuccess;
                *function_p = version < entry.since ? nullptr : entry.function;
            }
        }
        if (result_p != nullptr) {
            *result_p = result;
        }
        return cudaSuccess;
    });
}

cudaError_t cudaGetDriverEntryPoint(const char *symbol, void **function_p, unsigned long long flags,
                                    enum cudaDriverEntryPointQueryResult *result_p)
{
    return cudaGetDriverEntryPointByVersion(symbol, function_p, CUDART_VERSION, flags, result_p);
}
