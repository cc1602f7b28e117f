// SPDX-License-Identifier: Apache-2.0
//
// Down-sampling: values of any number of steps in a bounded number of columns, each of which stands for `stride` steps
// and knows the least, the greatest and the sum of what was in them. Where a step is beyond the last column, pairs of
// columns become one, so neither the number of steps nor their order needs to be known, and no extreme is lost.
//
// Pure: no file, no clock. Threads: one at a time.
#ifndef HEADROOM_WORKER_REPORT_COLUMNS_H
#define HEADROOM_WORKER_REPORT_COLUMNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct column {
    uint64_t count; // of values; 0: there was none, and the rest means nothing
    double min, max, sum;
};

// Several series over the same steps.
struct columns {
    size_t series, capacity; // capacity: of columns, at least 1
    size_t used;             // columns up to the last that has a value
    uint64_t stride;         // column i has steps [i * stride, (i + 1) * stride)
    struct column *column;   // those of series 0, then those of series 1 ...
};

// No values yet. False when the host's memory runs out. columns_finish releases it.
bool columns_init(struct columns *columns, size_t series, size_t capacity);
void columns_finish(struct columns *columns);

// More series, and fewer columns. What was added stays. False when the host's memory runs out; then nothing changed but
// maybe the stride.
bool columns_resize(struct columns *columns, size_t series, size_t capacity);

// A value that is no number is left out.
void columns_add(struct columns *columns, size_t series, uint64_t step, double value);

// The first column of a series; `used` follow from there.
const struct column *columns_of(const struct columns *columns, size_t series);

// Over all steps.
struct column columns_total(const struct columns *columns, size_t series);

#endif
