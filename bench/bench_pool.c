// SPDX-License-Identifier: Apache-2.0
//
// What one allocation and its release cost when the pool holds the memory already, beside the C library's on the same
// calls with sizes small enough that it does not go to the kernel. Fails when the pool takes 150 ns or more for one
// block taken and freed.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mem/pool.h"

#define ROUNDS   201 // the median counts
#define LIVE     200
#define PAIRS    2000 // in a round
#define LIMIT_NS 150.0

struct bench {
    struct device *device;
    struct stream *stream;
    struct mem_pool *pool;
    uint64_t sizes[PAIRS];
    uint64_t slots[PAIRS]; // which of the live blocks is replaced
};

static void must(bool held, const char *what)
{
    if (!held) {
        fprintf(stderr, "bench_pool: %s failed\n", what);
        exit(EXIT_FAILURE);
    }
}

static double now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static device_address take(struct bench *bench, uint64_t bytes)
{
    device_address address;
    must(mem_pool_alloc(bench->pool, bytes, bench->stream, "block", &address) == STATUS_OK, "mem_pool_alloc");
    return address;
}

static void give(struct bench *bench, device_address address)
{
    mem_pool_free(bench->pool, address, bench->stream);
}

// One block at a time.
static void pool_single(struct bench *bench)
{
    for (size_t i = 0; i < PAIRS; i++) {
        give(bench, take(bench, 1 << 20));
    }
}

static void heap_single(struct bench *bench)
{
    (void)bench;
    for (size_t i = 0; i < PAIRS; i++) {
        void *volatile block = malloc((1 << 20) / 64);
        free(block);
    }
}

// A free and an allocation of another size among LIVE blocks from 512 bytes to 4 MiB.
static void pool_mixed(struct bench *bench)
{
    device_address live[LIVE] = {0};
    for (size_t i = 0; i < PAIRS; i++) {
        size_t slot = bench->slots[i];
        give(bench, live[slot]);
        live[slot] = take(bench, bench->sizes[i]);
    }
    for (size_t i = 0; i < LIVE; i++) {
        give(bench, live[i]);
    }
}

static void heap_mixed(struct bench *bench)
{
    void *live[LIVE] = {0};
    for (size_t i = 0; i < PAIRS; i++) {
        size_t slot = bench->slots[i];
        free(live[slot]);
        live[slot] = malloc(bench->sizes[i] / 64);
    }
    for (size_t i = 0; i < LIVE; i++) {
        free(live[i]);
    }
}

static double median_pair_ns(struct bench *bench, void (*round)(struct bench *))
{
    double times[ROUNDS];
    round(bench);
    for (size_t i = 0; i < ROUNDS; i++) {
        double start = now_ns();
        round(bench);
        times[i] = (now_ns() - start) / PAIRS;
    }
    qsort(times, ROUNDS, sizeof(times[0]), compare);
    return times[ROUNDS / 2];
}

static void prepare(struct bench *bench)
{
    struct error error;
    const struct device_ops *ops = device_find("cpu");
    uint64_t state = 1;
    *bench = (struct bench){0};
    must(ops->create(&(struct device_config){.capacity_bytes = UINT64_C(4) << 30}, &bench->device, &error) == STATUS_OK,
         "device");
    must(ops->stream_create(bench->device, &bench->stream) == STATUS_OK, "stream");
    must(mem_pool_create(bench->device, 0, &bench->pool, &error) == STATUS_OK, "pool");
    for (size_t i = 0; i < PAIRS; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        bench->sizes[i] = UINT64_C(512) << (state >> 32) % 14;
        bench->slots[i] = (state >> 48) % LIVE;
    }
}

static void release(struct bench *bench)
{
    mem_pool_destroy(bench->pool);
    bench->device->ops->stream_destroy(bench->device, bench->stream);
    bench->device->ops->destroy(bench->device);
}

int main(void)
{
    struct bench bench;
    prepare(&bench);
    double single = median_pair_ns(&bench, pool_single), mixed = median_pair_ns(&bench, pool_mixed);
    printf("allocation and release     pool        malloc\n");
    printf("one block              %6.1f ns     %6.1f ns\n", single, median_pair_ns(&bench, heap_single));
    printf("among %d, mixed sizes %6.1f ns     %6.1f ns\n", LIVE, mixed, median_pair_ns(&bench, heap_mixed));
    release(&bench);
    return single < LIMIT_NS ? EXIT_SUCCESS : EXIT_FAILURE;
}
