// SPDX-License-Identifier: Apache-2.0
//
// A list of operations on tensors: what one micro-step does, for one micro-batch size.
//
// A model describes its forward pass with the builders in ops.h; list_differentiate adds the backward pass;
// list_place gives every tensor that lives inside the micro-step an offset. After that the list is finished: its memory
// is known in bytes before it runs, and list_run does no allocation.
//
// Tensors are row-major. Most hold reals, as wide as the list's precision says.
//
// Threads: a list belongs to one thread until it is placed, and is read-only after. Ranks: nothing is collective.
#ifndef HEADROOM_MODEL_LIST_H
#define HEADROOM_MODEL_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

typedef int32_t tensor_id;
#define TENSOR_NONE ((tensor_id)-1)

#define LIST_ALIGNMENT  UINT64_C(256) // of every offset
#define OP_TENSORS_MAX  9
#define TENSOR_NAME_MAX 48

enum tensor_kind {
    TENSOR_PARAMETER, // lives in the buffer of weights, as reals
    TENSOR_GRADIENT,  // of a parameter, at the same element of the buffer of gradients, as float32
    TENSOR_TALLY,     // one kernel_tally
    TENSOR_INPUT,     // written by the caller before the list runs
    TENSOR_CACHE,     // what a sequence's earlier tokens left, as reals
    TENSOR_LOCAL,     // written by an operation
    TENSOR_PART,      // some neighbouring elements of another tensor
};

enum tensor_type { TENSOR_REAL, TENSOR_FLOAT32, TENSOR_INT32 };

struct tensor {
    char name[TENSOR_NAME_MAX];
    enum tensor_kind kind;
    enum tensor_type type;
    bool constant; // data: no gradient reaches it
    uint64_t elements;
    uint64_t first_element; // of the buffer, where it lives in one; of a part: of the whole
    tensor_id whole;        // of which it is a part
    tensor_id buffer;       // once placed: itself, or a tensor of as many bytes whose memory it is written over
    uint64_t offset_bytes;  // once placed: into the inputs, or the locals
};

struct op; // ops.h

struct list {
    enum kernel_precision precision; // of reals
    struct tensor *tensors;
    size_t tensor_count, tensor_capacity;
    struct op *ops;
    size_t op_count, op_capacity;
    size_t forward_count;       // operations of the forward pass; the rest are the backward pass
    size_t block;               // of the model, whose operations are being appended, from 1; 0: of none
    tensor_id inputs, targets;  // the samples of the micro-batch
    tensor_id logits;           // of the loss, or of the last token
    uint64_t inputs_bytes;      // set by list_place, as is what follows
    uint64_t locals_bytes;      // what the operations write
    uint64_t lower_bound_bytes; // the largest sum of live buffers: no placement needs less
    uint64_t host_bytes;        // that list_offload keeps in host memory
    bool failed;                // the host's memory ran out while building
};

// How a list moves tensors to host memory and back, beside the kernels.
struct list_transfers {
    struct stream *stream;           // of the device, for copies alone
    struct event *computed, *copied; // scratch: marks on the kernels' stream, and on that one
    char *host;                      // list.host_bytes, to and from which copies do not block
};

// Where a list's tensors are while it runs. Each address is a device address.
struct list_memory {
    device_address parameters, gradients, tally, cache, inputs, locals;
    const struct list_transfers *transfers; // for a list with host_bytes; else it may be NULL
};

void list_init(struct list *list, enum kernel_precision precision);
void list_finish(struct list *list);

// Builders need no check of their own: when the host's memory runs out the list is marked as failed.
tensor_id list_tensor(struct list *list, enum tensor_kind kind, enum tensor_type type, uint64_t elements,
                      const char *name);
// A part of a tensor that is none itself, "part of ...".
tensor_id list_part(struct list *list, tensor_id whole, uint64_t first_element, uint64_t elements);
void list_append(struct list *list, const struct op *op);

// Appends the backward pass: the gradient of the sum of losses with respect to every parameter, added to the
// parameters' gradients. Reverse-mode differentiation (Griewank and Walther, Evaluating Derivatives, 2008).
void list_differentiate(struct list *list);

// Rewrites what the logits take part in, from the product that makes them to those of their gradient: it is done for
// one of `parts` of the rows after the other, so that no more of the logits exist at a time. The head of a language
// model has the largest tensor of all. Nothing changes where these operations do not work row by row. Hsu et al.,
// "Liger Kernel: efficient Triton kernels for LLM training" (2024), 3.2. Comes before list_recompute, which then takes
// all of them for a part of the forward pass.
void list_split_head(struct list *list, size_t parts);

// What a backward pass computes again from what is kept, rather than keep it.
enum list_recompute_mode {
    LIST_RECOMPUTE_NONE,
    LIST_RECOMPUTE_SELECTIVE, // what cheap operations make (op_type)
    LIST_RECOMPUTE_HALF,      // full in the first half of the blocks, selective elsewhere
    LIST_RECOMPUTE_FULL,      // everything within a block but what its last operation makes
};

// Rewrites the backward pass so: before an operation that needs a tensor which is not kept, those that made it run
// again, to a copy that lives from there. Chen et al., "Training deep nets with sublinear memory cost" (2016);
// selective: Korthikanti et al., "Reducing activation recomputation in large transformer models" (2022).
void list_recompute(struct list *list, enum list_recompute_mode mode);

// Rewrites the list so that what the backward pass needs of the forward pass waits in host memory: what one operation
// mentions for the last time goes there while those up to the next such one run, and comes back, to a copy that lives
// from there, one ahead of where it is needed. What would come back at once stays. Comes after list_fuse, whose
// neighbours it may part. Rhu et al., "vDNN: virtualized deep neural networks" (2016).
void list_offload(struct list *list);

// Joins neighbouring operations that one kernel does together, with the same results up to rounding. After it the list
// can no longer be differentiated.
void list_fuse(struct list *list);

// The tensor of which it is a part, or itself.
tensor_id list_whole(const struct list *list, tensor_id tensor);
// Another local tensor like it.
tensor_id list_twin(struct list *list, tensor_id tensor);

bool op_mentions(const struct op *op, tensor_id tensor);
// Whether one of the operations from `first` on mentions the tensor.
bool list_mentions(const struct list *list, tensor_id tensor, size_t first);

// Sets the offsets and the bytes. What an operation may write over an input that nothing needs after it is. False when
// the host's memory ran out, now or while the list was built.
bool list_place(struct list *list);

// Bytes of a tensor.
uint64_t list_tensor_bytes(const struct list *list, tensor_id tensor);

device_address list_address(const struct list *list, const struct list_memory *memory, tensor_id tensor);

// Enqueues operations [first, end) on the context's stream, whose kernels have the list's precision. Does not block.
void list_run(const struct list *list, size_t first, size_t end, struct kernel_context *context,
              const struct list_memory *memory);

// What an operation does, by which it can be told from others and compared with those like it.
struct list_work {
    const char *operation;        // the name of its kind
    char tensor[TENSOR_NAME_MAX]; // the name of the first that is local
    uint64_t flops;               // of matrix products and attention, a multiply-add counted as two; else 0
    uint64_t bytes;               // of its tensors
};

struct list_work list_work(const struct list *list, size_t operation);

// Floating-point operations of one run.
uint64_t list_flops(const struct list *list);

#endif
