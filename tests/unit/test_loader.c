// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lazy_device.h"
#include "mem/sanitizer.h"
#include "random_bits.h"
#include "worker/data/loader.h"

// A data set whose samples say which they are, and that notices two threads in one slot.

enum { INPUTS = 3, TARGETS = 2, POSITIONS_MAX = 1000 };

#define SAMPLE_BYTES (UINT64_C(4) * (INPUTS + TARGETS))
#define NO_SAMPLE    UINT64_MAX

struct fake_set {
    struct data_set set;
    atomic_uint reads, readers, readers_peak;
    atomic_uint times[POSITIONS_MAX]; // that a sample was read, of the first
    atomic_uintptr_t lowest, end;     // of the memory that inputs were written to
    uint64_t gate;                    // the sample whose reading waits
    _Atomic uint64_t broken;          // the sample whose reading fails
    sem_t reached, open;              // posted when the gate is reached; waited for there
};

static void note_memory(struct fake_set *fake, const int32_t *inputs)
{
    uintptr_t first = (uintptr_t)inputs, end = (uintptr_t)(inputs + INPUTS);
    uintptr_t lowest = atomic_load(&fake->lowest), highest = atomic_load(&fake->end);
    while (first < lowest && !atomic_compare_exchange_weak(&fake->lowest, &lowest, first)) {
    }
    while (end > highest && !atomic_compare_exchange_weak(&fake->end, &highest, end)) {
    }
}

static enum status fake_read(const struct data_set *set, uint64_t index, void *input, int32_t *targets,
                             struct error *error)
{
    struct fake_set *fake = (struct fake_set *)set; // a test may count in what the loader only reads
    int32_t *inputs = input;
    unsigned readers = atomic_fetch_add(&fake->readers, 1) + 1, peak = atomic_load(&fake->readers_peak);
    while (readers > peak && !atomic_compare_exchange_weak(&fake->readers_peak, &peak, readers)) {
    }
    note_memory(fake, inputs);
    if (index == fake->gate) {
        sem_post(&fake->reached);
        sem_wait(&fake->open);
    }
    for (int32_t i = 0; i < INPUTS; i++) {
        inputs[i] = (int32_t)index * 10 + i;
    }
    for (int32_t i = 0; i < TARGETS; i++) {
        targets[i] = -(int32_t)index * 10 - i;
    }
    if (index < POSITIONS_MAX) {
        atomic_fetch_add(&fake->times[index], 1);
    }
    atomic_fetch_add(&fake->reads, 1);
    atomic_fetch_sub(&fake->readers, 1);
    if (index == atomic_load(&fake->broken)) {
        return error_set(error, STATUS_ERROR, "sample %d is broken", (int)index);
    }
    return STATUS_OK;
}

static void fake_init(struct fake_set *fake, uint64_t samples)
{
    static const struct data_ops ops = {.name = "fake", .read = fake_read};
    memset(fake, 0, sizeof(*fake));
    fake->set = (struct data_set){
        .ops = &ops,
        .shape = {.input = DATA_INPUT_TOKENS, .input_count = INPUTS, .target_count = TARGETS, .classes = 1},
        .samples = samples,
    };
    atomic_store(&fake->lowest, UINTPTR_MAX);
    fake->gate = NO_SAMPLE;
    atomic_store(&fake->broken, NO_SAMPLE);
    assert_int_equal(sem_init(&fake->reached, 0, 0), 0);
    assert_int_equal(sem_init(&fake->open, 0, 0), 0);
}

// What a loader needs around it: host memory for its ring, and a device that is as lazy as the test wants.
struct surroundings {
    struct lazy_device lazy;
    struct device *host;
    struct mem_pool *staging;
};

static int set_up(void **state, enum lazy_pace pace)
{
    struct surroundings *around = calloc(1, sizeof(*around));
    struct device_config config = {.capacity_bytes = 1 << 20};
    assert_non_null(around);
    lazy_device_init(&around->lazy, pace);
    assert_int_equal(sanitizer_attach(&around->lazy.device, NULL), STATUS_OK);
    assert_int_equal(device_find("cpu")->create(&config, &around->host, NULL), STATUS_OK);
    assert_int_equal(mem_pool_create(around->host, 0, &around->staging, NULL), STATUS_OK);
    *state = around;
    return 0;
}

static int set_up_when_forced(void **state)
{
    return set_up(state, LAZY_WHEN_FORCED);
}

static int set_up_when_asked(void **state)
{
    return set_up(state, LAZY_WHEN_ASKED);
}

static int set_up_at_once(void **state)
{
    return set_up(state, LAZY_AT_ONCE);
}

static uint64_t staged_bytes(const struct surroundings *around)
{
    struct mem_pool_stats stats;
    mem_pool_stats(around->staging, &stats);
    return stats.allocated_bytes.current;
}

static void assert_nothing_is_left(const struct surroundings *around)
{
    assert_int_equal(staged_bytes(around), 0);
    assert_int_equal(around->lazy.events, 0);
    assert_int_equal(around->lazy.wrong, 0);
}

// Every loader is gone.
static int tear_down(void **state)
{
    struct surroundings *around = *state;
    assert_nothing_is_left(around);
    assert_int_equal(sanitizer_findings(&around->lazy.device), 0);
    sanitizer_detach(&around->lazy.device);
    lazy_device_finish(&around->lazy);
    mem_pool_destroy(around->staging);
    around->host->ops->destroy(around->host);
    free(around);
    return 0;
}

static struct loader_config config_of(struct surroundings *around, const struct fake_set *fake, uint64_t slots)
{
    return (struct loader_config){
        .set = &fake->set,
        .device = &around->lazy.device,
        .staging = around->staging,
        .seed = 9,
        .threads = 1,
        .prefetch_bytes = slots * SAMPLE_BYTES,
    };
}

static struct loader *make_bounded_loader(struct surroundings *around, const struct fake_set *fake, bool shuffle,
                                          uint32_t threads, uint64_t prefetch_bytes)
{
    struct loader_config config = config_of(around, fake, 0);
    config.shuffle = shuffle;
    config.threads = threads;
    config.prefetch_bytes = prefetch_bytes;
    struct error error;
    struct loader *loader;
    assert_int_equal(loader_create(&config, &loader, &error), STATUS_OK);
    return loader;
}

static struct loader *make_loader(struct surroundings *around, const struct fake_set *fake, bool shuffle,
                                  uint32_t threads, uint64_t slots)
{
    return make_bounded_loader(around, fake, shuffle, threads, slots * SAMPLE_BYTES);
}

// Where one request's samples arrive. Room for one more than may be asked for.
struct arrivals {
    uint64_t first, count;
    uint64_t end; // of what was enqueued for it
    int32_t inputs[POSITIONS_MAX + 1][INPUTS], targets[POSITIONS_MAX + 1][TARGETS];
};

static void request(struct loader *loader, struct surroundings *around, uint64_t first, uint64_t count,
                    struct arrivals *arrivals)
{
    assert_true(count <= POSITIONS_MAX);
    memset(arrivals, 0x55, sizeof(*arrivals));
    arrivals->first = first;
    arrivals->count = count;
    assert_int_equal(loader_next(loader, lazy_stream(&around->lazy), first, count, TARGETS, (uintptr_t)arrivals->inputs,
                                 (uintptr_t)arrivals->targets, NULL),
                     STATUS_OK);
    arrivals->end = around->lazy.enqueued;
}

// True when they are the samples at their positions, every byte, and nothing beyond.
static bool arrived(const struct arrivals *arrivals, const struct fake_set *fake, bool shuffle)
{
    uint64_t count = arrivals->count;
    bool right = arrivals->inputs[count][0] == 0x55555555 && arrivals->targets[count][0] == 0x55555555;
    for (uint64_t i = 0; i < count; i++) {
        int32_t index = (int32_t)data_order(arrivals->first + i, fake->set.samples, 9, shuffle);
        for (int32_t j = 0; j < INPUTS; j++) {
            right = right && arrivals->inputs[i][j] == index * 10 + j;
        }
        for (int32_t j = 0; j < TARGETS; j++) {
            right = right && arrivals->targets[i][j] == -index * 10 - j;
        }
    }
    return right;
}

// Asks for the positions; true when their samples arrive, at the latest when the stream is synchronised.
static bool next_is_right(struct loader *loader, struct surroundings *around, const struct fake_set *fake, bool shuffle,
                          uint64_t first, uint64_t count)
{
    static struct arrivals arrivals;
    request(loader, around, first, count, &arrivals);
    lazy_synchronize(&around->lazy);
    return arrived(&arrivals, fake, shuffle);
}

// Waits for what was asked for some time ago.
static void land(struct surroundings *around, const struct arrivals *flight, const struct fake_set *fake, bool shuffle,
                 uint64_t seed)
{
    lazy_work(&around->lazy, flight->end > around->lazy.done ? flight->end : around->lazy.done);
    if (!arrived(flight, fake, shuffle)) {
        fail_msg("seed %llu: wrong samples at positions %llu..%llu", (unsigned long long)seed,
                 (unsigned long long)flight->first, (unsigned long long)(flight->first + flight->count - 1));
    }
}

#define assert_next(loader, around, fake, shuffle, first, count)                                                       \
    assert_true(next_is_right(loader, around, fake, shuffle, first, count))

// Asks for the positions; one of their samples is broken.
static void assert_next_fails(struct loader *loader, struct surroundings *around, uint64_t first, uint64_t count,
                              uint64_t broken)
{
    static struct arrivals arrivals;
    struct error error = {.text = ""};
    char line[64];
    snprintf(line, sizeof(line), "sample %d is broken", (int)broken);
    assert_int_equal(loader_next(loader, lazy_stream(&around->lazy), first, count, TARGETS, (uintptr_t)arrivals.inputs,
                                 (uintptr_t)arrivals.targets, &error),
                     STATUS_ERROR);
    assert_string_equal(error.text, line);
    lazy_synchronize(&around->lazy);
}

static void test_gives_exactly_the_positions_asked_for(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 100);
    for (uint32_t threads = 1; threads <= 4; threads++) {
        for (uint64_t slots = 1; slots <= 40; slots += 13) {
            for (int shuffle = 0; shuffle <= 1; shuffle++) {
                struct loader *loader = make_loader(around, &fake, shuffle, threads, slots);
                for (uint64_t step = 0; step < 10; step++) { // ranks of 16 samples in a batch of 64: over six epochs
                    loader_expect(loader, 64 * step + 32, 16, 64);
                    assert_next(loader, around, &fake, shuffle, 64 * step + 32, 10);
                    assert_next(loader, around, &fake, shuffle, 64 * step + 42, 6);
                }
                loader_destroy(loader);
            }
        }
    }
}

static void test_a_request_may_exceed_the_ring(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 5000);
    struct loader *loader = make_loader(around, &fake, true, 3, 7);
    loader_expect(loader, 100, POSITIONS_MAX, 0);
    assert_next(loader, around, &fake, true, 100, POSITIONS_MAX);
    loader_destroy(loader);
}

// What was read ahead is used: with one plan all along, no sample is read twice.
static void test_a_steady_plan_reads_each_sample_once(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    struct loader *loader = make_loader(around, &fake, true, 4, 64);
    for (uint64_t step = 0; step < 10; step++) {
        loader_expect(loader, 50 * step, 20, 50);
        assert_next(loader, around, &fake, true, 50 * step, 12);
        assert_next(loader, around, &fake, true, 50 * step + 12, 8);
    }
    loader_destroy(loader);
    assert_in_range(atomic_load(&fake.reads), 200, 200 + 64);
}

static void test_nothing_is_read_after_the_last_range(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    struct loader *loader = make_loader(around, &fake, true, 4, 64);
    loader_expect(loader, 5, 30, 0);
    assert_next(loader, around, &fake, true, 5, 30);
    loader_destroy(loader);
    assert_int_equal(atomic_load(&fake.reads), 30);
}

static void test_nothing_is_read_before_it_is_expected(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    loader_destroy(make_loader(around, &fake, true, 4, 64));
    assert_int_equal(atomic_load(&fake.reads), 0);
}

static void test_an_unexpected_request_is_served(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    struct loader *loader = make_loader(around, &fake, true, 2, 16);
    assert_next(loader, around, &fake, true, 700, 40); // nothing was expected at all
    loader_expect(loader, 0, 8, 32);
    assert_next(loader, around, &fake, true, 4, 8);  // in the middle of what was expected, and beyond it
    assert_next(loader, around, &fake, true, 4, 8);  // again
    assert_next(loader, around, &fake, true, 0, 0);  // nothing
    assert_next(loader, around, &fake, true, 12, 3); // goes on
    loader_expect(loader, 32, 8, 32);
    loader_expect(loader, 64, 8, 32);
    assert_next(loader, around, &fake, true, 64, 8);
    loader_destroy(loader);
}

static bool is_said_to_be_done(struct device *device, struct event *event)
{
    (void)device, (void)event;
    return true;
}

// Slots are taken for free although copies still read them.
static void test_a_slot_written_too_early_is_told(void **state)
{
    struct surroundings *around = *state;
    struct device *device = &around->lazy.device;
    struct fake_set fake;
    struct error error = {0};
    static struct arrivals arrivals;
    fake_init(&fake, 1000);
    ((struct device_ops *)device->ops)->event_done = is_said_to_be_done; // of the sanitizer's table, which is memory
    struct loader *loader = make_loader(around, &fake, false, 1, 4);
    loader_expect(loader, 0, 8, 0);
    request(loader, around, 0, 4, &arrivals);
    request(loader, around, 4, 4, &arrivals);
    assert_int_equal(device->ops->check(device, &error), STATUS_ERROR);
    assert_non_null(strstr(error.text, "sanitizer: loader by the host writes bytes 0x"));
    assert_non_null(strstr(error.text, ", which copy_to_device on stream 1 reads without a dependency"));
    lazy_synchronize(&around->lazy);
    loader_destroy(loader);
    sanitizer_detach(device);
    assert_int_equal(sanitizer_attach(device, NULL), STATUS_OK); // without findings
}

static uint64_t random_below(uint64_t *state, uint64_t end)
{
    return random_bits(state) % end;
}

// At no moment has the loader asked for more than its bound, or for one sample, and its threads stayed within that.
static void assert_kept_to(const struct surroundings *around, struct fake_set *fake, uint64_t prefetch_bytes)
{
    struct mem_pool_stats stats;
    uint64_t bytes = prefetch_bytes > SAMPLE_BYTES ? prefetch_bytes : SAMPLE_BYTES;
    mem_pool_stats(around->staging, &stats);
    assert_in_range(stats.requested_bytes.peak, SAMPLE_BYTES, bytes);
    assert_in_range(atomic_load(&fake->end) - atomic_load(&fake->lowest), 1, bytes / SAMPLE_BYTES * 4 * INPUTS);
}

enum { FLIGHTS = 8 };

// Plans that change from step to step, cut at random, sometimes not what was announced. Nobody waits for the copies
// until much later.
static void run_random_plans(struct surroundings *around, uint64_t seed)
{
    static struct arrivals flights[FLIGHTS];
    uint64_t random = seed, batch = 1 + random_below(&random, 100), requests = 0;
    bool shuffle = random_below(&random, 2);
    struct fake_set fake;
    fake_init(&fake, 1 + random_below(&random, 500));
    uint64_t prefetch_bytes = 1 + random_below(&random, 80 * SAMPLE_BYTES);
    struct loader *loader =
        make_bounded_loader(around, &fake, shuffle, 1 + (uint32_t)random_below(&random, 4), prefetch_bytes);
    uint64_t first = 0, count = batch;
    for (uint64_t step = 0; step < 40; step++) {
        if (random_below(&random, 2) == 0) {
            first = random_below(&random, batch);
            count = 1 + random_below(&random, batch - first);
        }
        if (random_below(&random, 8) > 0) {
            loader_expect(loader, batch * step + first, count, batch);
        }
        for (uint64_t done = 0, part; done < count; done += part) {
            struct arrivals *flight = &flights[requests % FLIGHTS];
            if (requests >= FLIGHTS) {
                land(around, flight, &fake, shuffle, seed);
            }
            part = 1 + random_below(&random, count - done);
            request(loader, around, batch * step + first + done, part, flight);
            requests++;
        }
    }
    loader_destroy(loader);
    assert_kept_to(around, &fake, prefetch_bytes);
    mem_pool_reset_peaks(around->staging);
    for (uint64_t i = 0; i < FLIGHTS && i < requests; i++) { // the loader has waited for them
        if (!arrived(&flights[i], &fake, shuffle)) {
            fail_msg("seed %llu: samples are missing at the end", (unsigned long long)seed);
        }
    }
}

static void test_plans_that_change_get_their_samples_within_the_bound(void **state)
{
    for (uint64_t seed = 1; seed <= 100; seed++) {
        run_random_plans(*state, seed);
    }
}

// A thread is held while it reads a sample of the old plan into the only slot. The new plan's sample must wait for the
// slot and not be mistaken for the old one.
static void test_a_fill_in_progress_is_dropped_with_its_plan(void **state)
{
    struct surroundings *around = *state;
    for (uint32_t threads = 1; threads <= 4; threads++) {
        struct fake_set fake;
        fake_init(&fake, 1000);
        fake.gate = 3;
        struct loader *loader = make_loader(around, &fake, false, threads, 1);
        loader_expect(loader, 3, 1, 0);
        sem_wait(&fake.reached);
        loader_expect(loader, 50, 2, 0);
        sem_post(&fake.open);
        assert_next(loader, around, &fake, false, 50, 2);
        loader_destroy(loader);
        assert_int_equal(atomic_load(&fake.readers_peak), 1);
    }
}

// The same sample again: the dropped fill had the right content, but its plan is gone.
static void test_a_plan_that_comes_back_is_read_again(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    fake.gate = 3;
    struct loader *loader = make_loader(around, &fake, false, 2, 4);
    loader_expect(loader, 3, 1, 0);
    sem_wait(&fake.reached);
    loader_expect(loader, 50, 2, 0);
    loader_expect(loader, 3, 1, 0);
    sem_post(&fake.open);
    sem_post(&fake.open);
    assert_next(loader, around, &fake, false, 3, 1);
    loader_destroy(loader);
}

// The samples around it arrive; the broken one fails whenever it is asked for, until it can be read again.
static void test_a_sample_that_cannot_be_read_is_answered(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 100);
    for (uint32_t threads = 1; threads <= 4; threads++) {
        for (uint64_t slots = 1; slots <= 40; slots += 13) {
            for (uint64_t broken = 0; broken < 20; broken++) {
                struct loader *loader = make_loader(around, &fake, false, threads, slots);
                atomic_store(&fake.broken, broken);
                loader_expect(loader, 0, 20, 20);
                assert_next(loader, around, &fake, false, 0, broken);
                assert_next_fails(loader, around, broken, 1, broken);
                assert_next_fails(loader, around, broken, 20 - broken, broken);
                assert_next(loader, around, &fake, false, broken + 1, 30);
                assert_next_fails(loader, around, 0, 20, broken);
                atomic_store(&fake.broken, NO_SAMPLE);
                assert_next(loader, around, &fake, false, broken, 20);
                loader_destroy(loader);
            }
        }
    }
}

// Reading ahead fails, but then the plan changes.
static void test_a_failure_is_dropped_with_its_plan(void **state)
{
    struct surroundings *around = *state;
    for (uint32_t threads = 1; threads <= 4; threads++) {
        for (uint64_t slots = 1; slots <= 4; slots++) {
            struct fake_set fake;
            fake_init(&fake, 1000);
            fake.gate = 3;
            atomic_store(&fake.broken, 3);
            struct loader *loader = make_loader(around, &fake, false, threads, slots);
            loader_expect(loader, 3, 5, 0);
            sem_wait(&fake.reached);
            if (slots % 2 == 0) { // with the reading in progress, else perhaps after it has failed
                loader_expect(loader, 50, 9, 0);
            }
            sem_post(&fake.open);
            assert_next(loader, around, &fake, false, 50, 9);
            loader_destroy(loader);
        }
    }
}

static void test_threads_read_at_the_same_time(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    fake.gate = 0;
    struct loader *loader = make_loader(around, &fake, false, 2, 2);
    loader_expect(loader, 0, 1, 1); // position 0 is held, position 1 is not
    sem_wait(&fake.reached);
    while (atomic_load(&fake.reads) == 0) { // ends only if the other thread goes on
        sched_yield();
    }
    sem_post(&fake.open);
    assert_next(loader, around, &fake, false, 0, 2);
    loader_destroy(loader);
}

static void test_destroy_while_threads_read(void **state)
{
    struct surroundings *around = *state;
    for (uint32_t threads = 1; threads <= 4; threads++) {
        struct fake_set fake;
        fake_init(&fake, 1);
        fake.gate = 0;
        struct loader *loader = make_loader(around, &fake, false, threads, 1);
        loader_expect(loader, 0, 1, 1);
        sem_wait(&fake.reached);
        sem_post(&fake.open);
        loader_destroy(loader);
        assert_int_equal(atomic_load(&fake.readers), 0);
    }
    for (uint32_t round = 0; round < 200; round++) {
        struct fake_set fake;
        fake_init(&fake, 1000);
        struct loader *loader = make_loader(around, &fake, true, 4, 32);
        loader_expect(loader, 0, 100, 100);
        loader_destroy(loader);
        assert_int_equal(atomic_load(&fake.readers), 0);
    }
    loader_destroy(NULL);
}

static void test_staging_stays_within_its_bound(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 100);
    for (uint64_t bytes = 1; bytes < 200 * SAMPLE_BYTES; bytes += 7) {
        struct loader_config config = config_of(around, &fake, 0);
        config.prefetch_bytes = bytes;
        struct error error;
        struct loader *loader;
        assert_int_equal(loader_create(&config, &loader, &error), STATUS_OK);
        uint64_t samples = bytes / SAMPLE_BYTES;
        samples = samples < 1 ? 1 : samples > 100 ? 100 : samples;
        assert_int_equal(loader_staging_bytes(&config), samples * SAMPLE_BYTES);
        assert_int_equal(staged_bytes(around),
                         mem_pool_block_bytes(4 * INPUTS * samples) + mem_pool_block_bytes(4 * TARGETS * samples));
        loader_destroy(loader);
    }
}

static void wait_for_reads(struct fake_set *fake, unsigned reads)
{
    while (atomic_load(&fake->reads) < reads) {
        sched_yield();
    }
}

// Unshuffled samples at positions [first, end) were read once, whatever was expected of them.
static void assert_read_once(struct fake_set *fake, uint64_t first, uint64_t end)
{
    for (uint64_t index = first; index < end; index++) {
        assert_int_equal(atomic_load(&fake->times[index]), 1);
    }
}

// Of four steps 20 samples each are read ahead, of which the new plan wants 15 each, and 10 others.
static void test_a_plan_that_moves_keeps_what_it_still_wants(void **state)
{
    struct surroundings *around = *state;
    for (uint64_t slots = 120; slots <= 400; slots += 140) {
        struct fake_set fake;
        fake_init(&fake, 1000);
        struct loader *loader = make_loader(around, &fake, false, 2, slots);
        loader_expect(loader, 20, 20, 100);
        wait_for_reads(&fake, 80);
        loader_expect(loader, 10, 25, 100);
        for (uint64_t step = 0; step < 4; step++) {
            assert_next(loader, around, &fake, false, 100 * step + 10, 12);
            assert_next(loader, around, &fake, false, 100 * step + 22, 13);
        }
        loader_destroy(loader);
        for (uint64_t step = 0; step < 4; step++) {
            assert_read_once(&fake, 100 * step + 10, 100 * step + 40);
        }
    }
}

// A sample that the new plan wants is in progress.
static void test_what_is_being_read_is_kept(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    fake.gate = 3;
    struct loader *loader = make_loader(around, &fake, false, 2, 8);
    loader_expect(loader, 3, 1, 0);
    sem_wait(&fake.reached);
    loader_expect(loader, 2, 4, 0);
    wait_for_reads(&fake, 3); // samples 2, 4 and 5
    sem_post(&fake.open);
    assert_next(loader, around, &fake, false, 2, 4);
    loader_destroy(loader);
    assert_read_once(&fake, 2, 6);
}

// A sample is given while the next is still being read.
static void test_a_sample_is_given_once_it_is_read(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    fake.gate = 1;
    struct loader *loader = make_loader(around, &fake, false, 1, 100);
    loader_expect(loader, 0, 20, 0);
    sem_wait(&fake.reached);
    assert_next(loader, around, &fake, false, 0, 1);
    sem_post(&fake.open);
    loader_destroy(loader);
}

// Of the old plan only the sample that is being read already.
static void test_a_new_plan_is_read_at_once(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    fake.gate = 0;
    struct loader *loader = make_loader(around, &fake, false, 1, 100);
    loader_expect(loader, 0, 20, 0);
    sem_wait(&fake.reached);
    loader_expect(loader, 500, 1, 0);
    sem_post(&fake.open);
    assert_next(loader, around, &fake, false, 500, 1);
    loader_destroy(loader);
    assert_int_equal(atomic_load(&fake.reads), 2);
}

// However long the ring is, the fifth step's samples wait until some of the first step's are asked for.
static void test_reading_ahead_stops_after_a_few_steps(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    fake.gate = 200;
    struct loader *loader = make_loader(around, &fake, false, 2, 400);
    loader_expect(loader, 0, 10, 50);
    wait_for_reads(&fake, 40);
    assert_int_equal(sem_trywait(&fake.reached), -1);
    assert_next(loader, around, &fake, false, 0, 1);
    sem_wait(&fake.reached);
    sem_post(&fake.open);
    loader_destroy(loader);
    assert_int_equal(atomic_load(&fake.reads), 41);
}

// Steps of one sample each are read by all threads at a time.
static void test_each_thread_reads_ahead(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    fake.gate = 0;
    struct loader *loader = make_loader(around, &fake, false, 8, 100);
    loader_expect(loader, 0, 1, 1);
    wait_for_reads(&fake, 7); // beside the one that is held
    sem_post(&fake.open);
    assert_next(loader, around, &fake, false, 0, 20);
    loader_destroy(loader);
}

static void test_staging_is_for_a_few_steps(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 100);
    struct loader_config config = config_of(around, &fake, 60);
    config.batch = 10;
    assert_int_equal(loader_staging_bytes(&config), 40 * SAMPLE_BYTES);
    config.threads = 50;
    assert_int_equal(loader_staging_bytes(&config), 50 * SAMPLE_BYTES);
    config.batch = 20;
    assert_int_equal(loader_staging_bytes(&config), 60 * SAMPLE_BYTES);
}

// The threads fill the ring and no more until a sample has left it.
static void test_reading_ahead_stops_at_the_ring(void **state)
{
    struct surroundings *around = *state;
    static struct arrivals arrivals;
    struct fake_set fake;
    fake_init(&fake, 1000);
    fake.gate = 8;
    struct loader *loader = make_loader(around, &fake, false, 2, 8);
    loader_expect(loader, 0, 2, 2);
    wait_for_reads(&fake, 8);
    assert_int_equal(sem_trywait(&fake.reached), -1);
    request(loader, around, 0, 1, &arrivals);
    if (around->lazy.pace == LAZY_WHEN_FORCED) {
        assert_int_equal(sem_trywait(&fake.reached), -1); // its slot is still being copied
    }
    lazy_synchronize(&around->lazy);
    assert_true(arrived(&arrivals, &fake, false));
    assert_next(loader, around, &fake, false, 1, 0); // notices that one slot is free, for sample 8
    sem_wait(&fake.reached);
    sem_post(&fake.open);
    loader_destroy(loader);
    assert_in_range(atomic_load(&fake.reads), 9, 9);
}

// Where the ring is long enough nobody waits for the stream; loader_destroy does.
static void test_copies_are_not_waited_for(void **state)
{
    struct surroundings *around = *state;
    static struct arrivals arrivals[3];
    struct fake_set fake;
    fake_init(&fake, 1000);
    struct loader *loader = make_loader(around, &fake, true, 3, 30);
    loader_expect(loader, 40, 30, 0);
    for (uint64_t i = 0; i < 3; i++) {
        request(loader, around, 40 + 10 * i, 10, &arrivals[i]);
    }
    if (around->lazy.pace == LAZY_WHEN_FORCED) {
        assert_int_equal(around->lazy.done, 0);
    }
    loader_destroy(loader);
    for (uint64_t i = 0; i < 3; i++) {
        assert_true(arrived(&arrivals[i], &fake, true));
    }
}

// Samples are on their way while their plan is dropped, and others that were read for it are not.
static void test_copies_outlast_their_plan(void **state)
{
    struct surroundings *around = *state;
    enum { PLANS = 20, SLOTS = 8 };
    static struct arrivals arrivals[PLANS];
    for (uint32_t threads = 1; threads <= 4; threads++) {
        struct fake_set fake;
        fake_init(&fake, 1000);
        struct loader *loader = make_loader(around, &fake, false, threads, SLOTS);
        for (uint64_t plan = 0; plan < PLANS; plan++) {
            loader_expect(loader, 30 * plan, SLOTS, 0);
            request(loader, around, 30 * plan, 1 + plan % 3, &arrivals[plan]);
        }
        loader_destroy(loader);
        for (uint64_t plan = 0; plan < PLANS; plan++) {
            assert_true(arrived(&arrivals[plan], &fake, false));
        }
    }
}

// More copies are under way than a loader keeps count of.
static void test_many_small_copies(void **state)
{
    struct surroundings *around = *state;
    enum { REQUESTS = 200 };
    static struct arrivals arrivals[REQUESTS];
    struct fake_set fake;
    fake_init(&fake, 1000);
    struct loader *loader = make_loader(around, &fake, true, 2, 256);
    loader_expect(loader, 0, REQUESTS, 0);
    for (uint64_t i = 0; i < REQUESTS; i++) {
        request(loader, around, i, 1, &arrivals[i]);
    }
    loader_destroy(loader);
    for (uint64_t i = 0; i < REQUESTS; i++) {
        assert_true(arrived(&arrivals[i], &fake, true));
    }
}

static void test_a_loader_that_cannot_be_made_leaves_nothing(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, UINT64_C(1) << 20);
    struct loader_config config = config_of(around, &fake, 1 << 20); // 20 MiB of the 1 MiB that there is
    struct loader *loader = NULL;
    struct error error = {.text = ""};
    assert_int_equal(loader_create(&config, &loader, &error), STATUS_ERROR);
    assert_string_equal(error.text, "out of host memory: 20971520 bytes to read ahead; lower data.prefetch_bytes");
    assert_nothing_is_left(around);

    config = config_of(around, &fake, 4);
    for (uint64_t events = 0; events <= 10; events++) {
        around->lazy.events_until = events;
        assert_int_equal(loader_create(&config, &loader, &error), STATUS_ERROR);
        assert_nothing_is_left(around);
    }
    assert_null(loader);
}

static void test_a_ring_shrinks_to_the_memory_that_there_is(void **state)
{
    struct surroundings *around = *state;
    struct arrivals arrivals;
    struct fake_set fake;
    fake_init(&fake, UINT64_C(1) << 20);
    struct loader_config config = config_of(around, &fake, 1 << 20);
    struct loader *loader = NULL;
    config.shrinks = true;
    assert_int_equal(loader_create(&config, &loader, NULL), STATUS_OK);
    loader_expect(loader, 0, 1000, 0);
    request(loader, around, 0, 1, &arrivals);
    loader_destroy(loader);
    assert_true(arrived(&arrivals, &fake, config.shuffle));
    assert_nothing_is_left(around);
}

// With one slot the second sample cannot be there when the first has just been taken.
static void test_waiting_is_counted(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    struct loader *loader = make_loader(around, &fake, true, 1, 1);
    assert_int_equal(loader_wait_ns(loader), 0);
    loader_expect(loader, 0, 2, 0);
    assert_next(loader, around, &fake, true, 0, 2);
    assert_true(loader_wait_ns(loader) > 0);
    loader_destroy(loader);
}

// Two threads take turns; a read takes 2 ms at least.
static void test_reading_is_timed(void **state)
{
    struct surroundings *around = *state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    struct loader_config config = config_of(around, &fake, 1 << 20);
    struct loader *loader = NULL;
    config.threads = 2;
    config.read_ms = 2;
    assert_int_equal(loader_create(&config, &loader, NULL), STATUS_OK);
    assert_int_equal(loader_sample_ns(loader), 0);
    loader_expect(loader, 0, 100, 0);
    assert_next(loader, around, &fake, config.shuffle, 0, 100);
    assert_in_range(loader_sample_ns(loader), 1000000, UINT64_MAX);
    loader_destroy(loader);
}

// Samples of different lengths.

enum { LONGEST = 6, RAGGED_MAX = 60 };

static uint64_t ragged_length(const struct data_set *set, uint64_t index)
{
    (void)set;
    return 1 + index * 5 % LONGEST;
}

static enum status ragged_read(const struct data_set *set, uint64_t index, void *input, int32_t *targets,
                               struct error *error)
{
    (void)error;
    int32_t *inputs = input, length = (int32_t)ragged_length(set, index);
    for (int32_t i = 0; i < LONGEST; i++) {
        inputs[i] = i < length ? (int32_t)index * 10 + i : 0;
        targets[i] = i < length ? -(int32_t)index * 10 - i : 1;
    }
    return STATUS_OK;
}

static const struct data_ops ragged_ops = {.name = "ragged", .length = ragged_length, .read = ragged_read};
static const struct data_set ragged = {
    .ops = &ragged_ops,
    .shape = {.input = DATA_INPUT_TOKENS, .input_count = LONGEST, .target_count = LONGEST, .classes = 1},
    .samples = 97,
};

struct ragged_arrivals {
    uint64_t first, count, length;
    int32_t inputs[RAGGED_MAX * LONGEST + 1], targets[RAGGED_MAX * LONGEST + 1];
};

// As long as the longest of them, or longer.
static void request_ragged(struct loader *loader, struct surroundings *around, uint64_t more,
                           struct ragged_arrivals *arrivals)
{
    uint64_t longest = loader_longest(loader, arrivals->first, arrivals->count);
    arrivals->length = longest + more < LONGEST ? longest + more : LONGEST;
    memset(arrivals->inputs, 0x55, sizeof(arrivals->inputs));
    memset(arrivals->targets, 0x55, sizeof(arrivals->targets));
    assert_int_equal(loader_next(loader, lazy_stream(&around->lazy), arrivals->first, arrivals->count, arrivals->length,
                                 (uintptr_t)arrivals->inputs, (uintptr_t)arrivals->targets, NULL),
                     STATUS_OK);
}

// Side by side, padded to the length, and nothing beyond; one of them has the length that was promised.
static void assert_ragged_arrived(const struct ragged_arrivals *arrivals, uint64_t more)
{
    uint64_t end = arrivals->count * arrivals->length, longest = 0;
    for (uint64_t i = 0; i < arrivals->count; i++) {
        int32_t inputs[LONGEST], targets[LONGEST];
        uint64_t index = data_order(arrivals->first + i, ragged.samples, 9, true);
        uint64_t length = ragged_length(&ragged, index);
        ragged_read(&ragged, index, inputs, targets, NULL);
        assert_memory_equal(&arrivals->inputs[i * arrivals->length], inputs, 4 * arrivals->length);
        assert_memory_equal(&arrivals->targets[i * arrivals->length], targets, 4 * arrivals->length);
        longest = length > longest ? length : longest;
    }
    assert_int_equal(arrivals->length, longest + more < LONGEST ? longest + more : LONGEST);
    assert_int_equal(arrivals->inputs[end], 0x55555555);
    assert_int_equal(arrivals->targets[end], 0x55555555);
}

// Micro-steps of different lengths, two of them in flight.
static void test_samples_of_different_lengths(void **state)
{
    static struct ragged_arrivals flights[2];
    struct surroundings *around = *state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        uint64_t random = seed, position = 0, more[2];
        struct loader_config config = {
            .set = &ragged,
            .device = &around->lazy.device,
            .staging = around->staging,
            .seed = 9,
            .shuffle = true,
            .threads = 1 + (uint32_t)random_below(&random, 3),
            .prefetch_bytes = (1 + random_below(&random, 80)) * 8 * LONGEST,
        };
        struct loader *loader;
        assert_int_equal(loader_create(&config, &loader, NULL), STATUS_OK);
        loader_expect(loader, 0, 1000, 0);
        for (uint64_t i = 0; i < 20; i++) {
            uint64_t other = (i + 1) % 2;
            flights[i % 2].first = position;
            flights[i % 2].count = 1 + random_below(&random, RAGGED_MAX);
            more[i % 2] = random_below(&random, 3);
            request_ragged(loader, around, more[i % 2], &flights[i % 2]);
            position += flights[i % 2].count;
            if (i > 0) {
                lazy_synchronize(&around->lazy);
                assert_ragged_arrived(&flights[other], more[other]);
            }
        }
        loader_destroy(loader);
    }
}

// The same on devices of every pace.
#define EACH_PACE(test)                                                                                                \
    {#test " when forced", test, set_up_when_forced, tear_down, NULL},                                                 \
        {#test " when asked", test, set_up_when_asked, tear_down, NULL},                                               \
    {                                                                                                                  \
#test " at once", test, set_up_at_once, tear_down, NULL                                                        \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        EACH_PACE(test_gives_exactly_the_positions_asked_for),
        EACH_PACE(test_a_request_may_exceed_the_ring),
        EACH_PACE(test_a_steady_plan_reads_each_sample_once),
        EACH_PACE(test_nothing_is_read_after_the_last_range),
        EACH_PACE(test_nothing_is_read_before_it_is_expected),
        EACH_PACE(test_an_unexpected_request_is_served),
        EACH_PACE(test_plans_that_change_get_their_samples_within_the_bound),
        EACH_PACE(test_a_fill_in_progress_is_dropped_with_its_plan),
        EACH_PACE(test_a_plan_that_comes_back_is_read_again),
        EACH_PACE(test_a_sample_that_cannot_be_read_is_answered),
        EACH_PACE(test_a_failure_is_dropped_with_its_plan),
        EACH_PACE(test_threads_read_at_the_same_time),
        EACH_PACE(test_destroy_while_threads_read),
        EACH_PACE(test_staging_stays_within_its_bound),
        EACH_PACE(test_a_plan_that_moves_keeps_what_it_still_wants),
        EACH_PACE(test_what_is_being_read_is_kept),
        EACH_PACE(test_a_sample_is_given_once_it_is_read),
        EACH_PACE(test_a_new_plan_is_read_at_once),
        EACH_PACE(test_reading_ahead_stops_after_a_few_steps),
        EACH_PACE(test_each_thread_reads_ahead),
        EACH_PACE(test_staging_is_for_a_few_steps),
        EACH_PACE(test_reading_ahead_stops_at_the_ring),
        EACH_PACE(test_copies_are_not_waited_for),
        EACH_PACE(test_copies_outlast_their_plan),
        EACH_PACE(test_many_small_copies),
        EACH_PACE(test_a_ring_shrinks_to_the_memory_that_there_is),
        EACH_PACE(test_a_loader_that_cannot_be_made_leaves_nothing),
        EACH_PACE(test_waiting_is_counted),
        EACH_PACE(test_reading_is_timed),
        EACH_PACE(test_samples_of_different_lengths),
        EACH_PACE(test_a_slot_written_too_early_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
