// SPDX-License-Identifier: Apache-2.0
//
// Weights of a GPT-2 between Headroom's checkpoints and the files of other programs: what one format reads, another
// writes, piece by piece. A piece is of one parameter, in the order of the model's, and laid out as the model has it.
//
// Threads: one at a time. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_EXCHANGE_WEIGHTS_H
#define HEADROOM_WORKER_EXCHANGE_WEIGHTS_H

#include "model/model.h"
#include "worker/checkpoint/safetensors.h"

// What is read from.
struct weights {
    struct model *model;
    uint64_t end_of_text;     // the token that sets documents apart; not below the vocabulary's size: there is none
    safetensors_source *read; // elements of parameter `number`, without a vocabulary's padding
    void *context;
    void (*close)(void *context);
};

struct exchange_format {
    // STATUS_INVALID with a line that names the file and the fault where it is of another format, damaged, or of a
    // model that Headroom does not compute; STATUS_ERROR where it cannot be read. On success weights_close is due,
    // until when `path` is borrowed.
    enum status (*open)(const char *path, struct weights *weights, struct error *error);
    // Blocks until all is on the disk, and only then is it there under this name. STATUS_INVALID where something has
    // it already, STATUS_ERROR where it cannot be written.
    enum status (*write)(const char *path, const struct weights *weights, struct error *error);
};

extern const struct exchange_format exchange_checkpoint;  // a checkpoint; read also the newest of a run's folder
extern const struct exchange_format exchange_huggingface; // a folder as Hugging Face's transformers keep it
extern const struct exchange_format exchange_llmc;        // a model's file of llm.c

void weights_close(struct weights *weights);

// What a file says of a model, in its own words.
enum { WEIGHTS_VOCAB_SIZE, WEIGHTS_SEQ_LEN, WEIGHTS_BLOCKS, WEIGHTS_HEADS, WEIGHTS_CHANNELS, WEIGHTS_SIZES };
struct weights_size {
    const char *name;
    const char *text; // the value as it stands there
};

// Makes the model of these sizes. STATUS_INVALID, with a line that names the file and the size, where one of them is
// none that a configuration may have.
enum status weights_make_model(const char *path, const struct weights_size sizes[WEIGHTS_SIZES], struct model **model_p,
                               struct error *error);

// Reads a matrix turned around: what is read has `rows` x `columns` elements, what is given columns x rows. The matrix
// is held as a whole, one at a time.
struct weights_turner {
    safetensors_source *read;
    void *context;
    float *whole;
    size_t held; // the number of the matrix, plus 1; 0: none
};

// With room for the largest that a model has. The caller frees `whole`.
enum status weights_turner_init(struct weights_turner *turner, const struct model *model, safetensors_source *read,
                                void *context, struct error *error);
enum status weights_turn(struct weights_turner *turner, size_t number, uint64_t rows, uint64_t columns, uint64_t first,
                         uint64_t count, float *values, struct error *error);

#endif
