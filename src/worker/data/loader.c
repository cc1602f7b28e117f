// SPDX-License-Identifier: Apache-2.0
//
// Numbers n = 0, 1, 2, ... are given once each to the samples that are read, and number n uses slot n % slots. The ring
// holds the numbers [head, claimed); the sequence of positions that is expected now began with number `start`. When
// another sequence is expected, it begins with number `claimed`: a fill still in progress then finds its number below
// `start` and its sample is dropped.
//
// A slot is free, then filling while one thread writes it without the mutex, then full until loader_next copies it,
// then leaving until the copy has passed, whatever sequence is expected by then. A slot that is filling is left to its
// thread, so no two threads ever write one. Where a sample cannot be read, its slot and those after it in the thread's
// run are failed instead of full: loader_next reads them itself and so learns why.
#include "worker/data/loader.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "mem/clock.h"
#include "mem/sanitizer.h"
#include "mem/uint64.h"

#define RUN_MAX    16 // slots that a thread claims at a time
#define COPIES_MAX 64 // that are under way

enum slot { SLOT_FREE, SLOT_FILLING, SLOT_FULL, SLOT_FAILED, SLOT_LEAVING };

struct copy {
    struct event *passed;
    uint64_t first, length; // numbers
};

struct loader {
    struct loader_config config;
    uint64_t input_bytes, target_bytes; // of a sample
    uint64_t slots;
    uint64_t run;              // slots that a thread claims at most
    device_address staging[2]; // of inputs and targets
    uint8_t *inputs, *targets; // there, of all slots
    struct copy copies[COPIES_MAX];
    uint64_t copies_begun, copies_passed; // copy n is copies[n % COPIES_MAX]
    pthread_t *threads;
    uint64_t threads_started;
    uint64_t wait_ns;

    pthread_mutex_t mutex;         // over all that follows
    pthread_cond_t freed;          // threads wait for a slot to claim
    pthread_cond_t filled;         // loader_next waits for the head
    uint8_t *states;               // enum slot
    uint64_t head, claimed, start; // numbers
    uint64_t first, count, stride; // the sequence
    bool stop;
};

// True where the sequence has a position for this number.
static bool has_position(const struct loader *loader, uint64_t number)
{
    return loader->stride != 0 || number - loader->start < loader->count;
}

static uint64_t position_of(const struct loader *loader, uint64_t number)
{
    uint64_t place = number - loader->start;
    return loader->first + place / loader->count * loader->stride + place % loader->count;
}

// Drops what the ring holds and begins another sequence. With the mutex.
static void restart(struct loader *loader, uint64_t first, uint64_t count, uint64_t stride)
{
    for (uint64_t number = loader->head; number < loader->claimed; number++) {
        uint8_t *state = &loader->states[number % loader->slots];
        *state = *state == SLOT_FILLING ? SLOT_FILLING : SLOT_FREE;
    }
    loader->head = loader->start = loader->claimed;
    loader->first = first;
    loader->count = count;
    loader->stride = stride;
    pthread_cond_broadcast(&loader->freed);
}

// Claims a run of slots; answers its length, 0 where there is none. With the mutex.
static uint64_t claim(struct loader *loader, uint64_t positions[RUN_MAX])
{
    uint64_t length = 0;
    while (length < loader->run && has_position(loader, loader->claimed) &&
           loader->states[loader->claimed % loader->slots] == SLOT_FREE) {
        loader->states[loader->claimed % loader->slots] = SLOT_FILLING;
        positions[length++] = position_of(loader, loader->claimed++);
    }
    return length;
}

static uint64_t sample_at(const struct loader *loader, uint64_t position)
{
    return data_order(position, loader->config.set->samples, loader->config.seed, loader->config.shuffle);
}

// A NULL `error` drops the line.
static enum status fill(struct loader *loader, uint64_t number, uint64_t position, struct error *error)
{
    const struct data_set *set = loader->config.set;
    uint64_t slot = number % loader->slots;
    uint8_t *inputs = loader->inputs + slot * loader->input_bytes;
    uint8_t *targets = loader->targets + slot * loader->target_bytes;
    sanitizer_host_access(loader->config.device, inputs, loader->input_bytes, true, "loader");
    sanitizer_host_access(loader->config.device, targets, loader->target_bytes, true, "loader");
    if (loader->config.read_ms > 0) {
        usleep((useconds_t)(1000 * loader->config.read_ms));
    }
    return set->ops->read(set, sample_at(loader, position), inputs, (int32_t *)(void *)targets, error);
}

// Answers how many were read: all, or those before the one that failed.
static uint64_t fill_run(struct loader *loader, uint64_t number, uint64_t length, const uint64_t *positions)
{
    uint64_t filled = 0;
    while (filled < length && fill(loader, number + filled, positions[filled], NULL) == STATUS_OK) {
        filled++;
    }
    return filled;
}

// With the mutex.
static void finish_run(struct loader *loader, uint64_t number, uint64_t length, uint64_t filled)
{
    bool dropped = number < loader->start;
    for (uint64_t i = 0; i < length; i++) {
        uint8_t *state = &loader->states[(number + i) % loader->slots];
        *state = dropped ? SLOT_FREE : i < filled ? SLOT_FULL : SLOT_FAILED;
    }
    if (dropped) {
        pthread_cond_broadcast(&loader->freed);
    } else {
        pthread_cond_signal(&loader->filled);
    }
}

static void *read_ahead(void *argument)
{
    struct loader *loader = argument;
    uint64_t positions[RUN_MAX];
    pthread_mutex_lock(&loader->mutex);
    while (!loader->stop) {
        uint64_t number = loader->claimed, length = claim(loader, positions);
        if (length == 0) {
            pthread_cond_wait(&loader->freed, &loader->mutex);
            continue;
        }
        pthread_mutex_unlock(&loader->mutex);
        uint64_t filled = fill_run(loader, number, length, positions);
        pthread_mutex_lock(&loader->mutex);
        finish_run(loader, number, length, filled);
    }
    pthread_mutex_unlock(&loader->mutex);
    return NULL;
}

// The ring never holds more than one epoch: what it holds already is not worth reading again.
static uint64_t slots_for(const struct loader_config *config, uint64_t sample_bytes)
{
    uint64_t slots = uint64_min(config->prefetch_bytes / sample_bytes, config->set->samples);
    return slots > 0 ? slots : 1;
}

static enum status start_threads(struct loader *loader, struct error *error)
{
    while (loader->threads_started < loader->config.threads) {
        if (pthread_create(&loader->threads[loader->threads_started], NULL, read_ahead, loader) != 0) {
            return error_set(error, STATUS_ERROR, "cannot start thread %" PRIu64 " of data.threads %" PRIu32,
                             loader->threads_started + 1, loader->config.threads);
        }
        loader->threads_started++;
    }
    return STATUS_OK;
}

static bool stage(struct loader *loader, size_t part, uint64_t bytes, uint8_t **pointer_p)
{
    struct mem_pool *pool = loader->config.staging;
    if (mem_pool_hold(pool, bytes, NULL, "loader", &loader->staging[part]) != STATUS_OK) {
        return false;
    }
    *pointer_p = mem_pool_host_pointer(pool, loader->staging[part]);
    return true;
}

static void unstage(struct loader *loader)
{
    for (size_t part = 2; part-- > 0;) {
        mem_pool_free(loader->config.staging, loader->staging[part], NULL);
        loader->staging[part] = 0;
    }
}

// A ring of fewer slots where the host lacks memory for more and the config allows it.
static bool stage_ring(struct loader *loader)
{
    for (;; loader->slots /= 2) {
        if (stage(loader, 0, loader->slots * loader->input_bytes, &loader->inputs) &&
            stage(loader, 1, loader->slots * loader->target_bytes, &loader->targets)) {
            return true;
        }
        unstage(loader);
        if (!loader->config.shrinks || loader->slots == 1) {
            return false;
        }
    }
}

static bool make_events(struct loader *loader)
{
    struct device *device = loader->config.device;
    for (size_t i = 0; i < COPIES_MAX; i++) {
        if (device->ops->event_create(device, &loader->copies[i].passed) != STATUS_OK) {
            return false;
        }
    }
    return true;
}

enum status loader_create(const struct loader_config *config, struct loader **loader_p, struct error *error)
{
    assert(config->threads > 0);
    const struct data_shape *shape = &config->set->shape;
    struct loader *loader = calloc(1, sizeof(*loader));
    if (loader == NULL) {
        return error_out_of_host_memory(error);
    }
    loader->config = *config;
    loader->input_bytes = shape->input_count * 4;
    loader->target_bytes = shape->target_count * sizeof(int32_t);
    loader->slots = slots_for(config, loader->input_bytes + loader->target_bytes);
    bool staged = stage_ring(loader) && make_events(loader);
    loader->run = uint64_min(RUN_MAX, (loader->slots - 1) / config->threads + 1);
    loader->states = calloc(loader->slots, sizeof(*loader->states));
    loader->threads = calloc(config->threads, sizeof(*loader->threads));
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->freed, NULL);
    pthread_cond_init(&loader->filled, NULL);
    bool made = staged && loader->states != NULL && loader->threads != NULL;
    enum status status = made ? start_threads(loader, error)
                              : error_set(error, STATUS_ERROR,
                                          "out of host memory: %" PRIu64 " bytes to read %s; lower data.prefetch_bytes",
                                          loader_bytes(loader), loader->slots == 1 ? "a sample" : "ahead");
    if (status != STATUS_OK) {
        loader_destroy(loader);
        return status;
    }
    *loader_p = loader;
    return STATUS_OK;
}

// Waits for all copies.
static void release_events(struct loader *loader)
{
    struct device *device = loader->config.device;
    for (uint64_t i = loader->copies_passed; i < loader->copies_begun; i++) {
        device->ops->event_synchronize(device, loader->copies[i % COPIES_MAX].passed);
    }
    for (size_t i = 0; i < COPIES_MAX; i++) {
        if (loader->copies[i].passed != NULL) {
            device->ops->event_destroy(device, loader->copies[i].passed);
        }
    }
}

void loader_destroy(struct loader *loader)
{
    if (loader == NULL) {
        return;
    }
    pthread_mutex_lock(&loader->mutex);
    loader->stop = true;
    pthread_cond_broadcast(&loader->freed);
    pthread_mutex_unlock(&loader->mutex);
    for (uint64_t i = 0; i < loader->threads_started; i++) {
        pthread_join(loader->threads[i], NULL);
    }
    pthread_cond_destroy(&loader->filled);
    pthread_cond_destroy(&loader->freed);
    pthread_mutex_destroy(&loader->mutex);
    free(loader->threads);
    free(loader->states);
    release_events(loader);
    unstage(loader);
    free(loader);
}

void loader_expect(struct loader *loader, uint64_t first, uint64_t count, uint64_t stride)
{
    assert(count > 0);
    pthread_mutex_lock(&loader->mutex);
    bool goes_on = loader->count == count && loader->stride == stride && has_position(loader, loader->head) &&
                   position_of(loader, loader->head) == first;
    if (!goes_on) {
        restart(loader, first, count, stride);
    }
    pthread_mutex_unlock(&loader->mutex);
}

static bool is_tried(uint8_t state)
{
    return state == SLOT_FULL || state == SLOT_FAILED;
}

// Frees the slots of the oldest copy, which has passed. With the mutex.
static void free_copy(struct loader *loader)
{
    const struct copy *copy = &loader->copies[loader->copies_passed++ % COPIES_MAX];
    for (uint64_t i = 0; i < copy->length; i++) {
        loader->states[(copy->first + i) % loader->slots] = SLOT_FREE;
    }
    pthread_cond_broadcast(&loader->freed);
}

// With the mutex.
static void free_passed_copies(struct loader *loader)
{
    struct device *device = loader->config.device;
    while (loader->copies_passed < loader->copies_begun &&
           device->ops->event_done(device, loader->copies[loader->copies_passed % COPIES_MAX].passed)) {
        free_copy(loader);
    }
}

// With the mutex, which is released meanwhile.
static void wait_for_copy(struct loader *loader)
{
    struct device *device = loader->config.device;
    pthread_mutex_unlock(&loader->mutex);
    device->ops->event_synchronize(device, loader->copies[loader->copies_passed % COPIES_MAX].passed);
    pthread_mutex_lock(&loader->mutex);
    free_copy(loader);
}

// With the mutex, which is released meanwhile.
static void wait_for_head(struct loader *loader)
{
    const uint8_t *state = &loader->states[loader->head % loader->slots];
    if (is_tried(*state)) {
        return;
    }
    uint64_t start_ns = clock_ns();
    while (!is_tried(*state)) {
        if (*state == SLOT_LEAVING) {
            wait_for_copy(loader);
        } else {
            pthread_cond_wait(&loader->filled, &loader->mutex);
        }
    }
    loader->wait_ns += clock_ns() - start_ns;
}

// With the mutex.
static enum status fill_head(struct loader *loader, struct error *error)
{
    wait_for_head(loader);
    uint8_t *state = &loader->states[loader->head % loader->slots];
    enum status status = STATUS_OK;
    if (*state == SLOT_FAILED) {
        status = fill(loader, loader->head, position_of(loader, loader->head), error);
        *state = status == STATUS_OK ? SLOT_FULL : SLOT_FAILED;
    }
    return status;
}

// Full slots from the head on that lie side by side and hold successive positions, `count` at most. With the mutex.
static uint64_t full_run(const struct loader *loader, uint64_t count)
{
    uint64_t slot = loader->head % loader->slots, place = (loader->head - loader->start) % loader->count;
    uint64_t length_max = uint64_min(uint64_min(count, loader->slots - slot), loader->count - place), length = 0;
    while (length < length_max && loader->states[slot + length] == SLOT_FULL) {
        length++;
    }
    return length;
}

// Where the next of the samples asked for go, and bytes of each.
struct destination {
    device_address inputs, targets;
    uint64_t input_bytes, target_bytes;
};

// Enqueues copies of the first `row_bytes` of every `pitch_bytes`, to where they lie packed.
static void copy_rows(struct device *device, struct stream *stream, device_address to, const uint8_t *from,
                      uint64_t pitch_bytes, uint64_t row_bytes, uint64_t rows)
{
    if (row_bytes == pitch_bytes) {
        device->ops->copy_to_device(device, stream, to, from, rows * row_bytes);
        return;
    }
    for (uint64_t i = 0; i < rows; i++) {
        device->ops->copy_to_device(device, stream, to + i * row_bytes, from + i * pitch_bytes, row_bytes);
    }
}

// Enqueues the copies of a run of full slots. With the mutex, which is released meanwhile.
static void copy_run(struct loader *loader, struct stream *stream, uint64_t length, struct destination *to)
{
    struct device *device = loader->config.device;
    struct copy *copy = &loader->copies[loader->copies_begun % COPIES_MAX];
    uint64_t slot = loader->head % loader->slots;
    if (loader->copies_begun - loader->copies_passed == COPIES_MAX) {
        wait_for_copy(loader);
    }
    copy->first = loader->head;
    copy->length = length;
    for (uint64_t i = 0; i < length; i++) {
        loader->states[loader->head++ % loader->slots] = SLOT_LEAVING;
    }
    pthread_mutex_unlock(&loader->mutex);
    copy_rows(device, stream, to->inputs, loader->inputs + slot * loader->input_bytes, loader->input_bytes,
              to->input_bytes, length);
    copy_rows(device, stream, to->targets, loader->targets + slot * loader->target_bytes, loader->target_bytes,
              to->target_bytes, length);
    to->inputs += length * to->input_bytes;
    to->targets += length * to->target_bytes;
    device->ops->event_record(device, copy->passed, stream);
    pthread_mutex_lock(&loader->mutex);
    loader->copies_begun++;
    free_passed_copies(loader);
}

uint64_t loader_longest(const struct loader *loader, uint64_t first, uint64_t count)
{
    const struct data_set *set = loader->config.set;
    uint64_t longest = 0;
    if (set->ops->length == NULL) {
        return set->shape.target_count;
    }
    for (uint64_t i = 0; i < count; i++) {
        longest = uint64_max(longest, set->ops->length(set, sample_at(loader, first + i)));
    }
    return longest;
}

enum status loader_next(struct loader *loader, struct stream *stream, uint64_t first, uint64_t count, uint64_t length,
                        device_address inputs, device_address targets, struct error *error)
{
    uint64_t target_count = loader->config.set->shape.target_count;
    struct destination to = {
        .inputs = inputs,
        .targets = targets,
        .input_bytes = loader->input_bytes * length / target_count,
        .target_bytes = loader->target_bytes * length / target_count,
    };
    enum status status = STATUS_OK;
    uint64_t done = 0;
    pthread_mutex_lock(&loader->mutex);
    free_passed_copies(loader);
    while (done < count) {
        if (!has_position(loader, loader->head) || position_of(loader, loader->head) != first + done) {
            restart(loader, first + done, count - done, loader->stride);
        }
        status = fill_head(loader, error);
        if (status != STATUS_OK) {
            break;
        }
        uint64_t samples = full_run(loader, count - done);
        copy_run(loader, stream, samples, &to);
        done += samples;
    }
    pthread_mutex_unlock(&loader->mutex);
    return status;
}

uint64_t loader_wait_ns(const struct loader *loader)
{
    return loader->wait_ns;
}

uint64_t loader_bytes(const struct loader *loader)
{
    return loader->slots * (loader->input_bytes + loader->target_bytes);
}

uint64_t loader_staging_bytes(const struct loader_config *config)
{
    const struct data_shape *shape = &config->set->shape;
    uint64_t sample_bytes = 4 * (shape->input_count + shape->target_count);
    return slots_for(config, sample_bytes) * sample_bytes;
}
