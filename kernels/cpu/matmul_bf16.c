// SPDX-License-Identifier: Apache-2.0
//
// Products of bfloat16 matrices by blocks that become float32 on the way: not every processor multiplies bfloat16, and
// so all compute the same. Turning an element takes one operation for every 2 BLOCK of the product.
#include <string.h>

#include "kernels/cpu/cpu.h"

#define BLOCK ((size_t)512)

struct operand {
    const uint16_t *x;
    size_t stride;
    bool transposed; // op(x)[i, j] is x[j, i]
};

// to[rows, columns] = op(x)[row.., column..]
static void read_block(float *to, const struct operand *operand, size_t row, size_t column, size_t rows, size_t columns)
{
    const bool transposed = operand->transposed;
    const size_t lines = transposed ? columns : rows, width = transposed ? rows : columns;
    const uint16_t *from = operand->x + (transposed ? column * operand->stride + row : row * operand->stride + column);
#pragma omp parallel for if (rows * columns > CPU_PARALLEL_MIN)
    for (size_t line = 0; line < lines; line++) {
#pragma omp simd
        for (size_t i = 0; i < width; i++) {
            to[line * width + i] = bfloat16_to_float(from[line * operand->stride + i]);
        }
    }
}

// Where the product goes, and what is done to it there.
struct result {
    const struct kernel_matmul *shape;
    void *c; // float or bfloat16
    const uint16_t *bias;
    uint16_t *gelu_input;
};

static float finish_element(const struct result *result, float p, size_t place)
{
    switch (result->shape->epilogue) {
    case KERNEL_EPILOGUE_NONE:
        break;
    case KERNEL_EPILOGUE_GELU:
        if (result->gelu_input != NULL) {
            result->gelu_input[place] = bfloat16_from_float(p);
        }
        return p * cpu_gelu_gate(p);
    case KERNEL_EPILOGUE_GELU_BACKWARD:
        return p * cpu_gelu_slope(bfloat16_to_float(result->gelu_input[place]));
    }
    return p;
}

static void write_row(const struct result *result, const float *from, size_t place, size_t column, size_t columns)
{
    const bool accumulate = result->shape->accumulate;
    for (size_t i = 0; i < columns; i++) {
        float p = from[i] + (result->bias == NULL ? 0 : bfloat16_to_float(result->bias[column + i]));
        if (result->shape->float_c) {
            float *c = (float *)result->c + place + i;
            *c = accumulate ? *c + p : p;
        } else {
            uint16_t *c = (uint16_t *)result->c + place + i;
            *c = bfloat16_from_float(accumulate ? bfloat16_to_float(*c) + p : finish_element(result, p, place + i));
        }
    }
}

static void write_block(const struct result *result, const float *from, size_t row, size_t column, size_t rows,
                        size_t columns)
{
#pragma omp parallel for if (rows * columns > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < rows; i++) {
        write_row(result, from + i * columns, (row + i) * result->shape->n + column, column, columns);
    }
}

void cpu_matmul_bf16(struct kernel_context *context, const struct kernel_matmul *shape, device_address c,
                     device_address a_at, device_address b_at, device_address bias, device_address gelu_input)
{
    const size_t m = shape->m, n = shape->n, k = shape->k;
    const struct operand a = {device_cpu_pointer(a_at), shape->transpose_a ? m : k, shape->transpose_a};
    const struct operand b = {device_cpu_pointer(b_at), shape->transpose_b ? k : n, shape->transpose_b};
    const struct result result = {shape, device_cpu_pointer(c), device_cpu_pointer(bias),
                                  device_cpu_pointer(gelu_input)};
    float *a_block = cpu_scratch(context, 3 * BLOCK * BLOCK), *b_block = a_block + BLOCK * BLOCK,
          *c_block = b_block + BLOCK * BLOCK;

    for (size_t row = 0; row < m; row += BLOCK) {
        const size_t rows = uint64_min(BLOCK, m - row);
        for (size_t column = 0; column < n; column += BLOCK) {
            const size_t columns = uint64_min(BLOCK, n - column);
            memset(c_block, 0, rows * columns * sizeof *c_block);
            for (size_t i = 0; i < k; i += BLOCK) {
                const size_t depth = uint64_min(BLOCK, k - i);
                read_block(a_block, &a, row, i, rows, depth);
                read_block(b_block, &b, i, column, depth, columns);
                cpu_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', rows, columns, depth, 1, a_block,
                          a.transposed ? rows : depth, b_block, b.transposed ? depth : columns, 1, c_block, columns);
            }
            write_block(&result, c_block, row, column, rows, columns);
        }
    }
}
