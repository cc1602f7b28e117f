// SPDX-License-Identifier: Apache-2.0
//
// The price of a micro-step is what the allocator sees, to the byte, and not much more than any placement would need,
// in both precisions and with one or two slots of inputs.
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
#include "mem/uint64.h"
#include "model/ops.h"
#include "model/price.h"
#include "random_bits.h"

static const struct model_config mlp = {.kind = MODEL_MLP,
                                        .mlp = {.sizes = {33, 50, 20, 10}, .count = 4, .activation = MODEL_RELU}};
static const struct model_config mlp_wide = {.kind = MODEL_MLP,
                                             .mlp = {.sizes = {1024, 2048, 10}, .count = 3, .activation = MODEL_GELU}};
static const struct model_config gpt = {
    .kind = MODEL_GPT, .gpt = {.vocab_size = 65, .seq_len = 12, .blocks = 5, .heads = 4, .channels = 32}};
static const struct model_config gpt_2 = {
    .kind = MODEL_GPT, .gpt = {.vocab_size = 50257, .seq_len = 1024, .blocks = 12, .heads = 12, .channels = 768}};
static const struct model_config gpt_2_medium = {
    .kind = MODEL_GPT, .gpt = {.vocab_size = 50257, .seq_len = 1024, .blocks = 24, .heads = 16, .channels = 1024}};

static const enum list_purpose purposes[] = {LIST_TRAIN, LIST_EVALUATE};

static const enum kernel_precision precisions[] = {KERNEL_FP32, KERNEL_BF16};

static struct model *make_model(const struct model_config *config, enum kernel_precision precision)
{
    struct model *model;
    struct model_config precise = *config;
    precise.precision = precision;
    assert_int_equal(model_create(&precise, &model, NULL), STATUS_OK);
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
    struct kernel_context *context;
    struct list_memory memory; // inputs and locals come and go
    size_t slots;
};

static device_address hold(struct bench *bench, uint64_t bytes)
{
    device_address address;
    assert_int_equal(mem_pool_hold(bench->pool, bytes, NULL, "resting", &address), STATUS_OK);
    memset(device_cpu_pointer(address), 0, bytes);
    return address;
}

static void bench_init(struct bench *bench, const struct model_config *config, enum kernel_precision precision,
                       size_t slots)
{
    const struct kernels *kernels = kernels_find("cpu", precision);
    struct device_config device = {.capacity_bytes = 64 << 20, .faulting_addresses = true};
    *bench = (struct bench){.model = make_model(config, precision), .slots = slots};
    bench->book = price_book_create(bench->model, slots);
    assert_non_null(bench->book);
    assert_int_equal(device_find("cpu")->create(&device, &bench->device, NULL), STATUS_OK);
    assert_int_equal(mem_pool_create(bench->device, 0, &bench->pool, NULL), STATUS_OK);
    assert_int_equal(kernels->context_create(bench->device, NULL, 0, &bench->context, NULL), STATUS_OK);
    bench->memory.parameters = hold(bench, kernel_real_bytes(precision) * bench->model->elements);
    bench->memory.gradients = hold(bench, 4 * bench->model->elements);
    bench->memory.tally = hold(bench, sizeof(struct kernel_tally));
}

static void bench_finish(struct bench *bench)
{
    bench->context->kernels->context_destroy(bench->context);
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
    uint64_t needed = price_list_bytes(bench->book, list), rounded = mem_pool_block_bytes(needed);
    const tensor_id inputs[] = {list->inputs, list->targets};
    memset(bytes, UNTOUCHED, rounded);
    bench->memory.inputs = block + (bench->slots - 1) * list->inputs_bytes; // in the last slot
    bench->memory.locals = block + bench->slots * list->inputs_bytes;
    for (size_t i = 0; i < 2; i++) {
        memset(device_cpu_pointer(list_address(list, &bench->memory, inputs[i])), 0,
               list_tensor_bytes(list, inputs[i]));
    }
    list_run(list, 0, list->op_count, bench->context, &bench->memory);
    for (uint64_t i = needed; i < rounded; i++) {
        assert_int_equal(bytes[i], UNTOUCHED);
    }
}

static void check_peak(struct bench *bench, enum list_purpose purpose, size_t micro_batch)
{
    struct mem_pool_stats before, after;
    uint64_t predicted =
        mem_pool_block_bytes(price_block_bytes(bench->book, purpose, model_shape_max(bench->model, micro_batch)));
    const struct list *list = price_list(bench->book, purpose, model_shape_max(bench->model, micro_batch));
    device_address block, fence;
    mem_pool_reset_peaks(bench->pool);
    mem_pool_stats(bench->pool, &before);
    assert_int_equal(mem_pool_alloc(bench->pool, price_list_bytes(bench->book, list), NULL, "block", &block),
                     STATUS_OK);
    mem_pool_stats(bench->pool, &after);
    assert_int_equal(after.allocated_bytes.peak, before.allocated_bytes.current + predicted);
    fence = hold(bench, MEM_POOL_ALIGNMENT);
    run_within(bench, list, block);
    for (size_t i = 0; i < MEM_POOL_ALIGNMENT; i++) {
        assert_int_equal(((unsigned char *)device_cpu_pointer(fence))[i], 0);
    }
    mem_pool_free(bench->pool, fence, NULL);
    mem_pool_free(bench->pool, block, NULL);
    mem_pool_stats(bench->pool, &after);
    assert_int_equal(after.allocated_bytes.current, before.allocated_bytes.current);
    assert_true(mem_pool_check(bench->pool));
}

static void check_peaks(const struct model_config *config, enum kernel_precision precision, size_t slots)
{
    struct bench bench;
    bench_init(&bench, config, precision, slots);
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
    for (size_t i = 0; i < 2; i++) {
        for (size_t slots = 1; slots <= 2; slots++) {
            check_peaks(&mlp, precisions[i], slots);
            check_peaks(&gpt, precisions[i], slots);
        }
    }
}

// A micro-step of any shape takes no more than the largest, however shapes follow one another: what the pool holds for
// that is enough for all of them.
static void check_shapes(const struct model_config *config, enum kernel_precision precision, enum list_purpose purpose)
{
    enum { SAMPLES_MAX = 8, MICRO_STEPS = 400 };
    struct bench bench;
    struct mem_pool_stats stats;
    device_address block;
    bench_init(&bench, config, precision, 2);
    struct model_shape largest = model_shape_max(bench.model, SAMPLES_MAX);
    uint64_t largest_bytes = price_block_bytes(bench.book, purpose, largest), random = 1;
    assert_int_equal(mem_pool_alloc(bench.pool, largest_bytes, NULL, "largest", &block), STATUS_OK);
    mem_pool_stats(bench.pool, &stats);
    uint64_t reserved_bytes = stats.reserved_bytes.current;
    mem_pool_free(bench.pool, block, NULL);
    mem_pool_trim(bench.pool, 0);
    mem_pool_reset_peaks(bench.pool);
    for (size_t i = 0; i < MICRO_STEPS; i++) {
        struct model_shape shape = {.samples = 1 + random_bits(&random) % SAMPLES_MAX,
                                    .length = 1 + random_bits(&random) % largest.length};
        const struct list *list = price_list(bench.book, purpose, shape);
        assert_true(price_list_bytes(bench.book, list) <= largest_bytes);
        assert_int_equal(mem_pool_alloc(bench.pool, price_list_bytes(bench.book, list), NULL, "micro-step", &block),
                         STATUS_OK);
        run_within(&bench, list, block);
        mem_pool_free(bench.pool, block, NULL);
    }
    mem_pool_stats(bench.pool, &stats);
    assert_true(stats.reserved_bytes.peak <= reserved_bytes);
    assert_true(mem_pool_check(bench.pool));
    bench_finish(&bench);
}

static void test_shapes_that_change_leave_no_holes(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        for (size_t k = 0; k < 2; k++) {
            check_shapes(&gpt, precisions[i], purposes[k]);
        }
    }
}

// The placement ------------------------------------------------------------------------------------------------------

// Moments at which a local tensor or a part of it is needed, found once more. One that none needs has no bytes.
static struct mem_buffer lifetime(const struct list *list, tensor_id id)
{
    bool local = list->tensors[id].kind == TENSOR_LOCAL, born = false;
    struct mem_buffer buffer = {0};
    for (size_t i = 0; i < list->op_count && local; i++) {
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            tensor_id other = list->ops[i].tensors[slot];
            bool part = other != TENSOR_NONE && list->tensors[other].kind == TENSOR_PART;
            if (other == id || (part && list->tensors[other].whole == id)) {
                buffer.bytes = list_tensor_bytes(list, id);
                buffer.birth = born ? buffer.birth : (uint32_t)i + 1;
                buffer.death = (uint32_t)i + 1;
                born = true;
            }
        }
    }
    return buffer;
}

// Whether the operation at which the tensor begins may write it over an input of as many bytes that ends there and is
// in the same buffer.
static bool begins_over_another(const struct list *list, tensor_id id)
{
    struct mem_buffer own = lifetime(list, id);
    const struct op *op = &list->ops[own.birth - 1];
    bool output = false, input = false;
    for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
        tensor_id other = op->tensors[slot];
        output = output || (other == id && (op->type->over.outputs >> slot & 1));
        if (other != id && other != TENSOR_NONE && list->tensors[other].buffer == list->tensors[id].buffer) {
            struct mem_buffer before = lifetime(list, other);
            if (input || !(op->type->over.inputs >> slot & 1) || before.bytes != own.bytes ||
                before.birth >= own.birth || before.death != own.birth) {
                return false;
            }
            input = true;
        }
    }
    return output && input;
}

// Tensors of one buffer follow one another without a gap; the first takes over the lifetimes of all.
static void join(const struct list *list, struct mem_buffer *buffers)
{
    for (size_t i = 0; i < list->tensor_count; i++) {
        struct mem_buffer *buffer = &buffers[list->tensors[i].buffer];
        if (list->tensors[i].buffer != (tensor_id)i) {
            assert_true(begins_over_another(list, (tensor_id)i));
            assert_int_equal(list->tensors[i].offset_bytes, list->tensors[list->tensors[i].buffer].offset_bytes);
            buffer->death = buffers[i].death > buffer->death ? buffers[i].death : buffer->death;
            buffers[i].bytes = 0;
        }
    }
}

static uint64_t live_bytes(const struct mem_buffer *buffers, size_t count, uint32_t moment)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        if (buffers[i].birth <= moment && moment <= buffers[i].death) {
            bytes += uint64_round_up(buffers[i].bytes, LIST_ALIGNMENT);
        }
    }
    return bytes;
}

// The inputs lie without overlap.
static void check_inputs(const struct list *list)
{
    const struct tensor *inputs = &list->tensors[list->inputs], *targets = &list->tensors[list->targets];
    uint64_t inputs_bytes = uint64_round_up(list_tensor_bytes(list, list->inputs), LIST_ALIGNMENT);
    uint64_t targets_bytes = uint64_round_up(list_tensor_bytes(list, list->targets), LIST_ALIGNMENT);
    assert_int_equal(list->inputs_bytes, inputs_bytes + targets_bytes);
    assert_int_equal(inputs->offset_bytes, 0);
    assert_int_equal(targets->offset_bytes, inputs_bytes);
}

static uint64_t largest_live(const struct list *list, const struct mem_buffer *buffers)
{
    uint64_t bytes = 0;
    for (uint32_t moment = 0; moment <= list->op_count; moment++) {
        bytes = uint64_max(bytes, live_bytes(buffers, list->tensor_count, moment));
    }
    return bytes;
}

struct placement {
    uint64_t apart_bytes; // that first fit needs where no tensor is written over another
    uint64_t bytes;
};

// The lower bound is reached, with sizes rounded up and as they are.
static struct placement check_placement(const struct model *model, enum list_purpose purpose, struct model_shape shape)
{
    const struct mem_layout_goal first_fit = {0}, tight = {.work = UINT64_C(100000000)};
    struct list list;
    struct mem_layout layout;
    assert_true(model_list(model, shape, purpose, &list));
    struct mem_buffer *buffers = calloc(list.tensor_count, sizeof(*buffers));
    uint64_t *offsets = calloc(list.tensor_count, sizeof(*offsets)), *again = calloc(list.tensor_count, sizeof(*again));
    check_inputs(&list);
    for (size_t i = 0; i < list.tensor_count; i++) {
        buffers[i] = lifetime(&list, (tensor_id)i);
        offsets[i] = buffers[i].bytes > 0 ? list.tensors[i].offset_bytes : 0;
    }
    assert_true(mem_layout_place(buffers, list.tensor_count, LIST_ALIGNMENT, &first_fit, again, &layout));
    uint64_t apart_bytes = layout.bytes;
    join(&list, buffers);
    assert_true(mem_layout_valid(buffers, offsets, list.tensor_count, LIST_ALIGNMENT, list.locals_bytes));
    assert_int_equal(list.lower_bound_bytes, largest_live(&list, buffers));
    assert_int_equal(list.locals_bytes, list.lower_bound_bytes);
    assert_true(list.locals_bytes <= apart_bytes);
    assert_true(mem_layout_place(buffers, list.tensor_count, 1, &tight, again, &layout));
    assert_int_equal(layout.bytes, layout.lower_bound_bytes);
    struct placement placement = {apart_bytes, list.locals_bytes};
    free(again);
    free(offsets);
    free(buffers);
    list_finish(&list);
    return placement;
}

// Answers the training block's bytes for the largest micro-batch.
static uint64_t check_placements(const char *name, const struct model_config *config, enum kernel_precision precision,
                                 enum model_levers levers)
{
    struct model *model = make_model(config, precision);
    uint64_t bytes = 0;
    for (size_t i = 0; i < 2; i++) {
        if (purposes[i] == LIST_EVALUATE && levers != MODEL_LEVERS_NONE) {
            continue; // it has none
        }
        double most = 0, least = 1;
        for (size_t micro_batch = 1; micro_batch <= 64; micro_batch++) {
            struct model_shape shape = model_shape_max(model, micro_batch);
            shape.levers = levers;
            struct placement placement = check_placement(model, purposes[i], shape);
            bytes = purposes[i] == LIST_TRAIN ? placement.bytes : bytes;
            double saved = 1 - (double)placement.bytes / (double)placement.apart_bytes;
            most = fmax(most, saved);
            least = fmin(least, saved);
        }
        print_message(
            "%s in %s, %s: at the lower bound, %.2f to %.2f %% less than where no tensor is written over another\n",
            name, precision == KERNEL_BF16 ? "bf16" : "fp32", purposes[i] == LIST_TRAIN ? "training" : "evaluation",
            100 * least, 100 * most);
    }
    model_destroy(model);
    return bytes;
}

static void check_levers(const char *name, const struct model_config *config, enum kernel_precision precision)
{
    uint64_t bytes = UINT64_MAX;
    for (enum model_levers levers = MODEL_LEVERS_NONE; levers < MODEL_LEVERS_COUNT; levers++) {
        char title[64];
        snprintf(title, sizeof(title), "%s, levers %d", name, levers);
        uint64_t less = check_placements(title, config, precision, levers);
        assert_true(less < bytes);
        bytes = less;
    }
}

static void test_no_placement_is_smaller(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        check_placements("mlp", &mlp, precisions[i], MODEL_LEVERS_NONE);
        check_placements("mlp of 1024-2048-10", &mlp_wide, precisions[i], MODEL_LEVERS_NONE);
        check_levers("small gpt", &gpt, precisions[i]);
        check_levers("gpt-2 124M", &gpt_2, precisions[i]);
        check_levers("gpt-2 350M", &gpt_2_medium, precisions[i]);
    }
}

static uint64_t block_bytes(const struct model_config *config, enum kernel_precision precision,
                            enum list_purpose purpose)
{
    struct model *model = make_model(config, precision);
    struct price_book *book = price_book_create(model, 1);
    uint64_t bytes = price_block_bytes(book, purpose, model_shape_max(model, 4));
    price_book_destroy(book);
    model_destroy(model);
    return bytes;
}

// All that is large is reals.
static void test_bfloat16_halves_the_price(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        double part = (double)block_bytes(&gpt_2, KERNEL_BF16, purposes[i]) /
                      (double)block_bytes(&gpt_2, KERNEL_FP32, purposes[i]);
        assert_true(part >= 0.5 && part <= 0.505);
    }
}

// The book -----------------------------------------------------------------------------------------------------------

static void test_a_list_costs_its_price(void **state)
{
    (void)state;
    struct model *model = make_model(&gpt, KERNEL_FP32);
    struct price_book *book = price_book_create(model, 2);
    for (size_t i = 0; i < 2; i++) {
        const struct list *first = price_list(book, purposes[i], model_shape_max(model, 1)); // list before price
        assert_int_equal(price_block_bytes(book, purposes[i], model_shape_max(model, 1)),
                         2 * first->inputs_bytes + first->locals_bytes);
        uint64_t bytes = price_block_bytes(book, purposes[i], model_shape_max(model, 3)); // price before list
        assert_int_equal(price_list_bytes(book, price_list(book, purposes[i], model_shape_max(model, 3))), bytes);
        assert_ptr_equal(price_list(book, purposes[i], model_shape_max(model, 1)), first);
        assert_int_equal(price_slack_bytes(book, purposes[i], model_shape_max(model, 3)), 0);
    }
    assert_true(price_block_bytes(book, LIST_EVALUATE, model_shape_max(model, 3)) <
                price_block_bytes(book, LIST_TRAIN, model_shape_max(model, 3)));
    price_book_destroy(book);
    model_destroy(model);
}

static void test_a_book_tells_shapes_apart(void **state)
{
    (void)state;
    struct model *model = make_model(&gpt, KERNEL_FP32);
    struct price_book *book = price_book_create(model, 2);
    for (size_t samples = 1; samples <= 4; samples++) {
        for (size_t length = gpt.gpt.seq_len; length > 0; length--) {
            struct model_shape shape = {.samples = samples, .length = length};
            const struct list *list = price_list(book, LIST_TRAIN, shape);
            assert_int_equal(list->tensors[list->inputs].elements, samples * length);
            assert_int_equal(list->tensors[list->targets].elements, samples * length);
            assert_int_equal(price_block_bytes(book, LIST_TRAIN, shape), price_list_bytes(book, list));
            assert_ptr_equal(price_list(book, LIST_TRAIN, shape), list);
        }
    }
    assert_int_equal(price_block_bytes(book, LIST_TRAIN, (struct model_shape){.samples = 2, .length = 6}),
                     price_block_bytes(book, LIST_TRAIN, (struct model_shape){.samples = 1, .length = 12}));
    price_book_destroy(book);
    model_destroy(model);
}

static void test_a_book_keeps_few_lists(void **state)
{
    (void)state;
    struct model *model = make_model(&gpt, KERNEL_FP32);
    struct price_book *book = price_book_create(model, 2);
    const struct list *kept[PRICE_LISTS_KEPT];
    for (size_t i = 0; i < 2; i++) {
        for (size_t micro_batch = 1; micro_batch <= PRICE_LISTS_KEPT; micro_batch++) {
            kept[micro_batch - 1] = price_list(book, purposes[i], model_shape_max(model, micro_batch));
        }
        for (size_t micro_batch = 1; micro_batch <= PRICE_LISTS_KEPT; micro_batch++) {
            assert_ptr_equal(price_list(book, purposes[i], model_shape_max(model, micro_batch)), kept[micro_batch - 1]);
            assert_true(micro_batch == 1 || kept[micro_batch - 1] != kept[micro_batch - 2]);
        }
        for (size_t micro_batch = PRICE_LISTS_KEPT + 1; micro_batch <= 3 * PRICE_LISTS_KEPT; micro_batch++) {
            const struct list *list = price_list(book, purposes[i], model_shape_max(model, micro_batch));
            assert_ptr_equal(list, kept[(micro_batch - 1) % PRICE_LISTS_KEPT]); // in the place of the oldest
            assert_int_equal(price_list_bytes(book, list),
                             price_block_bytes(book, purposes[i], model_shape_max(model, micro_batch)));
            assert_ptr_equal(price_list(book, purposes[i], model_shape_max(model, micro_batch)), list);
        }
        assert_int_equal(price_list_bytes(book, price_list(book, purposes[i], model_shape_max(model, 1))),
                         price_block_bytes(book, purposes[i], model_shape_max(model, 1)));
    }
    price_book_destroy(book);
    model_destroy(model);
}

static void assert_price_grows(const struct model_config *config, enum kernel_precision precision)
{
    struct model *model = make_model(config, precision);
    struct price_book *book = price_book_create(model, 2);
    for (size_t i = 0; i < 2; i++) {
        for (size_t micro_batch = 2; micro_batch <= 256; micro_batch++) {
            assert_true(price_block_bytes(book, purposes[i], model_shape_max(model, micro_batch - 1)) <=
                        price_block_bytes(book, purposes[i], model_shape_max(model, micro_batch)));
        }
    }
    price_book_destroy(book);
    model_destroy(model);
}

static void test_the_price_grows_with_the_micro_batch(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        assert_price_grows(&mlp, precisions[i]);
        assert_price_grows(&mlp_wide, precisions[i]);
        assert_price_grows(&gpt, precisions[i]);
    }
}

static size_t largest_fit_by_trying(const struct model *model, struct price_book *book, enum list_purpose purpose,
                                    uint64_t bytes, size_t most)
{
    size_t fits = 0;
    for (size_t micro_batch = 1; micro_batch <= most; micro_batch++) {
        fits = price_block_bytes(book, purpose, model_shape_max(model, micro_batch)) <= bytes ? micro_batch : fits;
    }
    return fits;
}

static void test_the_largest_fit(void **state)
{
    (void)state;
    struct model *model = make_model(&gpt, KERNEL_FP32);
    struct price_book *book = price_book_create(model, 2);
    const struct model_shape one = model_shape_max(model, 1);
    for (size_t i = 0; i < 2; i++) {
        for (size_t micro_batch = 1; micro_batch <= 20; micro_batch++) {
            uint64_t bytes = price_block_bytes(book, purposes[i], model_shape_max(model, micro_batch));
            for (uint64_t budget = bytes - 1; budget <= bytes + 1; budget++) {
                assert_int_equal(price_largest_fit(book, purposes[i], one, budget, UINT64_MAX, 20),
                                 largest_fit_by_trying(model, book, purposes[i], budget, 20));
                assert_int_equal(price_largest_fit(book, purposes[i], one, budget, UINT64_MAX, 7),
                                 largest_fit_by_trying(model, book, purposes[i], budget, 7));
            }
        }
        assert_int_equal(price_largest_fit(book, purposes[i], one, 0, UINT64_MAX, 20), 0);
        assert_int_equal(price_largest_fit(book, purposes[i], one, UINT64_MAX - 1, UINT64_MAX, 20), 20);
        uint64_t bytes = price_block_bytes(book, purposes[i], model_shape_max(model, 20));
        assert_int_equal(price_largest_fit(book, purposes[i], one, bytes, UINT64_MAX, SIZE_MAX / 2),
                         20); // prices nothing near the most
        assert_int_equal(price_largest_fit(book, purposes[i], one, UINT64_MAX - 1, UINT64_MAX, 0), 0);
    }
    struct model_shape other = {.length = one.length / 2, .levers = MODEL_LEVERS_FULL};
    uint64_t bytes = price_block_bytes(book, LIST_TRAIN, model_shape_max(model, 3));
    size_t fits = price_largest_fit(book, LIST_TRAIN, other, bytes, UINT64_MAX, 100);
    other.samples = fits;
    assert_in_range(fits, 7, 99);
    assert_true(price_block_bytes(book, LIST_TRAIN, other) <= bytes);
    other.samples++;
    assert_true(price_block_bytes(book, LIST_TRAIN, other) > bytes);
    price_book_destroy(book);
    model_destroy(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_price_is_what_the_allocator_sees),
        cmocka_unit_test(test_shapes_that_change_leave_no_holes),
        cmocka_unit_test(test_no_placement_is_smaller),
        cmocka_unit_test(test_bfloat16_halves_the_price),
        cmocka_unit_test(test_a_list_costs_its_price),
        cmocka_unit_test(test_a_book_tells_shapes_apart),
        cmocka_unit_test(test_a_book_keeps_few_lists),
        cmocka_unit_test(test_the_price_grows_with_the_micro_batch),
        cmocka_unit_test(test_the_largest_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
