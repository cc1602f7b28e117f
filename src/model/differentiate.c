// SPDX-License-Identifier: Apache-2.0
#include "model/differentiate.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

bool gradient_wanted(const struct differentiation *pass, tensor_id tensor)
{
    return !pass->list->tensors[tensor].constant;
}

tensor_id gradient_of(const struct differentiation *pass, tensor_id tensor)
{
    assert(pass->gradients[tensor] != TENSOR_NONE);
    return pass->gradients[tensor];
}

// True when another forward tensor whose backward pass is not yet done has the same gradient, which therefore must not
// change.
static bool shared(const struct differentiation *pass, tensor_id tensor, tensor_id gradient)
{
    for (size_t i = 0; i < pass->tensor_count; i++) {
        if (pass->gradients[i] == gradient && (tensor_id)i != tensor && pass->producers[i] <= pass->position) {
            return true;
        }
    }
    return false;
}

static tensor_id fresh_gradient(struct differentiation *pass, tensor_id tensor)
{
    struct tensor forward = pass->list->tensors[tensor]; // a copy: list_tensor may move the array
    char name[TENSOR_NAME_MAX];
    snprintf(name, sizeof(name), "d_%.*s", TENSOR_NAME_MAX - 3, forward.name);
    bool parameter = forward.kind == TENSOR_PARAMETER;
    tensor_id gradient = list_tensor(pass->list, parameter ? TENSOR_GRADIENT : TENSOR_LOCAL,
                                     parameter ? TENSOR_FLOAT32 : TENSOR_REAL, forward.elements, name);
    if (!pass->list->failed) {
        pass->list->tensors[gradient].first_element = forward.first_element;
    }
    pass->gradients[tensor] = gradient;
    return gradient;
}

static void add_later(struct differentiation *pass, tensor_id y, tensor_id a, tensor_id b)
{
    assert(pass->addition_count < OP_TENSORS_MAX);
    pass->additions[pass->addition_count++] = (struct gradient_addition){.y = y, .a = a, .b = b};
}

tensor_id gradient_written(struct differentiation *pass, tensor_id tensor)
{
    tensor_id present = pass->gradients[tensor];
    tensor_id gradient = fresh_gradient(pass, tensor);
    if (present != TENSOR_NONE) {
        add_later(pass, gradient, gradient, present);
    }
    return gradient;
}

tensor_id gradient_into(struct differentiation *pass, tensor_id tensor, bool *accumulate_p)
{
    tensor_id present = pass->gradients[tensor];
    bool keep = present != TENSOR_NONE && !shared(pass, tensor, present);
    *accumulate_p = keep || pass->list->tensors[tensor].kind == TENSOR_PARAMETER;
    return keep ? present : gradient_written(pass, tensor);
}

tensor_id gradient_over(struct differentiation *pass, tensor_id tensor, tensor_id output)
{
    assert(pass->list->tensors[tensor].kind == TENSOR_LOCAL);
    tensor_id from = gradient_of(pass, output);
    pass->gradients[output] = TENSOR_NONE; // the present operation is the last to need it
    if (pass->gradients[tensor] != TENSOR_NONE || shared(pass, tensor, from)) {
        return gradient_written(pass, tensor);
    }
    pass->gradients[tensor] = from;
    return from;
}

void gradient_share(struct differentiation *pass, tensor_id tensor, tensor_id from)
{
    assert(pass->list->tensors[tensor].kind == TENSOR_LOCAL);
    tensor_id present = pass->gradients[tensor];
    if (present == TENSOR_NONE) {
        pass->gradients[tensor] = from;
        return;
    }
    tensor_id sum = shared(pass, tensor, present) ? fresh_gradient(pass, tensor) : present;
    add_later(pass, sum, present, from);
}

// The first operation that mentions each tensor.
static void find_producers(const struct list *list, size_t *producers)
{
    for (size_t i = list->op_count; i-- > 0;) {
        for (size_t slot = 0; slot < OP_TENSORS_MAX; slot++) {
            tensor_id id = list->ops[i].tensors[slot];
            if (id != TENSOR_NONE) {
                producers[id] = i;
            }
        }
    }
}

void list_differentiate(struct list *list)
{
    struct differentiation pass = {.list = list, .tensor_count = list->tensor_count};
    list->forward_count = list->op_count;
    pass.gradients = malloc(list->tensor_count * sizeof(*pass.gradients));
    pass.producers = calloc(list->tensor_count, sizeof(*pass.producers));
    if (list->failed || pass.gradients == NULL || pass.producers == NULL) {
        list->failed = true;
        goto out;
    }
    for (size_t i = 0; i < list->tensor_count; i++) {
        pass.gradients[i] = TENSOR_NONE;
    }
    find_producers(list, pass.producers);
    for (size_t i = list->forward_count; i-- > 0 && !list->failed;) {
        struct op op = list->ops[i]; // a copy: list_append may move the array
        pass.position = i;
        pass.addition_count = 0;
        op.type->differentiate(&pass, &op);
        for (size_t k = 0; k < pass.addition_count; k++) {
            const struct gradient_addition *addition = &pass.additions[k];
            op_add_into(list, addition->y, addition->a, addition->b);
        }
    }
out:
    free(pass.producers);
    free(pass.gradients);
}
