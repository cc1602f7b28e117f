// SPDX-License-Identifier: Apache-2.0
//
// Figures in a line, of which a narrow screen shows as many as it has room for, each of them whole.
//
// Threads: any.
#ifndef HEADROOM_WORKER_FIGURES_H
#define HEADROOM_WORKER_FIGURES_H

#include <stdbool.h>
#include <stddef.h>

#define FIGURES_MAX 1024 // bytes of a line

struct figures {
    char text[FIGURES_MAX]; // UTF-8
    size_t bytes;
    size_t room; // columns that are left
};

// An empty line of so many columns, each a character of UTF-8.
struct figures figures_begin(size_t columns);
// Appends a figure with what parts it from the one before it. Where it has no room it is left out, and so is what
// follows, so the most important ones come first.
void figures_add(struct figures *line, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
