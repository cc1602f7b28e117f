// SPDX-License-Identifier: Apache-2.0
//
// Documents from files, in chunks of about a mebibyte. A file whose name ends with .jsonl has a JSON object on each
// line, with the document as its field "text"; any other file is one document, as it is. The chunks are the same
// whenever the files are.
//
// Threads: one at a time. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_TOKENIZE_INPUT_H
#define HEADROOM_WORKER_TOKENIZE_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/error.h"

#define INPUT_CHUNK_BYTES UINT64_C(1048576)
#define INPUT_WORD_MAX    (UINT64_C(16) << 20) // a text must have a place to cut in so many bytes
#define INPUT_LINE_MAX    (UINT64_C(64) << 20) // bytes of a line of JSON

struct input_chunk {
    const char *path; // lives as long as the paths that the input was opened with
    bool lines;       // whole lines of JSON, else a part of a document
    bool begins;      // a document does, with this part
    uint64_t offset;  // of the first byte in its file
    uint64_t line;    // that the first byte is on, counted from 1
    char *bytes;      // for who got the chunk to free; NULL: there is none, all have been read
    uint64_t count;
};

struct input;

// Looks at all files, which must be regular ones. `words`: a text is cut only where GPT-2's words end (splitter.h), in
// front of white space that follows something else; false: anywhere. STATUS_INVALID where a file is not there or none,
// STATUS_ERROR where it cannot be opened.
enum status input_open(char *const *paths, size_t count, bool words, struct input **input_p, struct error *error);
// Accepts NULL.
void input_close(struct input *input);
// Of all files, when they were looked at.
uint64_t input_bytes(const struct input *input);

// The next chunk, in the order of the files. STATUS_INVALID where a line or a word is too long, STATUS_ERROR where a
// file cannot be read or has become shorter. Blocks.
enum status input_next(struct input *input, struct input_chunk *chunk_p, struct error *error);

#endif
