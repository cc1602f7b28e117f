// SPDX-License-Identifier: Apache-2.0
//
// GPT-2's byte-pair encoding, of text to tokens and back. A text is split into words; a word begins as its bytes, and
// the pair of neighbours that comes first among the vocabulary's merges is merged, everywhere in the word and from the
// left, until no pair is one (Sennrich, Haddow and Birch, 2016; on bytes: Radford et al., 2019). What looks like a
// special token, as <|endoftext|>, is ordinary text.
//
// Threads: one for each bpe; they may share a vocabulary. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_TOKENIZE_BPE_H
#define HEADROOM_WORKER_TOKENIZE_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "mem/error.h"
#include "worker/tokenize/vocabulary.h"

struct bpe;

// The vocabulary must outlive it. It remembers words, in 4 MiB. STATUS_ERROR where the host's memory runs out.
enum status bpe_create(const struct vocabulary *vocabulary, struct bpe **bpe_p, struct error *error);
// Accepts NULL.
void bpe_destroy(struct bpe *bpe);

// `tokens` has room for as many as the text has bytes; *count_p says how many it got. A word of n bytes takes O(n log
// n) steps and 28 bytes of memory for each of its own. STATUS_INVALID: the text is no UTF-8 from byte *count_p on.
// STATUS_ERROR: the host's memory ran out.
enum status bpe_encode(struct bpe *bpe, const char *text, size_t bytes, uint16_t *tokens, size_t *count_p);

// The text of the tokens, for the caller to free, and a NUL behind it. It need not be UTF-8: a character may be several
// tokens. STATUS_INVALID, with a line, where a number is no token's; STATUS_ERROR where the host's memory runs out.
enum status bpe_decode(const struct vocabulary *vocabulary, const uint16_t *tokens, size_t count, char **text_p,
                       size_t *bytes_p, struct error *error);

#endif
