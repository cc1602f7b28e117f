// SPDX-License-Identifier: Apache-2.0
//
// GPT-2's words: the pieces of a text that byte-pair encoding never merges across (Radford et al., 2019). White space
// is only ever in front of a word, or all of it: so where it follows something else a word ends, whatever comes before
// or after, and a text may be cut in front of it.
//
// Threads: one for each splitter. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_TOKENIZE_SPLITTER_H
#define HEADROOM_WORKER_TOKENIZE_SPLITTER_H

#include <stdbool.h>
#include <stddef.h>

#include "mem/error.h"

struct splitter;

// STATUS_ERROR where the host's memory runs out, or PCRE2 does not know Unicode.
enum status splitter_create(struct splitter **splitter_p, struct error *error);
// Accepts NULL.
void splitter_destroy(struct splitter *splitter);

// Whether the text is UTF-8; where it is not, the place of the first byte of what is none.
bool splitter_accepts(struct splitter *splitter, const char *text, size_t bytes, size_t *wrong_p);
// The end of the word that begins at `first`, which is below `bytes`, of a text that was accepted; 0: the host's memory
// ran out.
size_t splitter_next(struct splitter *splitter, const char *text, size_t bytes, size_t first);

#endif
