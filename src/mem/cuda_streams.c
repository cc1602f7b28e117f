// SPDX-License-Identifier: Apache-2.0
#include "mem/cuda_streams.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct stream {
    cudaStream_t stream;
};

struct event {
    cudaEvent_t event;
};

static enum status no_driver(struct error *error)
{
    int driver = 0, program = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&program);
    if (driver == 0) {
        return error_set(error, STATUS_ERROR, "no NVIDIA driver is installed on this machine");
    }
    return error_set(error, STATUS_ERROR,
                     "the NVIDIA driver is for CUDA %d.%d, and this program needs one for CUDA %d.%d or newer",
                     driver / 1000, driver % 1000 / 10, program / 1000, program % 1000 / 10);
}

static enum status no_gpu(cudaError_t result, struct error *error)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (result != cudaSuccess && result != cudaErrorNoDevice) {
        return error_set(error, STATUS_ERROR, "CUDA does not start: %s", cudaGetErrorString(result));
    }
    if (visible != NULL) {
        return error_set(error, STATUS_ERROR, "the NVIDIA driver shows no GPU; CUDA_VISIBLE_DEVICES is '%s'", visible);
    }
    return error_set(error, STATUS_ERROR, "the NVIDIA driver finds no GPU");
}

uint32_t cuda_count(struct error *error)
{
    int count = 0;
    cudaError_t result = cudaGetDeviceCount(&count);
    if (result == cudaErrorInsufficientDriver) {
        no_driver(error);
    } else if (result != cudaSuccess || count == 0) {
        no_gpu(result, error);
    }
    cudaGetLastError(); // nobody else is to be told
    return result == cudaSuccess ? (uint32_t)count : 0;
}

void cuda_locate(uint32_t index, struct device_location *location_p)
{
    struct cudaDeviceProp properties = {0};
    *location_p = (struct device_location){0};
    cudaGetDeviceProperties(&properties, (int)index);
    cudaDeviceGetPCIBusId(location_p->bus_id, sizeof(location_p->bus_id), (int)index);
    for (size_t i = 0; i < sizeof(properties.uuid.bytes); i++) {
        snprintf(location_p->id + 2 * i, 3, "%02x", (unsigned char)properties.uuid.bytes[i]);
    }
}

enum status cuda_open(struct device_on_cuda *device, const struct device_ops *ops, uint32_t index, struct error *error)
{
    uint32_t count = cuda_count(error);
    if (count == 0) {
        return STATUS_ERROR;
    }
    if (index >= count) {
        return error_set(error, STATUS_ERROR, "there is no GPU %u among the %u that this process sees", index, count);
    }
    struct cudaDeviceProp properties;
    cudaError_t result = cudaSetDevice((int)index);
    if (result == cudaSuccess) {
        result = cudaGetDeviceProperties(&properties, (int)index);
    }
    if (result == cudaSuccess) {
        result = cudaDeviceSynchronize(); // makes the context
    }
    if (result != cudaSuccess) {
        return error_set(error, STATUS_ERROR, "GPU %u: %s", index, cudaGetErrorString(result));
    }
    device->base.ops = ops;
    device->gpu = (int)index;
    snprintf(device->description, sizeof(device->description), "%s", properties.name);
    pthread_mutex_init(&device->lock, NULL);
    return STATUS_OK;
}

void cuda_close(struct device_on_cuda *device)
{
    pthread_mutex_destroy(&device->lock);
}

bool cuda_keep_range(struct device_on_cuda *device, device_address address, uint64_t bytes)
{
    struct cuda_range *range = malloc(sizeof(*range));
    if (range == NULL) {
        return false;
    }
    pthread_mutex_lock(&device->lock);
    *range = (struct cuda_range){.address = address, .bytes = bytes, .next = device->ranges};
    device->ranges = range;
    pthread_mutex_unlock(&device->lock);
    return true;
}

void cuda_forget_range(struct device_on_cuda *device, device_address address)
{
    pthread_mutex_lock(&device->lock);
    struct cuda_range **link = &device->ranges;
    while ((*link)->address != address) {
        link = &(*link)->next;
    }
    struct cuda_range *range = *link;
    *link = range->next;
    pthread_mutex_unlock(&device->lock);
    free(range);
}

struct device_on_cuda *cuda_enter(struct device *device)
{
    struct device_on_cuda *on_cuda = (struct device_on_cuda *)device;
    cudaSetDevice(on_cuda->gpu);
    return on_cuda;
}

const char *cuda_description(struct device *device)
{
    return ((struct device_on_cuda *)device)->description;
}

void cuda_forget_name(struct device *device)
{
    (void)device;
}

cudaStream_t device_cuda_stream(const struct stream *stream)
{
    return stream->stream;
}

void device_cuda_note_text(struct device *device, const char *what, const char *text)
{
    struct device_on_cuda *on_cuda = (struct device_on_cuda *)device;
    pthread_mutex_lock(&on_cuda->lock);
    if (on_cuda->failure.status == STATUS_OK) {
        error_set(&on_cuda->failure, STATUS_ERROR, "GPU %d (%s): %s: %s", on_cuda->gpu, on_cuda->description, what,
                  text);
    }
    pthread_mutex_unlock(&on_cuda->lock);
}

void device_cuda_note(struct device *device, cudaError_t error, const char *what)
{
    if (error != cudaSuccess) {
        device_cuda_note_text(device, what, cudaGetErrorString(error));
    }
}

// A launch that was refused is known only as the thread's last error.
static void note_launches(struct device *device)
{
    device_cuda_note(device, cudaPeekAtLastError(), "a kernel");
}

enum status cuda_stream_create(struct device *device, struct stream **stream_p)
{
    struct stream *stream = malloc(sizeof(*stream));
    cuda_enter(device);
    if (stream == NULL || cudaStreamCreateWithFlags(&stream->stream, cudaStreamNonBlocking) != cudaSuccess) {
        free(stream);
        return STATUS_ERROR;
    }
    *stream_p = stream;
    return STATUS_OK;
}

void cuda_stream_destroy(struct device *device, struct stream *stream)
{
    if (stream != NULL) {
        cuda_enter(device);
        device_cuda_note(device, cudaStreamDestroy(stream->stream), "cudaStreamDestroy");
        free(stream);
    }
}

void cuda_stream_synchronize(struct device *device, struct stream *stream)
{
    cuda_enter(device);
    device_cuda_note(device, cudaStreamSynchronize(stream->stream), "cudaStreamSynchronize");
}

enum status cuda_event_create(struct device *device, struct event **event_p)
{
    struct event *event = malloc(sizeof(*event));
    cuda_enter(device);
    if (event == NULL || cudaEventCreate(&event->event) != cudaSuccess) {
        free(event);
        return STATUS_ERROR;
    }
    *event_p = event;
    return STATUS_OK;
}

void cuda_event_destroy(struct device *device, struct event *event)
{
    if (event != NULL) {
        cuda_enter(device);
        device_cuda_note(device, cudaEventDestroy(event->event), "cudaEventDestroy");
        free(event);
    }
}

void cuda_event_record(struct device *device, struct event *event, struct stream *stream)
{
    cuda_enter(device);
    device_cuda_note(device, cudaEventRecord(event->event, stream->stream), "cudaEventRecord");
}

void cuda_event_wait(struct device *device, struct stream *stream, struct event *event)
{
    cuda_enter(device);
    device_cuda_note(device, cudaStreamWaitEvent(stream->stream, event->event, 0), "cudaStreamWaitEvent");
}

// After a failure everything is done that ever will be.
bool cuda_event_done(struct device *device, struct event *event)
{
    cuda_enter(device);
    note_launches(device);
    cudaError_t result = cudaEventQuery(event->event);
    if (result == cudaErrorNotReady) {
        cudaGetLastError(); // it counts as the last error, and is none
        return false;
    }
    device_cuda_note(device, result, "work on the device");
    return true;
}

void cuda_event_synchronize(struct device *device, struct event *event)
{
    cuda_enter(device);
    device_cuda_note(device, cudaEventSynchronize(event->event), "cudaEventSynchronize");
}

uint64_t cuda_event_elapsed_ns(struct device *device, struct event *from, struct event *to)
{
    float milliseconds = 0;
    cuda_enter(device);
    device_cuda_note(device, cudaEventElapsedTime(&milliseconds, from->event, to->event), "cudaEventElapsedTime");
    return milliseconds > 0 ? (uint64_t)((double)milliseconds * 1e6) : 0;
}

void cuda_synchronize(struct device *device)
{
    cuda_enter(device);
    device_cuda_note(device, cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

enum status cuda_check(struct device *device, struct error *error)
{
    struct device_on_cuda *on_cuda = cuda_enter(device);
    note_launches(device);
    pthread_mutex_lock(&on_cuda->lock);
    enum status status = on_cuda->failure.status;
    if (status != STATUS_OK) {
        error_set(error, status, "%s", on_cuda->failure.text);
    }
    pthread_mutex_unlock(&on_cuda->lock);
    return status;
}

void cuda_copy_to_device(struct device *device, struct stream *stream, device_address to, const void *from,
                         uint64_t bytes)
{
    cuda_enter(device);
    device_cuda_note(device,
                     cudaMemcpyAsync(device_cuda_pointer(to), from, bytes, cudaMemcpyHostToDevice, stream->stream),
                     "cudaMemcpyAsync to the device");
}

void cuda_copy_to_host(struct device *device, struct stream *stream, void *to, device_address from, uint64_t bytes)
{
    cuda_enter(device);
    device_cuda_note(device,
                     cudaMemcpyAsync(to, device_cuda_pointer(from), bytes, cudaMemcpyDeviceToHost, stream->stream),
                     "cudaMemcpyAsync to the host");
}

void cuda_fill_zero(struct device *device, struct stream *stream, device_address to, uint64_t bytes)
{
    cuda_enter(device);
    device_cuda_note(device, cudaMemsetAsync(device_cuda_pointer(to), 0, bytes, stream->stream), "cudaMemsetAsync");
}
