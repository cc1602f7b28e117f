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

#include "worker/loader.h"

// A data set whose samples say which they are, and that notices two threads in one slot.

enum { INPUTS = 3, TARGETS = 2, POSITIONS_MAX = 1000 };

#define SAMPLE_BYTES (UINT64_C(4) * (INPUTS + TARGETS))
#define NO_SAMPLE    UINT64_MAX

struct fake_set {
    struct data_set set;
    atomic_uint reads, readers, readers_peak;
    uint64_t gate;           // the sample whose reading waits
    _Atomic uint64_t broken; // the sample whose reading fails
    sem_t reached, open;     // posted when the gate is reached; waited for there
};

static enum status fake_read(const struct data_set *set, uint64_t index, void *input, int32_t *targets,
                             struct error *error)
{
    struct fake_set *fake = (struct fake_set *)set; // a test may count in what the loader only reads
    int32_t *inputs = input;
    unsigned readers = atomic_fetch_add(&fake->readers, 1) + 1, peak = atomic_load(&fake->readers_peak);
    while (readers > peak && !atomic_compare_exchange_weak(&fake->readers_peak, &peak, readers)) {
    }
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
    fake->gate = NO_SAMPLE;
    atomic_store(&fake->broken, NO_SAMPLE);
    assert_int_equal(sem_init(&fake->reached, 0, 0), 0);
    assert_int_equal(sem_init(&fake->open, 0, 0), 0);
}

// A device as lazy as the contract allows: it copies when the stream is synchronised, not before.

enum { COPIES_MAX = 2 };

struct lazy_device {
    struct device device;
    struct {
        void *to;
        const void *from;
        uint64_t bytes;
    } copies[COPIES_MAX];
    size_t copies_count;
};

static void lazy_copy(struct device *device, struct stream *stream, device_address to, const void *from, uint64_t bytes)
{
    struct lazy_device *lazy = (struct lazy_device *)device;
    (void)stream;
    assert_true(lazy->copies_count < COPIES_MAX);
    lazy->copies[lazy->copies_count].to = (void *)(uintptr_t)to;
    lazy->copies[lazy->copies_count].from = from;
    lazy->copies[lazy->copies_count++].bytes = bytes;
}

static void lazy_synchronize(struct device *device, struct stream *stream)
{
    struct lazy_device *lazy = (struct lazy_device *)device;
    (void)stream;
    for (size_t i = 0; i < lazy->copies_count; i++) {
        memcpy(lazy->copies[i].to, lazy->copies[i].from, lazy->copies[i].bytes);
    }
    lazy->copies_count = 0;
}

static const struct device_ops lazy_ops = {
    .name = "lazy", .copy_to_device = lazy_copy, .stream_synchronize = lazy_synchronize};

static struct loader *make_loader(const struct fake_set *fake, bool shuffle, uint32_t threads, uint64_t slots)
{
    struct loader_config config = {
        .set = &fake->set, .seed = 9, .shuffle = shuffle, .threads = threads, .prefetch_bytes = slots * SAMPLE_BYTES};
    struct error error;
    struct loader *loader;
    assert_int_equal(loader_create(&config, &loader, &error), STATUS_OK);
    return loader;
}

// Asks for the positions; true when their samples arrive, every byte, and nothing beyond.
static bool next_is_right(struct loader *loader, const struct fake_set *fake, bool shuffle, uint64_t first,
                          uint64_t count)
{
    static int32_t inputs[POSITIONS_MAX + 1][INPUTS], targets[POSITIONS_MAX + 1][TARGETS];
    struct lazy_device lazy = {.device = {.ops = &lazy_ops}};
    assert_true(count <= POSITIONS_MAX);
    memset(inputs, 0x55, sizeof(inputs));
    memset(targets, 0x55, sizeof(targets));
    enum status status =
        loader_next(loader, &lazy.device, NULL, first, count, (uintptr_t)inputs, (uintptr_t)targets, NULL);
    bool right = status == STATUS_OK && lazy.copies_count == 0 && inputs[count][0] == 0x55555555 &&
                 targets[count][0] == 0x55555555;
    for (uint64_t i = 0; i < count; i++) {
        int32_t index = (int32_t)data_order(first + i, fake->set.samples, 9, shuffle);
        for (int32_t j = 0; j < INPUTS; j++) {
            right = right && inputs[i][j] == index * 10 + j;
        }
        for (int32_t j = 0; j < TARGETS; j++) {
            right = right && targets[i][j] == -index * 10 - j;
        }
    }
    return right;
}

#define assert_next(loader, fake, shuffle, first, count) assert_true(next_is_right(loader, fake, shuffle, first, count))

// Asks for the positions; one of their samples is broken.
static void assert_next_fails(struct loader *loader, uint64_t first, uint64_t count, uint64_t broken)
{
    static int32_t inputs[POSITIONS_MAX][INPUTS], targets[POSITIONS_MAX][TARGETS];
    struct lazy_device lazy = {.device = {.ops = &lazy_ops}};
    struct error error = {.text = ""};
    char line[64];
    snprintf(line, sizeof(line), "sample %d is broken", (int)broken);
    assert_int_equal(
        loader_next(loader, &lazy.device, NULL, first, count, (uintptr_t)inputs, (uintptr_t)targets, &error),
        STATUS_ERROR);
    assert_string_equal(error.text, line);
    assert_int_equal(lazy.copies_count, 0);
}

static void test_gives_exactly_the_positions_asked_for(void **state)
{
    (void)state;
    struct fake_set fake;
    fake_init(&fake, 100);
    for (uint32_t threads = 1; threads <= 4; threads++) {
        for (uint64_t slots = 1; slots <= 40; slots += 13) {
            for (int shuffle = 0; shuffle <= 1; shuffle++) {
                struct loader *loader = make_loader(&fake, shuffle, threads, slots);
                for (uint64_t step = 0; step < 10; step++) { // ranks of 16 samples in a batch of 64: over six epochs
                    loader_expect(loader, 64 * step + 32, 16, 64);
                    assert_next(loader, &fake, shuffle, 64 * step + 32, 10);
                    assert_next(loader, &fake, shuffle, 64 * step + 42, 6);
                }
                loader_destroy(loader);
            }
        }
    }
}

static void test_a_request_may_exceed_the_ring(void **state)
{
    (void)state;
    struct fake_set fake;
    fake_init(&fake, 5000);
    struct loader *loader = make_loader(&fake, true, 3, 7);
    loader_expect(loader, 100, POSITIONS_MAX, 0);
    assert_next(loader, &fake, true, 100, POSITIONS_MAX);
    loader_destroy(loader);
}

// What was read ahead is used: with one plan all along, no sample is read twice.
static void test_a_steady_plan_reads_each_sample_once(void **state)
{
    (void)state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    struct loader *loader = make_loader(&fake, true, 4, 64);
    for (uint64_t step = 0; step < 10; step++) {
        loader_expect(loader, 50 * step, 20, 50);
        assert_next(loader, &fake, true, 50 * step, 12);
        assert_next(loader, &fake, true, 50 * step + 12, 8);
    }
    loader_destroy(loader);
    assert_in_range(atomic_load(&fake.reads), 200, 200 + 64);
}

static void test_nothing_is_read_after_the_last_range(void **state)
{
    (void)state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    struct loader *loader = make_loader(&fake, true, 4, 64);
    loader_expect(loader, 5, 30, 0);
    assert_next(loader, &fake, true, 5, 30);
    loader_destroy(loader);
    assert_int_equal(atomic_load(&fake.reads), 30);
}

static void test_nothing_is_read_before_it_is_expected(void **state)
{
    (void)state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    loader_destroy(make_loader(&fake, true, 4, 64));
    assert_int_equal(atomic_load(&fake.reads), 0);
}

static void test_an_unexpected_request_is_served(void **state)
{
    (void)state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    struct loader *loader = make_loader(&fake, true, 2, 16);
    assert_next(loader, &fake, true, 700, 40); // nothing was expected at all
    loader_expect(loader, 0, 8, 32);
    assert_next(loader, &fake, true, 4, 8);  // in the middle of what was expected, and beyond it
    assert_next(loader, &fake, true, 4, 8);  // again
    assert_next(loader, &fake, true, 0, 0);  // nothing
    assert_next(loader, &fake, true, 12, 3); // goes on
    loader_expect(loader, 32, 8, 32);
    loader_expect(loader, 64, 8, 32);
    assert_next(loader, &fake, true, 64, 8);
    loader_destroy(loader);
}

static uint64_t random_below(uint64_t *state, uint64_t end)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (z ^ (z >> 31)) % end;
}

// Plans that change from step to step, cut at random, sometimes not what was announced.
static void run_random_plans(uint64_t seed)
{
    uint64_t random = seed, batch = 1 + random_below(&random, 100);
    bool shuffle = random_below(&random, 2);
    struct fake_set fake;
    fake_init(&fake, 1 + random_below(&random, 500));
    struct loader *loader =
        make_loader(&fake, shuffle, 1 + (uint32_t)random_below(&random, 4), 1 + random_below(&random, 80));
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
            part = 1 + random_below(&random, count - done);
            if (!next_is_right(loader, &fake, shuffle, batch * step + first + done, part)) {
                fail_msg("seed %llu, step %llu: wrong samples", (unsigned long long)seed, (unsigned long long)step);
            }
        }
    }
    loader_destroy(loader);
}

static void test_plans_that_change_get_their_samples(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        run_random_plans(seed);
    }
}

// A thread is held while it reads a sample of the old plan into the only slot. The new plan's sample must wait for the
// slot and not be mistaken for the old one.
static void test_a_fill_in_progress_is_dropped_with_its_plan(void **state)
{
    (void)state;
    for (uint32_t threads = 1; threads <= 4; threads++) {
        struct fake_set fake;
        fake_init(&fake, 1000);
        fake.gate = 3;
        struct loader *loader = make_loader(&fake, false, threads, 1);
        loader_expect(loader, 3, 1, 0);
        sem_wait(&fake.reached);
        loader_expect(loader, 50, 2, 0);
        sem_post(&fake.open);
        assert_next(loader, &fake, false, 50, 2);
        loader_destroy(loader);
        assert_int_equal(atomic_load(&fake.readers_peak), 1);
    }
}

// The same sample again: the dropped fill had the right content, but its plan is gone.
static void test_a_plan_that_comes_back_is_read_again(void **state)
{
    (void)state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    fake.gate = 3;
    struct loader *loader = make_loader(&fake, false, 2, 4);
    loader_expect(loader, 3, 1, 0);
    sem_wait(&fake.reached);
    loader_expect(loader, 50, 2, 0);
    loader_expect(loader, 3, 1, 0);
    sem_post(&fake.open);
    sem_post(&fake.open);
    assert_next(loader, &fake, false, 3, 1);
    loader_destroy(loader);
}

// The samples around it arrive; the broken one fails whenever it is asked for, until it can be read again.
static void test_a_sample_that_cannot_be_read_is_answered(void **state)
{
    (void)state;
    struct fake_set fake;
    fake_init(&fake, 100);
    for (uint32_t threads = 1; threads <= 4; threads++) {
        for (uint64_t slots = 1; slots <= 40; slots += 13) {
            for (uint64_t broken = 0; broken < 20; broken++) {
                struct loader *loader = make_loader(&fake, false, threads, slots);
                atomic_store(&fake.broken, broken);
                loader_expect(loader, 0, 20, 20);
                assert_next(loader, &fake, false, 0, broken);
                assert_next_fails(loader, broken, 1, broken);
                assert_next_fails(loader, broken, 20 - broken, broken);
                assert_next(loader, &fake, false, broken + 1, 30);
                assert_next_fails(loader, 0, 20, broken);
                atomic_store(&fake.broken, NO_SAMPLE);
                assert_next(loader, &fake, false, broken, 20);
                loader_destroy(loader);
            }
        }
    }
}

// Reading ahead fails, but then the plan changes.
static void test_a_failure_is_dropped_with_its_plan(void **state)
{
    (void)state;
    for (uint32_t threads = 1; threads <= 4; threads++) {
        for (uint64_t slots = 1; slots <= 4; slots++) {
            struct fake_set fake;
            fake_init(&fake, 1000);
            fake.gate = 3;
            atomic_store(&fake.broken, 3);
            struct loader *loader = make_loader(&fake, false, threads, slots);
            loader_expect(loader, 3, 5, 0);
            sem_wait(&fake.reached);
            if (slots % 2 == 0) { // with the reading in progress, else perhaps after it has failed
                loader_expect(loader, 50, 9, 0);
            }
            sem_post(&fake.open);
            assert_next(loader, &fake, false, 50, 9);
            loader_destroy(loader);
        }
    }
}

static void test_threads_read_at_the_same_time(void **state)
{
    (void)state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    fake.gate = 0;
    struct loader *loader = make_loader(&fake, false, 2, 2);
    loader_expect(loader, 0, 1, 1); // position 0 is held, position 1 is not
    sem_wait(&fake.reached);
    while (atomic_load(&fake.reads) == 0) { // ends only if the other thread goes on
        sched_yield();
    }
    sem_post(&fake.open);
    assert_next(loader, &fake, false, 0, 2);
    loader_destroy(loader);
}

static void test_destroy_while_threads_read(void **state)
{
    (void)state;
    for (uint32_t threads = 1; threads <= 4; threads++) {
        struct fake_set fake;
        fake_init(&fake, 1);
        fake.gate = 0;
        struct loader *loader = make_loader(&fake, false, threads, 1);
        loader_expect(loader, 0, 1, 1);
        sem_wait(&fake.reached);
        sem_post(&fake.open);
        loader_destroy(loader);
        assert_int_equal(atomic_load(&fake.readers), 0);
    }
    for (uint32_t round = 0; round < 200; round++) {
        struct fake_set fake;
        fake_init(&fake, 1000);
        struct loader *loader = make_loader(&fake, true, 4, 32);
        loader_expect(loader, 0, 100, 100);
        loader_destroy(loader);
        assert_int_equal(atomic_load(&fake.readers), 0);
    }
    loader_destroy(NULL);
}

static void test_staging_stays_within_its_bound(void **state)
{
    (void)state;
    struct fake_set fake;
    fake_init(&fake, 100);
    for (uint64_t bytes = 1; bytes < 200 * SAMPLE_BYTES; bytes += 7) {
        struct loader_config config = {.set = &fake.set, .threads = 1, .prefetch_bytes = bytes};
        struct error error;
        struct loader *loader;
        assert_int_equal(loader_create(&config, &loader, &error), STATUS_OK);
        uint64_t samples = bytes / SAMPLE_BYTES;
        samples = samples < 1 ? 1 : samples > 100 ? 100 : samples;
        assert_int_equal(loader_staging_bytes(loader), samples * SAMPLE_BYTES);
        loader_destroy(loader);
    }
}

// The threads fill the ring and no more until a sample is taken.
static void test_reading_ahead_stops_at_the_ring(void **state)
{
    (void)state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    fake.gate = 8;
    struct loader *loader = make_loader(&fake, false, 2, 8);
    loader_expect(loader, 0, 1, 1);
    while (atomic_load(&fake.reads) < 8) {
        sched_yield();
    }
    assert_int_equal(sem_trywait(&fake.reached), -1);
    assert_next(loader, &fake, false, 0, 1); // frees one slot, for sample 8
    sem_wait(&fake.reached);
    sem_post(&fake.open);
    loader_destroy(loader);
    assert_in_range(atomic_load(&fake.reads), 9, 9);
}

// With one slot the second sample cannot be there when the first has just been taken.
static void test_waiting_is_counted(void **state)
{
    (void)state;
    struct fake_set fake;
    fake_init(&fake, 1000);
    struct loader *loader = make_loader(&fake, true, 1, 1);
    assert_int_equal(loader_wait_ns(loader), 0);
    loader_expect(loader, 0, 2, 0);
    assert_next(loader, &fake, true, 0, 2);
    assert_true(loader_wait_ns(loader) > 0);
    loader_destroy(loader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gives_exactly_the_positions_asked_for),
        cmocka_unit_test(test_a_request_may_exceed_the_ring),
        cmocka_unit_test(test_a_steady_plan_reads_each_sample_once),
        cmocka_unit_test(test_nothing_is_read_after_the_last_range),
        cmocka_unit_test(test_nothing_is_read_before_it_is_expected),
        cmocka_unit_test(test_an_unexpected_request_is_served),
        cmocka_unit_test(test_plans_that_change_get_their_samples),
        cmocka_unit_test(test_a_fill_in_progress_is_dropped_with_its_plan),
        cmocka_unit_test(test_a_plan_that_comes_back_is_read_again),
        cmocka_unit_test(test_a_sample_that_cannot_be_read_is_answered),
        cmocka_unit_test(test_a_failure_is_dropped_with_its_plan),
        cmocka_unit_test(test_threads_read_at_the_same_time),
        cmocka_unit_test(test_destroy_while_threads_read),
        cmocka_unit_test(test_staging_stays_within_its_bound),
        cmocka_unit_test(test_reading_ahead_stops_at_the_ring),
        cmocka_unit_test(test_waiting_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
