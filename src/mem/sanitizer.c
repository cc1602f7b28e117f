// SPDX-License-Identifier: Apache-2.0
//
// The host has a clock too, of what it has waited for: all that is enqueued later comes after that. The waits of all
// threads are put together, so a thread may rely on what another has waited for.
#include "mem/sanitizer.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/uint64.h"
#include "mem/uses.h"

#ifdef SANITIZER_POISONS
#include <sanitizer/asan_interface.h>
#endif

#define PIECE_BYTES UINT64_C(4096)

// A place among the counts of clocks. The first is that of NULL, for good.
struct slot {
    enum { SLOT_UNUSED, SLOT_LIVE, SLOT_DESTROYED } state;
    uint32_t number; // of the stream, in order of creation; NULL is 0
    struct stream *stream;
    struct clock clock; // of the last thing enqueued
};

struct mark { // of an event that was recorded
    struct event *event;
    struct clock clock;
};

struct sanitizer {
    struct device_ops ops; // first: the device points to it
    const struct device_ops *inner;

    pthread_mutex_t mutex; // over all that follows
    struct slot slots[SANITIZER_STREAMS_MAX];
    uint32_t streams; // known so far
    struct clock host;
    struct mark *marks;
    size_t mark_count, mark_capacity;
    struct uses uses;
    uint64_t findings;
    struct error first_finding;
};

static enum status check(struct device *device, struct error *error);

// NULL where none is attached.
static struct sanitizer *sanitizer_of(struct device *device)
{
    return device->ops->check == check ? (struct sanitizer *)device->ops : NULL;
}

// The same, locked.
static struct sanitizer *enter(struct device *device)
{
    struct sanitizer *sanitizer = sanitizer_of(device);
    if (sanitizer != NULL) {
        pthread_mutex_lock(&sanitizer->mutex);
    }
    return sanitizer;
}

static void leave(struct sanitizer *sanitizer)
{
    pthread_mutex_unlock(&sanitizer->mutex);
}

// Where the line of one more finding goes: only the first is kept.
static struct error *next_finding(struct sanitizer *sanitizer)
{
    return sanitizer->findings++ == 0 ? &sanitizer->first_finding : NULL;
}

static void note_full_host(struct sanitizer *sanitizer)
{
    error_set(next_finding(sanitizer), STATUS_ERROR, "stream sanitizer: out of host memory");
}

// Takes a slot in which the host's clock counts all, so that its counts go on from there.
static struct slot *add_stream(struct sanitizer *sanitizer, struct stream *stream)
{
    for (size_t i = 0; i < SANITIZER_STREAMS_MAX; i++) {
        struct slot *slot = &sanitizer->slots[i];
        if (slot->state != SLOT_LIVE && slot->clock.counts[i] <= sanitizer->host.counts[i]) {
            *slot = (struct slot){.state = SLOT_LIVE, .number = sanitizer->streams++, .stream = stream};
            return slot;
        }
    }
    error_set(next_finding(sanitizer), STATUS_ERROR, "stream sanitizer: more than %d streams at a time",
              SANITIZER_STREAMS_MAX);
    return NULL;
}

static struct slot *find_stream(struct sanitizer *sanitizer, const struct stream *stream)
{
    for (size_t i = 0; i < SANITIZER_STREAMS_MAX; i++) {
        if (sanitizer->slots[i].state == SLOT_LIVE && sanitizer->slots[i].stream == stream) {
            return &sanitizer->slots[i];
        }
    }
    return NULL;
}

// For something that is enqueued now. NULL where there are too many streams.
static struct slot *enqueue(struct sanitizer *sanitizer, struct stream *stream)
{
    struct slot *slot = find_stream(sanitizer, stream);
    slot = slot == NULL ? add_stream(sanitizer, stream) : slot;
    if (slot != NULL) {
        clock_join(&slot->clock, &sanitizer->host);
    }
    return slot;
}

static void count_one_more(const struct sanitizer *sanitizer, struct slot *slot)
{
    slot->clock.counts[slot - sanitizer->slots]++;
}

static struct mark *find_mark(struct sanitizer *sanitizer, const struct event *event)
{
    for (size_t i = 0; i < sanitizer->mark_count; i++) {
        if (sanitizer->marks[i].event == event) {
            return &sanitizer->marks[i];
        }
    }
    return NULL;
}

static struct mark *add_mark(struct sanitizer *sanitizer, struct event *event)
{
    if (sanitizer->mark_count == sanitizer->mark_capacity) {
        size_t capacity = 2 * sanitizer->mark_capacity + 64;
        struct mark *marks = realloc(sanitizer->marks, capacity * sizeof(*marks));
        if (marks == NULL) {
            note_full_host(sanitizer);
            return NULL;
        }
        sanitizer->marks = marks;
        sanitizer->mark_capacity = capacity;
    }
    struct mark *mark = &sanitizer->marks[sanitizer->mark_count++];
    *mark = (struct mark){.event = event};
    return mark;
}

#define NAME_MAX_BYTES 128

static const char *name_use(const struct use *use, char text[NAME_MAX_BYTES])
{
    if (use->place == NULL) {
        snprintf(text, NAME_MAX_BYTES, "free for any stream");
    } else if (use->stream == USE_BY_HOST) {
        snprintf(text, NAME_MAX_BYTES, "%s by the host", use->place);
    } else {
        snprintf(text, NAME_MAX_BYTES, "%.80s on stream %" PRIu32, use->place, use->stream);
    }
    return text;
}

static const char *name_bytes(const struct conflict *conflict, char text[NAME_MAX_BYTES])
{
    const struct owner *owner = &conflict->owner;
    uint64_t first = conflict->from - owner->block, last = conflict->to - 1 - owner->block;
    if (owner->state == OWNER_NONE) {
        snprintf(text, NAME_MAX_BYTES, "0x%" PRIx64 "..0x%" PRIx64 " of no block", first, last);
    } else {
        snprintf(text, NAME_MAX_BYTES, "%" PRIu64 "..%" PRIu64 " of block '%s'", first, last, owner->tag);
    }
    return text;
}

static void report(struct sanitizer *sanitizer, const struct use *use, const struct conflict *conflict)
{
    char now[NAME_MAX_BYTES], bytes[NAME_MAX_BYTES], before[NAME_MAX_BYTES];
    if (!conflict->found) {
        return;
    }
    name_use(use, now);
    name_bytes(conflict, bytes);
    name_use(&conflict->earlier, before);
    if (conflict->after_free) {
        error_set(next_finding(sanitizer), STATUS_ERROR, "stream sanitizer: %s %s bytes %s after %s", now, use->verb,
                  bytes, before);
    } else {
        error_set(next_finding(sanitizer), STATUS_ERROR,
                  "stream sanitizer: %s %s bytes %s, which %s %s without a dependency between the two", now, use->verb,
                  bytes, before, conflict->earlier.verb);
    }
}

// The use by the last thing that was enqueued.
static struct use last_use(const struct sanitizer *sanitizer, const struct slot *slot, bool writes, const char *place,
                           const char *verb)
{
    size_t i = (size_t)(slot - sanitizer->slots);
    return (struct use){place, verb, writes, slot->number, (uint32_t)i, slot->clock.counts[i]};
}

static void use_on(struct sanitizer *sanitizer, struct slot *slot, device_address address, uint64_t bytes, bool writes,
                   const char *place)
{
    count_one_more(sanitizer, slot);
    struct use use = last_use(sanitizer, slot, writes, place, writes ? "writes" : "reads");
    struct conflict conflict;
    uses_forget(&sanitizer->uses, &sanitizer->host);
    if (uses_add(&sanitizer->uses, address, bytes, &use, &slot->clock, &conflict)) {
        report(sanitizer, &use, &conflict);
    } else {
        note_full_host(sanitizer);
    }
}

void sanitizer_access(struct device *device, struct stream *stream, device_address address, uint64_t bytes, bool writes,
                      const char *place)
{
    struct sanitizer *sanitizer = enter(device);
    if (sanitizer == NULL) {
        return;
    }
    struct slot *slot = enqueue(sanitizer, stream);
    if (slot != NULL) {
        use_on(sanitizer, slot, address, bytes, writes, place);
    }
    leave(sanitizer);
}

static device_address address_of(const void *memory)
{
    return (device_address)(uintptr_t)memory;
}

// The host must have waited for whoever used the bytes.
static void use_by_host(struct sanitizer *sanitizer, device_address address, uint64_t bytes, const struct use *use)
{
    struct conflict conflict;
    uses_forget(&sanitizer->uses, &sanitizer->host);
    if (uses_add(&sanitizer->uses, address, bytes, use, &sanitizer->host, &conflict)) {
        report(sanitizer, use, &conflict);
    } else {
        note_full_host(sanitizer);
    }
}

void sanitizer_host_access(struct device *device, const void *memory, uint64_t bytes, bool writes, const char *place)
{
    struct sanitizer *sanitizer = enter(device);
    if (sanitizer == NULL) {
        return;
    }
    const struct use use = {
        .place = place, .verb = writes ? "writes" : "reads", .writes = writes, .stream = USE_BY_HOST};
    use_by_host(sanitizer, address_of(memory), bytes, &use);
    leave(sanitizer);
}

void sanitizer_block(struct device *device, device_address address, uint64_t bytes, const char *tag)
{
    struct sanitizer *sanitizer = enter(device);
    if (sanitizer == NULL) {
        return;
    }
    uses_forget(&sanitizer->uses, &sanitizer->host);
    if (!uses_begin_block(&sanitizer->uses, address, bytes, tag)) {
        note_full_host(sanitizer);
    }
    leave(sanitizer);
}

void sanitizer_block_freed(struct device *device, device_address address, struct stream *stream)
{
    struct sanitizer *sanitizer = enter(device);
    if (sanitizer == NULL) {
        return;
    }
    const struct slot *slot = stream == NULL ? NULL : enqueue(sanitizer, stream);
    if (slot == NULL) {
        uses_free_block(&sanitizer->uses, address);
    } else {
        struct use freed = last_use(sanitizer, slot, true, "free", "frees");
        struct conflict conflict;
        uses_free_block_after(&sanitizer->uses, address, &freed, &slot->clock, &conflict);
        report(sanitizer, &freed, &conflict);
    }
    leave(sanitizer);
}

void sanitizer_report(struct device *device, const char *format, ...)
{
    struct sanitizer *sanitizer = enter(device);
    if (sanitizer == NULL) {
        return;
    }
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    error_set(next_finding(sanitizer), STATUS_ERROR, "sanitizer: %s", text);
    leave(sanitizer);
}

uint64_t sanitizer_findings(struct device *device)
{
    struct sanitizer *sanitizer = enter(device);
    if (sanitizer == NULL) {
        return 0;
    }
    uint64_t findings = sanitizer->findings;
    leave(sanitizer);
    return findings;
}

uint64_t sanitizer_ranges(struct device *device)
{
    struct sanitizer *sanitizer = enter(device);
    if (sanitizer == NULL) {
        return 0;
    }
    uint64_t ranges = sanitizer->uses.count;
    leave(sanitizer);
    return ranges;
}

// The entries of the table. Each knows that a sanitizer is attached.

static void destroy(struct device *device)
{
    if (device != NULL) {
        sanitizer_detach(device);
        device->ops->destroy(device);
    }
}

static void release(struct device *device, device_address address, uint64_t bytes)
{
    struct sanitizer *sanitizer = enter(device);
    const struct use use = {.place = "release", .verb = "returns", .writes = true, .stream = USE_BY_HOST};
    use_by_host(sanitizer, address, bytes, &use);
    if (!uses_end_blocks(&sanitizer->uses, address, bytes)) {
        note_full_host(sanitizer);
    }
    leave(sanitizer);
    sanitizer->inner->release(device, address, bytes);
}

static enum status stream_create(struct device *device, struct stream **stream_p)
{
    enum status status = sanitizer_of(device)->inner->stream_create(device, stream_p);
    if (status == STATUS_OK) {
        struct sanitizer *sanitizer = enter(device);
        add_stream(sanitizer, *stream_p);
        leave(sanitizer);
    }
    return status;
}

static void stream_destroy(struct device *device, struct stream *stream)
{
    struct sanitizer *sanitizer = enter(device);
    struct slot *slot = stream == NULL ? NULL : find_stream(sanitizer, stream);
    if (slot != NULL) {
        slot->state = SLOT_DESTROYED;
    }
    leave(sanitizer);
    sanitizer->inner->stream_destroy(device, stream);
}

// The host has waited for what the clock counts.
static void host_follows(struct device *device, const struct clock *clock)
{
    struct sanitizer *sanitizer = enter(device);
    clock_join(&sanitizer->host, clock);
    leave(sanitizer);
}

static void stream_synchronize(struct device *device, struct stream *stream)
{
    struct sanitizer *sanitizer = enter(device);
    const struct slot *slot = enqueue(sanitizer, stream);
    const struct clock clock = slot == NULL ? (struct clock){0} : slot->clock;
    leave(sanitizer);
    sanitizer->inner->stream_synchronize(device, stream);
    host_follows(device, &clock);
}

static void synchronize(struct device *device)
{
    struct sanitizer *sanitizer = enter(device);
    struct clock clock = sanitizer->host;
    for (size_t i = 0; i < SANITIZER_STREAMS_MAX; i++) {
        clock_join(&clock, &sanitizer->slots[i].clock);
    }
    leave(sanitizer);
    sanitizer->inner->synchronize(device);
    host_follows(device, &clock);
}

static void event_destroy(struct device *device, struct event *event)
{
    struct sanitizer *sanitizer = enter(device);
    struct mark *mark = find_mark(sanitizer, event);
    if (mark != NULL) {
        *mark = sanitizer->marks[--sanitizer->mark_count];
    }
    leave(sanitizer);
    sanitizer->inner->event_destroy(device, event);
}

static void event_record(struct device *device, struct event *event, struct stream *stream)
{
    struct sanitizer *sanitizer = enter(device);
    const struct slot *slot = enqueue(sanitizer, stream);
    struct mark *mark = find_mark(sanitizer, event);
    mark = mark == NULL ? add_mark(sanitizer, event) : mark;
    if (slot != NULL && mark != NULL) {
        mark->clock = slot->clock;
    }
    leave(sanitizer);
    sanitizer->inner->event_record(device, event, stream);
}

static void event_wait(struct device *device, struct stream *stream, struct event *event)
{
    struct sanitizer *sanitizer = enter(device);
    struct slot *slot = enqueue(sanitizer, stream);
    const struct mark *mark = find_mark(sanitizer, event);
    if (slot != NULL && mark != NULL) {
        clock_join(&slot->clock, &mark->clock);
        count_one_more(sanitizer, slot); // a free that names the stream comes after the wait
    }
    leave(sanitizer);
    sanitizer->inner->event_wait(device, stream, event);
}

// What the event marks now. Asked before the device is: the event may be recorded again meanwhile.
static struct clock clock_of(struct sanitizer *sanitizer, const struct event *event)
{
    pthread_mutex_lock(&sanitizer->mutex);
    const struct mark *mark = find_mark(sanitizer, event);
    const struct clock clock = mark == NULL ? (struct clock){0} : mark->clock;
    leave(sanitizer);
    return clock;
}

static bool event_done(struct device *device, struct event *event)
{
    struct sanitizer *sanitizer = sanitizer_of(device);
    const struct clock clock = clock_of(sanitizer, event);
    bool done = sanitizer->inner->event_done(device, event);
    if (done) {
        host_follows(device, &clock);
    }
    return done;
}

static void event_synchronize(struct device *device, struct event *event)
{
    struct sanitizer *sanitizer = sanitizer_of(device);
    const struct clock clock = clock_of(sanitizer, event);
    sanitizer->inner->event_synchronize(device, event);
    host_follows(device, &clock);
}

static enum status check(struct device *device, struct error *error)
{
    enum status status = sanitizer_of(device)->inner->check(device, error);
    struct sanitizer *sanitizer = enter(device);
    if (status == STATUS_OK && sanitizer->findings > 0) {
        status = error_set(error, STATUS_ERROR, "%s", sanitizer->first_finding.text);
    }
    leave(sanitizer);
    return status;
}

static void copy_to_device(struct device *device, struct stream *stream, device_address to, const void *from,
                           uint64_t bytes)
{
    sanitizer_access(device, stream, address_of(from), bytes, false, "copy_to_device");
    sanitizer_access(device, stream, to, bytes, true, "copy_to_device");
    sanitizer_of(device)->inner->copy_to_device(device, stream, to, from, bytes);
}

static void copy_to_host(struct device *device, struct stream *stream, void *to, device_address from, uint64_t bytes)
{
    sanitizer_access(device, stream, from, bytes, false, "copy_to_host");
    sanitizer_access(device, stream, address_of(to), bytes, true, "copy_to_host");
    sanitizer_of(device)->inner->copy_to_host(device, stream, to, from, bytes);
}

static void fill_zero(struct device *device, struct stream *stream, device_address to, uint64_t bytes)
{
    sanitizer_access(device, stream, to, bytes, true, "fill_zero");
    sanitizer_of(device)->inner->fill_zero(device, stream, to, bytes);
}

// Before the device's own table, for what goes through it unchanged.
static struct device_ops table_before(const struct device_ops *inner, const struct device_ops *self)
{
    struct device_ops ops = *inner;
    ops.staging = inner->staging == inner ? self : inner->staging;
    ops.destroy = destroy;
    ops.release = release;
    ops.stream_create = stream_create;
    ops.stream_destroy = stream_destroy;
    ops.stream_synchronize = stream_synchronize;
    ops.synchronize = synchronize;
    ops.event_destroy = event_destroy;
    ops.event_record = event_record;
    ops.event_wait = event_wait;
    ops.event_done = event_done;
    ops.event_synchronize = event_synchronize;
    ops.check = check;
    ops.copy_to_device = copy_to_device;
    ops.copy_to_host = copy_to_host;
    ops.fill_zero = fill_zero;
    return ops;
}

enum status sanitizer_attach(struct device *device, struct error *error)
{
    assert(sanitizer_of(device) == NULL);
    struct sanitizer *sanitizer = calloc(1, sizeof(*sanitizer));
    if (sanitizer == NULL || !uses_init(&sanitizer->uses)) {
        free(sanitizer);
        return error_out_of_host_memory(error);
    }
    sanitizer->inner = device->ops;
    sanitizer->ops = table_before(device->ops, &sanitizer->ops);
    pthread_mutex_init(&sanitizer->mutex, NULL);
    add_stream(sanitizer, NULL);
    device->ops = &sanitizer->ops;
    return STATUS_OK;
}

void sanitizer_detach(struct device *device)
{
    struct sanitizer *sanitizer = sanitizer_of(device);
    if (sanitizer == NULL) {
        return;
    }
    device->ops = sanitizer->inner;
    uses_finish(&sanitizer->uses);
    free(sanitizer->marks);
    pthread_mutex_destroy(&sanitizer->mutex);
    free(sanitizer);
}

static const struct device_ops *own_ops(struct device *device)
{
    const struct sanitizer *sanitizer = sanitizer_of(device);
    return sanitizer == NULL ? device->ops : sanitizer->inner;
}

void sanitizer_fill(struct device *device, struct stream *stream, device_address address, uint64_t bytes, uint8_t byte)
{
    const struct device_ops *ops = own_ops(device);
    uint8_t pattern[PIECE_BYTES];
    memset(pattern, byte, sizeof(pattern));
    for (uint64_t done = 0; done < bytes; done += PIECE_BYTES) {
        ops->copy_to_device(device, stream, address + done, pattern, uint64_min(PIECE_BYTES, bytes - done));
    }
    ops->stream_synchronize(device, stream);
}

bool sanitizer_find_damage(struct device *device, struct stream *stream, device_address address, uint64_t bytes,
                           uint8_t byte, uint64_t *offset_p)
{
    const struct device_ops *ops = own_ops(device);
    uint8_t piece[PIECE_BYTES];
    for (uint64_t done = 0; done < bytes; done += PIECE_BYTES) {
        uint64_t length = uint64_min(PIECE_BYTES, bytes - done);
        ops->copy_to_host(device, stream, piece, address + done, length);
        ops->stream_synchronize(device, stream);
        for (uint64_t i = 0; i < length; i++) {
            if (piece[i] != byte) {
                *offset_p = done + i;
                return true;
            }
        }
    }
    return false;
}

void sanitizer_set_poison(struct device *device, device_address address, uint64_t bytes, bool poisoned)
{
#ifdef SANITIZER_POISONS
    void *pointer = device->ops->host_pointer(device, address);
    if (pointer != NULL) {
        (poisoned ? __asan_poison_memory_region : __asan_unpoison_memory_region)(pointer, bytes);
    }
#else
    (void)device, (void)address, (void)bytes, (void)poisoned;
#endif
}
