// SPDX-License-Identifier: Apache-2.0
//
// config.json of a GPT-2 as Hugging Face's transformers keep it (GPT2Config,
// https://huggingface.co/docs/transformers/model_doc/gpt2).
//
// Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_EXCHANGE_HUGGINGFACE_CONFIG_H
#define HEADROOM_WORKER_EXCHANGE_HUGGINGFACE_CONFIG_H

#include <jansson.h>
#include <stdbool.h>

#include "worker/exchange/weights.h"

struct huggingface_config {
    struct model *model;
    uint64_t end_of_text; // UINT64_MAX: none is named
    bool ties_embeddings; // what the head is, the model says, and not lm_head.weight
};

// STATUS_INVALID with a line that names file, key, value and what is allowed where the model is one that Headroom does
// not compute. On success the model is the caller's.
enum status huggingface_config_read(const char *path, struct huggingface_config *config, struct error *error);

// The text of config.json, for the caller to free; NULL where the host's memory runs out.
char *huggingface_config_print(const struct model *model, uint64_t end_of_text);

// Reads a file that is a JSON object. STATUS_INVALID where it is none. The caller owns it.
enum status huggingface_read_json(const char *path, json_t **object_p, struct error *error);

#endif
