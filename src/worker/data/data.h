// SPDX-License-Identifier: Apache-2.0
//
// Data sets: numbered samples, of one shape or up to it. Each kind of source is one const table.
//
// A sample is an input row and its targets:
//   images, arrays, synthetic classes: input float32[input_count],  targets int32[1], the class
//   text, token shards:         input int32[seq_len] tokens, targets int32[seq_len], each the token after
//   lines, documents of shards: as these, but what comes after the sample's length is padding
//
// Threads: after `open`, `read` may be called from any number of threads. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_DATA_DATA_H
#define HEADROOM_WORKER_DATA_DATA_H

#include <stdbool.h>
#include <stdint.h>

#include "mem/error.h"
#include "worker/config/config.h"

enum data_split { DATA_TRAIN, DATA_VALIDATION };

enum data_input { DATA_INPUT_FLOAT32, DATA_INPUT_TOKENS };

struct data_shape {
    enum data_input input;
    uint64_t input_count;  // elements of one sample's input, of 4 bytes each
    uint64_t target_count; // targets of one sample, padding included
    uint64_t classes;      // every target is in [0, classes), and so is every token of a token input
};

struct data_set;

struct data_ops {
    const char *name; // data.kind
    // Opens one split as the config, which has passed its own checks, says. STATUS_INVALID with a line naming file and
    // fault when a file is not there or what it holds cannot be right; STATUS_ERROR when it cannot be read. A
    // validation split that the config does not name gives STATUS_OK and a NULL set.
    enum status (*open)(const struct config *config, enum data_split split, struct data_set **set_p,
                        struct error *error);
    void (*close)(struct data_set *set);
    // Targets of sample `index` that are no padding, at least 1. NULL: all of them in every sample. Does not block.
    uint64_t (*length)(const struct data_set *set, uint64_t index);
    // Writes sample `index` < samples: input_count * 4 bytes at `input`, target_count at `targets`; padding is token 0
    // and KERNEL_TARGET_NONE. STATUS_ERROR with a line when the file cannot be read any more, STATUS_INVALID when it
    // has changed to something that cannot be right; what was written is of no use then. May block on the file.
    enum status (*read)(const struct data_set *set, uint64_t index, void *input, int32_t *targets, struct error *error);
};

struct data_set { // each kind embeds it first
    const struct data_ops *ops;
    struct data_shape shape;
    uint64_t samples;
};

// Opens the split with the kind that the config names. The caller owns the set and closes it with data_close, which
// accepts NULL; the config need not outlive it. Checks that the data fit the model: input size, classes, vocabulary,
// sequence length; a misfit is STATUS_INVALID.
enum status data_open(const struct config *config, enum data_split split, struct data_set **set_p, struct error *error);
void data_close(struct data_set *set);

// The order of samples: position p of the run (0, 1, 2, ... over all epochs) is sample order(p) of the set. Each epoch
// is a permutation of the set keyed by seed and epoch (a Feistel network with cycle walking: no array of indices), or
// the set's own order without shuffling. Depends on nothing else, so any number of ranks sees the same batches.
uint64_t data_order(uint64_t position, uint64_t samples, uint64_t seed, bool shuffle);

#endif
