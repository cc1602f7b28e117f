// SPDX-License-Identifier: Apache-2.0
#include "worker/op_timer.h"

#include <stdlib.h>

struct marks {
    struct event *begin, *end;
};

struct op_timer {
    struct device *device;
    struct marks *marks; // they stay for the next use
    struct op_timing *timings;
    size_t used, made, capacity;
};

struct op_timer *op_timer_create(struct device *device)
{
    struct op_timer *timer = calloc(1, sizeof(*timer));
    if (timer != NULL) {
        timer->device = device;
    }
    return timer;
}

void op_timer_destroy(struct op_timer *timer)
{
    if (timer == NULL) {
        return;
    }
    for (size_t i = 0; i < timer->made; i++) {
        timer->device->ops->event_destroy(timer->device, timer->marks[i].begin);
        timer->device->ops->event_destroy(timer->device, timer->marks[i].end);
    }
    free(timer->timings);
    free(timer->marks);
    free(timer);
}

static bool grow(struct op_timer *timer)
{
    size_t larger = timer->capacity == 0 ? 1024 : 2 * timer->capacity;
    struct marks *marks = realloc(timer->marks, larger * sizeof(*marks));
    timer->marks = marks != NULL ? marks : timer->marks;
    struct op_timing *timings = realloc(timer->timings, larger * sizeof(*timings));
    timer->timings = timings != NULL ? timings : timer->timings;
    if (marks == NULL || timings == NULL) {
        return false;
    }
    timer->capacity = larger;
    return true;
}

static bool make_marks(struct op_timer *timer)
{
    const struct device_ops *ops = timer->device->ops;
    if (timer->made == timer->capacity && !grow(timer)) {
        return false;
    }
    struct marks *marks = &timer->marks[timer->made];
    *marks = (struct marks){0};
    if (ops->event_create(timer->device, &marks->begin) != STATUS_OK) {
        return false;
    }
    if (ops->event_create(timer->device, &marks->end) != STATUS_OK) {
        ops->event_destroy(timer->device, marks->begin);
        return false;
    }
    timer->made++;
    return true;
}

void op_timer_run(struct op_timer *timer, const struct list *list, size_t first, size_t end,
                  struct kernel_context *context, const struct list_memory *memory)
{
    const struct device_ops *ops = timer->device->ops;
    for (size_t i = first; i < end; i++) {
        if (timer->used == timer->made && !make_marks(timer)) {
            list_run(list, i, i + 1, context, memory);
            continue;
        }
        const struct marks *marks = &timer->marks[timer->used];
        timer->timings[timer->used++] = (struct op_timing){.work = list_work(list, i)};
        ops->event_record(timer->device, marks->begin, context->stream);
        list_run(list, i, i + 1, context, memory);
        ops->event_record(timer->device, marks->end, context->stream);
    }
}

bool op_timer_ready(const struct op_timer *timer)
{
    return timer->used > 0 && timer->device->ops->event_done(timer->device, timer->marks[timer->used - 1].end);
}

size_t op_timer_read(struct op_timer *timer, const struct op_timing **timings_p)
{
    const struct device_ops *ops = timer->device->ops;
    size_t count = timer->used;
    if (count > 0 && !op_timer_ready(timer)) {
        ops->event_synchronize(timer->device, timer->marks[count - 1].end); // the others were before it
    }
    for (size_t i = 0; i < count; i++) {
        const struct marks *marks = &timer->marks[i];
        timer->timings[i].time_ns = ops->event_elapsed_ns(timer->device, marks->begin, marks->end);
    }
    timer->used = 0;
    *timings_p = timer->timings;
    return count;
}
