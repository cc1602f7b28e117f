// SPDX-License-Identifier: Apache-2.0
//
// What an operation's backward rule may ask for while list_differentiate walks the forward pass from its end.
#ifndef HEADROOM_MODEL_DIFFERENTIATE_H
#define HEADROOM_MODEL_DIFFERENTIATE_H

#include "model/ops.h"

struct gradient_addition { // y = a + b; y may be a
    tensor_id y, a, b;
};

struct differentiation {
    struct list *list;
    size_t tensor_count;  // forward tensors
    tensor_id *gradients; // of each forward tensor; TENSOR_NONE: nothing has reached it yet
    size_t *producers;    // the first operation that mentions each forward tensor
    size_t position;      // the operation being differentiated
    // To be appended once the present operation's rule is done.
    struct gradient_addition additions[OP_TENSORS_MAX];
    size_t addition_count;
};

// False for what the caller gave: data has no gradient.
bool gradient_wanted(const struct differentiation *pass, tensor_id tensor);

// The gradient that has reached `tensor`, to be read.
tensor_id gradient_of(const struct differentiation *pass, tensor_id tensor);

// Where the present operation puts its part of the gradient of `tensor`: to be added to what is there when
// `*accumulate_p`, else to be written.
tensor_id gradient_into(struct differentiation *pass, tensor_id tensor, bool *accumulate_p);

// The same for kernels that can only write.
tensor_id gradient_written(struct differentiation *pass, tensor_id tensor);

// The same for elementwise kernels, which may write over the gradient of `output`, the tensor that the present
// operation made from `tensor`, in place or not: it is written over where nothing else needs it. Read that gradient
// first. Not for parameters.
tensor_id gradient_over(struct differentiation *pass, tensor_id tensor, tensor_id output);

// The gradient of `tensor` gains `from` as it is, without an operation where the two can share. Not for parameters.
void gradient_share(struct differentiation *pass, tensor_id tensor, tensor_id from);

#endif
