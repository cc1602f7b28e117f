// SPDX-License-Identifier: Apache-2.0
//
// bench_kernels [DEVICE [fp32|bf16 [BATCH]]]: every kernel at GPT-2 124M's sizes (sequences of 1024 tokens), the median
// of 21 runs by the device's own clock. Kernels that memory bounds are shown in bytes a second beside a plain copy's on
// the same device, products and attention in multiply-adds (counted as two) a second. Fails on a GPU where a kernel
// that memory bounds does less than 85 % of the copy.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "mem/pool.h"
#include "mem/random.h"

#define LENGTH      UINT64_C(1024)
#define CHANNELS    UINT64_C(768)
#define HEADS       UINT64_C(12)
#define CLASSES     UINT64_C(50257)
#define STRIDE      UINT64_C(50304)
#define WEIGHTS     UINT64_C(124475904) // of GPT-2 124M
#define RUNS        21
#define LEAST_RATIO 0.85

struct bench {
    struct device *device;
    struct stream *stream;
    struct event *begin, *end;
    struct mem_pool *pool;
    struct kernel_context *context;
    const struct kernels *kernels;
    uint64_t batch, rows, real_bytes;
    double copy_rate; // bytes a nanosecond
    double worst_ratio;
};

static void must(bool held, const char *what, const char *why)
{
    if (!held) {
        fprintf(stderr, "bench_kernels: %s failed%s%s\n", what, *why == '\0' ? "" : ": ", why);
        exit(EXIT_FAILURE);
    }
}

enum { REALS = 1 << 19 };

static void make_reals(uint16_t *reals)
{
    for (size_t i = 0; i < REALS; i++) {
        uint64_t bits = random_draw(0, i);
        reals[i] = (uint16_t)((bits & 0x8000) | ((126 + (bits >> 16 & 1)) << 7) | (bits & 0x7f));
    }
}

// Reals from 0.5 to 2 with either sign: every two bytes are a bfloat16, and so every four a float32. On zeros a GPU
// takes less power and multiplies faster.
static void fill_random(struct bench *bench, device_address address, uint64_t bytes)
{
    static uint16_t reals[REALS];
    if (reals[0] == 0) {
        make_reals(reals);
    }
    for (uint64_t done = 0; done < bytes; done += sizeof(reals)) {
        uint64_t part = bytes - done < sizeof(reals) ? bytes - done : sizeof(reals);
        bench->device->ops->copy_to_device(bench->device, bench->stream, address + done, reals, part);
    }
}

static device_address hold(struct bench *bench, uint64_t bytes)
{
    device_address address;
    must(mem_pool_alloc(bench->pool, bytes, bench->stream, "array", &address) == STATUS_OK, "an allocation",
         "the device is too small for this batch");
    fill_random(bench, address, bytes);
    return address;
}

static void give_back(struct bench *bench, device_address address)
{
    mem_pool_free(bench->pool, address, bench->stream);
}

static int compare(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

// The arrays of one kernel: up to nine, in the order of its arguments.
struct arrays {
    device_address at[9];
    size_t count;
};

static device_address array(struct bench *bench, struct arrays *arrays, uint64_t bytes)
{
    return arrays->at[arrays->count++] = hold(bench, bytes);
}

static void release(struct bench *bench, struct arrays *arrays)
{
    while (arrays->count > 0) {
        give_back(bench, arrays->at[--arrays->count]);
    }
}

// Median nanoseconds of one run.
static uint64_t time_of(struct bench *bench, void (*run)(struct bench *, const device_address *),
                        const device_address *a)
{
    const struct device_ops *ops = bench->device->ops;
    uint64_t times[RUNS];
    run(bench, a); // chooses algorithms, touches memory
    for (size_t i = 0; i < RUNS; i++) {
        ops->event_record(bench->device, bench->begin, bench->stream);
        run(bench, a);
        ops->event_record(bench->device, bench->end, bench->stream);
        ops->event_synchronize(bench->device, bench->end);
        times[i] = ops->event_elapsed_ns(bench->device, bench->begin, bench->end);
    }
    struct error error;
    must(ops->check(bench->device, &error) == STATUS_OK, "the device", error.text);
    qsort(times, RUNS, sizeof(times[0]), compare);
    return times[RUNS / 2] > 0 ? times[RUNS / 2] : 1;
}

static void report_bytes(struct bench *bench, const char *name, uint64_t ns, uint64_t bytes)
{
    double rate = (double)bytes / (double)ns, ratio = bench->copy_rate > 0 ? rate / bench->copy_rate : 1;
    printf("%-24s %12.3f ms %10.1f GB/s %8.0f %%\n", name, (double)ns / 1e6, rate, 100 * ratio);
    bench->worst_ratio = ratio < bench->worst_ratio ? ratio : bench->worst_ratio;
}

static void report_flops(const char *name, uint64_t ns, double flops)
{
    printf("%-24s %12.3f ms %10.2f TFLOP/s\n", name, (double)ns / 1e6, flops / (double)ns / 1e3);
}

static void run_copy(struct bench *bench, const device_address *a)
{
    const struct kernels *floats = kernels_find(bench->device->ops->name, KERNEL_FP32); // there it is a plain copy
    floats->convert(bench->context, a[0], a[1], WEIGHTS);
}

static void bench_copy(struct bench *bench)
{
    struct arrays arrays = {0};
    array(bench, &arrays, WEIGHTS * 4);
    array(bench, &arrays, WEIGHTS * 4);
    uint64_t ns = time_of(bench, run_copy, arrays.at);
    report_bytes(bench, "copy", ns, 2 * WEIGHTS * 4);
    bench->copy_rate = 2.0 * WEIGHTS * 4 / (double)ns;
    release(bench, &arrays);
}

static void run_add(struct bench *bench, const device_address *a)
{
    bench->kernels->add(bench->context, a[0], a[1], a[2], bench->rows * CHANNELS);
}

static void run_gelu(struct bench *bench, const device_address *a)
{
    bench->kernels->gelu(bench->context, a[0], a[1], 4 * bench->rows * CHANNELS);
}

static void run_gelu_backward(struct bench *bench, const device_address *a)
{
    bench->kernels->gelu_backward(bench->context, a[0], a[1], a[2], 4 * bench->rows * CHANNELS);
}

static void run_bias_backward(struct bench *bench, const device_address *a)
{
    bench->kernels->bias_backward(bench->context, a[0], a[1], bench->rows, 4 * CHANNELS);
}

static void bench_elementwise(struct bench *bench)
{
    uint64_t one = bench->rows * CHANNELS * bench->real_bytes, wide = 4 * one;
    struct arrays arrays = {0};
    array(bench, &arrays, wide);
    array(bench, &arrays, wide);
    array(bench, &arrays, wide);
    report_bytes(bench, "add", time_of(bench, run_add, arrays.at), 3 * one);
    report_bytes(bench, "gelu", time_of(bench, run_gelu, arrays.at), 2 * wide);
    report_bytes(bench, "gelu_backward", time_of(bench, run_gelu_backward, arrays.at), 3 * wide);
    report_bytes(bench, "bias_backward", time_of(bench, run_bias_backward, arrays.at), wide);
    release(bench, &arrays);
}

static void run_layer_norm(struct bench *bench, const device_address *a)
{
    bench->kernels->layer_norm(bench->context, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], bench->rows, CHANNELS);
}

static void run_layer_norm_backward(struct bench *bench, const device_address *a)
{
    bench->kernels->layer_norm_backward(bench->context, a[0], a[6], a[7], a[1], a[4], a[2], a[3], a[8], bench->rows,
                                        CHANNELS, true);
}

static void bench_layer_norm(struct bench *bench)
{
    uint64_t one = bench->rows * CHANNELS * bench->real_bytes;
    struct arrays arrays = {0};
    array(bench, &arrays, one);             // y, dx
    array(bench, &arrays, one);             // sum, dy
    array(bench, &arrays, bench->rows * 4); // mean
    array(bench, &arrays, bench->rows * 4); // rstd
    array(bench, &arrays, one);             // x
    array(bench, &arrays, one);             // residual
    array(bench, &arrays, CHANNELS * 4);    // gamma, dgamma
    array(bench, &arrays, CHANNELS * 4);    // beta, dbeta
    array(bench, &arrays, CHANNELS * 4);    // gamma
    report_bytes(bench, "add + layer_norm", time_of(bench, run_layer_norm, arrays.at), 4 * one);
    report_bytes(bench, "layer_norm_backward", time_of(bench, run_layer_norm_backward, arrays.at), 4 * one);
    release(bench, &arrays);
}

static void fill_tokens(struct bench *bench, device_address address)
{
    int32_t *tokens = malloc(bench->rows * sizeof(*tokens));
    must(tokens != NULL, "malloc", "");
    uint32_t seed = 1;
    for (uint64_t i = 0; i < bench->rows; i++) {
        seed = seed * 1664525 + 1013904223;
        tokens[i] = (int32_t)((seed >> 8) % CLASSES);
    }
    bench->device->ops->copy_to_device(bench->device, bench->stream, address, tokens, bench->rows * sizeof(*tokens));
    bench->device->ops->stream_synchronize(bench->device, bench->stream);
    free(tokens);
}

static void run_embedding(struct bench *bench, const device_address *a)
{
    bench->kernels->embedding(bench->context, a[0], a[1], a[2], a[3], bench->batch, LENGTH, CHANNELS);
}

static void run_embedding_backward(struct bench *bench, const device_address *a)
{
    bench->kernels->embedding_backward(bench->context, a[2], a[3], a[0], a[1], bench->batch, LENGTH, CHANNELS, CLASSES);
}

// What the backward pass reads and writes of the table depends on the tokens; here nearly every one is another row.
static void bench_embedding(struct bench *bench)
{
    uint64_t one = bench->rows * CHANNELS * bench->real_bytes;
    struct arrays arrays = {0};
    array(bench, &arrays, one);
    fill_tokens(bench, array(bench, &arrays, bench->rows * 4));
    array(bench, &arrays, STRIDE * CHANNELS * 4);
    array(bench, &arrays, LENGTH * CHANNELS * 4);
    report_bytes(bench, "embedding", time_of(bench, run_embedding, arrays.at), 2 * one);
    uint64_t rows = bench->rows < CLASSES ? bench->rows : CLASSES;
    report_bytes(bench, "embedding_backward", time_of(bench, run_embedding_backward, arrays.at),
                 2 * one + 2 * rows * CHANNELS * 4);
    release(bench, &arrays);
}

static void run_cross_entropy(struct bench *bench, const device_address *a)
{
    bench->kernels->cross_entropy(bench->context, a[0], a[1], a[2], bench->rows, CLASSES, STRIDE, true);
}

static void bench_cross_entropy(struct bench *bench)
{
    uint64_t logits = bench->rows * STRIDE * bench->real_bytes;
    struct arrays arrays = {0};
    array(bench, &arrays, sizeof(struct kernel_tally));
    array(bench, &arrays, logits);
    fill_tokens(bench, array(bench, &arrays, bench->rows * 4));
    report_bytes(bench, "cross_entropy", time_of(bench, run_cross_entropy, arrays.at), 2 * logits);
    release(bench, &arrays);
}

static void run_sum_of_squares(struct bench *bench, const device_address *a)
{
    bench->kernels->sum_of_squares(bench->context, a[5], a[1], WEIGHTS);
}

static void run_adamw(struct bench *bench, const device_address *a)
{
    const struct kernel_adamw args = {
        .learning_rate = 1e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f, .step = 1, .decaying = WEIGHTS / 2};
    bench->kernels->adamw(bench->context, &args, a[0], bench->real_bytes == 2 ? a[4] : 0, a[1], a[2], a[3], a[6],
                          WEIGHTS);
}

static void bench_optimizer(struct bench *bench)
{
    struct arrays arrays = {0};
    for (size_t i = 0; i < 4; i++) { // weights, gradients, two moments
        array(bench, &arrays, WEIGHTS * 4);
    }
    array(bench, &arrays, WEIGHTS * 2); // copy
    array(bench, &arrays, 8);           // sum
    array(bench, &arrays, 4);           // scale
    uint64_t copy = bench->real_bytes == 2 ? 2 : 0;
    report_bytes(bench, "sum_of_squares", time_of(bench, run_sum_of_squares, arrays.at), WEIGHTS * 4);
    report_bytes(bench, "adamw", time_of(bench, run_adamw, arrays.at), WEIGHTS * (7 * 4 + copy));
    release(bench, &arrays);
}

// So small a scale that the sums of all runs stay within int64.
static void run_fixed_add(struct bench *bench, const device_address *a)
{
    bench->kernels->fixed_add(bench->context, a[0], a[1], WEIGHTS, 0x1p20, INT64_C(1) << 40, a[2]);
}

static void run_fixed_get(struct bench *bench, const device_address *a)
{
    bench->kernels->fixed_get(bench->context, a[1], a[0], WEIGHTS, 0x1p20, a[3]);
}

static void bench_fixed(struct bench *bench)
{
    struct arrays arrays = {0};
    array(bench, &arrays, WEIGHTS * 8); // sums
    array(bench, &arrays, WEIGHTS * 4); // gradients
    array(bench, &arrays, 8);           // spilled
    array(bench, &arrays, 4);           // largest
    report_bytes(bench, "fixed_add", time_of(bench, run_fixed_add, arrays.at), WEIGHTS * (2 * 8 + 4));
    report_bytes(bench, "fixed_get", time_of(bench, run_fixed_get, arrays.at), WEIGHTS * (8 + 4));
    release(bench, &arrays);
}

static void run_attention(struct bench *bench, const device_address *a)
{
    bench->kernels->attention(bench->context, a[0], a[1], a[2], bench->batch, LENGTH, CHANNELS, HEADS);
}

static void run_attention_backward(struct bench *bench, const device_address *a)
{
    bench->kernels->attention_backward(bench->context, a[3], a[4], a[5], a[2], a[0], a[1], bench->batch, LENGTH,
                                       CHANNELS, HEADS);
}

static void bench_attention(struct bench *bench)
{
    uint64_t one = bench->rows * CHANNELS * bench->real_bytes;
    struct arrays arrays = {0};
    array(bench, &arrays, one);                                                // y
    array(bench, &arrays, bench->rows * HEADS * 4);                            // lse
    array(bench, &arrays, 3 * one);                                            // qkv
    array(bench, &arrays, 3 * one);                                            // dqkv
    array(bench, &arrays, bench->rows * HEADS * 4);                            // delta
    array(bench, &arrays, one);                                                // dy
    double products = (double)bench->batch * LENGTH * (LENGTH + 1) * CHANNELS; // a product over the causal half
    report_flops("attention", time_of(bench, run_attention, arrays.at), 2 * products);
    report_flops("attention_backward", time_of(bench, run_attention_backward, arrays.at), 5 * products);
    release(bench, &arrays);
}

static void run_matmul(struct bench *bench, const device_address *a)
{
    const struct kernel_matmul shape = {
        .m = bench->rows, .n = 4 * CHANNELS, .k = CHANNELS, .transpose_b = true, .epilogue = KERNEL_EPILOGUE_GELU};
    bench->kernels->matmul(bench->context, &shape, a[0], a[1], a[2], a[3], a[4]);
}

// As two kernels: what the epilogue saves, together with "gelu".
static void run_matmul_bias(struct bench *bench, const device_address *a)
{
    const struct kernel_matmul shape = {.m = bench->rows, .n = 4 * CHANNELS, .k = CHANNELS, .transpose_b = true};
    bench->kernels->matmul(bench->context, &shape, a[0], a[1], a[2], a[3], 0);
}

static void run_matmul_gelu_backward(struct bench *bench, const device_address *a)
{
    const struct kernel_matmul shape = {
        .m = bench->rows, .n = 4 * CHANNELS, .k = CHANNELS, .epilogue = KERNEL_EPILOGUE_GELU_BACKWARD};
    bench->kernels->matmul(bench->context, &shape, a[0], a[1], a[2], 0, a[4]);
}

static void run_matmul_weights(struct bench *bench, const device_address *a)
{
    const struct kernel_matmul shape = {
        .m = 4 * CHANNELS, .n = CHANNELS, .k = bench->rows, .transpose_a = true, .accumulate = true, .float_c = true};
    bench->kernels->matmul(bench->context, &shape, a[5], a[0], a[1], 0, 0);
}

static void bench_matmul(struct bench *bench)
{
    uint64_t one = bench->rows * CHANNELS * bench->real_bytes;
    struct arrays arrays = {0};
    array(bench, &arrays, 4 * one);                     // c
    array(bench, &arrays, one);                         // a
    array(bench, &arrays, 4 * CHANNELS * CHANNELS * 4); // b
    array(bench, &arrays, 4 * CHANNELS * 4);            // bias
    array(bench, &arrays, 4 * one);                     // gelu_input
    array(bench, &arrays, 4 * CHANNELS * CHANNELS * 4); // dw
    double flops = 2.0 * (double)bench->rows * 4 * CHANNELS * CHANNELS;
    report_flops("matmul + bias + gelu", time_of(bench, run_matmul, arrays.at), flops);
    report_flops("matmul + bias", time_of(bench, run_matmul_bias, arrays.at), flops);
    report_flops("matmul + gelu_backward", time_of(bench, run_matmul_gelu_backward, arrays.at), flops);
    report_flops("matmul of gradients", time_of(bench, run_matmul_weights, arrays.at), flops);
    release(bench, &arrays);
}

static void open_bench(struct bench *bench, const char *name, enum kernel_precision precision, uint64_t batch)
{
    struct error error = {0};
    const struct device_ops *ops = device_find(name);
    must(ops != NULL, name, "not built in");
    *bench = (struct bench){.kernels = kernels_find(name, precision),
                            .batch = batch,
                            .rows = batch * LENGTH,
                            .real_bytes = kernel_real_bytes(precision),
                            .worst_ratio = 1};
    must(ops->create(&(struct device_config){.sharers = 1}, &bench->device, &error) == STATUS_OK, name, error.text);
    must(ops->stream_create(bench->device, &bench->stream) == STATUS_OK, "stream_create", "");
    must(ops->event_create(bench->device, &bench->begin) == STATUS_OK, "event_create", "");
    must(ops->event_create(bench->device, &bench->end) == STATUS_OK, "event_create", "");
    must(mem_pool_create(bench->device, 0, &bench->pool, &error) == STATUS_OK, "mem_pool_create", error.text);
    device_address workspace = 0;
    if (bench->kernels->workspace_bytes > 0) {
        workspace = hold(bench, bench->kernels->workspace_bytes);
    }
    must(bench->kernels->context_create(bench->device, bench->stream, workspace, &bench->context, &error) == STATUS_OK,
         "context_create", error.text);
}

static void close_bench(struct bench *bench)
{
    const struct device_ops *ops = bench->device->ops;
    bench->kernels->context_destroy(bench->context);
    mem_pool_destroy(bench->pool);
    ops->event_destroy(bench->device, bench->begin);
    ops->event_destroy(bench->device, bench->end);
    ops->stream_destroy(bench->device, bench->stream);
    ops->destroy(bench->device);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "cpu";
    bool bf16 = argc > 2 && strcmp(argv[2], "bf16") == 0;
    uint64_t batch = argc > 3 ? strtoul(argv[3], NULL, 10) : 1;
    must(batch >= 1 && batch <= 1024, "a batch from 1 to 1024", "");
    struct bench bench;
    open_bench(&bench, name, bf16 ? KERNEL_BF16 : KERNEL_FP32, batch);
    printf("%s, %s, %" PRIu64 " sequences of %" PRIu64 " tokens\n", bench.device->ops->description(bench.device),
           bf16 ? "bf16" : "fp32", batch, LENGTH);
    bench_copy(&bench);
    bench_elementwise(&bench);
    bench_layer_norm(&bench);
    bench_embedding(&bench);
    bench_cross_entropy(&bench);
    bench_optimizer(&bench);
    bench_fixed(&bench);
    double worst = bench.worst_ratio;
    bench_attention(&bench);
    bench_matmul(&bench);
    close_bench(&bench);
    return strcmp(name, "cuda") != 0 || worst >= LEAST_RATIO ? EXIT_SUCCESS : EXIT_FAILURE;
}
