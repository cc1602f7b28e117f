// SPDX-License-Identifier: Apache-2.0
#include "worker/stopwatch.h"

#include <stdlib.h>

#define LAPS 64

struct marks {
    struct event *begin, *end;
    struct lap lap; // but its time
};

struct stopwatch {
    struct device *device;
    struct marks laps[LAPS];
    struct marks *running;  // NULL: none, or it is not measured
    uint64_t stopped, read; // lap n is laps[n % LAPS]
};

struct stopwatch *stopwatch_create(struct device *device)
{
    struct stopwatch *stopwatch = calloc(1, sizeof(*stopwatch));
    if (stopwatch == NULL) {
        return NULL;
    }
    stopwatch->device = device;
    for (size_t i = 0; i < LAPS; i++) {
        if (device->ops->event_create(device, &stopwatch->laps[i].begin) != STATUS_OK ||
            device->ops->event_create(device, &stopwatch->laps[i].end) != STATUS_OK) {
            stopwatch_destroy(stopwatch);
            return NULL;
        }
    }
    return stopwatch;
}

void stopwatch_destroy(struct stopwatch *stopwatch)
{
    if (stopwatch == NULL) {
        return;
    }
    struct device *device = stopwatch->device;
    for (size_t i = 0; i < LAPS; i++) {
        device->ops->event_destroy(device, stopwatch->laps[i].begin);
        device->ops->event_destroy(device, stopwatch->laps[i].end);
    }
    free(stopwatch);
}

void stopwatch_start(struct stopwatch *stopwatch, struct stream *stream)
{
    bool full = stopwatch->stopped - stopwatch->read == LAPS; // all laps wait to be read
    stopwatch->running = full ? NULL : &stopwatch->laps[stopwatch->stopped % LAPS];
    if (!full) {
        stopwatch->device->ops->event_record(stopwatch->device, stopwatch->running->begin, stream);
    }
}

void stopwatch_stop(struct stopwatch *stopwatch, struct stream *stream, uint64_t samples, uint64_t levers)
{
    struct marks *marks = stopwatch->running;
    if (marks != NULL) {
        stopwatch->device->ops->event_record(stopwatch->device, marks->end, stream);
        marks->lap = (struct lap){.samples = samples, .levers = levers};
        stopwatch->running = NULL;
        stopwatch->stopped++;
    }
}

bool stopwatch_read(struct stopwatch *stopwatch, struct lap *lap_p)
{
    const struct device_ops *ops = stopwatch->device->ops;
    const struct marks *marks = &stopwatch->laps[stopwatch->read % LAPS];
    if (stopwatch->read == stopwatch->stopped || !ops->event_done(stopwatch->device, marks->end)) {
        return false;
    }
    *lap_p = marks->lap;
    lap_p->time_ns = ops->event_elapsed_ns(stopwatch->device, marks->begin, marks->end);
    stopwatch->read++;
    return true;
}
