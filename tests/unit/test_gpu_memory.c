// SPDX-License-Identifier: Apache-2.0
//
// A GPU's memory beside the CPU's, by the same calls: the same offsets, and as many bytes gone from the GPU as the pool
// says it holds. Where blocks lie in plain segments is not compared: the driver chooses the segments' addresses, and of
// equal blocks the pool takes the lowest. Ends with code 77 where there is no GPU.
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>

#include "mem/pool.h"
#include "model/price.h"
#include "random_bits.h"

#define MIB   (UINT64_C(1) << 20)
#define LIMIT (128 * MIB)

// What happened on a device, number by number.
struct record {
    uint64_t *numbers;
    size_t count, capacity;
};

static void note(struct record *record, uint64_t number)
{
    if (record->count == record->capacity) {
        record->capacity = 2 * record->capacity + 1024;
        record->numbers = realloc(record->numbers, record->capacity * sizeof(*record->numbers));
        assert_non_null(record->numbers);
    }
    record->numbers[record->count++] = number;
}

struct bench {
    struct device *device;
    struct device_ops ops; // the device's, but for the granule
    struct stream *streams[2];
    struct event *event;
    struct mem_pool *pool;
    device_address held, stepped; // where the pool's two ends begin
    struct record *record;
};

// The first block of each end is its beginning. What the device loads when it is first used, it loads here.
static void find_ends(struct bench *bench)
{
    assert_int_equal(mem_pool_hold(bench->pool, 1, NULL, "first", &bench->held), STATUS_OK);
    assert_int_equal(mem_pool_alloc(bench->pool, 1, NULL, "first", &bench->stepped), STATUS_OK);
    bench->ops.fill_zero(bench->device, bench->streams[0], bench->held, 1);
    bench->ops.stream_synchronize(bench->device, bench->streams[0]);
    mem_pool_free(bench->pool, bench->held, NULL);
    mem_pool_free(bench->pool, bench->stepped, NULL);
    mem_pool_trim(bench->pool, 0);
}

// `granule_bytes` 0: the device's own.
static void bench_init(struct bench *bench, const char *name, uint64_t granule_bytes, bool plain)
{
    const struct device_config config = {
        .capacity_bytes = LIMIT, .faulting_addresses = true, .sharers = 1, .plain = plain};
    struct error error = {0};
    *bench = (struct bench){.ops = *device_find(name)};
    if (bench->ops.create(&config, &bench->device, &error) != STATUS_OK) {
        fail_msg("%s", error.text);
    }
    bench->ops.granularity_bytes = granule_bytes == 0 ? bench->ops.granularity_bytes : granule_bytes;
    bench->device->ops = &bench->ops;
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(bench->ops.stream_create(bench->device, &bench->streams[i]), STATUS_OK);
    }
    assert_int_equal(bench->ops.event_create(bench->device, &bench->event), STATUS_OK);
    assert_int_equal(mem_pool_create(bench->device, LIMIT, &bench->pool, &error), STATUS_OK);
    find_ends(bench);
}

static void bench_finish(struct bench *bench)
{
    struct error error = {0};
    assert_true(mem_pool_check(bench->pool));
    mem_pool_destroy(bench->pool);
    if (bench->ops.check(bench->device, &error) != STATUS_OK) {
        fail_msg("%s", error.text);
    }
    bench->ops.event_destroy(bench->device, bench->event);
    for (size_t i = 0; i < 2; i++) {
        bench->ops.stream_destroy(bench->device, bench->streams[i]);
    }
    bench->ops.destroy(bench->device);
}

// Which end an address is in, and where.
static void note_address(struct bench *bench, device_address address)
{
    bool stepped = address - bench->stepped < LIMIT;
    note(bench->record, stepped);
    note(bench->record, address - (stepped ? bench->stepped : bench->held));
}

struct granules {
    uint64_t cpu, cuda;
};

// Plays it on both devices; what they note must be the same.
static void compare(void (*play)(struct bench *, const void *), const void *argument, struct granules granules)
{
    struct bench bench;
    struct record cpu = {0}, cuda = {0};
    bench_init(&bench, "cpu", granules.cpu, false);
    bench.record = &cpu;
    play(&bench, argument);
    bench_finish(&bench);
    bench_init(&bench, "cuda", granules.cuda, false);
    bench.record = &cuda;
    if (!bench.device->plain) { // the virtual machine may not have passed more of the GPU
        play(&bench, argument);
        for (size_t i = 0; i < cpu.count && i < cuda.count; i++) {
            if (cpu.numbers[i] != cuda.numbers[i]) {
                fail_msg("number %zu is %" PRIu64 " on the CPU and %" PRIu64 " on the GPU", i, cpu.numbers[i],
                         cuda.numbers[i]);
            }
        }
        assert_int_equal(cpu.count, cuda.count);
        printf("    %zu numbers are the same\n", cpu.count);
    } else {
        printf("    not compared: this GPU has no virtual memory\n");
    }
    bench_finish(&bench);
    free(cpu.numbers);
    free(cuda.numbers);
}

// Lists --------------------------------------------------------------------------------------------------------------

static const struct model_config models[] = {
    {.kind = MODEL_MLP, .mlp = {.sizes = {33, 500, 200, 10}, .count = 4, .activation = MODEL_RELU}},
    {.kind = MODEL_MLP, .mlp = {.sizes = {1024, 2048, 10}, .count = 3, .activation = MODEL_GELU}},
    {.kind = MODEL_GPT, .gpt = {.vocab_size = 65, .seq_len = 12, .blocks = 2, .heads = 4, .channels = 32}},
    {.kind = MODEL_GPT, .gpt = {.vocab_size = 1000, .seq_len = 128, .blocks = 3, .heads = 6, .channels = 96}},
};

#define SLOTS 2 // of inputs in a block; a worker on the CPU has one, and its locals begin so much earlier

static device_address take(struct bench *bench, bool stays, uint64_t bytes)
{
    device_address address;
    assert_int_equal((stays ? mem_pool_hold : mem_pool_alloc)(bench->pool, bytes, bench->streams[0], "list", &address),
                     STATUS_OK);
    note_address(bench, address);
    return address;
}

static void note_tensors(struct bench *bench, struct list_memory memory, const struct list *list,
                         struct price_book *book)
{
    device_address block = take(bench, false, price_list_bytes(book, list));
    memory.inputs = block + list->inputs_bytes; // the second slot
    memory.locals = block + SLOTS * list->inputs_bytes;
    for (tensor_id id = 0; id < (tensor_id)list->tensor_count; id++) {
        note_address(bench, list_address(list, &memory, id));
        note(bench->record, list_tensor_bytes(list, id));
    }
    mem_pool_free(bench->pool, block, bench->streams[0]);
}

static void note_model(struct bench *bench, const struct model_config *config)
{
    enum { RESTING = 7 };
    device_address resting[RESTING];
    struct model *model;
    assert_int_equal(model_create(config, &model, NULL), STATUS_OK);
    struct price_book *book = price_book_create(model, SLOTS);
    assert_non_null(book);
    // As a worker with AdamW holds it. One on the CPU holds no workspace, as its kernels need none: here it does, so
    // that what follows lies at the same place.
    uint64_t bytes = model->elements * sizeof(float), copy_bytes = model_copy_bytes(model);
    const uint64_t sizes[RESTING] = {
        bytes, copy_bytes, bytes, bytes, bytes, kernels_find("cuda", config->precision)->workspace_bytes, 64};
    for (size_t i = 0; i < RESTING; i++) {
        resting[i] = sizes[i] == 0 ? 0 : take(bench, true, sizes[i]);
    }
    const struct list_memory memory = {
        .parameters = resting[copy_bytes == 0 ? 0 : 1], .gradients = resting[2], .tally = resting[6]};
    static const size_t samples[] = {1, 3, 8};
    for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++) {
        struct model_shape shape = model_shape_max(model, samples[i]);
        for (; shape.length > 0; shape.length /= 3) {
            note_tensors(bench, memory, price_list(book, LIST_TRAIN, shape), book);
            note_tensors(bench, memory, price_list(book, LIST_EVALUATE, shape), book);
        }
    }
    for (size_t i = 0; i < RESTING; i++) {
        mem_pool_free(bench->pool, resting[i], bench->streams[0]);
    }
    price_book_destroy(book);
    model_destroy(model);
}

static void play_model(struct bench *bench, const void *argument)
{
    struct model_config config = *(const struct model_config *)argument;
    config.precision = KERNEL_FP32;
    note_model(bench, &config);
    config.precision = KERNEL_BF16;
    note_model(bench, &config);
}

static void test_tensors_have_the_cpu_s_offsets(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        compare(play_model, &models[i], (struct granules){0});
    }
}

// Calls --------------------------------------------------------------------------------------------------------------

enum { CALLS = 3000, BLOCKS = 120 };

struct play_block {
    device_address address; // 0: none
    struct stream *stream;  // that has used it
};

struct play {
    uint64_t seed;
    uint64_t bytes_max; // of a block
    bool trims;         // and lowers limits
};

static void play_take(struct bench *bench, const struct play *play, uint64_t *random, struct play_block *block)
{
    static const uint64_t kinds[] = {2000, 100000, 0};
    uint64_t most = kinds[random_bits(random) % 3],
             bytes = 1 + random_bits(random) % (most > 0 ? most : play->bytes_max);
    bool stays = random_bits(random) % 4 == 0;
    block->stream = bench->streams[random_bits(random) % 2];
    enum status status =
        (stays ? mem_pool_hold : mem_pool_alloc)(bench->pool, bytes, block->stream, "block", &block->address);
    note(bench->record, status);
    if (status == STATUS_OK) {
        note_address(bench, block->address);
        bench->ops.fill_zero(bench->device, block->stream, block->address, uint64_min(bytes, 4096)); // to be waited for
    }
}

// After either stream, which then comes after the one that has used it.
static void play_give(struct bench *bench, uint64_t *random, struct play_block *block)
{
    struct stream *stream = bench->streams[random_bits(random) % 2];
    if (stream != block->stream) {
        bench->ops.event_record(bench->device, bench->event, block->stream);
        bench->ops.event_wait(bench->device, stream, bench->event);
    }
    mem_pool_free(bench->pool, block->address, stream);
    block->address = 0;
}

static void play_calls(struct bench *bench, const void *argument)
{
    const struct play *play = argument;
    struct play_block blocks[BLOCKS] = {0};
    struct mem_pool_stats stats;
    uint64_t random = play->seed;
    for (size_t i = 0; i < CALLS; i++) {
        struct play_block *block = &blocks[random_bits(&random) % BLOCKS];
        uint64_t what = random_bits(&random) % 100;
        if (play->trims && what == 0) {
            note(bench->record, mem_pool_trim(bench->pool, random_bits(&random) % LIMIT));
        } else if (play->trims && what == 1) {
            mem_pool_set_soft_limit(bench->pool, LIMIT / 2 + random_bits(&random) % LIMIT);
        } else if (block->address != 0) {
            play_give(bench, &random, block);
        } else {
            play_take(bench, play, &random, block);
        }
        mem_pool_stats(bench->pool, &stats);
        if (play->trims) {
            note(bench->record, stats.reserved_bytes.current);
        }
    }
    assert_true(play->trims == (stats.num_ooms > 0)); // the limit was met
}

// With the same granule everything is the same: what is refused, taken over from another stream, and returned.
static void test_calls_have_the_cpu_s_offsets(void **state)
{
    (void)state;
    const uint64_t granule = device_find("cuda")->granularity_bytes;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        const struct play play = {.seed = seed, .bytes_max = 8 * MIB, .trims = true};
        compare(play_calls, &play, (struct granules){granule, granule});
    }
}

// Until the limit is met and where nothing is trimmed, whatever the granule.
static void test_offsets_do_not_depend_on_the_granule(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        const struct play play = {.seed = seed, .bytes_max = MIB};
        compare(play_calls, &play, (struct granules){0});
    }
}

// What the GPU says ---------------------------------------------------------------------------------------------------

static uint64_t free_bytes(void)
{
    size_t free = 0, total = 0;
    assert_int_equal(cudaMemGetInfo(&free, &total), cudaSuccess);
    return free;
}

// What the driver itself may take for so much memory, or cudaMalloc round up to: two granules, and a page table. The
// simulator takes nothing.
static uint64_t slack(const struct bench *bench, uint64_t bytes)
{
    return getenv("HEADROOM_SIMULATED") != NULL ? 0 : 2 * bench->ops.granularity_bytes + bytes / 256;
}

static void check_taken(const struct bench *bench, uint64_t before, const char *when)
{
    struct mem_pool_stats stats;
    struct device_info info;
    mem_pool_stats(bench->pool, &stats);
    bench->ops.info(bench->device, &info);
    uint64_t now = free_bytes(), reserved = stats.reserved_bytes.current;
    int64_t more = (int64_t)(before - now) - (int64_t)reserved;
    printf("    %-16s reserved %9" PRIu64 ", by cudaMemGetInfo %" PRId64 " more\n", when, reserved, more);
    assert_int_equal(info.held_bytes, reserved);
    assert_true((uint64_t)llabs(more) <= slack(bench, reserved));
}

static void check_what_the_gpu_says(bool plain)
{
    static const uint64_t sizes[] = {1, 5 * MIB + 1, 37 * MIB, 1000, 20 * MIB, 3 * MIB};
    enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };
    device_address blocks[SIZES];
    struct bench bench;
    bench_init(&bench, "cuda", 0, plain);
    printf("    %s\n", bench.device->plain ? "plain segments" : "expandable segments");
    uint64_t before = free_bytes();
    for (size_t i = 0; i < SIZES; i++) {
        enum status status =
            (i % 2 == 0 ? mem_pool_alloc : mem_pool_hold)(bench.pool, sizes[i], bench.streams[0], "block", &blocks[i]);
        assert_int_equal(status, STATUS_OK);
        bench.ops.fill_zero(bench.device, bench.streams[0], blocks[i], sizes[i]);
        check_taken(&bench, before, "after growing");
    }
    for (size_t i = SIZES; i-- > 2;) {
        mem_pool_free(bench.pool, blocks[i], bench.streams[0]);
        mem_pool_trim(bench.pool, 0);
        check_taken(&bench, before, "after trimming");
    }
    mem_pool_free(bench.pool, blocks[0], bench.streams[0]);
    mem_pool_free(bench.pool, blocks[1], bench.streams[0]);
    check_taken(&bench, before, "all is cached");
    mem_pool_trim(bench.pool, 0);
    check_taken(&bench, before, "all is returned");
    bench_finish(&bench);
}

static void test_the_gpu_has_as_much_less(void **state)
{
    (void)state;
    check_what_the_gpu_says(false);
    check_what_the_gpu_says(true);
}

int main(void)
{
    struct error error = {0};
    if (device_find("cuda")->count(&error) == 0) {
        printf("skipped: %s\n", error.text);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tensors_have_the_cpu_s_offsets),
        cmocka_unit_test(test_calls_have_the_cpu_s_offsets),
        cmocka_unit_test(test_offsets_do_not_depend_on_the_granule),
        cmocka_unit_test(test_the_gpu_has_as_much_less),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
