// SPDX-License-Identifier: Apache-2.0
//
// A model: its parameters, and the list of operations of a micro-step of any shape.
//
// Parameters of all models live in one buffer of float32, those that weight decay applies to first. The buffer of
// gradients and each buffer of the optimizer's state have the same size and the same offsets. Where the precision is
// not float32, lists work with a copy of the parameters in that precision, which has the same elements.
//
// Threads: a model is read-only once made. Ranks: nothing is collective.
#ifndef HEADROOM_MODEL_MODEL_H
#define HEADROOM_MODEL_MODEL_H

#include "mem/error.h"
#include "model/list.h"

#define MODEL_LAYERS_MAX 64

enum model_kind { MODEL_MLP, MODEL_GPT };
enum model_activation { MODEL_RELU, MODEL_GELU };

// Sets of levers: how a list takes less memory for more time. Each does what those before it do.
enum model_levers {
    MODEL_LEVERS_NONE,
    MODEL_LEVERS_HEAD,      // logits in parts; an evaluation's always are
    MODEL_LEVERS_SELECTIVE, // LIST_RECOMPUTE_SELECTIVE
    MODEL_LEVERS_HALF,      // LIST_RECOMPUTE_HALF
    MODEL_LEVERS_FULL,      // LIST_RECOMPUTE_FULL
    MODEL_LEVERS_OFFLOAD,   // list_offload
    MODEL_LEVERS_COUNT
};

// A micro-step. A gpt's samples may be shorter than the longest one that it knows; all of a micro-step are as long as
// the longest of them, and targets after a sample's own end are KERNEL_TARGET_NONE.
struct model_shape {
    size_t samples; // at least 1
    size_t length;  // targets of a sample, 1 to the model's target_elements
    enum model_levers levers;
};

struct model_config {
    enum model_kind kind;
    enum kernel_precision precision; // of weights and activations in its lists
    struct {
        size_t sizes[MODEL_LAYERS_MAX]; // from input to classes
        size_t count;                   // at least 2
        enum model_activation activation;
    } mlp;
    struct {
        size_t vocab_size, seq_len, blocks, heads, channels; // channels is a multiple of heads
    } gpt;
};

enum parameter_init {
    INIT_ZERO,
    INIT_ONE,
    INIT_NORMAL,  // mean 0, standard deviation `scale`
    INIT_UNIFORM, // in [-scale, scale)
};

struct parameter {
    char name[TENSOR_NAME_MAX];
    uint64_t rows, columns; // a vector has one row
    uint64_t rows_used;     // of a padded matrix: the rows after these are 0 and stay 0
    uint64_t offset;        // in elements, into the buffer
    bool decays;            // weight decay applies
    enum parameter_init init;
    double scale;
};

struct model {
    struct model_config config;
    struct parameter *parameters;
    size_t parameter_count;
    uint64_t elements;          // of the buffer, gaps for alignment included
    uint64_t decaying_elements; // at its front
    uint64_t weights;           // that are trained: without gaps and padding
    enum tensor_type input_type;
    uint64_t input_elements, target_elements; // of one sample of the greatest length; targets are int32
};

enum list_purpose { LIST_TRAIN, LIST_EVALUATE };

// STATUS_INVALID where the sizes make no sense, STATUS_ERROR when the host's memory runs out. The caller owns it.
enum status model_create(const struct model_config *config, struct model **model_p, struct error *error);
void model_destroy(struct model *model);

// The shape of samples of the greatest length, without levers.
struct model_shape model_shape_max(const struct model *model, size_t samples);

// Builds, fuses and places the list for the shape; LIST_EVALUATE has no backward pass. The caller owns what it finishes
// with list_finish. False when the host's memory runs out; nothing is owned then.
bool model_list(const struct model *model, struct model_shape shape, enum list_purpose purpose, struct list *list);

// The same for generating text: the list of the forward pass over `tokens` further tokens of one sequence, from number
// `first` on. Their keys and values go to list_memory.cache, where those before are; the logits of the last are at
// list.logits. first + tokens is at most target_elements.
bool model_next_list(const struct model *model, size_t tokens, size_t first, struct list *list);
// Bytes of the cache for a sequence of the greatest length; 0: the model does not generate.
uint64_t model_cache_bytes(const struct model *model);

// Writes the initial values of `parameter` at values[rows * columns]. They depend on the seed, the parameter's number
// and the element alone.
void model_initial_values(const struct model *model, size_t parameter, uint64_t seed, float *values);

// What a file of weights has of it, [rows that are used, columns] or, of a vector, [columns]; answers the dimensions.
size_t model_parameter_shape(const struct parameter *parameter, uint64_t shape[2]);

// Bytes of the copy of the parameters that lists work with; 0 where they work with the parameters themselves.
uint64_t model_copy_bytes(const struct model *model);

// Floating-point operations of training on one sample of the greatest length, forward and backward, nothing twice.
uint64_t model_sample_flops(const struct model *model);

#endif
