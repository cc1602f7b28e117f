// SPDX-License-Identifier: Apache-2.0
//
// Small vocabularies for tests: all bytes, numbered as they are, <|endoftext|> as 300, and what a test merges, numbered
// from 65535 down.
#ifndef HEADROOM_TESTS_MADE_UP_VOCABULARY_H
#define HEADROOM_TESTS_MADE_UP_VOCABULARY_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/tokenize/vocabulary.h"

#define MADE_UP_END 300

struct made_up_merge {
    char left[16], right[16]; // of letters
};

// The character that stands for a byte, and a NUL.
static inline void made_up_character(unsigned byte, char character[3])
{
    unsigned code = byte;
    if (byte <= ' ') {
        code = 0x100 + byte;
    } else if (byte > '~' && byte <= 0xa0) {
        code = 0x121 + (byte - 0x7f);
    } else if (byte == 0xad) {
        code = 0x143;
    }
    snprintf(character, 3, code < 0x80 ? "%c" : "%c%c", code < 0x80 ? (int)code : (int)(0xc0 | code >> 6),
             (int)(0x80 | (code & 0x3f)));
}

// Writes encoder.json and vocab.bpe.
static inline void made_up_write(const struct made_up_merge *merges, size_t count)
{
    FILE *encoder = fopen("encoder.json", "w"), *pairs = fopen("vocab.bpe", "w");
    fprintf(encoder, "{\"<|endoftext|>\": %d", MADE_UP_END);
    for (unsigned byte = 0; byte < 256; byte++) {
        char character[3];
        made_up_character(byte, character);
        fprintf(encoder, ", \"%s%s\": %u", byte == '"' || byte == '\\' ? "\\" : "", character, byte);
    }
    fprintf(pairs, "#version: 0.2\n");
    for (size_t i = 0; i < count; i++) {
        fprintf(encoder, ", \"%s%s\": %zu", merges[i].left, merges[i].right, 65535 - i);
        fprintf(pairs, "%s %s\n", merges[i].left, merges[i].right);
    }
    fprintf(encoder, "}\n");
    fclose(encoder);
    fclose(pairs);
}

static inline struct vocabulary *made_up_read(void)
{
    struct error error;
    struct vocabulary *vocabulary;
    if (vocabulary_read("encoder.json", "vocab.bpe", &vocabulary, &error) != STATUS_OK) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
    return vocabulary;
}

#endif
