// SPDX-License-Identifier: Apache-2.0
//
// GPT-2's vocabulary as its two files have it (Radford et al., "Language Models are Unsupervised Multitask Learners",
// 2019): encoder.json, an object that gives each token its number, and vocab.bpe, the pairs of tokens that byte-pair
// encoding merges, a pair on a line, the first to be merged first (Sennrich, Haddow and Birch, "Neural Machine
// Translation of Rare Words with Subword Units", 2016). Both write a byte as one character: printable ones of Latin-1
// as they are, the others, in order, as U+0100 and what follows.
//
// Threads: any may look at a vocabulary. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_TOKENIZE_VOCABULARY_H
#define HEADROOM_WORKER_TOKENIZE_VOCABULARY_H

#include <stddef.h>
#include <stdint.h>

#include "mem/error.h"

#define VOCABULARY_NO_RANK UINT16_MAX // beyond that of any merge

struct vocabulary;

// Reads and checks both files. Every byte is a token, each line of merges makes, of tokens that are bytes or that lines
// before it made, a token that is not made yet, and <|endoftext|> is a token. STATUS_INVALID with a line that names the
// file, and the line or the token, where that is not so. Blocks.
enum status vocabulary_read(const char *encoder_path, const char *merges_path, struct vocabulary **vocabulary_p,
                            struct error *error);
// Accepts NULL.
void vocabulary_destroy(struct vocabulary *vocabulary);

// One more than the largest token's number: a model's vocab_size is this or more.
uint32_t vocabulary_size(const struct vocabulary *vocabulary);
// <|endoftext|>
uint16_t vocabulary_end_of_text(const struct vocabulary *vocabulary);
uint16_t vocabulary_byte(const struct vocabulary *vocabulary, uint8_t byte);

// The place of the pair among the merges, lower ones first; VOCABULARY_NO_RANK: it is none.
uint16_t vocabulary_rank(const struct vocabulary *vocabulary, uint16_t left, uint16_t right);
// What the merge of this rank makes.
uint16_t vocabulary_merged(const struct vocabulary *vocabulary, uint16_t rank);

// The bytes that a token stands for, valid as long as the vocabulary; NULL: the number is no token's.
const uint8_t *vocabulary_text(const struct vocabulary *vocabulary, uint32_t token, size_t *bytes_p);

#endif
