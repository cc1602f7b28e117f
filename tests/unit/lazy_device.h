// SPDX-License-Identifier: Apache-2.0
//
// A device for tests of what is enqueued on it: as slow as the contract of device.h allows, or as the test wants. It
// has one stream, copies and events, and no memory: addresses are the host's.
#ifndef HEADROOM_TESTS_LAZY_DEVICE_H
#define HEADROOM_TESTS_LAZY_DEVICE_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "mem/device.h"

enum lazy_pace {
    LAZY_WHEN_FORCED, // works only where the host blocks for it
    LAZY_WHEN_ASKED,  // does one thing more whenever it is asked whether something is done
    LAZY_AT_ONCE,
};

#define LAZY_NEVER UINT64_MAX

struct event {
    uint64_t number;  // of the things enqueued before it was recorded; LAZY_NEVER: it was not
    uint64_t time_ns; // when it passed
};

struct lazy_item { // a copy, or, where `event` is not NULL, its passing
    struct event *event;
    void *to;
    const void *from;
    uint64_t bytes;
};

struct lazy_device {
    struct device device;
    enum lazy_pace pace;
    struct lazy_item *items;
    uint64_t enqueued, done, capacity;
    uint64_t clock_ns;     // tests set it; an event that passes notes it
    uint64_t events;       // that exist
    uint64_t events_until; // event_create fails once so many exist
    uint64_t wrong;        // calls that break the contract
    bool unreachable;      // for the host
};

static inline struct stream *lazy_stream(struct lazy_device *lazy)
{
    return (struct stream *)lazy; // no test looks inside
}

static inline void lazy_work(struct lazy_device *lazy, uint64_t until)
{
    for (; lazy->done < until; lazy->done++) {
        const struct lazy_item *item = &lazy->items[lazy->done];
        if (item->event == NULL) {
            memcpy(item->to, item->from, item->bytes);
        } else if (item->event->number == lazy->done) { // else recorded anew since
            item->event->time_ns = lazy->clock_ns;
        }
    }
}

static inline void lazy_synchronize(struct lazy_device *lazy)
{
    lazy_work(lazy, lazy->enqueued);
}

static inline void lazy_enqueue(struct lazy_device *lazy, struct stream *stream, struct lazy_item item)
{
    lazy->wrong += stream != lazy_stream(lazy);
    if (lazy->enqueued == lazy->capacity) {
        lazy->capacity = 2 * lazy->capacity + 64;
        lazy->items = realloc(lazy->items, lazy->capacity * sizeof(*lazy->items));
        if (lazy->items == NULL) {
            abort();
        }
    }
    lazy->items[lazy->enqueued++] = item;
    if (lazy->pace == LAZY_AT_ONCE) {
        lazy_synchronize(lazy);
    }
}

static inline void lazy_copy(struct device *device, struct stream *stream, device_address to, const void *from,
                             uint64_t bytes)
{
    lazy_enqueue((struct lazy_device *)device, stream,
                 (struct lazy_item){.to = (void *)(uintptr_t)to, .from = from, .bytes = bytes});
}

static inline void lazy_copy_back(struct device *device, struct stream *stream, void *to, device_address from,
                                  uint64_t bytes)
{
    lazy_enqueue((struct lazy_device *)device, stream,
                 (struct lazy_item){.to = to, .from = (const void *)(uintptr_t)from, .bytes = bytes});
}

static inline void *lazy_host_pointer(struct device *device, device_address address)
{
    return ((struct lazy_device *)device)->unreachable ? NULL : (void *)(uintptr_t)address;
}

static inline void lazy_stream_synchronize(struct device *device, struct stream *stream)
{
    struct lazy_device *lazy = (struct lazy_device *)device;
    lazy->wrong += stream != lazy_stream(lazy);
    lazy_synchronize(lazy);
}

static inline enum status lazy_event_create(struct device *device, struct event **event_p)
{
    struct lazy_device *lazy = (struct lazy_device *)device;
    struct event *event = lazy->events < lazy->events_until ? malloc(sizeof(*event)) : NULL;
    if (event == NULL) {
        return STATUS_ERROR;
    }
    event->number = LAZY_NEVER;
    lazy->events++;
    *event_p = event;
    return STATUS_OK;
}

static inline void lazy_event_destroy(struct device *device, struct event *event)
{
    ((struct lazy_device *)device)->events -= event != NULL;
    free(event);
}

static inline void lazy_event_record(struct device *device, struct event *event, struct stream *stream)
{
    struct lazy_device *lazy = (struct lazy_device *)device;
    event->number = lazy->enqueued;
    lazy_enqueue(lazy, stream, (struct lazy_item){.event = event});
}

// A wait for what was never recorded would not wait.
static inline bool lazy_is_recorded(struct lazy_device *lazy, const struct event *event)
{
    lazy->wrong += event->number == LAZY_NEVER;
    return event->number != LAZY_NEVER;
}

static inline bool lazy_event_done(struct device *device, struct event *event)
{
    struct lazy_device *lazy = (struct lazy_device *)device;
    if (lazy->pace == LAZY_WHEN_ASKED && lazy->done < lazy->enqueued) {
        lazy_work(lazy, lazy->done + 1);
    }
    return lazy_is_recorded(lazy, event) && event->number < lazy->done;
}

static inline void lazy_event_synchronize(struct device *device, struct event *event)
{
    struct lazy_device *lazy = (struct lazy_device *)device;
    if (lazy_is_recorded(lazy, event)) {
        lazy_work(lazy, event->number + 1);
    }
}

static inline uint64_t lazy_event_elapsed_ns(struct device *device, struct event *from, struct event *to)
{
    struct lazy_device *lazy = (struct lazy_device *)device;
    lazy->wrong += from->number >= lazy->done || to->number >= lazy->done;
    return to->time_ns - from->time_ns;
}

static inline enum status lazy_check(struct device *device, struct error *error)
{
    (void)device, (void)error;
    return STATUS_OK;
}

static inline void lazy_device_init(struct lazy_device *lazy, enum lazy_pace pace)
{
    static const struct device_ops ops = {
        .name = "lazy",
        .host_pointer = lazy_host_pointer,
        .copy_to_device = lazy_copy,
        .copy_to_host = lazy_copy_back,
        .stream_synchronize = lazy_stream_synchronize,
        .event_create = lazy_event_create,
        .event_destroy = lazy_event_destroy,
        .event_record = lazy_event_record,
        .event_done = lazy_event_done,
        .event_synchronize = lazy_event_synchronize,
        .event_elapsed_ns = lazy_event_elapsed_ns,
        .check = lazy_check,
    };
    *lazy = (struct lazy_device){.device = {.ops = &ops}, .pace = pace, .events_until = UINT64_MAX};
}

static inline void lazy_device_finish(struct lazy_device *lazy)
{
    free(lazy->items);
}

#endif
