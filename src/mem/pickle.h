// SPDX-License-Identifier: Apache-2.0
//
// Python's pickles of protocol 2 (CPython, Lib/pickletools.py), as far as numbers, words, dicts and lists go. Whoever
// writes looks at ferror(file) in the end.
#ifndef HEADROOM_MEM_PICKLE_H
#define HEADROOM_MEM_PICKLE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

void pickle_begin(FILE *file);
void pickle_end(FILE *file);

void pickle_number(FILE *file, uint64_t number);
void pickle_bool(FILE *file, bool value);
// What is not printable ASCII becomes '?'.
void pickle_text(FILE *file, const char *text);
void pickle_pair(FILE *file, uint64_t first, uint64_t second); // a tuple

// A dict is between its begin and its end a key and a value in turns.
void pickle_dict_begin(FILE *file);
void pickle_dict_end(FILE *file);

// Each item of a list is followed by pickle_append.
void pickle_list(FILE *file);
void pickle_append(FILE *file);

// What was written last gets a number, under which it can be written again.
void pickle_remember(FILE *file, uint8_t number);
void pickle_recall(FILE *file, uint8_t number);

#endif
