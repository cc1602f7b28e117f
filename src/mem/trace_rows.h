// SPDX-License-Identifier: Apache-2.0
//
// What the readers of a trace's formats have in common.
#ifndef HEADROOM_MEM_TRACE_ROWS_H
#define HEADROOM_MEM_TRACE_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "mem/error.h"

struct trace_line {
    const char *path;
    size_t number;
    char *text; // without its end
};

// A buffer as it was read.
struct trace_row {
    uint64_t lower, upper, bytes;
};

struct trace_rows {
    struct trace_row *rows;
    size_t count, capacity;
    uint64_t bytes; // of all
};

// Refuses what would make too many bytes.
enum status trace_rows_add(struct trace_rows *rows, const struct trace_line *line, const struct trace_row *row,
                           struct error *error);
void trace_rows_finish(struct trace_rows *rows);

// A decimal number below 2^63 and the character behind it; answers what follows, or NULL.
const char *trace_number(const char *text, char behind, uint64_t *number_p);

// Room for one element more than `count`; answers the array, which may have moved, or NULL where memory runs out.
void *trace_grow(void *array, size_t count, size_t *capacity, size_t element_bytes);

#endif
