// SPDX-License-Identifier: Apache-2.0
#include "mem/trace_rmm.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define WITH_TAG TRACE_RMM_HEADER ",Tag"

enum { ACTION = 2, POINTER = 3, SIZE = 4, COLUMNS_MAX = 7, LINE_OF_FIRST_EVENT = 2 };

#define FREES SIZE_MAX // in place of a row

struct trace_rmm_event {
    uint64_t pointer;
    size_t line;
    size_t row; // which it begins, or FREES
};

bool trace_rmm_begin(struct trace_rmm *rmm, const char *first_line)
{
    rmm->with_tags = strcmp(first_line, WITH_TAG) == 0;
    return rmm->with_tags || strcmp(first_line, TRACE_RMM_HEADER) == 0;
}

static enum status bad_value(const struct trace_line *line, const char *value, const char *expected,
                             struct error *error)
{
    return error_set(error, STATUS_INVALID, "%s:%zu: '%s' is not %s", line->path, line->number, value, expected);
}

// Ends each column where its comma is. False, with the text as it was, where there are not so many.
static bool cut(char *text, bool with_tag, const char *column[COLUMNS_MAX])
{
    size_t columns = with_tag ? COLUMNS_MAX : COLUMNS_MAX - 1, count = 1;
    for (const char *comma = strchr(text, ','); comma != NULL; comma = strchr(comma + 1, ',')) {
        count++;
    }
    for (size_t i = 0; count == columns && i < columns; i++) {
        column[i] = strsep(&text, ",");
    }
    return count == columns;
}

// RMM has written hexadecimal with 0x and without, and what printf makes of a null pointer.
static bool parse_pointer(const char *text, uint64_t *pointer_p)
{
    if (strcmp(text, "(nil)") == 0) {
        *pointer_p = 0;
        return true;
    }
    const char *digits = strncmp(text, "0x", 2) == 0 ? text + 2 : text;
    size_t length = strspn(digits, "0123456789abcdefABCDEF");
    if (length == 0 || length > 16 || digits[length] != '\0') {
        return false;
    }
    *pointer_p = strtoull(digits, NULL, 16);
    return true;
}

static enum status add_event(struct trace_rmm *rmm, const struct trace_rmm_event *event, struct error *error)
{
    struct trace_rmm_event *moved = trace_grow(rmm->events, rmm->count, &rmm->capacity, sizeof(*moved));
    if (moved == NULL) {
        return error_out_of_host_memory(error);
    }
    rmm->events = moved;
    rmm->events[rmm->count++] = *event;
    return STATUS_OK;
}

static enum status add_allocation(struct trace_rmm *rmm, const struct trace_line *line, uint64_t pointer,
                                  uint64_t bytes, struct trace_rows *rows, struct error *error)
{
    const struct trace_rmm_event event = {pointer, line->number, rows->count};
    const struct trace_row row = {line->number - LINE_OF_FIRST_EVENT, UINT64_MAX, bytes};
    enum status status = trace_rows_add(rows, line, &row, error);
    return status == STATUS_OK ? add_event(rmm, &event, error) : status;
}

enum status trace_rmm_line(struct trace_rmm *rmm, struct trace_line *line, struct trace_rows *rows, struct error *error)
{
    const char *column[COLUMNS_MAX];
    uint64_t pointer, bytes;
    if (!cut(line->text, rmm->with_tags, column)) {
        return bad_value(line, line->text, rmm->with_tags ? WITH_TAG : TRACE_RMM_HEADER, error);
    }
    if (!parse_pointer(column[POINTER], &pointer)) {
        return bad_value(line, column[POINTER], "a pointer in hexadecimal digits", error);
    }
    if (trace_number(column[SIZE], '\0', &bytes) == NULL) {
        return bad_value(line, column[SIZE], "a size below 2^63", error);
    }
    bool allocates = strcmp(column[ACTION], "allocate") == 0, frees = strcmp(column[ACTION], "free") == 0;
    if (!allocates && !frees && strcmp(column[ACTION], "allocate failure") != 0) {
        return bad_value(line, column[ACTION], "allocate, free or allocate failure", error);
    }
    rmm->moments = line->number - LINE_OF_FIRST_EVENT + 1;
    if (allocates && pointer == 0 && bytes > 0) {
        return bad_value(line, column[POINTER], "where an allocation can be", error);
    }
    if (pointer == 0) {
        return STATUS_OK; // nothing: RMM's pools answer so for 0 bytes
    }
    if (allocates) {
        return add_allocation(rmm, line, pointer, bytes, rows, error);
    }
    const struct trace_rmm_event event = {pointer, line->number, FREES};
    return frees ? add_event(rmm, &event, error) : STATUS_OK;
}

static int order_events(const void *a, const void *b)
{
    const struct trace_rmm_event *x = a, *y = b;
    if (x->pointer != y->pointer) {
        return x->pointer < y->pointer ? -1 : 1;
    }
    return (x->line > y->line) - (x->line < y->line);
}

// Pairs each allocation with the next event of its pointer. The first event of the file that finds no partner, or NULL.
static const struct trace_rmm_event *pair(const struct trace_rmm *rmm, struct trace_rows *rows)
{
    const struct trace_rmm_event *wrong = NULL;
    for (size_t i = 0; i < rmm->count; i++) {
        const struct trace_rmm_event *event = &rmm->events[i];
        bool live = i > 0 && event[-1].pointer == event->pointer && event[-1].row != FREES;
        if (live != (event->row == FREES)) {
            wrong = wrong == NULL || event->line < wrong->line ? event : wrong;
        } else if (live) {
            rows->rows[event[-1].row].upper = event->line - LINE_OF_FIRST_EVENT;
        }
    }
    return wrong;
}

enum status trace_rmm_end(struct trace_rmm *rmm, const char *path, struct trace_rows *rows, struct error *error)
{
    if (rmm->count > 0) {
        qsort(rmm->events, rmm->count, sizeof(*rmm->events), order_events);
    }
    const struct trace_rmm_event *wrong = pair(rmm, rows);
    if (wrong != NULL) {
        return error_set(error, STATUS_INVALID, "%s:%zu: 0x%" PRIx64 " is %s", path, wrong->line, wrong->pointer,
                         wrong->row == FREES ? "freed but not allocated" : "allocated but was not freed before");
    }
    for (size_t i = 0; i < rows->count; i++) {
        rows->rows[i].upper = rows->rows[i].upper == UINT64_MAX ? rmm->moments : rows->rows[i].upper;
    }
    return STATUS_OK;
}

void trace_rmm_finish(struct trace_rmm *rmm)
{
    free(rmm->events);
    *rmm = (struct trace_rmm){0};
}
