// SPDX-License-Identifier: Apache-2.0
#include "mem/device_pinned.h"

#include <stdlib.h>

#include "mem/cuda_streams.h"

#define GRANULARITY UINT64_C(4096)

struct pinned {
    struct device_on_cuda cuda;
    uint64_t capacity_bytes;
    _Atomic uint64_t held_bytes;
};

static struct pinned *pinned_of(struct device *device)
{
    return (struct pinned *)device;
}

static enum status create(const struct device_config *config, struct device **device_p, struct error *error)
{
    struct pinned *pinned = calloc(1, sizeof(*pinned));
    if (pinned == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = cuda_open(&pinned->cuda, &device_pinned, config->index, error);
    if (status != STATUS_OK) {
        free(pinned);
        return status;
    }
    pinned->cuda.base.plain = true;
    pinned->capacity_bytes = config->capacity_bytes;
    *device_p = &pinned->cuda.base;
    return STATUS_OK;
}

static enum status reserve(struct device *device, uint64_t bytes, device_address *address_p)
{
    void *memory;
    struct device_on_cuda *cuda = cuda_enter(device);
    if (cudaHostAlloc(&memory, bytes, cudaHostAllocPortable) != cudaSuccess) {
        cudaGetLastError(); // answered here
        return STATUS_ERROR;
    }
    if (!cuda_keep_range(cuda, (device_address)(uintptr_t)memory, bytes)) {
        cudaFreeHost(memory);
        return STATUS_ERROR;
    }
    *address_p = (device_address)(uintptr_t)memory;
    return STATUS_OK;
}

static void *host_pointer(struct device *device, device_address address)
{
    (void)device;
    return device_cuda_pointer(address); // one address space (CUDA programming guide, "Unified Virtual Addressing")
}

static void unreserve(struct device *device, device_address address, uint64_t bytes)
{
    (void)bytes;
    cuda_forget_range(cuda_enter(device), address);
    device_cuda_note(device, cudaFreeHost(host_pointer(device, address)), "cudaFreeHost");
}

static void destroy(struct device *device)
{
    if (device == NULL) {
        return;
    }
    struct pinned *pinned = pinned_of(device);
    while (pinned->cuda.ranges != NULL) {
        unreserve(device, pinned->cuda.ranges->address, pinned->cuda.ranges->bytes);
    }
    cuda_close(&pinned->cuda);
    free(pinned);
}

static enum status commit(struct device *device, device_address address, uint64_t bytes)
{
    struct pinned *pinned = pinned_of(device);
    (void)address;
    pthread_mutex_lock(&pinned->cuda.lock);
    bool fits = bytes <= pinned->capacity_bytes - pinned->held_bytes;
    pinned->held_bytes += fits ? bytes : 0;
    pthread_mutex_unlock(&pinned->cuda.lock);
    return fits ? STATUS_OK : STATUS_OUT_OF_MEMORY;
}

static void release(struct device *device, device_address address, uint64_t bytes)
{
    (void)address;
    pinned_of(device)->held_bytes -= bytes;
}

static void info(struct device *device, struct device_info *info_p)
{
    const struct pinned *pinned = pinned_of(device);
    uint64_t held_bytes = pinned->held_bytes;
    *info_p = (struct device_info){
        .capacity_bytes = pinned->capacity_bytes,
        .free_bytes = pinned->capacity_bytes - held_bytes,
        .held_bytes = held_bytes,
        .sharers = 1,
    };
}

const struct device_ops device_pinned = {
    .name = "pinned",
    .granularity_bytes = GRANULARITY,
    .staging = &device_pinned,
    .create = create,
    .destroy = destroy,
    .reserve = reserve,
    .unreserve = unreserve,
    .commit = commit,
    .release = release,
    .info = info,
    .host_pointer = host_pointer,
    CUDA_STREAM_ENTRIES,
};
