// SPDX-License-Identifier: Apache-2.0
//
// What a file of weights has, and what it must have: the model's parameters, by name and shape.
//
// Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_CHECKPOINT_MODEL_FILE_H
#define HEADROOM_WORKER_CHECKPOINT_MODEL_FILE_H

#include "model/model.h"
#include "worker/checkpoint/safetensors.h"

// One for each parameter, in order, whose names are the model's. The caller frees them; NULL where the host's memory
// runs out.
struct safetensors_item *model_file_items(const struct model *model);

// STATUS_INVALID with the first difference where the file has not these parameters, all of them and no others.
enum status model_file_check(const struct safetensors *file, const struct model *model, struct error *error);
// The same of a single tensor of the file; NULL: it is not there.
enum status model_file_check_tensor(const struct safetensors *file, const struct safetensors_tensor *tensor,
                                    const struct safetensors_item *expected, struct error *error);

#endif
