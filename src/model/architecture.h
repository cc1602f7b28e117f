// SPDX-License-Identifier: Apache-2.0
//
// What a kind of model provides: its parameters and its forward pass.
#ifndef HEADROOM_MODEL_ARCHITECTURE_H
#define HEADROOM_MODEL_ARCHITECTURE_H

#include "model/model.h"

struct architecture {
    // Says why the sizes make no sense, or NULL.
    const char *(*misfit)(const struct model_config *config);
    size_t (*parameter_count)(const struct model_config *config);
    // Fills parameters[parameter_count], all but their offsets, and the size of a sample.
    void (*describe)(const struct model_config *config, struct model *model);
    // Appends the forward pass. weights[i] is the tensor of parameter i.
    void (*forward)(const struct model *model, struct model_shape shape, struct list *list, tensor_id tally,
                    const tensor_id *weights);
    // What keeping a token of a sequence takes, in reals; 0: the model reads no sequences, and what follows is NULL.
    uint64_t (*token_reals)(const struct model_config *config);
    // Appends the forward pass over `tokens` further tokens of one sequence, from number `first` on, to the logits of
    // the last.
    void (*next)(const struct model *model, size_t tokens, size_t first, struct list *list, const tensor_id *weights);
};

extern const struct architecture architecture_mlp, architecture_gpt;

// Fills in one parameter.
void parameter_matrix(struct parameter *parameter, const char *name, uint64_t rows, uint64_t columns,
                      enum parameter_init init, double scale);
void parameter_vector(struct parameter *parameter, const char *name, uint64_t columns, enum parameter_init init,
                      double scale);

#endif
