// SPDX-License-Identifier: Apache-2.0
//
// bench_device [DEVICE [ROUNDS]]: what each call costs that the pool makes of a device, beside what it costs not to
// make one: the median of 101 rounds, by the host's clock. Memory that is committed is not touched. DEVICE is "cpu" or
// "cuda"; with a GPU `info` is cudaMemGetInfo, which commit and plain reserve ask first, and `usage` asks NVML.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "mem/pool.h"

#define ROUNDS       101
#define ROUNDS_MAX   10001
#define MOST         64 // granules in one call
#define POOL_PAIRS   1000
#define EVENTS       16
#define STAGED_BYTES (UINT64_C(2) << 20)

struct bench {
    struct device *device, *plain, *staging;
    struct stream *stream, *other;
    struct event *events[EVENTS];
    struct mem_pool *pool;
    uint64_t granule_bytes;
    uint64_t bytes;        // of the row
    device_address range;  // of MOST granules
    device_address taken;  // by the row
    device_address pooled; // the row's block
    size_t rounds;
};

// `before` and `after` make a round's beginning and undo what it did; they are not counted, and NULL does nothing.
struct row {
    const char *name;
    void (*before)(struct bench *), (*call)(struct bench *), (*after)(struct bench *);
    uint64_t calls;    // that `call` makes
    uint64_t granules; // of one call; 0: it has no size
};

static void must(bool held, const char *what)
{
    if (!held) {
        fprintf(stderr, "bench_device: %s failed\n", what);
        exit(EXIT_FAILURE);
    }
}

static double now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

// ---- The pool ----

static void pool_alloc(struct bench *bench)
{
    must(mem_pool_alloc(bench->pool, bench->bytes, bench->stream, "block", &bench->pooled) == STATUS_OK, "the pool");
}

static void pool_free(struct bench *bench)
{
    mem_pool_free(bench->pool, bench->pooled, bench->stream);
}

static void pool_pair(struct bench *bench)
{
    pool_alloc(bench);
    pool_free(bench);
}

static void pool_pairs(struct bench *bench)
{
    for (size_t i = 0; i < POOL_PAIRS; i++) {
        pool_pair(bench);
    }
}

static void pool_trim(struct bench *bench)
{
    must(mem_pool_trim(bench->pool, 0) == bench->bytes, "trimming");
}

static void pool_return(struct bench *bench)
{
    pool_free(bench);
    pool_trim(bench);
}

static void pool_headroom(struct bench *bench)
{
    must(mem_pool_headroom(bench->pool) > 0, "headroom");
}

// ---- Memory ----

static void reserve_of(struct bench *bench, struct device *device)
{
    must(device->ops->reserve(device, bench->bytes, &bench->taken) == STATUS_OK, "reserving");
}

static void reserve(struct bench *bench)
{
    reserve_of(bench, bench->device);
}

static void unreserve(struct bench *bench)
{
    bench->device->ops->unreserve(bench->device, bench->taken, bench->bytes);
}

static void commit(struct bench *bench)
{
    must(bench->device->ops->commit(bench->device, bench->range, bench->bytes) == STATUS_OK, "committing");
}

static void release(struct bench *bench)
{
    bench->device->ops->release(bench->device, bench->range, bench->bytes);
}

// As the pool takes a plain segment, and returns it.
static void plain_take(struct bench *bench)
{
    reserve_of(bench, bench->plain);
    must(bench->plain->ops->commit(bench->plain, bench->taken, bench->bytes) == STATUS_OK, "committing");
}

static void plain_give(struct bench *bench)
{
    bench->plain->ops->release(bench->plain, bench->taken, bench->bytes);
    bench->plain->ops->unreserve(bench->plain, bench->taken, bench->bytes);
}

static void staging_take(struct bench *bench)
{
    struct device *staging = bench->staging;
    must(staging->ops->reserve(staging, STAGED_BYTES, &bench->taken) == STATUS_OK &&
             staging->ops->commit(staging, bench->taken, STAGED_BYTES) == STATUS_OK,
         "staging memory");
}

static void staging_give(struct bench *bench)
{
    bench->staging->ops->release(bench->staging, bench->taken, STAGED_BYTES);
    bench->staging->ops->unreserve(bench->staging, bench->taken, STAGED_BYTES);
}

static void ask_info(struct bench *bench)
{
    struct device_info info;
    bench->device->ops->info(bench->device, &info);
}

static void ask_usage(struct bench *bench)
{
    struct device_usage usage;
    (void)device_ask_usage(bench->device, &usage);
}

// ---- Streams and events ----

static void create_event(struct bench *bench)
{
    struct event *event;
    must(bench->device->ops->event_create(bench->device, &event) == STATUS_OK, "an event");
    bench->device->ops->event_destroy(bench->device, event);
}

static void record(struct bench *bench)
{
    for (size_t i = 0; i < EVENTS; i++) {
        bench->device->ops->event_record(bench->device, bench->events[i], bench->stream);
    }
}

static void wait(struct bench *bench)
{
    for (size_t i = 0; i < EVENTS; i++) {
        bench->device->ops->event_wait(bench->device, bench->other, bench->events[i]);
    }
}

static void query(struct bench *bench)
{
    for (size_t i = 0; i < EVENTS; i++) {
        must(bench->device->ops->event_done(bench->device, bench->events[i]), "an event that is done");
    }
}

static void synchronize(struct bench *bench)
{
    bench->device->ops->synchronize(bench->device);
}

static void record_and_synchronize(struct bench *bench)
{
    record(bench);
    synchronize(bench);
}

static void synchronize_stream(struct bench *bench)
{
    bench->device->ops->stream_synchronize(bench->device, bench->stream);
}

// ---- The table ----

static const struct row rows[] = {
    {"pool: a hit, and its free", pool_pair, pool_pairs, pool_trim, POOL_PAIRS, 1},
    {"pool: a miss that grows", NULL, pool_alloc, pool_return, 1, 1},
    {"pool: a miss that grows", NULL, pool_alloc, pool_return, 1, 8},
    {"pool: trim", pool_pair, pool_trim, NULL, 1, 1},
    {"pool: trim", pool_pair, pool_trim, NULL, 1, 8},
    {"pool: headroom", NULL, pool_headroom, NULL, 1, 0},
    {"reserve", NULL, reserve, unreserve, 1, MOST},
    {"unreserve", reserve, unreserve, NULL, 1, MOST},
    {"commit", NULL, commit, release, 1, 1},
    {"commit", NULL, commit, release, 1, 8},
    {"commit", NULL, commit, release, 1, MOST},
    {"release", commit, release, NULL, 1, 1},
    {"release", commit, release, NULL, 1, 8},
    {"release", commit, release, NULL, 1, MOST},
    {"plain: reserve", NULL, plain_take, plain_give, 1, 1},
    {"plain: reserve", NULL, plain_take, plain_give, 1, 8},
    {"plain: reserve", NULL, plain_take, plain_give, 1, MOST},
    {"plain: unreserve", plain_take, plain_give, NULL, 1, 1},
    {"plain: unreserve", plain_take, plain_give, NULL, 1, 8},
    {"plain: unreserve", plain_take, plain_give, NULL, 1, MOST},
    {"staging: reserve 2 MiB", NULL, staging_take, staging_give, 1, 0},
    {"staging: unreserve 2 MiB", staging_take, staging_give, NULL, 1, 0},
    {"info", NULL, ask_info, NULL, 1, 0},
    {"usage", NULL, ask_usage, NULL, 1, 0},
    {"event: create and destroy", NULL, create_event, NULL, 1, 0},
    {"event: record", NULL, record, synchronize, EVENTS, 0},
    {"event: wait", record, wait, synchronize, EVENTS, 0},
    {"event: done", record_and_synchronize, query, NULL, EVENTS, 0},
    {"stream: synchronize, idle", synchronize, synchronize_stream, NULL, 1, 0},
};

static int compare(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static void run_if(void (*function)(struct bench *), struct bench *bench)
{
    if (function != NULL) {
        function(bench);
    }
}

// Of one call. The first round is not counted.
static double median_ns(struct bench *bench, const struct row *row)
{
    static double times[ROUNDS_MAX];
    bench->bytes = row->granules * bench->granule_bytes;
    for (size_t i = 0; i <= bench->rounds; i++) {
        run_if(row->before, bench);
        double start = now_ns();
        row->call(bench);
        double end = now_ns();
        run_if(row->after, bench);
        if (i > 0) {
            times[i - 1] = (end - start) / (double)row->calls;
        }
    }
    qsort(times, bench->rounds, sizeof(times[0]), compare);
    return times[bench->rounds / 2];
}

static void print_row(const struct row *row, double ns, double hit_ns)
{
    char granules[24] = "", each[32] = "";
    if (row->granules > 0) {
        snprintf(granules, sizeof(granules), "%" PRIu64, row->granules);
        snprintf(each, sizeof(each), "%.3f us", ns / 1000 / (double)row->granules);
    }
    printf("%-28s %8s %13.3f us %15s %13.1f\n", row->name, granules, ns / 1000, each, ns / hit_ns);
}

static struct device *open_device(const struct device_ops *ops, bool plain)
{
    const struct device_config config = {.capacity_bytes = UINT64_C(1) << 30, .sharers = 1, .plain = plain};
    struct error error = {0};
    struct device *device = NULL;
    if (ops->create(&config, &device, &error) != STATUS_OK) {
        fprintf(stderr, "bench_device: %s\n", error.text);
        exit(EXIT_FAILURE);
    }
    return device;
}

static void prepare(struct bench *bench, const struct device_ops *ops)
{
    bench->device = open_device(ops, false);
    bench->plain = open_device(ops, true);
    bench->staging = open_device(ops->staging, false);
    bench->granule_bytes = ops->granularity_bytes;
    must(!bench->device->plain, "a device with virtual memory");
    must(ops->stream_create(bench->device, &bench->stream) == STATUS_OK &&
             ops->stream_create(bench->device, &bench->other) == STATUS_OK,
         "streams");
    for (size_t i = 0; i < EVENTS; i++) {
        must(ops->event_create(bench->device, &bench->events[i]) == STATUS_OK, "events");
    }
    must(ops->reserve(bench->device, MOST * bench->granule_bytes, &bench->range) == STATUS_OK, "a range");
    must(mem_pool_create(bench->device, 0, &bench->pool, NULL) == STATUS_OK, "a pool");
}

static void finish(struct bench *bench, const struct device_ops *ops)
{
    struct error error = {0};
    must(ops->check(bench->device, &error) == STATUS_OK, error.text);
    mem_pool_destroy(bench->pool);
    ops->unreserve(bench->device, bench->range, MOST * bench->granule_bytes);
    for (size_t i = 0; i < EVENTS; i++) {
        ops->event_destroy(bench->device, bench->events[i]);
    }
    ops->stream_destroy(bench->device, bench->other);
    ops->stream_destroy(bench->device, bench->stream);
    ops->staging->destroy(bench->staging);
    ops->destroy(bench->plain);
    ops->destroy(bench->device);
}

int main(int argc, char **argv)
{
    const struct device_ops *ops = device_find(argc > 1 ? argv[1] : "cpu");
    struct bench bench = {.rounds = argc > 2 ? strtoul(argv[2], NULL, 10) : ROUNDS};
    char granule[MEM_SIZE_TEXT_MAX];
    if (ops == NULL || bench.rounds < 1 || bench.rounds > ROUNDS_MAX) {
        fprintf(stderr, "usage: bench_device [cpu|cuda [ROUNDS]], at most %d rounds, with a device that was built in\n",
                ROUNDS_MAX);
        return EXIT_FAILURE;
    }
    prepare(&bench, ops);
    printf("%s, granules of %s, the median of %zu rounds\n", ops->description(bench.device),
           mem_size_text(bench.granule_bytes, granule), bench.rounds);
    printf("%-28s %8s %16s %15s %13s\n", "call", "granules", "one call", "a granule", "in pool hits");
    double hit_ns = 0;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        double ns = median_ns(&bench, &rows[i]);
        hit_ns = i == 0 ? ns : hit_ns;
        print_row(&rows[i], ns, hit_ns);
    }
    finish(&bench, ops);
    return EXIT_SUCCESS;
}
