// SPDX-License-Identifier: Apache-2.0
//
// The tensors of a GPT-2 as other programs have them. Names are those of Headroom's parameters.
#ifndef HEADROOM_WORKER_EXCHANGE_GPT2_H
#define HEADROOM_WORKER_EXCHANGE_GPT2_H

#include <stdbool.h>

struct gpt2_tensor {
    const char *name; // of what each block has: without "h.N."
    bool is_matrix;
    bool is_turned; // Hugging Face's is [in, out], where ours is [out, in]
};

#define GPT2_TENSORS 16

// In the order of llm.c's files, which have one for all blocks.
extern const struct gpt2_tensor gpt2_tensors[GPT2_TENSORS];

// NULL: a GPT-2 has no parameter of this name.
const struct gpt2_tensor *gpt2_find(const char *parameter);

#endif
