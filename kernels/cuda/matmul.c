// SPDX-License-Identifier: Apache-2.0
//
// cuBLASLt thinks in columns, so it is asked for c' = op(b)' op(a)': with the operands exchanged and their rows called
// columns nothing needs to be moved. Our own kernels do the epilogues that it does not do for a shape, and GELU in
// float32, where nobody promises that the library's is as precise as its sums.
//
// The library loads an algorithm's code when it first runs, and a product of another size may get another algorithm.
// Where the device has no memory for its code, because another program took the last, one that the product ran in
// another size does.
#include "kernels/cuda/matmul.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mem/device_cuda.h"

#define AUX_COLUMNS 8 // what the row of an epilogue's second matrix must be a multiple of (cublasLt.h)
#define HEADS       256

// What an algorithm is chosen for.
struct problem { // no gaps: it is compared as bytes
    uint64_t m, n, k, transpose_a, transpose_b, accumulate, float_c, epilogue, bias, aux;
};

// How to solve it.
struct solution {
    struct problem problem;
    struct solution *next; // of the same head
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
    bool found, ran;
};

struct cuda_matmul_cache {
    struct solution *heads[HEADS];
};

struct cuda_matmul_cache *cuda_matmul_cache_create(void)
{
    return calloc(1, sizeof(struct cuda_matmul_cache));
}

void cuda_matmul_cache_destroy(struct cuda_matmul_cache *cache)
{
    for (size_t i = 0; cache != NULL && i < HEADS; i++) {
        while (cache->heads[i] != NULL) {
            struct solution *solution = cache->heads[i];
            cache->heads[i] = solution->next;
            free(solution);
        }
    }
    free(cache);
}

static bool set(struct solution *solution, cublasLtMatmulDescAttributes_t attribute, const void *value, size_t bytes)
{
    return cublasLtMatmulDescSetAttribute(&solution->operation, attribute, value, bytes) == CUBLAS_STATUS_SUCCESS;
}

// The addresses that are the operation's, not the product's.
static bool set_pointers(struct solution *solution, device_address bias, device_address aux)
{
    void *const bias_pointer = device_cuda_pointer(bias), *const aux_pointer = device_cuda_pointer(aux);
    const struct problem *problem = &solution->problem;
    return (!problem->bias || set(solution, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias_pointer, sizeof(bias_pointer))) &&
           (!problem->aux ||
            set(solution, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux_pointer, sizeof(aux_pointer)));
}

static cublasLtEpilogue_t epilogue_of(const struct problem *problem)
{
    switch (problem->epilogue) {
    case KERNEL_EPILOGUE_GELU:
        if (problem->aux) {
            return problem->bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
        }
        return problem->bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    case KERNEL_EPILOGUE_GELU_BACKWARD:
        return CUBLASLT_EPILOGUE_DGELU;
    default:
        return problem->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    }
}

static bool describe_operation(struct solution *solution)
{
    const struct problem *problem = &solution->problem;
    cublasOperation_t first = problem->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t second = problem->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = epilogue_of(problem);
    int64_t stride = (int64_t)problem->n;
    return cublasLtMatmulDescInit(&solution->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
           set(solution, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof(first)) &&
           set(solution, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof(second)) &&
           set(solution, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof(epilogue)) &&
           (!problem->aux || set(solution, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &stride, sizeof(stride)));
}

// A row-major [rows, columns] is [columns, rows] to cuBLASLt.
static bool describe_matrix(cublasLtMatrixLayout_t layout, cudaDataType_t type, uint64_t rows, uint64_t columns)
{
    return cublasLtMatrixLayoutInit(layout, type, columns, rows, (int64_t)columns) == CUBLAS_STATUS_SUCCESS;
}

static bool describe(struct solution *solution, enum kernel_precision precision)
{
    const struct problem *p = &solution->problem;
    cudaDataType_t real = precision == KERNEL_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    return describe_operation(solution) &&
           describe_matrix(&solution->a, real, p->transpose_a ? p->k : p->m, p->transpose_a ? p->m : p->k) &&
           describe_matrix(&solution->b, real, p->transpose_b ? p->n : p->k, p->transpose_b ? p->k : p->n) &&
           describe_matrix(&solution->c, p->float_c ? CUDA_R_32F : real, p->m, p->n);
}

static bool prefer(cublasLtMatmulPreference_t preference)
{
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint64_t workspace = KERNELS_CUDA_WORKSPACE_BYTES;
    const uint32_t alignment = KERNEL_ALIGNMENT;
    bool done = cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                     sizeof(workspace)) == CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0; i < sizeof(alignments) / sizeof(alignments[0]); i++) {
        done = done && cublasLtMatmulPreferenceSetAttribute(preference, alignments[i], &alignment, sizeof(alignment)) ==
                           CUBLAS_STATUS_SUCCESS;
    }
    return done;
}

static bool choose(cublasLtHandle_t blas, struct solution *solution)
{
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t best;
    int count = 0;
    bool chosen =
        cublasLtMatmulPreferenceInit(&preference) == CUBLAS_STATUS_SUCCESS && prefer(&preference) &&
        cublasLtMatmulAlgoGetHeuristic(blas, &solution->operation, &solution->b, &solution->a, &solution->c,
                                       &solution->c, &preference, 1, &best, &count) == CUBLAS_STATUS_SUCCESS &&
        count > 0 && best.state == CUBLAS_STATUS_SUCCESS;
    if (chosen) {
        solution->algorithm = best.algo;
    }
    return chosen;
}

static struct solution **head_of(struct cuda_matmul_cache *cache, const struct problem *problem)
{
    const unsigned char *bytes = (const unsigned char *)problem;
    size_t hash = 2166136261; // FNV-1a
    for (size_t i = 0; i < sizeof(*problem); i++) {
        hash = (hash ^ bytes[i]) * 16777619;
    }
    return &cache->heads[hash % HEADS];
}

// The library concludes from the bias's and aux's addresses how they are aligned, so while it chooses they are no more
// aligned than all that will follow.
static struct solution *new_solution(struct cuda_context *context, const struct problem *problem)
{
    struct solution *solution = calloc(1, sizeof(*solution));
    if (solution != NULL) {
        solution->problem = *problem;
        solution->found = describe(solution, context->base.kernels->precision) &&
                          set_pointers(solution, KERNEL_ALIGNMENT, KERNEL_ALIGNMENT) && choose(context->blas, solution);
    }
    return solution;
}

// How to solve the problem, kept from the first time on; NULL when the host's memory runs out.
static struct solution *solve(struct cuda_context *context, const struct problem *problem)
{
    struct solution **head = head_of(context->matmuls, problem);
    for (struct solution *known = *head; known != NULL; known = known->next) {
        if (memcmp(&known->problem, problem, sizeof(*problem)) == 0) {
            return known;
        }
    }
    struct solution *solution = new_solution(context, problem);
    if (solution != NULL) {
        solution->next = *head;
        *head = solution;
    }
    return solution;
}

struct operands {
    device_address c, a, b, bias, aux; // bias, aux: 0: none
};

// A call that fails has launched nothing that writes c. What it leaves as the runtime's last error is forgotten: it is
// answered here.
static cublasStatus_t launch(struct cuda_context *context, struct solution *solution,
                             const cublasLtMatmulAlgo_t *algorithm, const struct operands *operands)
{
    const float one = 1, beta = solution->problem.accumulate ? 1 : 0;
    void *const a = device_cuda_pointer(operands->a), *const b = device_cuda_pointer(operands->b);
    void *const c = device_cuda_pointer(operands->c);
    bool clean = cudaPeekAtLastError() == cudaSuccess;
    cublasStatus_t status = cublasLtMatmul(context->blas, &solution->operation, &one, b, &solution->b, a, &solution->a,
                                           &beta, c, &solution->c, c, &solution->c, algorithm, context->workspace,
                                           KERNELS_CUDA_WORKSPACE_BYTES, context->stream);
    if (status != CUBLAS_STATUS_SUCCESS && clean) {
        cudaGetLastError();
    }
    return status;
}

// That it does not do such products, whatever memory there is.
static bool is_refusal(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE;
}

// The same product of another micro-batch, whose samples are the rows of what lies in memory as a.
static bool differ_in_samples(const struct problem *left, const struct problem *right)
{
    struct problem other = *right;
    if (left->transpose_a) {
        other.k = left->k;
    } else {
        other.m = left->m;
    }
    return memcmp(left, &other, sizeof(other)) == 0;
}

static bool may_use(struct cuda_context *context, struct solution *solution, const cublasLtMatmulAlgo_t *algorithm)
{
    cublasLtMatmulHeuristicResult_t result;
    return cublasLtMatmulAlgoCheck(context->blas, &solution->operation, &solution->b, &solution->a, &solution->c,
                                   &solution->c, algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= KERNELS_CUDA_WORKSPACE_BYTES;
}

// By the algorithm of another size, which ran before.
static cublasStatus_t launch_another(struct cuda_context *context, struct solution *solution,
                                     const struct operands *operands)
{
    cublasStatus_t status = CUBLAS_STATUS_EXECUTION_FAILED;
    for (size_t i = 0; i < HEADS; i++) {
        const struct solution *other = context->matmuls->heads[i];
        for (; other != NULL && status != CUBLAS_STATUS_SUCCESS; other = other->next) {
            if (other != solution && other->ran && differ_in_samples(&other->problem, &solution->problem) &&
                may_use(context, solution, &other->algorithm)) {
                status = launch(context, solution, &other->algorithm, operands);
            }
        }
    }
    return status;
}

static cublasStatus_t run_solution(struct cuda_context *context, struct solution *solution,
                                   const struct operands *operands)
{
    if (!set_pointers(solution, operands->bias, operands->aux)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    cublasStatus_t status = launch(context, solution, &solution->algorithm, operands);
    if (status == CUBLAS_STATUS_SUCCESS) {
        solution->ran = true;
    } else if (!is_refusal(status)) {
        status = launch_another(context, solution, operands);
    }
    return status;
}

// All at once; false where cuBLASLt does not do that. What it refuses once it is not asked for again.
static bool run_fused(struct cuda_context *context, const struct problem *problem, const struct operands *operands)
{
    struct solution *solution = solve(context, problem);
    if (solution == NULL || !solution->found) {
        return false;
    }
    cublasStatus_t status = run_solution(context, solution, operands);
    solution->found = !is_refusal(status);
    return status == CUBLAS_STATUS_SUCCESS;
}

// The product alone.
static void run_plain(struct cuda_context *context, const struct problem *with_bias, const struct operands *operands)
{
    struct problem plain = *with_bias;
    plain.bias = 0;
    struct solution *solution = solve(context, &plain);
    if (solution == NULL) {
        device_cuda_note_text(context->base.device, "cublasLtMatmul", "out of host memory");
        return;
    }
    cublasStatus_t status = solution->found ? run_solution(context, solution, operands) : CUBLAS_STATUS_NOT_SUPPORTED;
    if (status != CUBLAS_STATUS_SUCCESS) {
        device_cuda_note_text(context->base.device, "cublasLtMatmul", cublasLtGetStatusString(status));
    }
}

// A product over nothing: zeros.
static void run_empty(struct cuda_context *context, const struct problem *problem, device_address to)
{
    if (!problem->accumulate) {
        uint64_t number_bytes = problem->float_c ? sizeof(float) : kernel_real_bytes(context->base.kernels->precision);
        device_cuda_note(
            context->base.device,
            cudaMemsetAsync(device_cuda_pointer(to), 0, problem->m * problem->n * number_bytes, context->stream),
            "cudaMemsetAsync");
    }
}

// The product and its bias.
static void run_product(struct cuda_context *context, const struct problem *problem, const struct operands *operands)
{
    if (problem->k > 0 && problem->bias && run_fused(context, problem, operands)) {
        return;
    }
    if (problem->k > 0) {
        run_plain(context, problem, operands);
    } else {
        run_empty(context, problem, operands->c);
    }
    if (problem->bias) {
        cuda_add_to_rows(context, operands->c, operands->bias, problem->m, problem->n);
    }
}

// The product and then the epilogue.
static void run_in_parts(struct cuda_context *context, const struct problem *fused, const struct operands *operands)
{
    const struct kernels *kernels = context->base.kernels;
    const size_t count = fused->m * fused->n;
    struct problem product = *fused;
    struct operands to = *operands;
    product.epilogue = KERNEL_EPILOGUE_NONE;
    product.aux = 0;
    to.aux = 0;
    if (fused->epilogue == KERNEL_EPILOGUE_GELU && fused->aux) {
        to.c = operands->aux;
    }
    run_product(context, &product, &to);
    if (fused->epilogue == KERNEL_EPILOGUE_GELU) {
        kernels->gelu(&context->base, operands->c, to.c, count); // where both are one, in place
    } else if (fused->epilogue == KERNEL_EPILOGUE_GELU_BACKWARD) {
        kernels->gelu_backward(&context->base, operands->c, operands->c, operands->aux, count);
    }
}

void cuda_matmul(struct kernel_context *base, const struct kernel_matmul *shape, device_address c, device_address a,
                 device_address b, device_address bias, device_address gelu_input)
{
    struct cuda_context *context = (struct cuda_context *)base;
    const bool epilogue = shape->epilogue != KERNEL_EPILOGUE_NONE;
    const struct operands operands = {c, a, b, bias, epilogue ? gelu_input : 0};
    const struct problem problem = {
        .m = shape->m,
        .n = shape->n,
        .k = shape->k,
        .transpose_a = shape->transpose_a,
        .transpose_b = shape->transpose_b,
        .accumulate = shape->accumulate,
        .float_c = shape->float_c,
        .epilogue = shape->epilogue,
        .bias = operands.bias != 0,
        .aux = operands.aux != 0,
    };
    if (shape->m == 0 || shape->n == 0) {
        return;
    }
    const bool fusible = epilogue && shape->k > 0 && base->kernels->precision == KERNEL_BF16 &&
                         (!problem.aux || shape->n % AUX_COLUMNS == 0);
    if (!fusible || !run_fused(context, &problem, &operands)) {
        run_in_parts(context, &problem, &operands);
    }
}
