// SPDX-License-Identifier: Apache-2.0
//
// A day of training for the pool, in a minute: blocks of a GPT's micro-steps come and go as samples.c has them, while
// micro-batches, the neighbour and the soft limit change. No kernels run.
#include <unistd.h>

#include "mem/device_cpu.h"
#include "mem/pool.h"
#include "mem/random.h"
#include "model/price.h"
#include "require.h"

#define MICRO_STEPS     1000000
#define MICRO_BATCH_MAX 64
#define CAPACITY        (UINT64_C(64) << 20)
#define SLOTS           2
#define RESIDENT_SPREAD (UINT64_C(16) << 20) // between what is resident early and late
#define CALLS_PER_EVENT 8                    // of the device, for each disturbance
#define PURPOSES        2
#define LENGTHS         4  // of samples
#define LENGTH_MULTIPLE 16 // the greatest: LENGTHS of these

struct require_place require_place;

struct list_sizes {
    uint64_t inputs, locals, block;
};

struct block {
    device_address address; // 0: none is held
    uint64_t bytes, slot_bytes;
};

struct soak {
    struct device *device;
    struct stream *stream;
    struct mem_pool *pool;
    struct model *model;
    struct price_book *prices;
    struct list_sizes sizes[PURPOSES][LENGTHS + 1][MICRO_BATCH_MAX + 1]; // by length, in multiples
    struct block block;
    uint64_t resting_bytes;
    uint64_t worst_plan, most_reserved; // most: where the other end has cached a block that its own could not place
    uint64_t key, draws;
    uint64_t steps, micro_steps, allocs, refusals[MEM_CAUSE_INJECTED + 1], relieved, halved, trimmed, given_up,
        above_plan;
    uint64_t neighbours, soft_limits; // disturbances
    uint64_t reserved_peak, resident_early, resident_late;
};

static uint64_t draw_below(struct soak *soak, uint64_t bound)
{
    return random_draw(soak->key, soak->draws++) % bound;
}

static uint64_t resident_bytes(void)
{
    unsigned long long size, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    require(file != NULL && fscanf(file, "%llu %llu", &size, &resident) == 2);
    fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void write_ends(device_address address, uint64_t bytes)
{
    unsigned char *memory = device_cpu_pointer(address);
    memory[0] = memory[bytes / 2] = memory[bytes - 1] = 1;
}

// ---- Opening ----

static struct model_shape shape_of(uint64_t length, uint64_t count)
{
    return (struct model_shape){.samples = count, .length = length * LENGTH_MULTIPLE};
}

static void price_shapes(struct soak *soak, enum list_purpose purpose, uint64_t length)
{
    for (uint64_t i = 1; i <= MICRO_BATCH_MAX; i++) {
        const struct list *list = price_list(soak->prices, purpose, shape_of(length, i));
        require(list != NULL);
        soak->sizes[purpose][length][i] =
            (struct list_sizes){list->inputs_bytes, list->locals_bytes, price_list_bytes(soak->prices, list)};
    }
}

// Weights, gradients and two moments.
static void hold_resting(struct soak *soak)
{
    static const char *const tags[] = {"weights", "gradients", "momentum", "variance"};
    for (size_t i = 0; i < sizeof(tags) / sizeof(tags[0]); i++) {
        device_address address;
        uint64_t bytes = sizeof(float) * soak->model->elements;
        require(mem_pool_hold(soak->pool, bytes, soak->stream, tags[i], &address) == STATUS_OK);
        write_ends(address, bytes);
        soak->resting_bytes += mem_pool_block_bytes(bytes);
    }
}

static void open_soak(struct soak *soak)
{
    static const struct model_config gpt = {
        .kind = MODEL_GPT,
        .gpt = {.vocab_size = 65, .seq_len = LENGTHS * LENGTH_MULTIPLE, .blocks = 2, .heads = 4, .channels = 64},
        .precision = KERNEL_FP32,
    };
    const struct device_config config = {.capacity_bytes = CAPACITY};
    require(model_create(&gpt, &soak->model, NULL) == STATUS_OK);
    soak->prices = price_book_create(soak->model, SLOTS);
    require(soak->prices != NULL);
    require(device_cpu.create(&config, &soak->device, NULL) == STATUS_OK);
    require(device_cpu.stream_create(soak->device, &soak->stream) == STATUS_OK);
    require(mem_pool_create(soak->device, 0, &soak->pool, NULL) == STATUS_OK);
    for (uint64_t length = 1; length <= LENGTHS; length++) {
        price_shapes(soak, LIST_TRAIN, length);
        price_shapes(soak, LIST_EVALUATE, length);
    }
    hold_resting(soak);
    uint64_t granularity = device_cpu.granularity_bytes;
    uint64_t block = uint64_round_up(soak->sizes[LIST_TRAIN][LENGTHS][MICRO_BATCH_MAX].block, granularity);
    soak->worst_plan = uint64_round_up(soak->resting_bytes, granularity) + block;
    soak->most_reserved = soak->worst_plan + block;
}

static void close_soak(struct soak *soak)
{
    mem_pool_destroy(soak->pool);
    device_cpu.stream_destroy(soak->device, soak->stream);
    device_cpu.destroy(soak->device);
    price_book_destroy(soak->prices);
    model_destroy(soak->model);
}

// ---- Steps, as in samples.c ----

static void free_block(struct soak *soak)
{
    mem_pool_free(soak->pool, soak->block.address, soak->stream);
    soak->block = (struct block){0};
}

static enum status hold_block(struct soak *soak, enum list_purpose purpose, uint64_t count)
{
    struct block *block = &soak->block;
    const uint64_t length = 1 + draw_below(soak, LENGTHS);
    const struct list_sizes *sizes = &soak->sizes[purpose][length][count];
    if (block->address != 0 && sizes->inputs <= block->slot_bytes &&
        sizes->locals <= block->bytes - SLOTS * block->slot_bytes) {
        return STATUS_OK;
    }
    free_block(soak);
    uint64_t bytes = price_block_bytes(soak->prices, purpose, shape_of(length, count));
    require(bytes == sizes->block);
    enum status status = mem_pool_alloc(soak->pool, bytes, soak->stream, "micro-step", &block->address);
    if (status == STATUS_OK) {
        block->bytes = bytes;
        block->slot_bytes = sizes->inputs;
        soak->allocs++;
        write_ends(block->address, bytes);
    }
    return status;
}

// Answers the micro-batch to go on with; 0: not even one sample has memory.
static uint64_t retreat(struct soak *soak, uint64_t micro_batch, uint64_t count, bool *trimmed)
{
    soak->refusals[mem_pool_out_of_memory(soak->pool)->cause]++;
    if (mem_pool_relieve(soak->pool)) {
        soak->relieved++;
        return micro_batch;
    }
    if (count > 1) {
        soak->halved++;
        return count / 2;
    }
    if (!*trimmed) {
        mem_pool_trim(soak->pool, 0);
        soak->trimmed++;
        *trimmed = true;
        return micro_batch;
    }
    return 0;
}

static void run_step(struct soak *soak, enum list_purpose purpose, uint64_t samples, uint64_t micro_batch)
{
    bool trimmed = false;
    for (uint64_t done = 0; done < samples;) {
        uint64_t count = uint64_min(micro_batch, samples - done);
        enum status status = hold_block(soak, purpose, count);
        require(status == STATUS_OK || status == STATUS_OUT_OF_MEMORY);
        if (status == STATUS_OK) {
            soak->micro_steps++;
            done += count;
            trimmed = false;
            continue;
        }
        micro_batch = retreat(soak, micro_batch, count, &trimmed);
        if (micro_batch == 0) {
            soak->given_up++;
            break;
        }
    }
    free_block(soak);
}

static void check_step(struct soak *soak)
{
    char leaks[128];
    struct mem_pool_stats stats;
    struct device_info info;
    mem_pool_stats(soak->pool, &stats);
    device_cpu.info(soak->device, &info);
    require(mem_pool_leaks(soak->pool, leaks, sizeof(leaks)) == 0);
    require(stats.allocated_bytes.current == soak->resting_bytes);
    require(stats.reserved_bytes.current == info.held_bytes);
    bool calm = soak->neighbours + soak->soft_limits == 0;
    require(stats.reserved_bytes.peak <= (calm ? soak->worst_plan : soak->most_reserved));
    require(soak->steps % 64 != 0 || mem_pool_check(soak->pool));
    soak->above_plan += stats.reserved_bytes.peak > soak->worst_plan;
    soak->reserved_peak = uint64_max(soak->reserved_peak, stats.reserved_bytes.peak);
}

// Now and then a neighbour comes, grows or goes, or the planner lowers the limit.
static void disturb(struct soak *soak)
{
    uint64_t draw = draw_below(soak, 60);
    if (soak->micro_steps < MICRO_STEPS / 4) {
        return; // nothing but the micro-batch changes
    }
    if (draw < 2) {
        device_cpu_set_neighbour(soak->device, draw_below(soak, 3) == 0 ? 0 : draw_below(soak, CAPACITY));
        soak->neighbours++;
    } else if (draw == 2) {
        bool lowered = draw_below(soak, 2) == 0;
        mem_pool_set_soft_limit(soak->pool, lowered ? draw_below(soak, CAPACITY) : UINT64_MAX);
        soak->soft_limits++;
    }
}

// Mostly what headroom has room for; at times more, as where a neighbour came after the plan.
static void step(struct soak *soak)
{
    enum list_purpose purpose = draw_below(soak, 50) == 0 ? LIST_EVALUATE : LIST_TRAIN;
    uint64_t most = MICRO_BATCH_MAX;
    disturb(soak);
    if (draw_below(soak, 20) > 0) {
        most = price_largest_fit(soak->prices, purpose, model_shape_max(soak->model, 1), mem_pool_headroom(soak->pool),
                                 UINT64_MAX, MICRO_BATCH_MAX);
    }
    uint64_t micro_batch = 1 + draw_below(soak, uint64_max(most, 1));
    uint64_t samples = micro_batch * draw_below(soak, 8) + 1 + draw_below(soak, micro_batch);
    mem_pool_begin_step(soak->pool, soak->steps++);
    mem_pool_reset_peaks(soak->pool);
    run_step(soak, purpose, samples, micro_batch);
    check_step(soak);
}

static void check_resident(struct soak *soak)
{
    bool early = soak->micro_steps < MICRO_STEPS / 10;
    uint64_t *most = early ? &soak->resident_early : &soak->resident_late;
    *most = uint64_max(*most, resident_bytes());
    require(early || *most <= soak->resident_early + RESIDENT_SPREAD);
}

static void check_calls(const struct soak *soak)
{
    struct mem_pool_stats stats;
    mem_pool_stats(soak->pool, &stats);
    uint64_t calls = stats.num_device_alloc + stats.num_device_free;
    uint64_t events = 1 + soak->neighbours + soak->soft_limits + soak->relieved + soak->trimmed;
    require(calls <= CALLS_PER_EVENT * events);
    printf("%" PRIu64 " steps of %" PRIu64 " micro-steps, %" PRIu64 " blocks\n", soak->steps, soak->micro_steps,
           soak->allocs);
    printf("neighbour changed %" PRIu64 ", soft limit %" PRIu64 "; device calls %" PRIu64 "\n", soak->neighbours,
           soak->soft_limits, calls);
    printf("refused:");
    for (size_t i = 0; i <= MEM_CAUSE_INJECTED; i++) {
        printf(" %s %" PRIu64, mem_cause_name((enum mem_cause)i), soak->refusals[i]);
    }
    printf("; relieved %" PRIu64 ", halved %" PRIu64 ", trimmed %" PRIu64 ", given up %" PRIu64 "\n", soak->relieved,
           soak->halved, soak->trimmed, soak->given_up);
    printf("reserved at most %" PRIu64 " bytes, the worst plan %" PRIu64 ", more than that in %" PRIu64
           " steps; resident %" PRIu64 " early, %" PRIu64 " late\n",
           soak->reserved_peak, soak->worst_plan, soak->above_plan, soak->resident_early, soak->resident_late);
}

int main(void)
{
    static struct soak soak = {.key = 1};
    require_place.name = "soak";
    open_soak(&soak);
    while (soak.micro_steps < MICRO_STEPS) {
        require_place.operation = soak.steps;
        step(&soak);
        if (soak.steps % 1000 == 0) {
            check_resident(&soak);
        }
    }
    check_calls(&soak);
    close_soak(&soak);
    return 0;
}
