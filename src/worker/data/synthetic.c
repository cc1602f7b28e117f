// SPDX-License-Identifier: Apache-2.0
//
// Made-up samples that can be learned, each a function of train.seed, the split and its index alone. Only integer
// arithmetic and exact float32 operations take part, so any language gives the same bits.
//
// With draw(key, place) as in mem/random.h, uniform(n) = (n >> 40) / 2^24, and for sample `index` of split p
// (training 0, validation 1):
//   key = draw(draw(seed, p), index)
//
// mlp with D inputs and K classes:
//   class  = draw(key, 0) mod K
//   centre = draw(draw(seed, 2), class)
//   x[j]   = (uniform(draw(centre, j)) - 0.5) + (uniform(draw(key, 1 + j)) - 0.5)    for j in 0..D-1
//
// gpt with vocabulary V and T tokens, with n = draw(key, t):
//   x[t] = (n >> 3) mod V           for t = 0, and where n mod 8 = 0
//   x[t] = (5 x[t-1] + 3) mod V     else, for t in 1..T
//   tokens are x[0..T-1], targets x[1..T]
#include <stdlib.h>

#include "worker/data/kinds.h"
#include "worker/random.h"

struct synthetic {
    struct data_set set;
    uint64_t key;         // of the split
    uint64_t centres_key; // the same for both splits
};

static struct data_shape shape_of(const struct config *config)
{
    if (config->model.kind == CONFIG_MODEL_MLP) {
        return (struct data_shape){
            .input = DATA_INPUT_FLOAT32,
            .input_count = config->model.layers[0],
            .target_count = 1,
            .classes = config->model.layers[config->model.layers_count - 1],
        };
    }
    return (struct data_shape){
        .input = DATA_INPUT_TOKENS,
        .input_count = config->model.seq_len,
        .target_count = config->model.seq_len,
        .classes = config->model.vocab_size,
    };
}

static enum status synthetic_open(const struct config *config, enum data_split split, struct data_set **set_p,
                                  struct error *error)
{
    uint64_t samples = split == DATA_TRAIN ? config->data.samples : config->data.validation_samples;
    if (samples == 0) {
        *set_p = NULL;
        return STATUS_OK;
    }
    struct synthetic *synthetic = malloc(sizeof(*synthetic));
    if (synthetic == NULL) {
        return error_out_of_host_memory(error);
    }
    uint64_t seed = config->train.seed;
    *synthetic = (struct synthetic){
        .set = {.ops = &data_synthetic, .shape = shape_of(config), .samples = samples},
        .key = random_draw(seed, split == DATA_TRAIN ? RANDOM_TRAIN : RANDOM_VALIDATION),
        .centres_key = random_draw(seed, RANDOM_CENTRES),
    };
    *set_p = &synthetic->set;
    return STATUS_OK;
}

static void synthetic_close(struct data_set *set)
{
    free(set);
}

// In [-0.5, 0.5), exact.
static float centred(uint64_t number)
{
    return (float)(number >> 40) * 0x1p-24f - 0.5f;
}

static void read_values(const struct synthetic *synthetic, uint64_t key, float *values, int32_t *target)
{
    uint64_t class = random_draw(key, 0) % synthetic->set.shape.classes;
    uint64_t centre = random_draw(synthetic->centres_key, class);
    for (uint64_t j = 0; j < synthetic->set.shape.input_count; j++) {
        values[j] = centred(random_draw(centre, j)) + centred(random_draw(key, 1 + j));
    }
    *target = (int32_t) class;
}

static void read_tokens(const struct synthetic *synthetic, uint64_t key, int32_t *tokens, int32_t *targets)
{
    uint64_t vocab = synthetic->set.shape.classes, length = synthetic->set.shape.input_count;
    uint64_t token = (random_draw(key, 0) >> 3) % vocab;
    for (uint64_t t = 0; t < length; t++) {
        uint64_t number = random_draw(key, t + 1);
        tokens[t] = (int32_t)token;
        token = (number % 8 == 0 ? number >> 3 : 5 * token + 3) % vocab;
        targets[t] = (int32_t)token;
    }
}

static enum status synthetic_read(const struct data_set *set, uint64_t index, void *input, int32_t *targets,
                                  struct error *error)
{
    (void)error;
    const struct synthetic *synthetic = (const struct synthetic *)set;
    uint64_t key = random_draw(synthetic->key, index);
    if (set->shape.input == DATA_INPUT_FLOAT32) {
        read_values(synthetic, key, input, targets);
    } else {
        read_tokens(synthetic, key, input, targets);
    }
    return STATUS_OK;
}

const struct data_ops data_synthetic = {
    .name = "synthetic", .open = synthetic_open, .close = synthetic_close, .read = synthetic_read};
