// SPDX-License-Identifier: Apache-2.0
//
// On the simulated GPU: another program takes the last byte after micro-steps of one size ran, and those of another
// size run nevertheless.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>

#include "kernels/kernels.h"
#include "mem/pool.h"

enum { FEW = 8, MANY = 2048, INPUTS = 64, OUTPUTS = 32 };

struct bench {
    struct device *device;
    struct stream *stream;
    struct mem_pool *pool;
    struct kernel_context *context;
    device_address x, dx, y, weights, bias, gelu_input, gradient, bias_gradient;
};

// Reals, all of them 1.
static device_address ones(struct bench *bench, uint64_t count, bool wide)
{
    uint64_t bytes = wide ? sizeof(float) : kernel_real_bytes(bench->context->kernels->precision);
    unsigned char *values = malloc(count * bytes);
    device_address address;
    assert_non_null(values);
    for (uint64_t i = 0; i < count; i++) {
        memcpy(values + i * bytes, bytes == 2 ? (const void *)&(uint16_t){0x3f80} : &(float){1}, bytes);
    }
    assert_int_equal(mem_pool_alloc(bench->pool, count * bytes, bench->stream, "ones", &address), STATUS_OK);
    bench->device->ops->copy_to_device(bench->device, bench->stream, address, values, count * bytes);
    bench->device->ops->stream_synchronize(bench->device, bench->stream);
    free(values);
    return address;
}

static void open_bench(struct bench *bench, enum kernel_precision precision)
{
    const struct kernels *kernels = kernels_find("cuda", precision);
    struct error error = {0};
    device_address workspace;
    assert_int_equal(device_find("cuda")->create(&(struct device_config){.sharers = 1}, &bench->device, &error),
                     STATUS_OK);
    assert_int_equal(bench->device->ops->stream_create(bench->device, &bench->stream), STATUS_OK);
    assert_int_equal(mem_pool_create(bench->device, 0, &bench->pool, &error), STATUS_OK);
    assert_int_equal(mem_pool_alloc(bench->pool, kernels->workspace_bytes, bench->stream, "workspace", &workspace),
                     STATUS_OK);
    assert_int_equal(kernels->context_create(bench->device, bench->stream, workspace, &bench->context, &error),
                     STATUS_OK);
    bench->x = ones(bench, MANY * INPUTS, false);
    bench->dx = ones(bench, MANY * INPUTS, false);
    bench->y = ones(bench, MANY * OUTPUTS, false);
    bench->weights = ones(bench, OUTPUTS * INPUTS, false);
    bench->bias = ones(bench, OUTPUTS, false);
    bench->gelu_input = ones(bench, MANY * OUTPUTS, false);
    bench->gradient = ones(bench, OUTPUTS * INPUTS, true);
    bench->bias_gradient = ones(bench, OUTPUTS, true);
}

static void close_bench(struct bench *bench)
{
    bench->context->kernels->context_destroy(bench->context);
    mem_pool_destroy(bench->pool);
    bench->device->ops->stream_destroy(bench->device, bench->stream);
    bench->device->ops->destroy(bench->device);
}

// A layer, forward and backward.
static void run_layer(struct bench *bench, size_t rows)
{
    const struct kernels *kernels = bench->context->kernels;
    const struct kernel_matmul forward = {
        .m = rows, .n = OUTPUTS, .k = INPUTS, .transpose_b = true, .epilogue = KERNEL_EPILOGUE_GELU};
    const struct kernel_matmul weights = {
        .m = OUTPUTS, .n = INPUTS, .k = rows, .transpose_a = true, .accumulate = true, .float_c = true};
    const struct kernel_matmul inputs = {.m = rows, .n = INPUTS, .k = OUTPUTS};
    kernels->matmul(bench->context, &forward, bench->y, bench->x, bench->weights, bench->bias, bench->gelu_input);
    kernels->matmul(bench->context, &weights, bench->gradient, bench->y, bench->x, 0, 0);
    kernels->bias_backward(bench->context, bench->bias_gradient, bench->y, rows, OUTPUTS);
    kernels->matmul(bench->context, &inputs, bench->dx, bench->y, bench->weights, 0, 0);
}

enum { PIECES_MAX = 256 };

static size_t take_all_memory(void *pieces[PIECES_MAX])
{
    size_t count = 0;
    for (size_t bytes = (size_t)1 << 30; bytes > 0; bytes /= 2) {
        while (count < PIECES_MAX && cudaMalloc(&pieces[count], bytes) == cudaSuccess) {
            count++;
        }
    }
    cudaGetLastError(); // the last refusal was meant to be
    return count;
}

static float first_float(struct bench *bench, device_address address)
{
    float value;
    bench->device->ops->copy_to_host(bench->device, bench->stream, &value, address, sizeof(value));
    bench->device->ops->stream_synchronize(bench->device, bench->stream);
    return value;
}

static void check(enum kernel_precision precision)
{
    struct bench bench;
    struct error error = {0};
    void *pieces[PIECES_MAX];
    open_bench(&bench, precision);
    run_layer(&bench, FEW);
    size_t taken = take_all_memory(pieces);
    bench.device->ops->fill_zero(bench.device, bench.stream, bench.gradient, sizeof(float));
    bench.device->ops->fill_zero(bench.device, bench.stream, bench.bias_gradient, sizeof(float));
    run_layer(&bench, MANY);
    bench.device->ops->stream_synchronize(bench.device, bench.stream);
    if (bench.device->ops->check(bench.device, &error) != STATUS_OK) {
        fail_msg("%s", error.text);
    }
    assert_true(first_float(&bench, bench.bias_gradient) == MANY * (INPUTS + 1)); // where GELU changes nothing
    assert_true(first_float(&bench, bench.gradient) == MANY * (INPUTS + 1));
    while (taken > 0) {
        cudaFree(pieces[--taken]);
    }
    close_bench(&bench);
}

static void a_full_gpu_runs_other_sizes(void **state)
{
    (void)state;
    check(KERNEL_FP32);
    check(KERNEL_BF16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_full_gpu_runs_other_sizes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
