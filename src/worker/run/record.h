// SPDX-License-Identifier: Apache-2.0
//
// What a run tells of itself while it goes on: made on rank 0, written in several formats, and read back by history.h.
// docs/metrics.md says what each field means; a field's name is its key in metrics.jsonl, and everywhere else.
//
// Plain data: whoever fills in a struct owns what it points to.
#ifndef HEADROOM_WORKER_RUN_RECORD_H
#define HEADROOM_WORKER_RUN_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/error.h"

#define RECORD_NAME_MAX 16

struct record_rank {
    uint64_t share;
    uint64_t micro_batch, accumulation_steps;
    char levers[RECORD_NAME_MAX];
    uint64_t limit_bytes, headroom_bytes;
    uint64_t allocated_peak_bytes, reserved_peak_bytes, predicted_peak_bytes;
    uint64_t oom_retries, handed_back;
    uint64_t others_bytes, kept_bytes, kept_gradients_bytes, fragmented_bytes;
    double data_wait_ms;
    double recompute_gain; // a part of 1
};

struct record_ranks {
    struct record_rank *rank; // one after the other, from rank 0 on
    size_t count;
};

struct record_step {
    uint64_t step, epoch;
    double loss;
    uint64_t samples, tokens;
    double lr, grad_norm;
    double step_ms, predicted_ms; // the latter NAN until it can be predicted
    double samples_per_s, tokens_per_s;
    double data_wait_ms, comm_ms, coordination_ms;
    struct record_ranks ranks;
};

// Of these, `step` is a number of steps done.
struct record_evaluation {
    uint64_t step;
    double loss, accuracy;
    uint64_t samples;
    struct record_ranks ranks;
};

struct record_checkpoint {
    uint64_t step;
    bool written;
    uint64_t bytes;
    double pause_ms, write_ms;
    char error[sizeof(((struct error *)0)->text)]; // where it was not written
};

struct record_resume {
    uint64_t step, ranks;
    const char *from;
};

// Why memory ran out for good.
struct record_shortage {
    uint64_t rank;      // that says why
    const char *cause;  // of mem_cause_name
    bool recompute;     // it could with levers that train.recompute keeps it from
    const char *advice; // what to change, in a sentence; "": none
};

struct record_end {
    uint64_t step;
    double seconds;
    enum status status;
    const char *weights;             // their checksum; NULL: none was made
    struct record_shortage shortage; // of STATUS_OUT_OF_MEMORY; else without a cause
};

enum record_type {
    RECORD_COUNT, // uint64_t
    RECORD_REAL,  // double; NAN: there is none
    RECORD_NAME   // char[RECORD_NAME_MAX]
};

struct record_field {
    const char *name;
    size_t offset;
    enum record_type type;
    bool later; // added since the first version: 0 in a run of one that did not tell it
};

// In the order of metrics.jsonl, closed by one without a name; of a step without its ranks.
extern const struct record_field record_step_fields[];
extern const struct record_field record_rank_fields[];

uint64_t record_count(const struct record_field *field, const void *record);
double record_real(const struct record_field *field, const void *record);
const char *record_name(const struct record_field *field, const void *record);
// NULL: there is none of that name.
const struct record_field *record_find(const struct record_field *fields, const char *name);

#endif
