// SPDX-License-Identifier: Apache-2.0
//
// bench_gpt2 [--precision fp32|bf16] [STEPS]: training steps of GPT-2 124M on the CPU device, in float32 unless told,
// 4 sequences of 256 tokens, AdamW, against the rate of oneDNN's own sgemm, measured before each step. Prints one JSON
// object; fails when the median step in float32 does less than 60 % of the median sgemm rate. bench/gpt2.py runs it
// beside PyTorch.
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <dnnl.h>

#include "mem/pool.h"
#include "model/optimizer.h"
#include "model/price.h"

#define MICRO_BATCH 4
#define SEQ_LEN     256
#define VOCAB_SIZE  50257
#define STEPS_MAX   100
#define GEMM_SIZE   2048
#define LEAST_RATIO 0.60

struct bench {
    struct device *device;
    struct stream *stream;
    struct mem_pool *pool;
    device_address workspace;
    struct kernel_context *kernels;
    struct model *model;
    struct price_book *prices;
    struct optimizer_config optimizer;
    struct optimizer_memory state;
    device_address squares;
    struct list_memory memory;
};

static void must(bool held, const char *what)
{
    if (!held) {
        fprintf(stderr, "bench_gpt2: %s failed\n", what);
        exit(EXIT_FAILURE);
    }
}

static double now_seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static device_address hold(struct bench *bench, uint64_t bytes, const char *tag)
{
    device_address address;
    must(mem_pool_alloc(bench->pool, bytes, bench->stream, tag, &address) == STATUS_OK, "mem_pool_alloc");
    bench->device->ops->fill_zero(bench->device, bench->stream, address, bytes);
    return address;
}

static void write_weights(struct bench *bench)
{
    for (size_t i = 0; i < bench->model->parameter_count; i++) {
        const struct parameter *parameter = &bench->model->parameters[i];
        uint64_t elements = parameter->rows * parameter->columns;
        float *values = malloc(elements * sizeof(*values));
        must(values != NULL, "malloc");
        model_initial_values(bench->model, i, 1, values);
        bench->device->ops->copy_to_device(bench->device, bench->stream,
                                           bench->state.parameters + parameter->offset * sizeof(float), values,
                                           elements * sizeof(float));
        bench->device->ops->stream_synchronize(bench->device, bench->stream);
        free(values);
    }
    if (bench->state.copy != 0) {
        bench->kernels->kernels->convert(bench->kernels, bench->state.copy, bench->state.parameters,
                                         bench->model->elements);
    }
}

static void prepare(struct bench *bench, enum kernel_precision precision)
{
    struct error error;
    struct model_config model = {
        .kind = MODEL_GPT,
        .precision = precision,
        .gpt = {.vocab_size = VOCAB_SIZE, .seq_len = SEQ_LEN, .blocks = 12, .heads = 12, .channels = 768},
    };
    const struct device_ops *ops = device_find("cpu");
    const struct kernels *kernels = kernels_find("cpu", precision);
    *bench = (struct bench){
        .optimizer = {.kind = OPTIMIZER_ADAMW,
                      .learning_rate = 3e-4,
                      .beta1 = 0.9,
                      .beta2 = 0.95,
                      .epsilon = 1e-8,
                      .weight_decay = 0.1,
                      .steps = STEPS_MAX},
    };
    must(ops->create(&(struct device_config){0}, &bench->device, &error) == STATUS_OK, "device");
    must(ops->stream_create(bench->device, &bench->stream) == STATUS_OK, "stream");
    must(mem_pool_create(bench->device, 0, &bench->pool, &error) == STATUS_OK, "pool");
    bench->workspace = hold(bench, kernels->workspace_bytes, "workspace");
    must(kernels->context_create(bench->device, bench->stream, bench->workspace, &bench->kernels, &error) == STATUS_OK,
         "kernels");
    must(model_create(&model, &bench->model, &error) == STATUS_OK, "model");
    bench->prices = price_book_create(bench->model, 1);
    must(bench->prices != NULL, "price book");
    uint64_t bytes = bench->model->elements * sizeof(float), copy_bytes = model_copy_bytes(bench->model);
    bench->state.parameters = hold(bench, bytes, "weights");
    bench->state.copy = copy_bytes == 0 ? 0 : hold(bench, copy_bytes, "copy of the weights");
    bench->state.scale = hold(bench, sizeof(float), "gradient scale");
    bench->memory.parameters = copy_bytes == 0 ? bench->state.parameters : bench->state.copy;
    bench->memory.gradients = bench->state.gradients = hold(bench, bytes, "gradients");
    bench->memory.tally = hold(bench, sizeof(struct kernel_tally), "tally");
    bench->squares = hold(bench, sizeof(double), "gradient norm");
    for (size_t i = 0; i < optimizer_state_count(&bench->optimizer); i++) {
        bench->state.states[i] = hold(bench, bytes, "optimizer state");
    }
    write_weights(bench);
}

static void release(struct bench *bench)
{
    price_book_destroy(bench->prices);
    model_destroy(bench->model);
    bench->kernels->kernels->context_destroy(bench->kernels);
    mem_pool_destroy(bench->pool);
    bench->device->ops->stream_destroy(bench->device, bench->stream);
    bench->device->ops->destroy(bench->device);
}

static void write_tokens(struct bench *bench, const struct list *list, uint32_t seed)
{
    int32_t tokens[MICRO_BATCH * SEQ_LEN], targets[MICRO_BATCH * SEQ_LEN];
    for (size_t i = 0; i < MICRO_BATCH * SEQ_LEN; i++) {
        seed = seed * 1664525 + 1013904223;
        tokens[i] = (int32_t)((seed >> 8) % VOCAB_SIZE);
        targets[i] = (int32_t)((seed >> 7) % VOCAB_SIZE);
    }
    const struct device_ops *ops = bench->device->ops;
    ops->copy_to_device(bench->device, bench->stream, list_address(list, &bench->memory, list->inputs), tokens,
                        sizeof(tokens));
    ops->copy_to_device(bench->device, bench->stream, list_address(list, &bench->memory, list->targets), targets,
                        sizeof(targets));
    ops->stream_synchronize(bench->device, bench->stream);
}

static double step_seconds(struct bench *bench, uint32_t step)
{
    double start = now_seconds();
    const struct kernels *kernels = bench->kernels->kernels;
    const struct list *list = price_list(bench->prices, LIST_TRAIN, model_shape_max(bench->model, MICRO_BATCH));
    must(list != NULL, "list");
    bench->device->ops->fill_zero(bench->device, bench->stream, bench->memory.gradients,
                                  bench->model->elements * sizeof(float));
    bench->device->ops->fill_zero(bench->device, bench->stream, bench->memory.tally, sizeof(struct kernel_tally));
    bench->memory.inputs = hold(bench, list->inputs_bytes, "samples");
    bench->memory.locals = hold(bench, list->locals_bytes, "micro-step");
    write_tokens(bench, list, step);
    list_run(list, 0, list->op_count, bench->kernels, &bench->memory);
    kernels->sum_of_squares(bench->kernels, bench->squares, bench->memory.gradients, bench->model->elements);
    kernels->gradient_scale(bench->kernels, bench->state.scale, bench->memory.tally, bench->squares, 0);
    optimizer_step(&bench->optimizer, bench->model, bench->kernels, &bench->state, step, 0, bench->model->elements);
    bench->device->ops->stream_synchronize(bench->device, bench->stream);
    mem_pool_free(bench->pool, bench->memory.locals, bench->stream);
    mem_pool_free(bench->pool, bench->memory.inputs, bench->stream);
    return now_seconds() - start;
}

static double gemm_seconds(const float *a, const float *b, float *c)
{
    double start = now_seconds();
    must(dnnl_sgemm('N', 'N', GEMM_SIZE, GEMM_SIZE, GEMM_SIZE, 1, a, GEMM_SIZE, b, GEMM_SIZE, 0, c, GEMM_SIZE) ==
             dnnl_success,
         "dnnl_sgemm");
    return now_seconds() - start;
}

static int compare(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof(*values), compare);
    return values[count / 2];
}

// Takes "--precision NAME" off the front of the arguments.
static enum kernel_precision precision_argument(int *argc, char ***argv)
{
    if (*argc < 2 || strcmp((*argv)[1], "--precision") != 0) {
        return KERNEL_FP32;
    }
    const char *name = *argc > 2 ? (*argv)[2] : "";
    must(strcmp(name, "fp32") == 0 || strcmp(name, "bf16") == 0, "reading --precision fp32|bf16");
    *argc -= 2;
    *argv += 2;
    return strcmp(name, "bf16") == 0 ? KERNEL_BF16 : KERNEL_FP32;
}

int main(int argc, char **argv)
{
    enum kernel_precision precision = precision_argument(&argc, &argv);
    size_t steps = argc > 1 ? strtoul(argv[1], NULL, 10) : 10, matrix = (size_t)GEMM_SIZE * GEMM_SIZE;
    must(steps >= 1 && steps <= STEPS_MAX, "a number of steps from 1 to 100");
    struct bench bench;
    double step_times[STEPS_MAX], gemm_times[STEPS_MAX];
    float *a = malloc(matrix * sizeof(*a)), *b = malloc(matrix * sizeof(*b)), *c = malloc(matrix * sizeof(*c));
    must(a != NULL && b != NULL && c != NULL, "malloc");
    for (size_t i = 0; i < matrix; i++) {
        a[i] = b[i] = (float)(i % 7) - 3;
    }
    prepare(&bench, precision);
    step_seconds(&bench, 0); // touches all memory
    gemm_seconds(a, b, c);
    for (size_t i = 0; i < steps; i++) {
        gemm_times[i] = gemm_seconds(a, b, c);
        step_times[i] = step_seconds(&bench, (uint32_t)(i + 1));
    }
    double seconds = median(step_times, steps);
    double gemm_rate = 2.0 * GEMM_SIZE * GEMM_SIZE * GEMM_SIZE / median(gemm_times, steps);
    double model_rate = MICRO_BATCH * (double)model_sample_flops(bench.model) / seconds;
    printf("{\"precision\": \"%s\", \"threads\": %d, \"steps\": %zu, \"step_seconds\": %.4f, \"tokens_per_s\": %.1f, "
           "\"model_gflops\": %.1f, "
           "\"sgemm_gflops\": %.1f, \"ratio\": %.3f}\n",
           precision == KERNEL_BF16 ? "bf16" : "fp32", omp_get_max_threads(), steps, seconds,
           MICRO_BATCH * SEQ_LEN / seconds, model_rate / 1e9, gemm_rate / 1e9, model_rate / gemm_rate);
    release(&bench);
    free(c);
    free(b);
    free(a);
    bool fast = precision != KERNEL_FP32 || model_rate >= LEAST_RATIO * gemm_rate;
    return fast ? EXIT_SUCCESS : EXIT_FAILURE;
}
