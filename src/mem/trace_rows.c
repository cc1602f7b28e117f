// SPDX-License-Identifier: Apache-2.0
#include "mem/trace_rows.h"

#include <errno.h>
#include <stdlib.h>

#define BYTES_MAX (UINT64_C(1) << 60) // of all buffers together

void *trace_grow(void *array, size_t count, size_t *capacity, size_t element_bytes)
{
    if (count < *capacity) {
        return array;
    }
    size_t larger = *capacity == 0 ? 1024 : 2 * *capacity;
    void *moved = reallocarray(array, larger, element_bytes);
    if (moved != NULL) {
        *capacity = larger;
    }
    return moved;
}

enum status trace_rows_add(struct trace_rows *rows, const struct trace_line *line, const struct trace_row *row,
                           struct error *error)
{
    if (row->bytes >= BYTES_MAX - rows->bytes) {
        return error_set(error, STATUS_INVALID, "%s:%zu: sizes add up to 2^60 bytes or more", line->path, line->number);
    }
    struct trace_row *moved = trace_grow(rows->rows, rows->count, &rows->capacity, sizeof(*moved));
    if (moved == NULL) {
        return error_out_of_host_memory(error);
    }
    rows->rows = moved;
    rows->rows[rows->count++] = *row;
    rows->bytes += row->bytes;
    return STATUS_OK;
}

void trace_rows_finish(struct trace_rows *rows)
{
    free(rows->rows);
    *rows = (struct trace_rows){0};
}

const char *trace_number(const char *text, char behind, uint64_t *number_p)
{
    char *end;
    if (*text < '0' || *text > '9') {
        return NULL;
    }
    errno = 0;
    *number_p = strtoull(text, &end, 10);
    return errno == 0 && *number_p <= INT64_MAX && *end == behind ? end + 1 : NULL;
}
