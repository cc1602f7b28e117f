// SPDX-License-Identifier: Apache-2.0
#include "mem/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEADER    "id,lower,upper,size"
#define BYTES_MAX (UINT64_C(1) << 60) // of all buffers together

enum { LINE_MAX_BYTES = 256 };

// A line as it was read.
struct row {
    uint64_t lower, upper, bytes;
};

struct rows {
    struct row *rows;
    size_t count, capacity;
    uint64_t bytes; // of all
};

static enum status out_of_host_memory(struct error *error)
{
    return error_set(error, STATUS_ERROR, "out of host memory");
}

// A number and the character behind it; NULL where there is none such.
static const char *parse_number(const char *text, char behind, uint64_t *number_p)
{
    char *end;
    if (*text < '0' || *text > '9') {
        return NULL;
    }
    errno = 0;
    *number_p = strtoull(text, &end, 10);
    return errno == 0 && *number_p <= INT64_MAX && *end == behind ? end + 1 : NULL;
}

static bool parse_row(const char *line, struct row *row)
{
    uint64_t id;
    const char *text = parse_number(line, ',', &id);
    text = text == NULL ? NULL : parse_number(text, ',', &row->lower);
    text = text == NULL ? NULL : parse_number(text, ',', &row->upper);
    return text != NULL && parse_number(text, '\0', &row->bytes) != NULL;
}

static enum status add_row(struct rows *rows, const struct row *row, struct error *error)
{
    if (rows->count == rows->capacity) {
        size_t larger = rows->capacity == 0 ? 1024 : 2 * rows->capacity;
        struct row *moved = realloc(rows->rows, larger * sizeof(*moved));
        if (moved == NULL) {
            return out_of_host_memory(error);
        }
        rows->rows = moved;
        rows->capacity = larger;
    }
    rows->rows[rows->count++] = *row;
    rows->bytes += row->bytes;
    return STATUS_OK;
}

static enum status parse_line(const char *path, size_t number, const char *line, struct rows *rows, struct error *error)
{
    struct row row;
    if (number == 1) {
        return strcmp(line, HEADER) == 0
                   ? STATUS_OK
                   : error_set(error, STATUS_INVALID, "%s:1: '%s' is not the first line of a trace: " HEADER, path,
                               line);
    }
    if (!parse_row(line, &row)) {
        return error_set(error, STATUS_INVALID, "%s:%zu: '%s' is not four numbers below 2^63: " HEADER, path, number,
                         line);
    }
    if (row.lower >= row.upper) {
        return error_set(error, STATUS_INVALID, "%s:%zu: upper %" PRIu64 " is not above lower %" PRIu64, path, number,
                         row.upper, row.lower);
    }
    if (row.bytes >= BYTES_MAX - rows->bytes) {
        return error_set(error, STATUS_INVALID, "%s:%zu: sizes add up to 2^60 bytes or more", path, number);
    }
    return add_row(rows, &row, error);
}

// Up to the line's end, or to where there is no more room. False at the file's end.
static bool read_line(FILE *file, char line[LINE_MAX_BYTES], size_t *length_p)
{
    size_t length = 0;
    int next = getc(file);
    for (; next != EOF && next != '\n' && length + 1 < LINE_MAX_BYTES; next = getc(file)) {
        line[length++] = (char)next;
    }
    bool ended = next == EOF && length == 0;
    if (length > 0 && line[length - 1] == '\r') {
        length--;
    }
    line[length] = '\0';
    *length_p = length;
    return !ended;
}

static enum status read_rows(const char *path, FILE *file, struct rows *rows, struct error *error)
{
    char line[LINE_MAX_BYTES];
    size_t length;
    enum status status = STATUS_OK;
    for (size_t number = 1; status == STATUS_OK && read_line(file, line, &length); number++) {
        if (length + 1 == LINE_MAX_BYTES) {
            return error_set(error, STATUS_INVALID, "%s:%zu: the line is longer than %d bytes", path, number,
                             LINE_MAX_BYTES - 2);
        }
        if (strlen(line) < length) {
            return error_set(error, STATUS_INVALID, "%s:%zu: the line holds a NUL byte", path, number);
        }
        status = parse_line(path, number, line, rows, error);
    }
    if (status == STATUS_OK && ferror(file)) {
        return error_set(error, STATUS_INVALID, "%s: %s", path, strerror(errno));
    }
    if (status == STATUS_OK && rows->count == 0) {
        return error_set(error, STATUS_INVALID, "%s: there is no buffer in it; a trace begins with " HEADER, path);
    }
    return status;
}

static int order_numbers(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

// All times, in order, each once. NULL when memory runs out.
static uint64_t *sorted_times(const struct rows *rows, size_t *count_p)
{
    size_t count = 2 * rows->count, distinct = 0;
    uint64_t *times = malloc((count + 1) * sizeof(*times));
    if (times == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < rows->count; i++) {
        times[2 * i] = rows->rows[i].lower;
        times[2 * i + 1] = rows->rows[i].upper;
    }
    qsort(times, count, sizeof(*times), order_numbers);
    for (size_t i = 0; i < count; i++) {
        if (distinct == 0 || times[distinct - 1] != times[i]) {
            times[distinct++] = times[i];
        }
    }
    *count_p = distinct;
    return times;
}

static uint32_t moment_of(const uint64_t *times, size_t count, uint64_t time)
{
    if (times[count - 1] - times[0] <= UINT32_MAX) {
        return (uint32_t)(time - times[0]);
    }
    const uint64_t *found = bsearch(&time, times, count, sizeof(*times), order_numbers);
    return (uint32_t)(found - times);
}

static enum status make_buffers(const struct rows *rows, struct mem_trace *trace, struct error *error)
{
    size_t count = 0;
    uint64_t *times = sorted_times(rows, &count);
    trace->buffers = calloc(rows->count + 1, sizeof(*trace->buffers));
    if (times == NULL || trace->buffers == NULL) {
        free(times);
        return out_of_host_memory(error);
    }
    for (size_t i = 0; i < rows->count; i++) {
        const struct row *row = &rows->rows[i];
        trace->buffers[i] = (struct mem_buffer){.bytes = row->bytes,
                                                .birth = moment_of(times, count, row->lower),
                                                .death = moment_of(times, count, row->upper) - 1};
    }
    trace->count = rows->count;
    free(times);
    return STATUS_OK;
}

enum status mem_trace_read(const char *path, struct mem_trace *trace_p, struct error *error)
{
    struct rows rows = {0};
    *trace_p = (struct mem_trace){0};
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return error_set(error, STATUS_INVALID, "%s: %s", path, strerror(errno));
    }
    enum status status = read_rows(path, file, &rows, error);
    fclose(file);
    if (status == STATUS_OK && rows.count > UINT32_MAX / 4) {
        status = error_set(error, STATUS_INVALID, "%s: more than %" PRIu32 " buffers", path, UINT32_MAX / 4);
    }
    if (status == STATUS_OK) {
        status = make_buffers(&rows, trace_p, error);
    }
    free(rows.rows);
    return status;
}

void mem_trace_finish(struct mem_trace *trace)
{
    free(trace->buffers);
    *trace = (struct mem_trace){0};
}

uint64_t mem_trace_capacity(const char *path)
{
    const char *slash = strrchr(path, '/'), *dot = strchr(slash == NULL ? path : slash, '.');
    char *end;
    uint64_t capacity = dot == NULL ? 0 : strtoull(dot + 1, &end, 10);
    return dot != NULL && strcmp(end, ".csv") == 0 ? capacity : 0;
}

struct timed {
    struct mem_trace_event event;
    uint64_t moment;
};

static int order_timed(const void *a, const void *b)
{
    const struct timed *x = a, *y = b;
    if (x->moment != y->moment) {
        return x->moment < y->moment ? -1 : 1;
    }
    if (x->event.frees != y->event.frees) {
        return x->event.frees ? -1 : 1;
    }
    return (x->event.buffer > y->event.buffer) - (x->event.buffer < y->event.buffer);
}

struct mem_trace_event *mem_trace_events(const struct mem_trace *trace)
{
    size_t count = 2 * trace->count;
    struct timed *timed = malloc(count * sizeof(*timed));
    struct mem_trace_event *events = malloc(count * sizeof(*events));
    if (timed == NULL || events == NULL) {
        free(timed);
        free(events);
        return NULL;
    }
    for (size_t i = 0; i < trace->count; i++) {
        timed[2 * i] = (struct timed){{(uint32_t)i, false}, trace->buffers[i].birth};
        timed[2 * i + 1] = (struct timed){{(uint32_t)i, true}, (uint64_t)trace->buffers[i].death + 1};
    }
    qsort(timed, count, sizeof(*timed), order_timed);
    for (size_t i = 0; i < count; i++) {
        events[i] = timed[i].event;
    }
    free(timed);
    return events;
}
