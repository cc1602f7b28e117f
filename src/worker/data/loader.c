// SPDX-License-Identifier: Apache-2.0
//
// The positions that are expected have numbers 0, 1, 2, ..., and the next that loader_next is to give is the head's. A
// number that is ahead, which is one of a window from the head on, has a slot of the ring or none yet; threads give one
// to the lowest that has none. When another sequence is expected its numbers begin at 0, and slots whose positions are
// ahead there, too, go to their new numbers; the others are dropped.
//
// A slot is free, then filling while one thread writes it without the mutex, then full until loader_next copies it,
// then leaving until the copy has passed, whatever sequence is expected by then. A slot that is dropped while it is
// filling is left to its thread, so no two threads ever write one. Where a sample cannot be read, its slot is failed
// instead of full: loader_next reads it itself and so learns why.
//
// Free slots are taken as they lie side by side, so that most samples of a request are copied together. The window is
// no longer than the ring, so the head gets a slot once copies have passed and dropped slots are free.
#include "worker/data/loader.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/clock.h"
#include "mem/sanitizer.h"
#include "mem/uint64.h"

#define COPIES_MAX  64 // that are under way
#define RUN_MAX     16 // samples that are waited for together
#define STEPS_AHEAD 4  // whose samples are read ahead: with more of them a plan that changes has more to read anew
#define NONE        UINT64_MAX
#define READS       7 // the newest, whose times are kept

enum slot { SLOT_FREE, SLOT_FILLING, SLOT_DROPPED, SLOT_FULL, SLOT_FAILED, SLOT_LEAVING };

// As loader_expect says. All zero: none is expected.
struct sequence {
    uint64_t first, count, stride;
};

// What is read ahead.
struct order {
    struct sequence sequence;
    uint64_t window;     // numbers [head, head + window) are ahead, as far as the sequence has them
    uint64_t head, next; // numbers; none between the two lacks a slot
    uint64_t *slots;     // that of number n is slots[n % window], or NONE
};

struct copy {
    struct event *passed;
    uint64_t slot, length; // the first slot, and how many
};

struct loader {
    struct loader_config config;
    uint64_t input_bytes, target_bytes; // of a sample
    uint64_t slots;
    device_address staging[2]; // of inputs and targets
    uint8_t *inputs, *targets; // there, of all slots
    struct copy copies[COPIES_MAX];
    uint64_t copies_begun, copies_passed; // copy n is copies[n % COPIES_MAX]
    pthread_t *threads;
    uint64_t threads_started;
    uint64_t wait_ns;

    pthread_mutex_t mutex; // over all that follows
    pthread_cond_t wanted; // threads wait for a number and a slot for it
    pthread_cond_t filled; // loader_next waits for the head and those after it
    struct order order;
    uint64_t awaited;            // numbers from the head on; 0: nobody waits
    uint64_t *spare;             // slots for another order, all NONE
    uint8_t *states;             // enum slot
    uint64_t free_slots, cursor; // cursor: from where on the next free one is looked for
    uint64_t reads, read_ns[READS];
    bool stop;
};

// True where the sequence has a position for this number.
static bool has_position(const struct sequence *sequence, uint64_t number)
{
    return sequence->stride != 0 || number < sequence->count;
}

static uint64_t position_of(const struct sequence *sequence, uint64_t number)
{
    return sequence->first + number / sequence->count * sequence->stride + number % sequence->count;
}

// NONE where the sequence does not have the position.
static uint64_t number_of(const struct sequence *sequence, uint64_t position)
{
    uint64_t distance = position - sequence->first;
    uint64_t step = sequence->stride == 0 ? 0 : distance / sequence->stride;
    uint64_t place = distance - step * sequence->stride;
    return position < sequence->first || place >= sequence->count ? NONE : step * sequence->count + place;
}

// How many samples are read ahead for steps of `count`, where the ring has room: one at least for each thread.
static uint64_t samples_ahead(const struct loader_config *config, uint64_t count)
{
    return uint64_max(STEPS_AHEAD * count, config->threads);
}

// NONE never is.
static bool is_ahead(const struct order *order, uint64_t number)
{
    return number - order->head < order->window && has_position(&order->sequence, number);
}

// Of a number that is ahead.
static uint64_t *slot_of(const struct order *order, uint64_t number)
{
    return &order->slots[number % order->window];
}

// With the mutex.
static void free_slot(struct loader *loader, uint64_t slot)
{
    loader->states[slot] = SLOT_FREE;
    loader->free_slots++;
    pthread_cond_broadcast(&loader->wanted);
}

// With the mutex.
static void drop(struct loader *loader, uint64_t slot)
{
    if (loader->states[slot] == SLOT_FILLING) {
        loader->states[slot] = SLOT_DROPPED;
    } else {
        free_slot(loader, slot);
    }
}

// Gives the slot to the number that its position has now. With the mutex.
static void keep_or_drop(struct loader *loader, uint64_t slot, uint64_t position)
{
    uint64_t number = number_of(&loader->order.sequence, position);
    if (is_ahead(&loader->order, number)) {
        *slot_of(&loader->order, number) = slot;
    } else {
        drop(loader, slot);
    }
}

// Begins another sequence with what the ring has of it. With the mutex.
static void restart(struct loader *loader, struct sequence sequence)
{
    uint64_t window = sequence.stride == 0 ? sequence.count : samples_ahead(&loader->config, sequence.count);
    struct order old = loader->order;
    loader->order = (struct order){sequence, uint64_min(window, loader->slots), 0, 0, loader->spare};
    loader->spare = old.slots;
    for (uint64_t number = old.head; is_ahead(&old, number); number++) {
        uint64_t slot = *slot_of(&old, number);
        if (slot != NONE) {
            *slot_of(&old, number) = NONE;
            keep_or_drop(loader, slot, position_of(&old.sequence, number));
        }
    }
    pthread_cond_broadcast(&loader->wanted);
}

static uint64_t take_free_slot(struct loader *loader)
{
    while (loader->states[loader->cursor] != SLOT_FREE) {
        loader->cursor = loader->cursor + 1 < loader->slots ? loader->cursor + 1 : 0;
    }
    loader->free_slots--;
    return loader->cursor;
}

// A slot for the lowest number that lacks one; false: none lacks one, or none is free. With the mutex.
static bool claim(struct loader *loader, uint64_t *slot_p, uint64_t *position_p)
{
    struct order *order = &loader->order;
    while (is_ahead(order, order->next) && *slot_of(order, order->next) != NONE) {
        order->next++;
    }
    if (!is_ahead(order, order->next) || loader->free_slots == 0) {
        return false;
    }
    *slot_p = take_free_slot(loader);
    *position_p = position_of(&order->sequence, order->next);
    *slot_of(order, order->next) = *slot_p;
    loader->states[*slot_p] = SLOT_FILLING;
    return true;
}

static uint64_t sample_at(const struct loader *loader, uint64_t position)
{
    return data_order(position, loader->config.set->samples, loader->config.seed, loader->config.shuffle);
}

// A NULL `error` drops the line.
static enum status fill(struct loader *loader, uint64_t slot, uint64_t position, struct error *error)
{
    const struct data_set *set = loader->config.set;
    uint8_t *inputs = loader->inputs + slot * loader->input_bytes;
    uint8_t *targets = loader->targets + slot * loader->target_bytes;
    sanitizer_host_access(loader->config.device, inputs, loader->input_bytes, true, "loader");
    sanitizer_host_access(loader->config.device, targets, loader->target_bytes, true, "loader");
    if (loader->config.read_ms > 0) {
        usleep((useconds_t)(1000 * loader->config.read_ms));
    }
    return set->ops->read(set, sample_at(loader, position), inputs, (int32_t *)(void *)targets, error);
}

// With the mutex.
static bool is_tried(const struct loader *loader, uint64_t slot)
{
    return slot != NONE && (loader->states[slot] == SLOT_FULL || loader->states[slot] == SLOT_FAILED);
}

// Whether loader_next has what it waits for. With the mutex.
static bool is_run_tried(const struct loader *loader)
{
    uint64_t left = loader->awaited;
    while (left > 0 && is_tried(loader, *slot_of(&loader->order, loader->order.head + left - 1))) {
        left--;
    }
    return left == 0;
}

// With the mutex.
static void finish_fill(struct loader *loader, uint64_t slot, enum status status, uint64_t read_ns)
{
    loader->read_ns[loader->reads++ % READS] = read_ns;
    if (loader->states[slot] == SLOT_DROPPED) {
        free_slot(loader, slot);
    } else {
        loader->states[slot] = status == STATUS_OK ? SLOT_FULL : SLOT_FAILED;
        if (is_run_tried(loader)) {
            pthread_cond_signal(&loader->filled);
        }
    }
}

static void *read_ahead(void *argument)
{
    struct loader *loader = argument;
    uint64_t slot, position;
    pthread_mutex_lock(&loader->mutex);
    while (!loader->stop) {
        if (!claim(loader, &slot, &position)) {
            pthread_cond_signal(&loader->filled); // the rest of the run has no slot now
            pthread_cond_wait(&loader->wanted, &loader->mutex);
            continue;
        }
        pthread_mutex_unlock(&loader->mutex);
        uint64_t start_ns = clock_ns();
        enum status status = fill(loader, slot, position, NULL);
        uint64_t read_ns = clock_ns() - start_ns;
        pthread_mutex_lock(&loader->mutex);
        finish_fill(loader, slot, status, read_ns);
    }
    pthread_mutex_unlock(&loader->mutex);
    return NULL;
}

// The ring never holds more than what is read ahead of any share, nor than one epoch: what it holds already is not
// worth reading again.
static uint64_t slots_for(const struct loader_config *config, uint64_t sample_bytes)
{
    uint64_t slots = uint64_min(config->prefetch_bytes / sample_bytes, config->set->samples);
    if (config->batch > 0) {
        slots = uint64_min(slots, samples_ahead(config, config->batch));
    }
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

// All NONE; NULL without memory.
static uint64_t *make_slots(uint64_t count)
{
    uint64_t *slots = malloc(count * sizeof(*slots));
    for (uint64_t i = 0; slots != NULL && i < count; i++) {
        slots[i] = NONE;
    }
    return slots;
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
    loader->order.slots = make_slots(loader->slots);
    loader->spare = make_slots(loader->slots);
    loader->states = calloc(loader->slots, sizeof(*loader->states));
    loader->free_slots = loader->slots;
    loader->threads = calloc(config->threads, sizeof(*loader->threads));
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->wanted, NULL);
    pthread_cond_init(&loader->filled, NULL);
    bool made = staged && loader->order.slots != NULL && loader->spare != NULL && loader->states != NULL &&
                loader->threads != NULL;
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
    pthread_cond_broadcast(&loader->wanted);
    pthread_mutex_unlock(&loader->mutex);
    for (uint64_t i = 0; i < loader->threads_started; i++) {
        pthread_join(loader->threads[i], NULL);
    }
    pthread_cond_destroy(&loader->filled);
    pthread_cond_destroy(&loader->wanted);
    pthread_mutex_destroy(&loader->mutex);
    free(loader->threads);
    free(loader->states);
    free(loader->spare);
    free(loader->order.slots);
    release_events(loader);
    unstage(loader);
    free(loader);
}

static bool is_next(const struct order *order, uint64_t position)
{
    return has_position(&order->sequence, order->head) && position_of(&order->sequence, order->head) == position;
}

// Whether the sequence is what is expected already.
static bool goes_on(const struct order *order, const struct sequence *sequence)
{
    return order->sequence.count == sequence->count && order->sequence.stride == sequence->stride &&
           is_next(order, sequence->first) && order->head % sequence->count == 0;
}

void loader_expect(struct loader *loader, uint64_t first, uint64_t count, uint64_t stride)
{
    const struct sequence sequence = {first, count, stride};
    assert(count > 0 && (stride == 0 || count <= stride));
    pthread_mutex_lock(&loader->mutex);
    if (!goes_on(&loader->order, &sequence)) {
        restart(loader, sequence);
    }
    pthread_mutex_unlock(&loader->mutex);
}

// Frees the slots of the oldest copy, which has passed. With the mutex.
static void free_copy(struct loader *loader)
{
    const struct copy *copy = &loader->copies[loader->copies_passed++ % COPIES_MAX];
    for (uint64_t i = 0; i < copy->length; i++) {
        free_slot(loader, copy->slot + i);
    }
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

// With the mutex.
static uint64_t head_slot(const struct loader *loader)
{
    return *slot_of(&loader->order, loader->order.head);
}

// Whether the head waits for copies that are under way to free a slot. With the mutex.
static bool lacks_slots(const struct loader *loader)
{
    return head_slot(loader) == NONE && loader->free_slots == 0 && loader->copies_passed < loader->copies_begun;
}

// How many of `count` samples from the head on can be copied together at most. With the mutex.
static uint64_t run_max(const struct loader *loader, uint64_t count)
{
    const struct order *order = &loader->order;
    uint64_t left = order->sequence.count - order->head % order->sequence.count;
    return uint64_min(uint64_min(count, left), order->window);
}

// Of `count` that are asked for. With the mutex, which is released meanwhile.
static void wait_for_head(struct loader *loader, uint64_t count)
{
    if (is_tried(loader, head_slot(loader))) {
        return;
    }
    uint64_t start_ns = clock_ns();
    loader->awaited = uint64_min(run_max(loader, count), RUN_MAX);
    while (!is_tried(loader, head_slot(loader))) {
        if (lacks_slots(loader)) {
            wait_for_copy(loader);
        } else {
            pthread_cond_wait(&loader->filled, &loader->mutex);
        }
    }
    loader->awaited = 0;
    loader->wait_ns += clock_ns() - start_ns;
}

// With the mutex.
static enum status fill_head(struct loader *loader, struct error *error)
{
    const struct order *order = &loader->order;
    uint64_t slot = head_slot(loader);
    if (loader->states[slot] == SLOT_FULL) {
        return STATUS_OK;
    }
    enum status status = fill(loader, slot, position_of(&order->sequence, order->head), error);
    loader->states[slot] = status == STATUS_OK ? SLOT_FULL : SLOT_FAILED;
    return status;
}

// Full slots from the head's on that lie side by side and hold successive positions, `count` at most. With the mutex.
static uint64_t full_run(const struct loader *loader, uint64_t count)
{
    uint64_t slot = head_slot(loader), length_max = run_max(loader, count), length = 0;
    while (length < length_max && *slot_of(&loader->order, loader->order.head + length) == slot + length &&
           loader->states[slot + length] == SLOT_FULL) {
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

// The head's slot and those beside it are on their way. With the mutex.
static void leave(struct loader *loader, uint64_t slot, uint64_t length)
{
    struct order *order = &loader->order;
    for (uint64_t i = 0; i < length; i++) {
        loader->states[slot + i] = SLOT_LEAVING;
        *slot_of(order, order->head++) = NONE;
    }
    order->next = uint64_max(order->next, order->head);
    pthread_cond_broadcast(&loader->wanted);
}

// Enqueues the copies of a run of full slots. With the mutex, which is released meanwhile.
static void copy_run(struct loader *loader, struct stream *stream, uint64_t length, struct destination *to)
{
    struct device *device = loader->config.device;
    struct copy *copy = &loader->copies[loader->copies_begun % COPIES_MAX];
    uint64_t slot = head_slot(loader);
    if (loader->copies_begun - loader->copies_passed == COPIES_MAX) {
        wait_for_copy(loader);
    }
    copy->slot = slot;
    copy->length = length;
    leave(loader, slot, length);
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
        if (!is_next(&loader->order, first + done)) {
            restart(loader, (struct sequence){first + done, count - done, 0});
        }
        wait_for_head(loader, count - done);
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

static int compare(const void *a, const void *b)
{
    uint64_t first = *(const uint64_t *)a, second = *(const uint64_t *)b;
    return (first > second) - (first < second);
}

uint64_t loader_sample_ns(struct loader *loader)
{
    uint64_t read_ns[READS];
    pthread_mutex_lock(&loader->mutex);
    bool known = loader->reads >= READS;
    memcpy(read_ns, loader->read_ns, sizeof(read_ns));
    pthread_mutex_unlock(&loader->mutex);
    qsort(read_ns, READS, sizeof(read_ns[0]), compare);
    return known ? read_ns[READS / 2] / loader->config.threads : 0;
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
