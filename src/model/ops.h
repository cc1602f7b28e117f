// SPDX-License-Identifier: Apache-2.0
//
// The kinds of operation, and the builders that append them to a list. Each kind knows how to run itself through the
// kernel table and how to append its own backward pass; nothing else in the program does.
#ifndef HEADROOM_MODEL_OPS_H
#define HEADROOM_MODEL_OPS_H

#include "model/list.h"

struct differentiation;

// What an operation does row by row.
struct op_rows {
    unsigned slots; // as bits: of tensors that have these rows
    size_t *count;
};

struct op_type {
    const char *name;
    // `a[i]` is the address of op->tensors[i], 0 for TENSOR_NONE.
    void (*run)(const struct op *op, struct kernel_context *context, const device_address *a);
    // In place of `run`: an operation that moves tensors[0], which is at `address`.
    void (*move)(const struct op *op, struct kernel_context *context, const struct list_transfers *transfers,
                 device_address address);
    void (*differentiate)(struct differentiation *pass, const struct op *op); // NULL: a backward operation
    uint64_t (*flops)(const struct op *op);                                   // NULL: not worth counting
    struct op_rows (*rows)(struct op *op);                                    // NULL: it cannot be split by rows
    // Slots, as bits, that a forward operation writes. One that changes a tensor in place writes nothing else, and what
    // made the tensor made no other.
    unsigned writes;
    bool cheap; // takes little time for the bytes that it makes, so that they need not be kept
    // Slots, as bits: each of these outputs may be written over any of these inputs, of which nothing is left then.
    struct {
        unsigned outputs, inputs;
    } over;
};

struct op {
    const struct op_type *type;
    size_t block;                      // as list.block was when it was appended
    tensor_id tensors[OP_TENSORS_MAX]; // in the order of the kernel's arguments
    union {
        struct kernel_matmul matmul;
        struct {
            size_t count;
        } elementwise;
        struct {
            size_t rows, columns;
        } matrix;
        struct {
            size_t rows, channels;
            bool accumulate;
        } norm;
        struct {
            size_t batch, length, channels, heads, vocabulary;
        } sequence;
        struct {
            size_t rows, first, capacity, channels, heads;
        } cached;
        struct {
            size_t rows, classes, stride;
            bool gradient;
        } loss;
        struct {
            uint64_t host_offset, bytes;
        } move;
    };
};

// Builders. `name` names the tensor that comes out.

// y[rows, out] = x[rows, in] weights[out, in]' + bias[out]; bias may be TENSOR_NONE.
tensor_id op_linear(struct list *list, tensor_id x, tensor_id weights, tensor_id bias, size_t rows, size_t in,
                    size_t out, const char *name);
// x, float32, as reals; x itself where they are the same.
tensor_id op_convert(struct list *list, tensor_id x, const char *name);
// Works in place and answers x: no other operation may need x's earlier contents, forward or backward.
tensor_id op_relu(struct list *list, tensor_id x);
tensor_id op_gelu(struct list *list, tensor_id x, const char *name);
tensor_id op_add(struct list *list, tensor_id a, tensor_id b, const char *name);
// y = a + b for a tensor that exists, in the backward pass; y may be a.
void op_add_into(struct list *list, tensor_id y, tensor_id a, tensor_id b);
// Over rows of `channels`.
tensor_id op_layer_norm(struct list *list, tensor_id x, tensor_id gamma, tensor_id beta, size_t rows, size_t channels,
                        const char *name);
// y[B, T, C] from tokens[B, T], wte[V, C] and wpe[T, C].
tensor_id op_embedding(struct list *list, tensor_id tokens, tensor_id wte, tensor_id wpe, size_t batch, size_t length,
                       size_t channels, size_t vocabulary, const char *name);
// y[B, T, C] from qkv[B, T, 3C].
tensor_id op_attention(struct list *list, tensor_id qkv, size_t batch, size_t length, size_t channels, size_t heads,
                       const char *name);
// y[R, C] from qkv[R, 3C] of the tokens from number `first` on of one sequence, whose keys and values up to there are
// in cache[2, capacity, C] and whose own are put there. It has no backward pass.
tensor_id op_attention_cached(struct list *list, tensor_id cache, tensor_id qkv, size_t rows, size_t first,
                              size_t capacity, size_t channels, size_t heads, const char *name);
// Adds the losses of logits[rows, stride] to the tally. In a list with a backward pass it turns the logits into their
// gradient at once, so no other operation may read them, forward or backward: what makes them is not op_relu or
// op_attention.
void op_cross_entropy(struct list *list, tensor_id tally, tensor_id logits, tensor_id targets, size_t rows,
                      size_t classes, size_t stride);

// What list_fuse asks for neighbours: makes `op` do the work of operation number `next` too and answers true, or
// answers false and changes nothing.
bool op_fuse(const struct list *list, struct op *op, size_t next);

#endif
