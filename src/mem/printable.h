// SPDX-License-Identifier: Apache-2.0
//
// Texts from elsewhere, such as names of files and tags, as a terminal may get them.
//
// Threads: any.
#ifndef HEADROOM_MEM_PRINTABLE_H
#define HEADROOM_MEM_PRINTABLE_H

#include <stddef.h>

// Copies the text, as much as fits into `size` bytes with the zero at its end, with a question mark for each control
// character of ASCII or Unicode. `to` may be `text`. Answers `to`.
const char *printable(const char *text, char *to, size_t size);

#endif
