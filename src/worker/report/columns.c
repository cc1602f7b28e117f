// SPDX-License-Identifier: Apache-2.0
#include "worker/report/columns.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool columns_init(struct columns *columns, size_t series, size_t capacity)
{
    *columns = (struct columns){.series = series, .capacity = capacity, .stride = 1};
    columns->column = calloc(series * capacity, sizeof(*columns->column));
    return columns->column != NULL;
}

void columns_finish(struct columns *columns)
{
    free(columns->column);
    *columns = (struct columns){0};
}

const struct column *columns_of(const struct columns *columns, size_t series)
{
    return &columns->column[series * columns->capacity];
}

static void join(struct column *to, const struct column *from)
{
    if (from->count == 0) {
        return;
    }
    to->min = to->count == 0 ? from->min : fmin(to->min, from->min);
    to->max = to->count == 0 ? from->max : fmax(to->max, from->max);
    to->sum += from->sum;
    to->count += from->count;
}

static void fold(struct columns *columns)
{
    for (size_t series = 0; series < columns->series; series++) {
        struct column *column = &columns->column[series * columns->capacity];
        for (size_t i = 0; i < columns->used; i++) {
            struct column moved = column[i];
            column[i] = (struct column){0};
            join(&column[i / 2], &moved);
        }
    }
    columns->used = (columns->used + 1) / 2;
    columns->stride *= 2;
}

bool columns_resize(struct columns *columns, size_t series, size_t capacity)
{
    struct columns resized;
    while (columns->used > capacity) {
        fold(columns);
    }
    if (!columns_init(&resized, series, capacity)) {
        return false;
    }
    for (size_t i = 0; i < columns->series; i++) {
        memcpy(&resized.column[i * capacity], columns_of(columns, i), columns->used * sizeof(*columns->column));
    }
    resized.used = columns->used;
    resized.stride = columns->stride;
    columns_finish(columns);
    *columns = resized;
    return true;
}

void columns_add(struct columns *columns, size_t series, uint64_t step, double value)
{
    if (isnan(value)) {
        return;
    }
    while (step / columns->stride >= columns->capacity) {
        fold(columns);
    }
    size_t i = (size_t)(step / columns->stride);
    join(&columns->column[series * columns->capacity + i], &(struct column){1, value, value, value});
    columns->used = i < columns->used ? columns->used : i + 1;
}

struct column columns_total(const struct columns *columns, size_t series)
{
    struct column total = {0};
    for (size_t i = 0; i < columns->used; i++) {
        join(&total, &columns_of(columns, series)[i]);
    }
    return total;
}
