// SPDX-License-Identifier: Apache-2.0
#include "mem/replay.h"

#include <stdlib.h>

#include "mem/pool.h"

// A device without memory, that counts.
struct counting_device {
    struct device base;
    uint64_t held_bytes;
    device_address next; // of the addresses
};

enum { ADDRESS_BITS = 62 }; // more than any trace has

static enum status reserve(struct device *device, uint64_t bytes, device_address *address_p)
{
    struct counting_device *counting = (struct counting_device *)device;
    *address_p = counting->next;
    counting->next += bytes;
    return STATUS_OK;
}

static void unreserve(struct device *device, device_address address, uint64_t bytes)
{
    (void)device, (void)address, (void)bytes;
}

static enum status commit(struct device *device, device_address address, uint64_t bytes)
{
    (void)address;
    ((struct counting_device *)device)->held_bytes += bytes;
    return STATUS_OK;
}

static void release(struct device *device, device_address address, uint64_t bytes)
{
    (void)address;
    ((struct counting_device *)device)->held_bytes -= bytes;
}

static void info(struct device *device, struct device_info *info_p)
{
    uint64_t capacity = UINT64_C(1) << ADDRESS_BITS, held = ((struct counting_device *)device)->held_bytes;
    *info_p = (struct device_info){
        .capacity_bytes = capacity, .free_bytes = capacity - held, .held_bytes = held, .sharers = 1};
}

static void synchronize(struct device *device)
{
    (void)device;
}

static bool replay(struct mem_pool *pool, const struct mem_trace *trace, const struct mem_trace_event *events,
                   device_address *addresses)
{
    for (size_t i = 0; i < 2 * trace->count; i++) {
        uint32_t buffer = events[i].buffer;
        if (events[i].frees) {
            mem_pool_free(pool, addresses[buffer], NULL);
        } else if (mem_pool_alloc(pool, trace->buffers[buffer].bytes, NULL, "trace", &addresses[buffer]) != STATUS_OK) {
            return false;
        }
    }
    return true;
}

uint64_t mem_replay_pool(const struct mem_trace *trace, const struct mem_trace_event *events,
                         uint64_t granularity_bytes, bool plain)
{
    const struct device_ops ops = {
        .name = "counting",
        .granularity_bytes = granularity_bytes,
        .reserve = reserve,
        .unreserve = unreserve,
        .commit = commit,
        .release = release,
        .info = info,
        .synchronize = synchronize,
    };
    struct counting_device device = {.base = {.ops = &ops, .plain = plain}, .next = granularity_bytes};
    struct mem_pool *pool = NULL;
    device_address *addresses = malloc(trace->count * sizeof(*addresses));
    uint64_t held = UINT64_MAX;
    if (addresses != NULL && mem_pool_create(&device.base, 0, &pool, NULL) == STATUS_OK &&
        replay(pool, trace, events, addresses)) {
        struct mem_pool_stats stats;
        mem_pool_stats(pool, &stats);
        held = stats.reserved_bytes.peak;
    }
    mem_pool_destroy(pool);
    free(addresses);
    return held;
}
