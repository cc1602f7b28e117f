// SPDX-License-Identifier: Apache-2.0
//
// Chunks of documents to tokens: bytes as they are, or by GPT-2's byte-pair encoding. In front of each document stands
// the end-of-text token, GPT-2's own, or 256 beside bytes.
//
// Threads: one for each encoder. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_TOKENIZE_ENCODER_H
#define HEADROOM_WORKER_TOKENIZE_ENCODER_H

#include "worker/tokenize/input.h"
#include "worker/tokenize/vocabulary.h"

struct encoder;

struct encoded {
    uint16_t *tokens; // for who got them to free
    uint64_t count, documents;
};

// Where `vocabulary` is NULL, tokens are bytes; else it must outlive the encoder. STATUS_ERROR where the host's memory
// runs out.
enum status encoder_create(const struct vocabulary *vocabulary, struct encoder **encoder_p, struct error *error);
// Accepts NULL.
void encoder_destroy(struct encoder *encoder);

// STATUS_INVALID, with a line that names file and line, where a line is not JSON with a text, or a text that must be
// UTF-8 is not. STATUS_ERROR where the host's memory runs out.
enum status encoder_run(struct encoder *encoder, const struct input_chunk *chunk, struct encoded *encoded_p,
                        struct error *error);

// Of a vocabulary or of bytes (NULL): one more than the largest token, and the end-of-text token.
uint32_t encoder_vocab_size(const struct vocabulary *vocabulary);
uint16_t encoder_end_of_text(const struct vocabulary *vocabulary);

#endif
