// SPDX-License-Identifier: Apache-2.0
#include "mem/recorder.h"

#include <assert.h>
#include <stdlib.h>
#include <time.h>

#include "mem/clock.h"
#include "mem/event_log.h"
#include "mem/uint64.h"

struct mem_recorder {
    uint64_t count;
    size_t capacity, next; // next: where the next event goes
    uint64_t start_ns, start_wall_ns;
    struct event_log *log; // NULL: none
    struct mem_event events[];
};

static uint64_t wall_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

enum status mem_recorder_create(size_t capacity, const char *log_path, struct mem_recorder **recorder_p,
                                struct error *error)
{
    assert(capacity > 0);
    if (capacity > (SIZE_MAX - sizeof(struct mem_recorder)) / sizeof(struct mem_event)) {
        return error_out_of_host_memory(error);
    }
    struct mem_recorder *recorder = calloc(1, sizeof(*recorder) + capacity * sizeof(recorder->events[0]));
    if (recorder == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = log_path == NULL ? STATUS_OK : event_log_create(log_path, &recorder->log, error);
    if (status != STATUS_OK) {
        free(recorder);
        return status;
    }
    recorder->capacity = capacity;
    recorder->start_ns = clock_ns();
    recorder->start_wall_ns = wall_clock_ns();
    *recorder_p = recorder;
    return STATUS_OK;
}

void mem_recorder_destroy(struct mem_recorder *recorder)
{
    if (recorder != NULL) {
        event_log_destroy(recorder->log);
        free(recorder);
    }
}

void mem_recorder_append(struct mem_recorder *recorder, const struct mem_event *event)
{
    struct mem_event *kept = &recorder->events[recorder->next];
    *kept = *event;
    kept->time_ns = clock_ns();
    recorder->next = recorder->next + 1 == recorder->capacity ? 0 : recorder->next + 1;
    recorder->count++;
    if (recorder->log != NULL) {
        event_log_append(recorder->log, kept, mem_recorder_wall_ns(recorder, kept->time_ns));
    }
}

enum status mem_recorder_flush(struct mem_recorder *recorder, struct error *error)
{
    return recorder->log == NULL ? STATUS_OK : event_log_flush(recorder->log, error);
}

uint64_t mem_recorder_count(const struct mem_recorder *recorder)
{
    return recorder->count;
}

size_t mem_recorder_kept(const struct mem_recorder *recorder)
{
    return (size_t)uint64_min(recorder->count, recorder->capacity);
}

const struct mem_event *mem_recorder_event(const struct mem_recorder *recorder, size_t i)
{
    assert(i < mem_recorder_kept(recorder));
    size_t oldest = recorder->count < recorder->capacity ? 0 : recorder->next, left = recorder->capacity - oldest;
    return &recorder->events[i < left ? oldest + i : i - left];
}

uint64_t mem_recorder_wall_ns(const struct mem_recorder *recorder, uint64_t time_ns)
{
    return recorder->start_wall_ns + (time_ns - recorder->start_ns);
}
