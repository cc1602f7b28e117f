// SPDX-License-Identifier: Apache-2.0
//
// An NVIDIA GPU as a device. Addresses and memory are CUDA's virtual memory: a range of addresses is reserved, and
// physical memory is mapped behind it granule by granule, so that ranges can be joined and cut at any of them. The
// driver's calls are asked for at run time: the program starts on machines without one.
//
// A GPU without virtual memory (some are passed to virtual machines that way) is a plain device: a range is what
// cudaMalloc answers.
#include <cuda.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/cuda_streams.h"
#include "mem/device_pinned.h"
#include "mem/nvml.h"
#include "mem/uint64.h"

// What is never committed, at most, because CUDA takes it later: code is loaded when it first runs, and cuBLASLt
// chooses other code for other sizes of a product. The library returns none of it.
#define CODE_BYTES (UINT64_C(128) << 20)

// The driver's calls, as cuda.h declares them.
struct driver {
    CUresult (*address_reserve)(CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long);
    CUresult (*address_free)(CUdeviceptr, size_t);
    CUresult (*create)(CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *, unsigned long long);
    CUresult (*release)(CUmemGenericAllocationHandle);
    CUresult (*map)(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long);
    CUresult (*unmap)(CUdeviceptr, size_t);
    CUresult (*set_access)(CUdeviceptr, size_t, const CUmemAccessDesc *, size_t);
    CUresult (*granularity)(size_t *, const CUmemAllocationProp *, CUmemAllocationGranularity_flags);
    CUresult (*error_text)(CUresult, const char **);
};

struct gpu {
    struct device_on_cuda cuda;
    struct driver driver;
    CUmemAllocationProp properties; // of physical memory
    uint32_t sharers;
    _Atomic uint64_t held_bytes;
};

static struct gpu *gpu_of(struct device *device)
{
    return (struct gpu *)cuda_enter(device);
}

static bool find(const char *symbol, void *function_p)
{
    enum cudaDriverEntryPointQueryResult found;
    void *function = NULL;
    cudaError_t result = cudaGetDriverEntryPointByVersion(symbol, &function, 12000, cudaEnableDefault, &found);
    memcpy(function_p, &function, sizeof(function));
    return result == cudaSuccess && found == cudaDriverEntryPointSuccess;
}

static bool find_driver(struct driver *driver)
{
    return find("cuMemAddressReserve", &driver->address_reserve) && find("cuMemAddressFree", &driver->address_free) &&
           find("cuMemCreate", &driver->create) && find("cuMemRelease", &driver->release) &&
           find("cuMemMap", &driver->map) && find("cuMemUnmap", &driver->unmap) &&
           find("cuMemSetAccess", &driver->set_access) && find("cuMemGetAllocationGranularity", &driver->granularity) &&
           find("cuGetErrorString", &driver->error_text);
}

// Whether memory can be mapped in pieces of DEVICE_CUDA_GRANULARITY.
static bool maps_granules(const struct gpu *gpu)
{
    size_t bytes = 0;
    CUresult result = gpu->driver.granularity(&bytes, &gpu->properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    return result == CUDA_SUCCESS && bytes > 0 && DEVICE_CUDA_GRANULARITY % bytes == 0;
}

static enum status create(const struct device_config *config, struct device **device_p, struct error *error)
{
    struct gpu *gpu = calloc(1, sizeof(*gpu));
    if (gpu == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = cuda_open(&gpu->cuda, &device_cuda, config->index, error);
    if (status != STATUS_OK) {
        free(gpu);
        return status;
    }
    gpu->sharers = config->sharers;
    gpu->properties = (CUmemAllocationProp){
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = gpu->cuda.gpu},
    };
    gpu->cuda.base.plain = config->plain || !find_driver(&gpu->driver) || !maps_granules(gpu);
    *device_p = &gpu->cuda.base;
    return STATUS_OK;
}

static void note(struct gpu *gpu, CUresult result, const char *what)
{
    if (result != CUDA_SUCCESS) {
        const char *text = "unknown error";
        gpu->driver.error_text(result, &text);
        device_cuda_note_text(&gpu->cuda.base, what, text);
    }
}

// Held by nobody, and of that what may be committed.
struct room {
    uint64_t total_bytes, free_bytes, usable_bytes;
};

static struct room look(struct device *device)
{
    size_t free_bytes = 0, total_bytes = 0;
    device_cuda_note(device, cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
    uint64_t code_bytes = uint64_min(CODE_BYTES, total_bytes / 64);
    return (struct room){total_bytes, free_bytes, free_bytes - uint64_min(free_bytes, code_bytes)};
}

static enum status take_range(struct gpu *gpu, uint64_t bytes, CUdeviceptr *address_p)
{
    if (!gpu->cuda.base.plain) {
        return gpu->driver.address_reserve(address_p, bytes, DEVICE_CUDA_GRANULARITY, 0, 0) == CUDA_SUCCESS
                   ? STATUS_OK
                   : STATUS_ERROR;
    }
    void *memory = NULL;
    if (bytes > look(&gpu->cuda.base).usable_bytes) {
        return STATUS_OUT_OF_MEMORY;
    }
    if (cudaMalloc(&memory, bytes) != cudaSuccess) {
        cudaGetLastError(); // answered here
        return STATUS_OUT_OF_MEMORY;
    }
    *address_p = (CUdeviceptr)(uintptr_t)memory;
    return STATUS_OK;
}

static void return_range(struct gpu *gpu, device_address address, uint64_t bytes)
{
    if (gpu->cuda.base.plain) {
        device_cuda_note(&gpu->cuda.base, cudaFree(device_cuda_pointer(address)), "cudaFree");
    } else {
        note(gpu, gpu->driver.address_free(address, bytes), "cuMemAddressFree");
    }
}

static enum status reserve(struct device *device, uint64_t bytes, device_address *address_p)
{
    struct gpu *gpu = gpu_of(device);
    CUdeviceptr address;
    enum status status = take_range(gpu, bytes, &address);
    if (status != STATUS_OK) {
        return status;
    }
    if (!cuda_keep_range(&gpu->cuda, address, bytes)) {
        return_range(gpu, address, bytes);
        return STATUS_ERROR;
    }
    *address_p = address;
    return STATUS_OK;
}

static void unreserve(struct device *device, device_address address, uint64_t bytes)
{
    struct gpu *gpu = gpu_of(device);
    cuda_forget_range(&gpu->cuda, address);
    return_range(gpu, address, bytes);
}

// The mapping alone keeps the memory: unmapping gives it back.
static CUresult map_granule(struct gpu *gpu, CUdeviceptr address)
{
    CUmemGenericAllocationHandle handle;
    CUresult result = gpu->driver.create(&handle, DEVICE_CUDA_GRANULARITY, &gpu->properties, 0);
    if (result == CUDA_SUCCESS) {
        result = gpu->driver.map(address, DEVICE_CUDA_GRANULARITY, 0, handle, 0);
        note(gpu, gpu->driver.release(handle), "cuMemRelease");
    }
    return result;
}

static void unmap(struct gpu *gpu, device_address address, uint64_t bytes)
{
    for (uint64_t done = 0; done < bytes; done += DEVICE_CUDA_GRANULARITY) {
        note(gpu, gpu->driver.unmap(address + done, DEVICE_CUDA_GRANULARITY), "cuMemUnmap");
    }
}

// What is still mapped of a range; the driver refuses the rest.
static void unmap_remains(struct gpu *gpu, const struct cuda_range *range)
{
    for (uint64_t done = 0; done < range->bytes && gpu->held_bytes > 0; done += DEVICE_CUDA_GRANULARITY) {
        if (gpu->driver.unmap(range->address + done, DEVICE_CUDA_GRANULARITY) == CUDA_SUCCESS) {
            gpu->held_bytes -= DEVICE_CUDA_GRANULARITY;
        }
    }
}

static void destroy(struct device *device)
{
    if (device == NULL) {
        return;
    }
    struct gpu *gpu = gpu_of(device);
    while (gpu->cuda.ranges != NULL) {
        if (!device->plain) {
            unmap_remains(gpu, gpu->cuda.ranges);
        }
        unreserve(device, gpu->cuda.ranges->address, gpu->cuda.ranges->bytes);
    }
    cuda_close(&gpu->cuda);
    free(gpu);
}

static enum status commit(struct device *device, device_address address, uint64_t bytes)
{
    struct gpu *gpu = gpu_of(device);
    const CUmemAccessDesc access = {.location = gpu->properties.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    if (device->plain) { // the memory came with the range
        gpu->held_bytes += bytes;
        return STATUS_OK;
    }
    if (bytes > look(device).usable_bytes) { // asked first: gigabytes would have to be mapped and returned
        return STATUS_OUT_OF_MEMORY;
    }
    uint64_t mapped = 0;
    CUresult result = CUDA_SUCCESS;
    while (result == CUDA_SUCCESS && mapped < bytes) {
        result = map_granule(gpu, address + mapped);
        mapped += result == CUDA_SUCCESS ? DEVICE_CUDA_GRANULARITY : 0;
    }
    if (result == CUDA_SUCCESS) {
        result = gpu->driver.set_access(address, bytes, &access, 1);
    }
    if (result == CUDA_SUCCESS) {
        gpu->held_bytes += bytes;
        return STATUS_OK;
    }
    unmap(gpu, address, mapped);
    if (result != CUDA_ERROR_OUT_OF_MEMORY) {
        note(gpu, result, "mapping memory");
    }
    return STATUS_OUT_OF_MEMORY;
}

static void release(struct device *device, device_address address, uint64_t bytes)
{
    struct gpu *gpu = gpu_of(device);
    if (!device->plain) {
        unmap(gpu, address, bytes);
    }
    gpu->held_bytes -= bytes;
}

static void info(struct device *device, struct device_info *info_p)
{
    struct gpu *gpu = gpu_of(device);
    struct room room = look(device);
    uint64_t held_bytes = gpu->held_bytes, used_bytes = room.total_bytes - room.free_bytes;
    *info_p = (struct device_info){
        .capacity_bytes = room.total_bytes,
        .free_bytes = room.usable_bytes,
        .held_bytes = held_bytes,
        .others_bytes = used_bytes > held_bytes ? used_bytes - held_bytes : 0, // CUDA may have failed to tell
        .sharers = gpu->sharers,
    };
}

static bool usage(struct device *device, struct device_usage *usage_p)
{
    struct gpu *gpu = gpu_of(device);
    struct device_location location;
    struct nvml_usage usage;
    cuda_locate((uint32_t)gpu->cuda.gpu, &location);
    if (!nvml_usage(location.bus_id, (uint32_t)getpid(), &usage) || usage.own_bytes < gpu->held_bytes) {
        return false;
    }
    *usage_p = (struct device_usage){
        .library_bytes = usage.own_bytes - gpu->held_bytes,
        .other_processes = usage.other_processes,
        .others_bytes = usage.others_bytes,
    };
    return true;
}

static void *host_pointer(struct device *device, device_address address)
{
    (void)device, (void)address;
    return NULL;
}

const struct device_ops device_cuda = {
    .name = "cuda",
    .granularity_bytes = DEVICE_CUDA_GRANULARITY,
    .staging = &device_pinned,
    .create = create,
    .destroy = destroy,
    .reserve = reserve,
    .unreserve = unreserve,
    .commit = commit,
    .release = release,
    .info = info,
    .usage = usage,
    .host_pointer = host_pointer,
    CUDA_STREAM_ENTRIES,
};
