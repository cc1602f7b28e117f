// SPDX-License-Identifier: Apache-2.0
//
// The price of a micro-step is what the allocator sees, to the byte, and not much more than any placement would need.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "host_memory.h"
#include "mem/device_cpu.h"
#include "mem/layout.h"
#include "mem/pool.h"
#include "model/ops.h"
#include "model/price.h"

static const struct model_config mlp = {.kind = MODEL_MLP,
                                        .mlp = {.sizes = {33, 50, 20, 10}, .count = 4, .activation = MODEL_RELU}};
static const struct model_config mlp_wide = {.kind = MODEL_MLP,
                                             .mlp = {.sizes = {1024, 2048, 10}, .count = 3, .activation = MODEL_GELU}};
static const struct model_config gpt = {
    .kind = MODEL_GPT, .gpt = {.vocab_size = 65, .seq_len = 12, .blocks = 2, .heads = 4, .channels = 32}};
static const struct model_config gpt_2 = {
    .kind = MODEL_GPT, .gpt = {.vocab_size = 50257, .seq_len = 1024, .blocks = 12, .heads = 12, .channels = 768}};

static const enum list_purpose purposes[] = {LIST_TRAIN, LIST_EVALUATE};

static struct model *make_model(const struct model_config *config)
{
    struct model *model;
    assert_int_equal(model_create(config, &model, NULL), STATUS_OK);
    return model;
}

// What the allocator sees --------------------------------------------------------------------------------------------

#define MICRO_BATCH_MAX 40

// A device on which the host cannot touch memory by mistake, and what rests on it while a model trains.
struct bench {
    struct model *model;
    struct price_book *book;
    struct device *device;
    struct mem_pool *pool;
    struct list_memory memory; // the block comes and goes
};

static device_address hold(struct bench *bench, uint64_t bytes)
{
    device_address address;
    assert_int_equal(mem_pool_alloc(bench->pool, bytes, NULL, "resting", &address), STATUS_OK);
    memset(device_cpu_pointer(address), 0, bytes);
    return address;
}

static void bench_init(struct bench *bench, const struct model_config *config)
{
    struct device_config device = {.capacity_bytes = 64 << 20, .faulting_addresses = true};
    *bench = (struct bench){.model = make_model(config)};
    bench->book = price_book_create(bench->model);
    assert_non_null(bench->book);
    assert_int_equal(device_find("cpu")->create(&device, &bench->device, NULL), STATUS_OK);
    assert_int_equal(mem_pool_create(bench->device, 0, &bench->pool, NULL), STATUS_OK);
    bench->memory.parameters = hold(bench, 4 * bench->model->elements);
    bench->memory.gradients = hold(bench, 4 * bench->model->elements);
    bench->memory.tally = hold(bench, sizeof(struct kernel_tally));
}

static void bench_finish(struct bench *bench)
{
    mem_pool_destroy(bench->pool);
    bench->device->ops->destroy(bench->device);
    price_book_destroy(bench->book);
    model_destroy(bench->model);
}

#define UNTOUCHED 0xa5

// Runs the list in the block; inputs and targets are 0. Nothing beyond its bytes may be written.
static void run_within(struct bench *bench, const struct list *list, device_address block)
{
    unsigned char *bytes = device_cpu_pointer(block);
    uint64_t rounded = mem_pool_block_bytes(list->block_bytes);
    memset(bytes, UNTOUCHED, rounded);
    const tensor_id inputs[] = {list->inputs, list->targets};
    for (size_t i = 0; i < 2; i++) {
        const struct tensor *tensor = &list->tensors[inputs[i]];
        memset(bytes + tensor->offset_bytes, 0, 4 * tensor->elements);
    }
    bench->memory.block = block;
    list_run(list, kernels_find("cpu"), NULL, &bench->memory);
    for (uint64_t i = list->block_bytes; i < rounded; i++) {
        assert_int_equal(bytes[i], UNTOUCHED);
    }
}

static void check_peak(struct bench *bench, enum list_purpose purpose, size_t micro_batch)
{
    struct mem_pool_stats before, after;
    uint64_t predicted = mem_pool_block_bytes(price_block_bytes(bench->book, purpose, micro_batch));
    const struct list *list = price_list(bench->book, purpose, micro_batch);
    device_address block, fence;
    mem_pool_reset_peaks(bench->pool);
    mem_pool_stats(bench->pool, &before);
    assert_int_equal(mem_pool_alloc(bench->pool, list->block_bytes, NULL, "block", &block), STATUS_OK);
    mem_pool_stats(bench->pool, &after);
    assert_int_equal(after.allocated_peak_bytes, before.allocated_bytes + predicted);
    fence = hold(bench, MEM_POOL_ALIGNMENT);
    run_within(bench, list, block);
    for (size_t i = 0; i < MEM_POOL_ALIGNMENT; i++) {
        assert_int_equal(((unsigned char *)device_cpu_pointer(fence))[i], 0);
    }
    mem_pool_free(bench->pool, fence, NULL);
    mem_pool_free(bench->pool, block, NULL);
    mem_pool_stats(bench->pool, &after);
    assert_int_equal(after.allocated_bytes, before.allocated_bytes);
    assert_true(mem_pool_check(bench->pool));
}

static void check_peaks(const struct model_config *config)
{
    struct bench bench;
    bench_init(&bench, config);
    for (size_t i = 0; i < 2; i++) {
        for (size_t micro_batch = 1; micro_batch <= MICRO_BATCH_MAX; micro_batch++) {
            check_peak(&bench, purposes[i], micro_batch);
        }
    }
    bench_finish(&bench);
}

static void test_the_price_is_what_the_allocator_sees(void **state)
{
    (void)state;
    check_peaks(&mlp);
    check_peaks(&gpt);
}

// The placement ------------------------------------------------------------------------------------------------------

// Moments at which a tensor is needed, found once more: 0 is before the first operation.
static struct mem_buffer lifetime(const struct list *list, tensor_id id)
{
    const struct tensor *tensor = &list->tensors[id];
    bool input = tensor->kind == TENSOR_INPUT, local = tensor->kind == TENSOR_LOCAL;
    struct mem_buffer buffer = {.bytes = input || local ? 4 * tensor->elements : 0};
    bool born = input;
    for (size_t i = 0; i < list->op_count; i++) {
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            if (list->ops[i].tensors[slot] == id) {
                buffer.birth = born ? buffer.birth : (uint32_t)i + 1;
                buffer.death = (uint32_t)i + 1;
                born = true;
            }
        }
    }
    return buffer;
}

static uint64_t live_bytes(const struct mem_buffer *buffers, size_t count, uint32_t moment)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        if (buffers[i].birth <= moment && moment <= buffers[i].death) {
            bytes += (buffers[i].bytes + LIST_ALIGNMENT - 1) / LIST_ALIGNMENT * LIST_ALIGNMENT;
        }
    }
    return bytes;
}

// Answers how much more than the lower bound the block takes.
static double check_placement(const struct model *model, enum list_purpose purpose, size_t micro_batch)
{
    struct list list;
    assert_true(model_list(model, micro_batch, purpose, &list));
    struct mem_buffer *buffers = calloc(list.tensor_count, sizeof(*buffers));
    uint64_t *offsets = calloc(list.tensor_count, sizeof(*offsets)), bound = 0;
    for (size_t i = 0; i < list.tensor_count; i++) {
        buffers[i] = lifetime(&list, (tensor_id)i);
        offsets[i] = buffers[i].bytes == 0 ? 0 : list.tensors[i].offset_bytes;
        assert_int_equal(offsets[i] % LIST_ALIGNMENT, 0);
    }
    for (uint32_t moment = 0; moment <= list.op_count; moment++) {
        uint64_t bytes = live_bytes(buffers, list.tensor_count, moment);
        bound = bytes > bound ? bytes : bound;
    }
    assert_true(mem_layout_valid(buffers, offsets, list.tensor_count, list.block_bytes));
    assert_int_equal(list.lower_bound_bytes, bound);
    assert_true(list.block_bytes >= bound);
    double gap = (double)list.block_bytes / (double)bound - 1;
    free(offsets);
    free(buffers);
    list_finish(&list);
    return gap;
}

static void check_gap(const char *name, const struct model_config *config, size_t micro_batch_max, double gap_max)
{
    struct model *model = make_model(config);
    for (size_t i = 0; i < 2; i++) {
        double gap = 0;
        for (size_t micro_batch = 1; micro_batch <= micro_batch_max; micro_batch++) {
            gap = fmax(gap, check_placement(model, purposes[i], micro_batch));
        }
        print_message("%s, %s: at most %.2f %% above the lower bound\n", name,
                      purposes[i] == LIST_TRAIN ? "training" : "evaluation", 100 * gap);
        assert_true(gap <= gap_max);
    }
    model_destroy(model);
}

static void test_placement_is_valid_and_tight(void **state)
{
    (void)state;
    check_gap("mlp", &mlp, 64, 0.01);
    check_gap("mlp of 1024-2048-10", &mlp_wide, 32, 0.01);
    check_gap("small gpt", &gpt, 64, 0.01);
    check_gap("gpt-2", &gpt_2, 12, 0.01);
}

// The book -----------------------------------------------------------------------------------------------------------

static void test_a_list_costs_its_price(void **state)
{
    (void)state;
    struct model *model = make_model(&gpt);
    struct price_book *book = price_book_create(model);
    for (size_t i = 0; i < 2; i++) {
        const struct list *first = price_list(book, purposes[i], 1); // list before price
        assert_int_equal(price_block_bytes(book, purposes[i], 1), first->block_bytes);
        uint64_t bytes = price_block_bytes(book, purposes[i], 3); // price before list
        assert_int_equal(price_list(book, purposes[i], 3)->block_bytes, bytes);
        assert_ptr_equal(price_list(book, purposes[i], 1), first);
    }
    assert_true(price_block_bytes(book, LIST_EVALUATE, 3) < price_block_bytes(book, LIST_TRAIN, 3));
    price_book_destroy(book);
    model_destroy(model);
}

static void test_a_book_keeps_few_lists(void **state)
{
    (void)state;
    struct model *model = make_model(&gpt);
    struct price_book *book = price_book_create(model);
    const struct list *kept[PRICE_LISTS_KEPT];
    for (size_t i = 0; i < 2; i++) {
        for (size_t micro_batch = 1; micro_batch <= PRICE_LISTS_KEPT; micro_batch++) {
            kept[micro_batch - 1] = price_list(book, purposes[i], micro_batch);
        }
        for (size_t micro_batch = 1; micro_batch <= PRICE_LISTS_KEPT; micro_batch++) {
            assert_ptr_equal(price_list(book, purposes[i], micro_batch), kept[micro_batch - 1]);
            assert_true(micro_batch == 1 || kept[micro_batch - 1] != kept[micro_batch - 2]);
        }
        for (size_t micro_batch = PRICE_LISTS_KEPT + 1; micro_batch <= 3 * PRICE_LISTS_KEPT; micro_batch++) {
            const struct list *list = price_list(book, purposes[i], micro_batch);
            assert_ptr_equal(list, kept[(micro_batch - 1) % PRICE_LISTS_KEPT]); // in the place of the oldest
            assert_int_equal(list->block_bytes, price_block_bytes(book, purposes[i], micro_batch));
            assert_ptr_equal(price_list(book, purposes[i], micro_batch), list);
        }
        assert_int_equal(price_list(book, purposes[i], 1)->block_bytes, price_block_bytes(book, purposes[i], 1));
    }
    price_book_destroy(book);
    model_destroy(model);
}

static void assert_price_grows(const struct model_config *config)
{
    struct model *model = make_model(config);
    struct price_book *book = price_book_create(model);
    for (size_t i = 0; i < 2; i++) {
        for (size_t micro_batch = 2; micro_batch <= 256; micro_batch++) {
            assert_true(price_block_bytes(book, purposes[i], micro_batch - 1) <=
                        price_block_bytes(book, purposes[i], micro_batch));
        }
    }
    price_book_destroy(book);
    model_destroy(model);
}

static void test_the_price_grows_with_the_micro_batch(void **state)
{
    (void)state;
    assert_price_grows(&mlp);
    assert_price_grows(&mlp_wide);
    assert_price_grows(&gpt);
}

static size_t largest_fit_by_trying(struct price_book *book, enum list_purpose purpose, uint64_t bytes, size_t most)
{
    size_t fits = 0;
    for (size_t micro_batch = 1; micro_batch <= most; micro_batch++) {
        fits = price_block_bytes(book, purpose, micro_batch) <= bytes ? micro_batch : fits;
    }
    return fits;
}

static void test_the_largest_fit(void **state)
{
    (void)state;
    struct model *model = make_model(&gpt);
    struct price_book *book = price_book_create(model);
    for (size_t i = 0; i < 2; i++) {
        for (size_t micro_batch = 1; micro_batch <= 20; micro_batch++) {
            uint64_t bytes = price_block_bytes(book, purposes[i], micro_batch);
            for (uint64_t budget = bytes - 1; budget <= bytes + 1; budget++) {
                assert_int_equal(price_largest_fit(book, purposes[i], budget, 20),
                                 largest_fit_by_trying(book, purposes[i], budget, 20));
                assert_int_equal(price_largest_fit(book, purposes[i], budget, 7),
                                 largest_fit_by_trying(book, purposes[i], budget, 7));
            }
        }
        assert_int_equal(price_largest_fit(book, purposes[i], 0, 20), 0);
        assert_int_equal(price_largest_fit(book, purposes[i], UINT64_MAX - 1, 20), 20);
        uint64_t bytes = price_block_bytes(book, purposes[i], 20);
        assert_int_equal(price_largest_fit(book, purposes[i], bytes, SIZE_MAX / 2), 20); // prices nothing near the most
        assert_int_equal(price_largest_fit(book, purposes[i], UINT64_MAX - 1, 0), 0);
    }
    price_book_destroy(book);
    model_destroy(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_price_is_what_the_allocator_sees),
        cmocka_unit_test(test_placement_is_valid_and_tight),
        cmocka_unit_test(test_a_list_costs_its_price),
        cmocka_unit_test(test_a_book_keeps_few_lists),
        cmocka_unit_test(test_the_price_grows_with_the_micro_batch),
        cmocka_unit_test(test_the_largest_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
