// SPDX-License-Identifier: Apache-2.0
#include "mem/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/trace_rmm.h"
#include "mem/trace_rows.h"

#define HEADER "id,lower,upper,size"

enum { LINE_MAX_BYTES = 256 };

struct reader {
    const char *path;
    bool from_rmm;
    struct trace_rmm rmm;
    struct trace_rows rows;
};

static enum status parse_buffer(const struct trace_line *line, struct trace_rows *rows, struct error *error)
{
    struct trace_row row;
    uint64_t id;
    const char *text = trace_number(line->text, ',', &id);
    text = text == NULL ? NULL : trace_number(text, ',', &row.lower);
    text = text == NULL ? NULL : trace_number(text, ',', &row.upper);
    text = text == NULL ? NULL : trace_number(text, '\0', &row.bytes);
    if (text == NULL) {
        return error_set(error, STATUS_INVALID, "%s:%zu: '%s' is not four numbers below 2^63: " HEADER, line->path,
                         line->number, line->text);
    }
    if (row.lower >= row.upper) {
        return error_set(error, STATUS_INVALID, "%s:%zu: upper %" PRIu64 " is not above lower %" PRIu64, line->path,
                         line->number, row.upper, row.lower);
    }
    return trace_rows_add(rows, line, &row, error);
}

static enum status parse_line(struct reader *reader, struct trace_line *line, struct error *error)
{
    if (line->number == 1) {
        reader->from_rmm = trace_rmm_begin(&reader->rmm, line->text);
        return reader->from_rmm || strcmp(line->text, HEADER) == 0
                   ? STATUS_OK
                   : error_set(error, STATUS_INVALID,
                               "%s:1: '%s' is not the first line of a trace: " HEADER " or " TRACE_RMM_HEADER,
                               line->path, line->text);
    }
    return reader->from_rmm ? trace_rmm_line(&reader->rmm, line, &reader->rows, error)
                            : parse_buffer(line, &reader->rows, error);
}

// Up to the line's end, or to where there is no more room. False at the file's end.
static bool read_line(FILE *file, char text[LINE_MAX_BYTES], size_t *length_p)
{
    size_t length = 0;
    int next = getc(file);
    for (; next != EOF && next != '\n' && length + 1 < LINE_MAX_BYTES; next = getc(file)) {
        text[length++] = (char)next;
    }
    bool ended = next == EOF && length == 0;
    if (length > 0 && text[length - 1] == '\r') {
        length--;
    }
    text[length] = '\0';
    *length_p = length;
    return !ended;
}

static enum status read_lines(struct reader *reader, FILE *file, struct error *error)
{
    char text[LINE_MAX_BYTES];
    struct trace_line line = {.path = reader->path, .number = 1, .text = text};
    size_t length;
    enum status status = STATUS_OK;
    for (; status == STATUS_OK && read_line(file, text, &length); line.number++) {
        if (length + 1 == LINE_MAX_BYTES) {
            return error_set(error, STATUS_INVALID, "%s:%zu: the line is longer than %d bytes", line.path, line.number,
                             LINE_MAX_BYTES - 2);
        }
        if (strlen(text) < length) {
            return error_set(error, STATUS_INVALID, "%s:%zu: the line holds a NUL byte", line.path, line.number);
        }
        status = parse_line(reader, &line, error);
    }
    if (status == STATUS_OK && ferror(file)) {
        return error_set(error, STATUS_INVALID, "%s: %s", line.path, strerror(errno));
    }
    return status;
}

static enum status read_file(struct reader *reader, FILE *file, struct error *error)
{
    enum status status = read_lines(reader, file, error);
    if (status == STATUS_OK && reader->from_rmm) {
        status = trace_rmm_end(&reader->rmm, reader->path, &reader->rows, error);
    }
    if (status == STATUS_OK && reader->rows.count == 0) {
        return error_set(error, STATUS_INVALID,
                         "%s: there is no buffer in it; a trace begins with " HEADER " or " TRACE_RMM_HEADER,
                         reader->path);
    }
    if (status == STATUS_OK && reader->rows.count > UINT32_MAX / 4) {
        return error_set(error, STATUS_INVALID, "%s: more than %" PRIu32 " buffers", reader->path, UINT32_MAX / 4);
    }
    return status;
}

static int order_numbers(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

// All times, in order, each once. NULL when memory runs out.
static uint64_t *sorted_times(const struct trace_rows *rows, size_t *count_p)
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

static enum status make_buffers(const struct trace_rows *rows, struct mem_trace *trace, struct error *error)
{
    size_t count = 0;
    uint64_t *times = sorted_times(rows, &count);
    trace->buffers = calloc(rows->count + 1, sizeof(*trace->buffers));
    if (times == NULL || trace->buffers == NULL) {
        free(times);
        return error_out_of_host_memory(error);
    }
    for (size_t i = 0; i < rows->count; i++) {
        const struct trace_row *row = &rows->rows[i];
        trace->buffers[i] = (struct mem_buffer){.bytes = row->bytes,
                                                .birth = moment_of(times, count, row->lower),
                                                .death = moment_of(times, count, row->upper) - 1};
    }
    trace->count = rows->count;
    free(times);
    return STATUS_OK;
}

enum status mem_trace_read(const char *path, FILE *file, struct mem_trace *trace_p, struct error *error)
{
    struct reader reader = {.path = path};
    *trace_p = (struct mem_trace){0};
    enum status status = read_file(&reader, file, error);
    if (status == STATUS_OK) {
        status = make_buffers(&reader.rows, trace_p, error);
    }
    trace_rmm_finish(&reader.rmm);
    trace_rows_finish(&reader.rows);
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
