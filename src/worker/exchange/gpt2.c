// SPDX-License-Identifier: Apache-2.0
#include "worker/exchange/gpt2.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

const struct gpt2_tensor gpt2_tensors[GPT2_TENSORS] = {
    {"wte.weight", true, false},        {"wpe.weight", true, false},        {"ln_1.weight", false, false},
    {"ln_1.bias", false, false},        {"attn.c_attn.weight", true, true}, {"attn.c_attn.bias", false, false},
    {"attn.c_proj.weight", true, true}, {"attn.c_proj.bias", false, false}, {"ln_2.weight", false, false},
    {"ln_2.bias", false, false},        {"mlp.c_fc.weight", true, true},    {"mlp.c_fc.bias", false, false},
    {"mlp.c_proj.weight", true, true},  {"mlp.c_proj.bias", false, false},  {"ln_f.weight", false, false},
    {"ln_f.bias", false, false},
};

const struct gpt2_tensor *gpt2_find(const char *parameter)
{
    size_t block_name = 0;
    (void)!sscanf(parameter, "h.%*u.%zn", &block_name);
    for (size_t i = 0; i < GPT2_TENSORS; i++) {
        if (strcmp(parameter + block_name, gpt2_tensors[i].name) == 0) {
            return &gpt2_tensors[i];
        }
    }
    return NULL;
}
