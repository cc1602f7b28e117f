// SPDX-License-Identifier: Apache-2.0
//
// cuBLASLt's matrix product: float32 and bfloat16, sums in float32, one rounding at the end. It refuses what the
// library documents as unsupported, and an algorithm for another kind of product than it was chosen for.
#include <algorithm>
#include <bit>
#include <cublasLt.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <vector>

#include "state.h"

// What the opaque structures hold; they may lie on the caller's stack.
struct layout {
    int32_t type, order;
    uint64_t rows, columns;
    int64_t stride; // leading dimension
};

struct operation {
    int32_t compute, scale_type;
    int32_t transpose_a, transpose_b;
    uint32_t epilogue;
    int32_t bias_type, aux_type; // -1: the output's
    const void *bias;
    void *aux;
    int64_t aux_stride;
};

struct preference {
    uint64_t workspace_bytes;
    uint32_t alignments[4]; // of A, B, C, D
};

struct algorithm {
    uint64_t kind, code; // of the problem that it was chosen for
    uint64_t workspace_bytes;
    uint32_t alignments[4];
    uint32_t bias_alignment, aux_alignment; // as those addresses were then
};

static_assert(sizeof(struct layout) <= sizeof(cublasLtMatrixLayoutOpaque_t));
static_assert(sizeof(struct operation) <= sizeof(cublasLtMatmulDescOpaque_t));
static_assert(sizeof(struct preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t));
static_assert(sizeof(struct algorithm) <= sizeof(cublasLtMatmulAlgo_t));

#define WORKSPACE_ALIGNMENT 256
// What an algorithm asks for where it may. It is overwritten, so that two streams with one workspace show.
#define WORKSPACE_BYTES 65536

template <typename Value, typename Opaque> static Value *inside(Opaque *opaque)
{
    return reinterpret_cast<Value *>(opaque->data);
}

template <typename Value, typename Opaque> static const Value *inside(const Opaque *opaque)
{
    return reinterpret_cast<const Value *>(opaque->data);
}

// ---- Descriptors ----

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle_p)
{
    static int handle;
    *handle_p = reinterpret_cast<cublasLtHandle_t>(&handle);
    cudaError_t error = simulator_call(SIMULATOR_CONTEXT, [] { return cudaSuccess; });
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void)
{
    return CUBLAS_VERSION;
}

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    }
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return cublasLtGetStatusName(status);
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t opaque, size_t, cudaDataType type,
                                                 uint64_t rows, uint64_t columns, int64_t stride)
{
    *opaque = {};
    *inside<struct layout>(opaque) = {type, CUBLASLT_ORDER_COL, rows, columns, stride};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout_p, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t stride)
{
    *layout_p = new cublasLtMatrixLayoutOpaque_t();
    return cublasLtMatrixLayoutInit_internal(*layout_p, sizeof(**layout_p), type, rows, columns, stride);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t opaque)
{
    delete opaque;
    return CUBLAS_STATUS_SUCCESS;
}

// Copies an attribute of the right size; nothing else changes the target.
static cublasStatus_t set(void *target, size_t bytes, const void *value, size_t value_bytes)
{
    if (target == nullptr || value == nullptr || value_bytes != bytes) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    memcpy(target, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

#define SET(field) set(&(field), sizeof(field), value, bytes)

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t opaque,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void *value,
                                                size_t bytes)
{
    struct layout *layout = inside<struct layout>(opaque);
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
        return SET(layout->type);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        return SET(layout->order);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        return SET(layout->rows);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        return SET(layout->columns);
    case CUBLASLT_MATRIX_LAYOUT_LD:
        return SET(layout->stride);
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t opaque, size_t, cublasComputeType_t compute,
                                               cudaDataType_t scale_type)
{
    *opaque = {};
    *inside<struct operation>(opaque) = {.compute = compute,
                                         .scale_type = scale_type,
                                         .transpose_a = CUBLAS_OP_N,
                                         .transpose_b = CUBLAS_OP_N,
                                         .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                                         .bias_type = -1,
                                         .aux_type = -1,
                                         .bias = nullptr,
                                         .aux = nullptr,
                                         .aux_stride = 0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *operation_p, cublasComputeType_t compute,
                                        cudaDataType_t scale_type)
{
    *operation_p = new cublasLtMatmulDescOpaque_t();
    return cublasLtMatmulDescInit_internal(*operation_p, sizeof(**operation_p), compute, scale_type);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t opaque)
{
    delete opaque;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t opaque, cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    struct operation *operation = inside<struct operation>(opaque);
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return SET(operation->transpose_a);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return SET(operation->transpose_b);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return SET(operation->epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return SET(operation->bias);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return SET(operation->bias_type);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
        return SET(operation->aux);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
        return SET(operation->aux_stride);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE:
        return SET(operation->aux_type);
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t opaque, size_t)
{
    *opaque = {};
    *inside<struct preference>(opaque) = {0, {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference_p)
{
    *preference_p = new cublasLtMatmulPreferenceOpaque_t();
    return cublasLtMatmulPreferenceInit_internal(*preference_p, sizeof(**preference_p));
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t opaque)
{
    delete opaque;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t opaque,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                                                    size_t bytes)
{
    struct preference *preference = inside<struct preference>(opaque);
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return SET(preference->workspace_bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return SET(preference->alignments[0]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        return SET(preference->alignments[1]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return SET(preference->alignments[2]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return SET(preference->alignments[3]);
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

// ---- What can be computed ----

struct problem {
    struct operation operation;
    struct layout a, b, c, d;
};

static struct problem problem_of(cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                 cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d)
{
    return {*inside<struct operation>(operation), *inside<struct layout>(a), *inside<struct layout>(b),
            *inside<struct layout>(c), *inside<struct layout>(d)};
}

static bool has_bias(const struct operation *operation)
{
    return (operation->epilogue & CUBLASLT_EPILOGUE_BIAS) != 0;
}

static bool has_aux(const struct operation *operation)
{
    return (operation->epilogue & 128) != 0;
}

static uint64_t op_rows(const struct layout *layout, int32_t transpose)
{
    return transpose == CUBLAS_OP_N ? layout->rows : layout->columns;
}

static uint64_t op_columns(const struct layout *layout, int32_t transpose)
{
    return transpose == CUBLAS_OP_N ? layout->columns : layout->rows;
}

static bool valid_layout(const struct layout *layout)
{
    uint64_t least = layout->order == CUBLASLT_ORDER_COL ? layout->rows : layout->columns;
    return layout->rows > 0 && layout->columns > 0 && layout->stride >= static_cast<int64_t>(least);
}

static bool valid_shape(const struct problem *problem)
{
    const struct operation *operation = &problem->operation;
    return valid_layout(&problem->a) && valid_layout(&problem->b) && valid_layout(&problem->c) &&
           valid_layout(&problem->d) && problem->c.rows == problem->d.rows &&
           problem->c.columns == problem->d.columns &&
           op_rows(&problem->a, operation->transpose_a) == problem->d.rows &&
           op_columns(&problem->b, operation->transpose_b) == problem->d.columns &&
           op_columns(&problem->a, operation->transpose_a) == op_rows(&problem->b, operation->transpose_b);
}

static bool supported_order(int32_t order)
{
    return order == CUBLASLT_ORDER_COL || order == CUBLASLT_ORDER_ROW;
}

static bool supported_types(const struct problem *problem)
{
    const struct operation *operation = &problem->operation;
    int32_t in = problem->a.type, out = problem->d.type;
    bool compute = operation->compute == CUBLAS_COMPUTE_32F || operation->compute == CUBLAS_COMPUTE_32F_PEDANTIC ||
                   (operation->compute == CUBLAS_COMPUTE_32F_FAST_TF32 && in == CUDA_R_32F);
    return compute && operation->scale_type == CUDA_R_32F && problem->b.type == in && problem->c.type == out &&
           ((in == CUDA_R_32F && out == CUDA_R_32F) ||
            (in == CUDA_R_16BF && (out == CUDA_R_16BF || out == CUDA_R_32F)));
}

// Epilogues see the rows of a column-major result; the second matrix has its own rules (cublasLt.h).
static bool supported_epilogue(const struct problem *problem)
{
    const struct operation *operation = &problem->operation;
    switch (operation->epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
        return true;
    case CUBLASLT_EPILOGUE_BIAS:
    case CUBLASLT_EPILOGUE_GELU:
    case CUBLASLT_EPILOGUE_GELU_BIAS:
    case CUBLASLT_EPILOGUE_GELU_AUX:
    case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
    case CUBLASLT_EPILOGUE_DGELU:
        break;
    default:
        return false;
    }
    bool bias = operation->bias_type == -1 || operation->bias_type == problem->d.type;
    bool aux = operation->aux_stride % 8 == 0 && operation->aux_stride >= static_cast<int64_t>(problem->d.rows) &&
               reinterpret_cast<uintptr_t>(operation->aux) % 16 == 0 &&
               (operation->aux_type == -1 || operation->aux_type == problem->d.type);
    return problem->d.order == CUBLASLT_ORDER_COL && (!has_bias(operation) || bias) && (!has_aux(operation) || aux);
}

static bool supported(const struct problem *problem)
{
    return supported_types(problem) && supported_order(problem->a.order) && supported_order(problem->b.order) &&
           problem->c.order == problem->d.order && supported_order(problem->d.order) && supported_epilogue(problem);
}

// FNV-1a (Fowler, Noll and Vo) of the values.
template <typename... Values> static uint64_t hash(Values... values)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    ((hash = (hash ^ static_cast<uint64_t>(values)) * UINT64_C(0x100000001b3)), ...);
    return hash;
}

// What an algorithm may be used for: such products of any size.
static uint64_t kind_of(const struct problem *problem)
{
    const struct operation *op = &problem->operation;
    const struct layout *a = &problem->a, *b = &problem->b, *c = &problem->c, *d = &problem->d;
    return hash(op->compute, op->scale_type, op->transpose_a, op->transpose_b, op->epilogue, op->bias_type,
                op->aux_type, a->type, a->order, b->type, b->order, c->type, c->order, d->type, d->order);
}

// Which code an algorithm runs: four times as many rows or columns are given another tile.
static uint64_t code_of(const struct problem *problem)
{
    auto tile = [](uint64_t size) { return std::bit_width(size) / 2; };
    return hash(kind_of(problem), tile(problem->a.rows), tile(problem->a.columns), tile(problem->d.rows),
                tile(problem->d.columns));
}

// NULL is aligned to anything.
static uint32_t alignment_of(const void *address)
{
    uintptr_t lowest = reinterpret_cast<uintptr_t>(address) & -reinterpret_cast<uintptr_t>(address);
    return lowest == 0 || lowest > 256 ? 256 : static_cast<uint32_t>(lowest);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference_opaque, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int *returned_p)
{
    struct problem problem = problem_of(operation, a, b, c, d);
    const struct preference *preference = inside<struct preference>(preference_opaque);
    *returned_p = 0;
    if (requested < 1 || !valid_shape(&problem)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (!supported(&problem)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    results[0] = {};
    struct algorithm *algorithm = inside<struct algorithm>(&results[0].algo);
    algorithm->kind = kind_of(&problem);
    algorithm->code = code_of(&problem);
    algorithm->workspace_bytes = preference->workspace_bytes >= WORKSPACE_BYTES ? WORKSPACE_BYTES : 0;
    memcpy(algorithm->alignments, preference->alignments, sizeof(algorithm->alignments));
    algorithm->bias_alignment = alignment_of(problem.operation.bias);
    algorithm->aux_alignment = alignment_of(problem.operation.aux);
    results[0].workspaceSize = algorithm->workspace_bytes;
    results[0].state = CUBLAS_STATUS_SUCCESS;
    results[0].wavesCount = 1;
    *returned_p = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algorithm_opaque,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    struct problem problem = problem_of(operation, a, b, c, d);
    const struct algorithm *algorithm = inside<struct algorithm>(algorithm_opaque);
    *result = {};
    if (!valid_shape(&problem)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (!supported(&problem) || algorithm->kind != kind_of(&problem)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    result->workspaceSize = algorithm->workspace_bytes;
    result->state = CUBLAS_STATUS_SUCCESS;
    return CUBLAS_STATUS_SUCCESS;
}

// ---- Computing ----

struct product {
    struct problem problem;
    const void *a, *b, *c;
    void *d, *workspace;
    float alpha, beta;
    size_t workspace_bytes;
};

static size_t element_bytes(int32_t type)
{
    return type == CUDA_R_16BF ? 2 : 4;
}

static float bf16_to_float(uint16_t bits)
{
    uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &wide, sizeof(value));
    return value;
}

// To nearest, ties to even.
static uint16_t bf16_from_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    if (value != value) {
        return 0x7fff;
    }
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// What tests spend their time in: sanitizers would keep it from becoming vector code. all_there() has looked at sizes.
#pragma clang attribute push(__attribute__((no_sanitize("address", "undefined"))), apply_to = function)

static float load(const void *array, int32_t type, size_t at)
{
    return type == CUDA_R_16BF ? bf16_to_float(static_cast<const uint16_t *>(array)[at])
                               : static_cast<const float *>(array)[at];
}

static void store(void *array, int32_t type, size_t at, float value)
{
    if (type == CUDA_R_16BF) {
        static_cast<uint16_t *>(array)[at] = bf16_from_float(value);
    } else {
        static_cast<float *>(array)[at] = value;
    }
}

static size_t place(const struct layout *layout, size_t row, size_t column)
{
    size_t stride = static_cast<size_t>(layout->stride);
    return layout->order == CUBLASLT_ORDER_COL ? row + column * stride : row * stride + column;
}

// op(matrix), row-major without gaps.
static void pack(const void *array, const struct layout *layout, int32_t transpose, std::vector<float> &out)
{
    size_t rows = op_rows(layout, transpose), columns = op_columns(layout, transpose);
    size_t row_step = place(layout, 1, 0), column_step = place(layout, 0, 1);
    if (transpose != CUBLAS_OP_N) {
        std::swap(row_step, column_step);
    }
    out.resize(rows * columns);
    float *to = out.data();
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < columns; j++) {
            to[i * columns + j] = load(array, layout->type, i * row_step + j * column_step);
        }
    }
}

// sum[m, n] = a[m, k] b[k, n] in tiles of k and n that stay in the cache; every sum adds in the order of k.
static void multiply(float *__restrict sum, const float *__restrict a, const float *__restrict b, size_t m, size_t n,
                     size_t k)
{
    const size_t tile = 256;
    for (size_t n0 = 0; n0 < n; n0 += tile) {
        for (size_t k0 = 0; k0 < k; k0 += tile) {
            size_t n1 = std::min(n, n0 + tile), k1 = std::min(k, k0 + tile);
            for (size_t i = 0; i < m; i++) {
                for (size_t p = k0; p < k1; p++) {
                    float factor = a[i * k + p];
                    for (size_t j = n0; j < n1; j++) {
                        sum[i * n + j] += factor * b[p * n + j];
                    }
                }
            }
        }
    }
}

static float gelu(float x)
{
    return 0.5F * x * (1 + tanhf(0.7978845608F * (x + 0.044715F * x * x * x)));
}

static float gelu_derivative(float x)
{
    float t = tanhf(0.7978845608F * (x + 0.044715F * x * x * x));
    return 0.5F * (1 + t) + 0.5F * x * (1 - t * t) * 0.7978845608F * (1 + 3 * 0.044715F * x * x);
}

// What the epilogue makes of the value at row i and column j.
static float finish(const struct product *product, size_t i, size_t j, float value)
{
    const struct operation *operation = &product->problem.operation;
    int32_t type = product->problem.d.type;
    size_t aux_at = i + j * static_cast<size_t>(operation->aux_stride);
    if (has_bias(operation)) {
        value += load(operation->bias, type, i);
    }
    if (operation->epilogue == CUBLASLT_EPILOGUE_DGELU) {
        return value * gelu_derivative(load(operation->aux, type, aux_at));
    }
    if (has_aux(operation)) {
        store(operation->aux, type, aux_at, value);
    }
    return (operation->epilogue & CUBLASLT_EPILOGUE_GELU) != 0 ? gelu(value) : value;
}

static void compute(const struct product *product)
{
    const struct problem *problem = &product->problem;
    const struct layout *d = &problem->d;
    size_t m = d->rows, n = d->columns, k = op_columns(&problem->a, problem->operation.transpose_a);
    static thread_local std::vector<float> a, b, results; // keep their memory
    pack(product->a, &problem->a, problem->operation.transpose_a, a);
    pack(product->b, &problem->b, problem->operation.transpose_b, b);
    results.assign(m * n, 0.0F);
    float *sum = results.data();
    multiply(sum, a.data(), b.data(), m, n, k);
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            float value = product->alpha * sum[i * n + j];
            if (product->beta != 0) {
                value += product->beta * load(product->c, problem->c.type, place(&problem->c, i, j));
            }
            store(product->d, d->type, place(d, i, j), finish(product, i, j, value));
        }
    }
}

#pragma clang attribute pop

static bool is_there(const void *array, const struct layout *layout)
{
    size_t elements = place(layout, layout->rows - 1, layout->columns - 1) + 1;
    return memory_is_device(array, elements * element_bytes(layout->type));
}

static bool all_there(const struct product *product)
{
    const struct problem *problem = &product->problem;
    const struct operation *operation = &problem->operation;
    size_t size = element_bytes(problem->d.type), rows = problem->d.rows;
    size_t aux = static_cast<size_t>(operation->aux_stride) * (problem->d.columns - 1) + rows;
    return is_there(product->a, &problem->a) && is_there(product->b, &problem->b) &&
           is_there(product->d, &problem->d) && (product->beta == 0 || is_there(product->c, &problem->c)) &&
           (!has_bias(operation) || memory_is_device(operation->bias, rows * size)) &&
           (!has_aux(operation) || memory_is_device(operation->aux, aux * size)) &&
           (product->workspace_bytes == 0 || memory_is_device(product->workspace, product->workspace_bytes));
}

static bool aligned(const void *address, uint32_t bytes)
{
    return reinterpret_cast<uintptr_t>(address) % bytes == 0;
}

static bool usable(const struct algorithm *algorithm, const struct product *product, size_t workspace_bytes)
{
    const struct operation *operation = &product->problem.operation;
    const void *operands[] = {product->a, product->b, product->c, product->d};
    for (size_t i = 0; i < 4; i++) {
        if (!aligned(operands[i], algorithm->alignments[i])) {
            return false;
        }
    }
    return algorithm->workspace_bytes <= workspace_bytes && aligned(product->workspace, WORKSPACE_ALIGNMENT) &&
           (!has_bias(operation) || operation->bias != nullptr) && (!has_aux(operation) || operation->aux != nullptr);
}

static bool epilogue_aligned(const struct algorithm *algorithm, const struct operation *operation)
{
    return (!has_bias(operation) || aligned(operation->bias, algorithm->bias_alignment)) &&
           (!has_aux(operation) || aligned(operation->aux, algorithm->aux_alignment));
}

// Where the caller has no algorithm, the library chooses one for the pointers at hand.
static struct algorithm chosen_here(const struct problem *problem)
{
    return {kind_of(problem), code_of(problem), 0, {4, 4, 4, 4}, 4, 4};
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algorithm_opaque,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    struct product product = {};
    product.problem = problem_of(operation, a_layout, b_layout, c_layout, d_layout);
    product.a = a;
    product.b = b;
    product.c = c;
    product.d = d;
    product.workspace = workspace;
    product.alpha = *static_cast<const float *>(alpha);
    product.beta = *static_cast<const float *>(beta);
    if (!valid_shape(&product.problem)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    struct algorithm algorithm =
        algorithm_opaque == nullptr ? chosen_here(&product.problem) : *inside<struct algorithm>(algorithm_opaque);
    product.workspace_bytes = algorithm.workspace_bytes;
    if (!supported(&product.problem) || algorithm.kind != kind_of(&product.problem)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (!usable(&algorithm, &product, workspace_bytes)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (!simulator_load(algorithm.code)) {
        return CUBLAS_STATUS_ALLOC_FAILED;
    }
    cudaError_t error = streams_launch(stream, [product, algorithm] {
        if (!epilogue_aligned(&algorithm, &product.problem.operation)) {
            simulator_fail(cudaErrorMisalignedAddress);
            return;
        }
        if (!all_there(&product)) {
            simulator_fail(cudaErrorIllegalAddress);
            return;
        }
        compute(&product);
        if (product.workspace_bytes > 0) {
            memset(product.workspace, 0xff, product.workspace_bytes);
        }
    });
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
