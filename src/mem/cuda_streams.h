// SPDX-License-Identifier: Apache-2.0
//
// What the kinds of device on CUDA have in common: streams, events, copies, and the first failure. Only device_cuda.c
// and device_pinned.c use it.
#ifndef HEADROOM_MEM_CUDA_STREAMS_H
#define HEADROOM_MEM_CUDA_STREAMS_H

#include <pthread.h>

#include "mem/device_cuda.h"

// Addresses that were reserved and not yet returned.
struct cuda_range {
    device_address address;
    uint64_t bytes;
    struct cuda_range *next;
};

// Each such device embeds it first.
struct device_on_cuda {
    struct device base;
    int gpu;
    char description[320];
    pthread_mutex_t lock; // of what follows, and of what a kind of device counts
    struct error failure; // the first; without one its status is STATUS_OK
    struct cuda_range *ranges;
};

// Counts GPUs; 0 with a line that says why there are none.
uint32_t cuda_count(struct error *error);
// Makes the GPU the calling thread's, and fills in the rest. STATUS_ERROR with a line.
enum status cuda_open(struct device_on_cuda *device, const struct device_ops *ops, uint32_t index, struct error *error);
// The kind of device has returned all ranges.
void cuda_close(struct device_on_cuda *device);
// False without host memory.
bool cuda_keep_range(struct device_on_cuda *device, device_address address, uint64_t bytes);
void cuda_forget_range(struct device_on_cuda *device, device_address address);
// The device, whose GPU becomes the calling thread's.
struct device_on_cuda *cuda_enter(struct device *device);

void cuda_locate(uint32_t index, struct device_location *location_p);
const char *cuda_description(struct device *device);
void cuda_forget_name(struct device *device);
enum status cuda_stream_create(struct device *device, struct stream **stream_p);
void cuda_stream_destroy(struct device *device, struct stream *stream);
void cuda_stream_synchronize(struct device *device, struct stream *stream);
enum status cuda_event_create(struct device *device, struct event **event_p);
void cuda_event_destroy(struct device *device, struct event *event);
void cuda_event_record(struct device *device, struct event *event, struct stream *stream);
void cuda_event_wait(struct device *device, struct stream *stream, struct event *event);
bool cuda_event_done(struct device *device, struct event *event);
void cuda_event_synchronize(struct device *device, struct event *event);
uint64_t cuda_event_elapsed_ns(struct device *device, struct event *from, struct event *to);
void cuda_synchronize(struct device *device);
enum status cuda_check(struct device *device, struct error *error);
void cuda_copy_to_device(struct device *device, struct stream *stream, device_address to, const void *from,
                         uint64_t bytes);
void cuda_copy_to_host(struct device *device, struct stream *stream, void *to, device_address from, uint64_t bytes);
void cuda_fill_zero(struct device *device, struct stream *stream, device_address to, uint64_t bytes);

// These entries of a struct device_ops.
#define CUDA_STREAM_ENTRIES                                                                                            \
    .count = cuda_count, .locate = cuda_locate, .description = cuda_description, .forget_name = cuda_forget_name,      \
    .stream_create = cuda_stream_create, .stream_destroy = cuda_stream_destroy,                                        \
    .stream_synchronize = cuda_stream_synchronize, .event_create = cuda_event_create,                                  \
    .event_destroy = cuda_event_destroy, .event_record = cuda_event_record, .event_wait = cuda_event_wait,             \
    .event_done = cuda_event_done, .event_synchronize = cuda_event_synchronize,                                        \
    .event_elapsed_ns = cuda_event_elapsed_ns, .synchronize = cuda_synchronize, .check = cuda_check,                   \
    .copy_to_device = cuda_copy_to_device, .copy_to_host = cuda_copy_to_host, .fill_zero = cuda_fill_zero

#endif
