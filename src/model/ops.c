// SPDX-License-Identifier: Apache-2.0
//
// Each kind of operation in these pieces, in this order: run, flops, differentiate, rows, builder.
#include "model/ops.h"

#include <assert.h>

#include "model/differentiate.h"

// Appends an operation whose tensors are those given, the rest TENSOR_NONE.
#define TENSORS(...) ((const tensor_id[OP_TENSORS_MAX + 1]){__VA_ARGS__, TENSOR_END})
#define TENSOR_END   ((tensor_id)-2)
#define SLOT(slot)   (1U << (slot))

static void append(struct list *list, struct op op, const tensor_id *tensors)
{
    size_t slot = 0;
    for (; tensors[slot] != TENSOR_END; slot++) {
        op.tensors[slot] = tensors[slot];
    }
    for (; slot < OP_TENSORS_MAX; slot++) {
        op.tensors[slot] = TENSOR_NONE;
    }
    list_append(list, &op);
}

static tensor_id local(struct list *list, uint64_t elements, const char *name)
{
    return list_tensor(list, TENSOR_LOCAL, TENSOR_REAL, elements, name);
}

// Statistics, which are kept in float32.
static tensor_id local_floats(struct list *list, uint64_t elements, const char *name)
{
    return list_tensor(list, TENSOR_LOCAL, TENSOR_FLOAT32, elements, name);
}

static uint64_t elements_of(const struct list *list, tensor_id tensor)
{
    return list->failed ? 0 : list->tensors[tensor].elements;
}

// Linear layer: a matrix product, and the sum over rows for the gradient of its bias.

static void run_matmul(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->matmul(context, &op->matmul, a[0], a[1], a[2], a[3], a[4]);
}

static void run_bias_backward(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->bias_backward(context, a[0], a[1], op->matrix.rows, op->matrix.columns);
}

static uint64_t matmul_flops(const struct op *op)
{
    return 2 * (uint64_t)op->matmul.m * op->matmul.n * op->matmul.k;
}

static struct op_rows linear_rows(struct op *op)
{
    return (struct op_rows){SLOT(0) | SLOT(1), &op->matmul.m};
}

// A gradient of weights is summed over rows.
static struct op_rows matmul_backward_rows(struct op *op)
{
    if (!op->matmul.transpose_a) {
        return linear_rows(op);
    }
    assert(op->matmul.accumulate);
    return (struct op_rows){SLOT(1) | SLOT(2), &op->matmul.k};
}

static struct op_rows bias_backward_rows(struct op *op)
{
    return (struct op_rows){SLOT(1), &op->matrix.rows};
}

static const struct op_type matmul_backward = {
    .name = "matmul_backward", .run = run_matmul, .flops = matmul_flops, .rows = matmul_backward_rows};
static const struct op_type bias_backward = {
    .name = "bias_backward", .run = run_bias_backward, .rows = bias_backward_rows};

// With y = x w', dw = dy' x and dx = dy w. The weights come first, so that x is free before dx is born.
static void differentiate_linear(struct differentiation *pass, const struct op *op)
{
    tensor_id y = op->tensors[0], x = op->tensors[1], weights = op->tensors[2], bias = op->tensors[3];
    size_t rows = op->matmul.m, out = op->matmul.n, in = op->matmul.k;
    tensor_id dy = gradient_of(pass, y);
    bool accumulate;
    tensor_id dweights = gradient_into(pass, weights, &accumulate);
    append(
        pass->list,
        (struct op){
            .type = &matmul_backward,
            .matmul = {.m = out, .n = in, .k = rows, .transpose_a = true, .accumulate = accumulate, .float_c = true}},
        TENSORS(dweights, dy, x));
    if (bias != TENSOR_NONE) {
        tensor_id dbias = gradient_into(pass, bias, &accumulate);
        append(pass->list, (struct op){.type = &bias_backward, .matrix = {.rows = rows, .columns = out}},
               TENSORS(dbias, dy));
    }
    if (gradient_wanted(pass, x)) {
        tensor_id dx = gradient_into(pass, x, &accumulate);
        append(
            pass->list,
            (struct op){.type = &matmul_backward, .matmul = {.m = rows, .n = in, .k = out, .accumulate = accumulate}},
            TENSORS(dx, dy, weights));
    }
}

static const struct op_type linear = {.name = "linear",
                                      .run = run_matmul,
                                      .flops = matmul_flops,
                                      .differentiate = differentiate_linear,
                                      .rows = linear_rows,
                                      .writes = SLOT(0)};

tensor_id op_linear(struct list *list, tensor_id x, tensor_id weights, tensor_id bias, size_t rows, size_t in,
                    size_t out, const char *name)
{
    tensor_id y = local(list, (uint64_t)rows * out, name);
    append(list, (struct op){.type = &linear, .matmul = {.m = rows, .n = out, .k = in, .transpose_b = true}},
           TENSORS(y, x, weights, bias));
    return y;
}

// Data as reals.

static void run_convert(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->convert(context, a[0], a[1], op->elementwise.count);
}

static void differentiate_convert(struct differentiation *pass, const struct op *op)
{
    (void)pass, (void)op; // data has no gradient
}

static const struct op_type convert = {
    .name = "convert", .run = run_convert, .differentiate = differentiate_convert, .writes = SLOT(0)};

tensor_id op_convert(struct list *list, tensor_id x, const char *name)
{
    if (list->precision == KERNEL_FP32) {
        return x;
    }
    tensor_id y = local(list, elements_of(list, x), name);
    if (!list->failed) {
        list->tensors[y].constant = list->tensors[x].constant;
    }
    append(list, (struct op){.type = &convert, .elementwise = {.count = elements_of(list, x)}}, TENSORS(y, x));
    return y;
}

// ReLU, in place.

static void run_relu(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->relu(context, a[0], op->elementwise.count);
}

static void run_relu_backward(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->relu_backward(context, a[0], a[1], a[2], op->elementwise.count);
}

static const struct op_type relu_backward = {
    .name = "relu_backward", .run = run_relu_backward, .over = {SLOT(0), SLOT(1) | SLOT(2)}};

static void differentiate_relu(struct differentiation *pass, const struct op *op)
{
    tensor_id x = op->tensors[0];
    tensor_id dy = gradient_of(pass, x);
    tensor_id dx = gradient_over(pass, x, x);
    append(pass->list, (struct op){.type = &relu_backward, .elementwise = op->elementwise}, TENSORS(dx, dy, x));
}

static const struct op_type relu = {
    .name = "relu", .run = run_relu, .differentiate = differentiate_relu, .writes = SLOT(0)};

tensor_id op_relu(struct list *list, tensor_id x)
{
    append(list, (struct op){.type = &relu, .elementwise = {.count = elements_of(list, x)}}, TENSORS(x));
    return x;
}

// GELU.

static void run_gelu(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->gelu(context, a[0], a[1], op->elementwise.count);
}

static void run_gelu_backward(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->gelu_backward(context, a[0], a[1], a[2], op->elementwise.count);
}

static const struct op_type gelu_backward = {
    .name = "gelu_backward", .run = run_gelu_backward, .over = {SLOT(0), SLOT(1) | SLOT(2)}};

static void differentiate_gelu(struct differentiation *pass, const struct op *op)
{
    tensor_id y = op->tensors[0], x = op->tensors[1];
    tensor_id dy = gradient_of(pass, y);
    tensor_id dx = gradient_over(pass, x, y);
    append(pass->list, (struct op){.type = &gelu_backward, .elementwise = op->elementwise}, TENSORS(dx, dy, x));
}

static const struct op_type gelu = {.name = "gelu",
                                    .run = run_gelu,
                                    .differentiate = differentiate_gelu,
                                    .writes = SLOT(0),
                                    .cheap = true,
                                    .over = {SLOT(0), SLOT(1)}};

tensor_id op_gelu(struct list *list, tensor_id x, const char *name)
{
    tensor_id y = local(list, elements_of(list, x), name);
    append(list, (struct op){.type = &gelu, .elementwise = {.count = elements_of(list, x)}}, TENSORS(y, x));
    return y;
}

// Sum of two tensors.

static void run_add(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->add(context, a[0], a[1], a[2], op->elementwise.count);
}

static void differentiate_add(struct differentiation *pass, const struct op *op)
{
    tensor_id dy = gradient_of(pass, op->tensors[0]);
    gradient_share(pass, op->tensors[1], dy);
    gradient_share(pass, op->tensors[2], dy);
}

static const struct op_type add = {.name = "add",
                                   .run = run_add,
                                   .differentiate = differentiate_add,
                                   .writes = SLOT(0),
                                   .over = {SLOT(0), SLOT(1) | SLOT(2)}};

void op_add_into(struct list *list, tensor_id y, tensor_id a, tensor_id b)
{
    append(list, (struct op){.type = &add, .elementwise = {.count = elements_of(list, a)}}, TENSORS(y, a, b));
}

tensor_id op_add(struct list *list, tensor_id a, tensor_id b, const char *name)
{
    tensor_id y = local(list, elements_of(list, a), name);
    op_add_into(list, y, a, b);
    return y;
}

// Layer norm.

static void run_layer_norm(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->layer_norm(context, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], op->norm.rows,
                                 op->norm.channels);
}

static void run_layer_norm_backward(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->layer_norm_backward(context, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], op->norm.rows,
                                          op->norm.channels, op->norm.accumulate);
}

static const struct op_type layer_norm_backward = {
    .name = "layer_norm_backward", .run = run_layer_norm_backward, .over = {SLOT(0), SLOT(3) | SLOT(4)}};

static void differentiate_layer_norm(struct differentiation *pass, const struct op *op)
{
    tensor_id y = op->tensors[0], mean = op->tensors[2], rstd = op->tensors[3];
    tensor_id x = op->tensors[4], gamma = op->tensors[6], beta = op->tensors[7];
    bool accumulate;
    tensor_id dgamma = gradient_into(pass, gamma, &accumulate);
    tensor_id dbeta = gradient_into(pass, beta, &accumulate);
    tensor_id dx = gradient_into(pass, x, &accumulate);
    append(pass->list,
           (struct op){.type = &layer_norm_backward,
                       .norm = {.rows = op->norm.rows, .channels = op->norm.channels, .accumulate = accumulate}},
           TENSORS(dx, dgamma, dbeta, gradient_of(pass, y), x, mean, rstd, gamma));
}

static const struct op_type layer_norm = {.name = "layer_norm",
                                          .run = run_layer_norm,
                                          .differentiate = differentiate_layer_norm,
                                          .writes = SLOT(0) | SLOT(2) | SLOT(3),
                                          .cheap = true,
                                          .over = {SLOT(0) | SLOT(1), SLOT(4) | SLOT(5)}};

tensor_id op_layer_norm(struct list *list, tensor_id x, tensor_id gamma, tensor_id beta, size_t rows, size_t channels,
                        const char *name)
{
    tensor_id y = local(list, (uint64_t)rows * channels, name);
    tensor_id mean = local_floats(list, rows, "mean");
    tensor_id rstd = local_floats(list, rows, "rstd");
    append(list, (struct op){.type = &layer_norm, .norm = {.rows = rows, .channels = channels}},
           TENSORS(y, TENSOR_NONE, mean, rstd, x, TENSOR_NONE, gamma, beta));
    return y;
}

// Embedding of tokens and positions.

static void run_embedding(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->embedding(context, a[0], a[1], a[2], a[3], op->sequence.batch, op->sequence.length,
                                op->sequence.channels);
}

static void run_embedding_backward(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->embedding_backward(context, a[0], a[1], a[2], a[3], op->sequence.batch, op->sequence.length,
                                         op->sequence.channels, op->sequence.vocabulary);
}

static const struct op_type embedding_backward = {.name = "embedding_backward", .run = run_embedding_backward};

static void differentiate_embedding(struct differentiation *pass, const struct op *op)
{
    bool accumulate;
    tensor_id dwte = gradient_into(pass, op->tensors[2], &accumulate);
    tensor_id dwpe = gradient_into(pass, op->tensors[3], &accumulate);
    append(pass->list, (struct op){.type = &embedding_backward, .sequence = op->sequence},
           TENSORS(dwte, dwpe, gradient_of(pass, op->tensors[0]), op->tensors[1]));
}

static const struct op_type embedding = {
    .name = "embedding", .run = run_embedding, .differentiate = differentiate_embedding, .writes = SLOT(0)};

tensor_id op_embedding(struct list *list, tensor_id tokens, tensor_id wte, tensor_id wpe, size_t batch, size_t length,
                       size_t channels, size_t vocabulary, const char *name)
{
    tensor_id y = local(list, (uint64_t)batch * length * channels, name);
    append(list,
           (struct op){.type = &embedding,
                       .sequence = {.batch = batch, .length = length, .channels = channels, .vocabulary = vocabulary}},
           TENSORS(y, tokens, wte, wpe));
    return y;
}

// Causal self-attention.

static void run_attention(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->attention(context, a[0], a[1], a[2], op->sequence.batch, op->sequence.length,
                                op->sequence.channels, op->sequence.heads);
}

static void run_attention_backward(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->attention_backward(context, a[0], a[1], a[2], a[3], a[4], a[5], op->sequence.batch,
                                         op->sequence.length, op->sequence.channels, op->sequence.heads);
}

// Two products of [T, T] by C/H channels per head forward, causal, so half of each.
static uint64_t attention_flops(const struct op *op)
{
    return 2 * (uint64_t)op->sequence.batch * op->sequence.length * op->sequence.length * op->sequence.channels;
}

// Four such products, not counting the scores that are computed again.
static uint64_t attention_backward_flops(const struct op *op)
{
    return 2 * attention_flops(op);
}

static const struct op_type attention_backward = {
    .name = "attention_backward", .run = run_attention_backward, .flops = attention_backward_flops};

static void differentiate_attention(struct differentiation *pass, const struct op *op)
{
    tensor_id y = op->tensors[0], lse = op->tensors[1], qkv = op->tensors[2];
    uint64_t rows = (uint64_t)op->sequence.batch * op->sequence.heads * op->sequence.length;
    tensor_id dqkv = gradient_written(pass, qkv);
    tensor_id delta = local_floats(pass->list, rows, "delta");
    append(pass->list, (struct op){.type = &attention_backward, .sequence = op->sequence},
           TENSORS(dqkv, delta, gradient_of(pass, y), qkv, y, lse));
}

static const struct op_type attention = {.name = "attention",
                                         .run = run_attention,
                                         .flops = attention_flops,
                                         .differentiate = differentiate_attention,
                                         .writes = SLOT(0) | SLOT(1)};

tensor_id op_attention(struct list *list, tensor_id qkv, size_t batch, size_t length, size_t channels, size_t heads,
                       const char *name)
{
    tensor_id y = local(list, (uint64_t)batch * length * channels, name);
    tensor_id lse = local_floats(list, (uint64_t)batch * heads * length, "lse");
    append(list,
           (struct op){.type = &attention,
                       .sequence = {.batch = batch, .length = length, .channels = channels, .heads = heads}},
           TENSORS(y, lse, qkv));
    return y;
}

// The same of tokens that follow others, whose keys and values are kept.

static void run_attention_cached(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->attention_cached(context, a[0], a[1], a[2], op->cached.rows, op->cached.first,
                                       op->cached.capacity, op->cached.channels, op->cached.heads);
}

static uint64_t attention_cached_flops(const struct op *op)
{
    return 4 * (uint64_t)op->cached.rows * (op->cached.first + (op->cached.rows + 1) / 2) * op->cached.channels;
}

static const struct op_type attention_cached = {
    .name = "attention_cached", .run = run_attention_cached, .flops = attention_cached_flops, .writes = SLOT(0)};

tensor_id op_attention_cached(struct list *list, tensor_id cache, tensor_id qkv, size_t rows, size_t first,
                              size_t capacity, size_t channels, size_t heads, const char *name)
{
    tensor_id y = local(list, (uint64_t)rows * channels, name);
    append(list,
           (struct op){
               .type = &attention_cached,
               .cached = {.rows = rows, .first = first, .capacity = capacity, .channels = channels, .heads = heads}},
           TENSORS(y, cache, qkv));
    return y;
}

// Softmax and cross-entropy. Its backward pass is part of its forward pass.

static void run_cross_entropy(const struct op *op, struct kernel_context *context, const device_address *a)
{
    context->kernels->cross_entropy(context, a[0], a[1], a[2], op->loss.rows, op->loss.classes, op->loss.stride,
                                    op->loss.gradient);
}

// The logits become their own gradient: nothing else reads them after this.
static void differentiate_cross_entropy(struct differentiation *pass, const struct op *op)
{
    tensor_id logits = op->tensors[1];
    pass->list->ops[pass->position].loss.gradient = true;
    gradient_share(pass, logits, logits);
}

static struct op_rows cross_entropy_rows(struct op *op)
{
    return (struct op_rows){SLOT(1) | SLOT(2), &op->loss.rows};
}

static const struct op_type cross_entropy = {.name = "cross_entropy",
                                             .run = run_cross_entropy,
                                             .differentiate = differentiate_cross_entropy,
                                             .rows = cross_entropy_rows,
                                             .writes = SLOT(1)};

void op_cross_entropy(struct list *list, tensor_id tally, tensor_id logits, tensor_id targets, size_t rows,
                      size_t classes, size_t stride)
{
    append(list, (struct op){.type = &cross_entropy, .loss = {.rows = rows, .classes = classes, .stride = stride}},
           TENSORS(tally, logits, targets));
    list->logits = logits;
}

// Fusion: pairs that one kernel does.

// s = a + b; y = layer_norm(s): s is written on the way.
static bool fuse_add_into_layer_norm(struct op *op, const struct op *next)
{
    tensor_id sum = op->tensors[0], a = op->tensors[1], b = op->tensors[2];
    if (next->tensors[4] != sum || next->tensors[5] != TENSOR_NONE || sum == a) {
        return false;
    }
    *op = *next;
    op->tensors[1] = sum;
    op->tensors[4] = a;
    op->tensors[5] = b;
    return true;
}

// p = linear(x); y = gelu(p): p is kept where something needs it later.
static bool fuse_gelu_into_linear(struct op *op, const struct op *next, bool read_later)
{
    tensor_id p = op->tensors[0];
    if (next->tensors[1] != p) {
        return false;
    }
    op->matmul.epilogue = KERNEL_EPILOGUE_GELU;
    op->tensors[0] = next->tensors[0];
    op->tensors[4] = read_later ? p : TENSOR_NONE;
    return true;
}

// dy = a b; dx = dy gelu'(x), written over dy.
static bool fuse_gelu_backward_into_matmul(struct op *op, const struct op *next)
{
    tensor_id dy = op->tensors[0];
    if (op->matmul.accumulate || op->matmul.float_c || next->tensors[0] != dy || next->tensors[1] != dy) {
        return false;
    }
    op->matmul.epilogue = KERNEL_EPILOGUE_GELU_BACKWARD;
    op->tensors[4] = next->tensors[2];
    return true;
}

bool op_fuse(const struct list *list, struct op *op, size_t next_place)
{
    const struct op *next = &list->ops[next_place];
    if (op->type == &add && next->type == &layer_norm) {
        return fuse_add_into_layer_norm(op, next);
    }
    if (op->type == &linear && next->type == &gelu) {
        return fuse_gelu_into_linear(op, next, list_mentions(list, op->tensors[0], next_place + 1));
    }
    if (op->type == &matmul_backward && next->type == &gelu_backward) {
        return fuse_gelu_backward_into_matmul(op, next);
    }
    return false;
}
