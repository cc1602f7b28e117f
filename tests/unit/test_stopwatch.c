// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lazy_device.h"
#include "worker/stopwatch.h"

enum { LAPS = 64, MANY = 1000 };

struct bench {
    struct lazy_device lazy;
    struct stopwatch *stopwatch;
};

static void bench_init(struct bench *bench, enum lazy_pace pace)
{
    lazy_device_init(&bench->lazy, pace);
    bench->stopwatch = stopwatch_create(&bench->lazy.device);
    assert_non_null(bench->stopwatch);
}

static void bench_finish(struct bench *bench)
{
    stopwatch_destroy(bench->stopwatch);
    assert_int_equal(bench->lazy.events, 0);
    assert_int_equal(bench->lazy.wrong, 0);
    lazy_device_finish(&bench->lazy);
}

static void start(struct bench *bench)
{
    stopwatch_start(bench->stopwatch, lazy_stream(&bench->lazy));
}

static void stop(struct bench *bench, uint64_t samples)
{
    stopwatch_stop(bench->stopwatch, lazy_stream(&bench->lazy), samples, samples % 3);
}

// The device does all that was enqueued, each event 100 + its place's square nanoseconds after the one before.
static void let_time_pass(struct bench *bench)
{
    while (bench->lazy.done < bench->lazy.enqueued) {
        bench->lazy.clock_ns += 100 + bench->lazy.done * bench->lazy.done;
        lazy_work(&bench->lazy, bench->lazy.done + 1);
    }
}

static uint64_t duration_of_lap(uint64_t lap)
{
    uint64_t place = 2 * lap + 1; // of its end
    return 100 + place * place;
}

static void assert_read(struct bench *bench, uint64_t samples, uint64_t time_ns)
{
    struct lap lap;
    assert_true(stopwatch_read(bench->stopwatch, &lap));
    assert_int_equal(lap.samples, samples);
    assert_int_equal(lap.levers, samples % 3);
    assert_int_equal(lap.time_ns, time_ns);
}

static void assert_nothing_to_read(struct bench *bench)
{
    struct lap lap = {.samples = 7, .time_ns = 8};
    assert_false(stopwatch_read(bench->stopwatch, &lap));
    assert_int_equal(lap.samples, 7);
    assert_int_equal(lap.time_ns, 8);
}

static void test_laps_are_read_in_order_once_they_are_over(void **state)
{
    (void)state;
    struct bench bench;
    bench_init(&bench, LAZY_WHEN_FORCED);
    assert_nothing_to_read(&bench);
    start(&bench);
    assert_nothing_to_read(&bench);
    stop(&bench, 11);
    start(&bench);
    stop(&bench, 22);
    assert_nothing_to_read(&bench); // both are under way
    bench.lazy.clock_ns = 1000;
    lazy_work(&bench.lazy, 1);
    assert_nothing_to_read(&bench); // the first has begun
    bench.lazy.clock_ns = 1700;
    lazy_work(&bench.lazy, 3);
    assert_read(&bench, 11, 700);
    assert_nothing_to_read(&bench); // the second has begun
    bench.lazy.clock_ns = 1750;
    lazy_work(&bench.lazy, 4);
    assert_read(&bench, 22, 50);
    assert_nothing_to_read(&bench);
    bench_finish(&bench);
}

static void test_many_laps(void **state)
{
    (void)state;
    struct bench bench;
    bench_init(&bench, LAZY_WHEN_FORCED);
    for (uint64_t lap = 0, read = 0; lap < MANY; lap++) {
        start(&bench);
        stop(&bench, lap + 1);
        if (lap % 37 == 36 || lap + 1 == MANY) {
            let_time_pass(&bench);
            for (; read <= lap; read++) {
                assert_read(&bench, read + 1, duration_of_lap(read));
            }
            assert_nothing_to_read(&bench);
        }
    }
    bench_finish(&bench);
}

// Those that come when no lap is left are not measured; those before and after are, and nobody waits.
static void test_more_laps_than_it_has(void **state)
{
    (void)state;
    struct bench bench;
    bench_init(&bench, LAZY_WHEN_FORCED);
    for (uint64_t lap = 0; lap < MANY; lap++) {
        start(&bench);
        stop(&bench, lap + 1);
    }
    assert_int_equal(bench.lazy.done, 0);
    let_time_pass(&bench);
    for (uint64_t lap = 0; lap < LAPS; lap++) {
        assert_read(&bench, lap + 1, duration_of_lap(lap));
    }
    assert_nothing_to_read(&bench);
    uint64_t lap = bench.lazy.enqueued / 2;
    start(&bench);
    stop(&bench, 5);
    let_time_pass(&bench);
    assert_read(&bench, 5, duration_of_lap(lap));
    bench_finish(&bench);
}

// A lap whose begin was not marked is not measured, though one has become free before its end.
static void test_a_lap_becomes_free_in_between(void **state)
{
    (void)state;
    struct bench bench;
    bench_init(&bench, LAZY_WHEN_FORCED);
    for (uint64_t lap = 0; lap < LAPS; lap++) {
        start(&bench);
        stop(&bench, lap + 1);
    }
    start(&bench);
    let_time_pass(&bench);
    for (uint64_t lap = 0; lap < LAPS; lap++) {
        assert_read(&bench, lap + 1, duration_of_lap(lap));
    }
    stop(&bench, 1000);
    let_time_pass(&bench);
    assert_nothing_to_read(&bench);
    bench_finish(&bench);
}

static void test_on_the_cpu(void **state)
{
    (void)state;
    struct device_config config = {.capacity_bytes = 1 << 20};
    struct device *device;
    struct stream *stream;
    assert_int_equal(device_find("cpu")->create(&config, &device, NULL), STATUS_OK);
    assert_int_equal(device->ops->stream_create(device, &stream), STATUS_OK);
    struct stopwatch *stopwatch = stopwatch_create(device);
    assert_non_null(stopwatch);
    for (uint64_t lap = 1; lap <= 3; lap++) {
        struct lap read;
        stopwatch_start(stopwatch, stream);
        stopwatch_stop(stopwatch, stream, lap, 0);
        assert_true(stopwatch_read(stopwatch, &read));
        assert_int_equal(read.samples, lap);
        assert_true(read.time_ns < UINT64_C(1) << 40); // 18 minutes: the difference of two times, not one of them
    }
    stopwatch_destroy(stopwatch);
    device->ops->stream_destroy(device, stream);
    device->ops->destroy(device);
}

static void test_events_may_run_out(void **state)
{
    (void)state;
    struct lazy_device lazy;
    lazy_device_init(&lazy, LAZY_AT_ONCE);
    for (uint64_t events = 0; events < UINT64_C(2) * LAPS; events++) {
        lazy.events_until = events;
        assert_null(stopwatch_create(&lazy.device));
        assert_int_equal(lazy.events, 0);
    }
    lazy.events_until = UINT64_C(2) * LAPS;
    stopwatch_destroy(stopwatch_create(&lazy.device));
    stopwatch_destroy(NULL);
    assert_int_equal(lazy.events, 0);
    assert_int_equal(lazy.wrong, 0);
    lazy_device_finish(&lazy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_laps_are_read_in_order_once_they_are_over),
        cmocka_unit_test(test_many_laps),
        cmocka_unit_test(test_more_laps_than_it_has),
        cmocka_unit_test(test_a_lap_becomes_free_in_between),
        cmocka_unit_test(test_on_the_cpu),
        cmocka_unit_test(test_events_may_run_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
