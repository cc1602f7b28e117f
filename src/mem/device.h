// SPDX-License-Identifier: Apache-2.0
//
// A device is a capacity of memory, streams of work on it, and copies to and from it. Each kind of device is one
// const table; the rest of the program holds a `struct device *` and never asks which kind it is.
//
// Addresses on a device are numbers. They are never dereferenced on the host, except by the device's own kernels.
//
// Threads: every entry may be called from any thread; calls on one stream must not overlap.
// Ranks: nothing here is collective.
#ifndef HEADROOM_MEM_DEVICE_H
#define HEADROOM_MEM_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef uint64_t device_address; // 0: none

// That of the CUDA device, for those who count its memory without it.
#define DEVICE_CUDA_GRANULARITY (UINT64_C(2) << 20)

struct device; // each kind embeds it first
struct stream; // operations on one stream run in the order they were enqueued
struct event;  // a point in a stream

struct device_config {
    const char *name;        // CPU: devices of one name on one host share their capacity; NULL: this process alone
    uint64_t capacity_bytes; // CPU, 0: what the machine has, or others of the name decided; they must agree on another
    bool faulting_addresses; // CPU: hand out addresses that fault when the host touches them
    uint32_t index;          // CUDA: which of the GPUs that this process sees
    uint32_t sharers;        // CUDA: processes of this job on that GPU, at least 1
    bool plain;              // as if the device had no virtual memory
};

struct device_info {
    uint64_t capacity_bytes; // of the device, whoever holds it
    uint64_t free_bytes;     // that may be committed
    uint64_t held_bytes;     // committed by this process
    uint64_t others_bytes;   // committed or claimed by others, and by CUDA itself; with held it may exceed the capacity
    uint32_t sharers;        // processes attached to the device, this one included
};

// Who uses a device beside what this process committed.
struct device_usage {
    uint64_t library_bytes; // of this process: CUDA's context, libraries
    uint64_t others_bytes;  // of other processes
    uint32_t other_processes;
};

// Where a device is. Two of one host whose `id` is the same are the same device.
struct device_location {
    char id[64];
    char bus_id[32]; // on PCI, "0000:1b:00.0"; "" where it is on no bus
};

struct device_ops {
    const char *name;                 // "cpu", "cuda"
    uint64_t granularity_bytes;       // commit and release work in multiples of it
    const struct device_ops *staging; // the kind of device whose memory the host may use, and to and from which copies
                                      // do not block

    // Devices of this kind that this process sees; 0 with a line in `error` that says why there are none. Opens none.
    uint32_t (*count)(struct error *error);
    void (*locate)(uint32_t index, struct device_location *location_p);

    // Makes a device; the caller owns it. STATUS_ERROR or STATUS_INVALID with a line in `error`.
    enum status (*create)(const struct device_config *config, struct device **device_p, struct error *error);
    // Returns everything that is still held. Accepts NULL.
    void (*destroy)(struct device *device);
    // In words, "NVIDIA H200". Lives as long as the device.
    const char *(*description)(struct device *device);
    // No other process will open the device by its name: what the name took on the host is removed.
    void (*forget_name)(struct device *device);

    // Memory, for devices that are not plain (struct device says what those do). `reserve` takes a range of addresses
    // without memory; `commit` puts memory behind a part of it, its contents undefined; `release` gives that memory
    // back (commit's ranges may be joined or cut at multiples of the granularity); `unreserve` returns the range, which
    // must hold no memory. `commit` answers STATUS_OUT_OF_MEMORY when the device has not that much free, and then
    // nothing has changed. The caller of `release` makes sure that no stream still uses the memory. None of them waits
    // for a stream.
    enum status (*reserve)(struct device *device, uint64_t bytes, device_address *address_p);
    void (*unreserve)(struct device *device, device_address address, uint64_t bytes);
    enum status (*commit)(struct device *device, device_address address, uint64_t bytes);
    void (*release)(struct device *device, device_address address, uint64_t bytes);
    void (*info)(struct device *device, struct device_info *info_p);
    // False where nobody can tell; NULL: nobody ever can. May take milliseconds.
    bool (*usage)(struct device *device, struct device_usage *usage_p);

    // The address as a host pointer where the host may use it once the stream is synchronised, else NULL.
    void *(*host_pointer)(struct device *device, device_address address);

    // Streams and events. `event_record` marks the stream's end as it is now; `event_wait` makes later work on
    // `stream` wait for the mark; `event_done` asks without blocking; `event_elapsed_ns` is the time between two marks
    // that are done. The synchronise calls block the host.
    enum status (*stream_create)(struct device *device, struct stream **stream_p);
    // Accepts NULL.
    void (*stream_destroy)(struct device *device, struct stream *stream);
    void (*stream_synchronize)(struct device *device, struct stream *stream);
    enum status (*event_create)(struct device *device, struct event **event_p);
    // Accepts NULL.
    void (*event_destroy)(struct device *device, struct event *event);
    void (*event_record)(struct device *device, struct event *event, struct stream *stream);
    void (*event_wait)(struct device *device, struct stream *stream, struct event *event);
    bool (*event_done)(struct device *device, struct event *event);
    void (*event_synchronize)(struct device *device, struct event *event);
    uint64_t (*event_elapsed_ns)(struct device *device, struct event *from, struct event *to);
    void (*synchronize)(struct device *device);
    // STATUS_ERROR with a line about the first of all calls and enqueued work that failed, as far as that is known;
    // from then on nothing that the device computes is to be trusted. Does not block.
    enum status (*check)(struct device *device, struct error *error);

    // Copies, enqueued on the stream. Host memory must stay valid and unchanged until the stream has passed. Where it
    // is not staging memory the call may block.
    void (*copy_to_device)(struct device *device, struct stream *stream, device_address to, const void *from,
                           uint64_t bytes);
    void (*copy_to_host)(struct device *device, struct stream *stream, void *to, device_address from, uint64_t bytes);
    void (*fill_zero)(struct device *device, struct stream *stream, device_address to, uint64_t bytes);
};

struct device {
    const struct device_ops *ops;
    bool plain; // without virtual memory: a range has its memory from `reserve` to `unreserve`, whose caller makes sure
                // that no stream still uses it; `commit` and `release` of the whole range only say that it is in use
};

static inline bool device_ask_usage(struct device *device, struct device_usage *usage_p)
{
    return device->ops->usage != NULL && device->ops->usage(device, usage_p);
}

// Whether the host reaches its memory by copies alone, which then run beside kernels: so with GPUs.
static inline bool device_is_apart(const struct device_ops *ops)
{
    return ops->staging != ops;
}

// The table of that name, NULL if none was built in.
const struct device_ops *device_find(const char *name);

#ifdef __cplusplus
}
#endif

#endif
