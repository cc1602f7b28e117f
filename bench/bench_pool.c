// SPDX-License-Identifier: Apache-2.0
//
// What one allocation and its release cost when the pool holds the memory already, beside PyTorch's rules and the C
// library on the same calls in the same run, and in a crowd of free blocks beside PyTorch's rules. The C library is
// told to keep what it is given back, as the pool does.
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "mem/pool.h"
#include "pytorch_rules.h"

#define ROUNDS       201 // the median counts
#define SINGLE_PAIRS 2000
#define SINGLE_BYTES (UINT64_C(1) << 20)
#define LIMIT_NS     100.0

// Free blocks of the two sizes of one class, each between live ones.
#define CROWD_FREE  ((size_t)50000)
#define CROWD_BYTES UINT64_C(16384)
#define CROWD_LIMIT 2.0 // times PyTorch's rules

// A training step's calls: forward, each of LAYERS keeps KEPT activations for backward and frees a temporary; backward
// takes two gradients for each activation, frees them, and frees the activation. Live at the peak: 200 and the
// temporaries.
#define LAYERS ((size_t)25)
#define KEPT   ((size_t)8)
#define LIVE   (LAYERS * KEPT + 2)
#define PAIRS  (LAYERS * (KEPT + 1) + 2 * LAYERS * KEPT)
#define CALLS  (2 * PAIRS)

struct call {
    uint64_t bytes; // 0: free
    size_t slot;
};

struct bench {
    struct device *device;
    struct stream *stream;
    struct mem_pool *pool;
    struct pytorch_rules *pytorch;
    struct call calls[CALLS];
    size_t call_count;
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

static void add_call(struct bench *bench, size_t slot, uint64_t bytes)
{
    bench->calls[bench->call_count++] = (struct call){.bytes = bytes, .slot = slot};
}

static void write_training_step(struct bench *bench)
{
    // Of one layer of a GPT: 4 sequences of 128 tokens, 768 channels, 12 heads, float32.
    const uint64_t row = UINT64_C(4) * 128 * 4, block = row * 768, scores = row * 12 * 128;
    const uint64_t kept[KEPT] = {block, row, 3 * block, row * 12, block, block, 4 * block, 4 * block};
    for (size_t layer = 0; layer < LAYERS; layer++) {
        for (size_t i = 0; i < KEPT; i++) {
            add_call(bench, layer * KEPT + i, kept[i]);
        }
        add_call(bench, LIVE - 2, scores);
        add_call(bench, LIVE - 2, 0);
    }
    for (size_t i = LAYERS * KEPT; i-- > 0;) {
        add_call(bench, LIVE - 2, kept[i % KEPT]);
        add_call(bench, LIVE - 1, kept[(i + 1) % KEPT]);
        add_call(bench, LIVE - 2, 0);
        add_call(bench, i, 0);
        add_call(bench, LIVE - 1, 0);
    }
    must(bench->call_count == CALLS, "the training step's count");
}

static device_address take(struct bench *bench, uint64_t bytes)
{
    device_address address;
    must(mem_pool_alloc(bench->pool, bytes, bench->stream, "block", &address) == STATUS_OK, "mem_pool_alloc");
    return address;
}

static void pool_single(struct bench *bench)
{
    for (size_t i = 0; i < SINGLE_PAIRS; i++) {
        mem_pool_free(bench->pool, take(bench, SINGLE_BYTES), bench->stream);
    }
}

static void pytorch_single(struct bench *bench)
{
    for (size_t i = 0; i < SINGLE_PAIRS; i++) {
        pytorch_rules_free(bench->pytorch, pytorch_rules_alloc(bench->pytorch, SINGLE_BYTES));
    }
}

static void pytorch_training(struct bench *bench)
{
    uint64_t live[LIVE];
    for (size_t i = 0; i < CALLS; i++) {
        const struct call *call = &bench->calls[i];
        if (call->bytes > 0) {
            live[call->slot] = pytorch_rules_alloc(bench->pytorch, call->bytes);
        } else {
            pytorch_rules_free(bench->pytorch, live[call->slot]);
        }
    }
}

static void pool_crowd(struct bench *bench)
{
    for (size_t i = 0; i < SINGLE_PAIRS; i++) {
        mem_pool_free(bench->pool, take(bench, CROWD_BYTES + i % 2 * MEM_POOL_ALIGNMENT), bench->stream);
    }
}

static void pytorch_crowd(struct bench *bench)
{
    for (size_t i = 0; i < SINGLE_PAIRS; i++) {
        uint64_t bytes = CROWD_BYTES + i % 2 * MEM_POOL_ALIGNMENT;
        pytorch_rules_free(bench->pytorch, pytorch_rules_alloc(bench->pytorch, bytes));
    }
}

static void heap_single(struct bench *bench)
{
    (void)bench;
    for (size_t i = 0; i < SINGLE_PAIRS; i++) {
        void *volatile block = malloc(SINGLE_BYTES);
        free(block);
    }
}

static void pool_training(struct bench *bench)
{
    device_address live[LIVE];
    for (size_t i = 0; i < CALLS; i++) {
        const struct call *call = &bench->calls[i];
        if (call->bytes > 0) {
            live[call->slot] = take(bench, call->bytes);
        } else {
            mem_pool_free(bench->pool, live[call->slot], bench->stream);
        }
    }
}

static void heap_training(struct bench *bench)
{
    void *live[LIVE];
    for (size_t i = 0; i < CALLS; i++) {
        const struct call *call = &bench->calls[i];
        if (call->bytes > 0) {
            live[call->slot] = malloc(call->bytes);
            must(live[call->slot] != NULL, "malloc");
        } else {
            free(live[call->slot]);
        }
    }
}

static double median_pair_ns(struct bench *bench, void (*round)(struct bench *), size_t pairs)
{
    double times[ROUNDS];
    round(bench);
    for (size_t i = 0; i < ROUNDS; i++) {
        double start = now_ns();
        round(bench);
        times[i] = (now_ns() - start) / (double)pairs;
    }
    qsort(times, ROUNDS, sizeof(times[0]), compare);
    return times[ROUNDS / 2];
}

// The first round commits the memory; after it the pool makes no device calls.
static double median_hit_ns(struct bench *bench, void (*round)(struct bench *), size_t pairs)
{
    struct mem_pool_stats before, after;
    round(bench);
    mem_pool_stats(bench->pool, &before);
    double median = median_pair_ns(bench, round, pairs);
    mem_pool_stats(bench->pool, &after);
    must(after.num_device_alloc == before.num_device_alloc && after.num_device_free == before.num_device_free,
         "staying on the hit path");
    return median;
}

// Leaves both allocators with a crowd of free blocks.
static void gather_crowd(struct bench *bench)
{
    static device_address pool[2 * CROWD_FREE];
    static uint64_t pytorch[2 * CROWD_FREE];
    for (size_t i = 0; i < 2 * CROWD_FREE; i++) {
        uint64_t bytes = CROWD_BYTES + i / 2 % 2 * MEM_POOL_ALIGNMENT;
        pool[i] = take(bench, bytes);
        pytorch[i] = pytorch_rules_alloc(bench->pytorch, bytes);
    }
    for (size_t i = 0; i < 2 * CROWD_FREE; i += 2) {
        mem_pool_free(bench->pool, pool[i], bench->stream);
        pytorch_rules_free(bench->pytorch, pytorch[i]);
    }
}

static void prepare(struct bench *bench)
{
    struct error error;
    const struct device_ops *ops = device_find("cpu");
    *bench = (struct bench){0};
    must(ops->create(&(struct device_config){.capacity_bytes = UINT64_C(2) << 30}, &bench->device, &error) == STATUS_OK,
         "device");
    must(ops->stream_create(bench->device, &bench->stream) == STATUS_OK, "stream");
    must(mem_pool_create(bench->device, 0, &bench->pool, &error) == STATUS_OK, "pool");
    bench->pytorch = pytorch_rules_create();
    must(mallopt(M_MMAP_MAX, 0) == 1 && mallopt(M_TRIM_THRESHOLD, -1) == 1, "mallopt");
    write_training_step(bench);
}

static void release(struct bench *bench)
{
    pytorch_rules_destroy(bench->pytorch);
    mem_pool_destroy(bench->pool);
    bench->device->ops->stream_destroy(bench->device, bench->stream);
    bench->device->ops->destroy(bench->device);
}

int main(void)
{
    struct bench bench;
    prepare(&bench);
    double single = median_hit_ns(&bench, pool_single, SINGLE_PAIRS);
    double training = median_hit_ns(&bench, pool_training, PAIRS);
    printf("allocation and release        pool   PyTorch's rules    malloc\n");
    printf("one block of 1 MiB       %6.1f ns         %6.1f ns   %6.1f ns\n", single,
           median_pair_ns(&bench, pytorch_single, SINGLE_PAIRS), median_pair_ns(&bench, heap_single, SINGLE_PAIRS));
    printf("training step, %zu live  %6.1f ns         %6.1f ns   %6.1f ns\n", LAYERS * KEPT, training,
           median_pair_ns(&bench, pytorch_training, PAIRS), median_pair_ns(&bench, heap_training, PAIRS));
    gather_crowd(&bench);
    double crowd = median_hit_ns(&bench, pool_crowd, SINGLE_PAIRS);
    double pytorch = median_pair_ns(&bench, pytorch_crowd, SINGLE_PAIRS);
    printf("%zu free beside it    %6.1f ns         %6.1f ns\n", CROWD_FREE, crowd, pytorch);
    release(&bench);
    return single < LIMIT_NS && training < LIMIT_NS && crowd < CROWD_LIMIT * pytorch ? EXIT_SUCCESS : EXIT_FAILURE;
}
