// SPDX-License-Identifier: Apache-2.0
#include "worker/run/record.h"

#include <string.h>

#define FIELD(of, field, kind, added)                                                                                  \
    {                                                                                                                  \
        .name = #field, .offset = offsetof(struct of, field), .type = (kind), .later = (added)                         \
    }
#define COUNT(of, field) FIELD(of, field, RECORD_COUNT, false)
#define REAL(of, field)  FIELD(of, field, RECORD_REAL, false)
#define NAME(of, field)  FIELD(of, field, RECORD_NAME, false)

const struct record_field record_step_fields[] = {
    COUNT(record_step, step),         COUNT(record_step, epoch),          REAL(record_step, loss),
    COUNT(record_step, samples),      COUNT(record_step, tokens),         REAL(record_step, lr),
    REAL(record_step, grad_norm),     REAL(record_step, step_ms),         REAL(record_step, predicted_ms),
    REAL(record_step, samples_per_s), REAL(record_step, tokens_per_s),    REAL(record_step, data_wait_ms),
    REAL(record_step, comm_ms),       REAL(record_step, coordination_ms), {.name = NULL},
};

const struct record_field record_rank_fields[] = {
    COUNT(record_rank, share),
    COUNT(record_rank, micro_batch),
    COUNT(record_rank, accumulation_steps),
    NAME(record_rank, levers),
    COUNT(record_rank, limit_bytes),
    COUNT(record_rank, headroom_bytes),
    COUNT(record_rank, allocated_peak_bytes),
    COUNT(record_rank, reserved_peak_bytes),
    COUNT(record_rank, predicted_peak_bytes),
    COUNT(record_rank, oom_retries),
    COUNT(record_rank, handed_back),
    FIELD(record_rank, others_bytes, RECORD_COUNT, true),
    FIELD(record_rank, kept_bytes, RECORD_COUNT, true),
    FIELD(record_rank, kept_gradients_bytes, RECORD_COUNT, true),
    FIELD(record_rank, fragmented_bytes, RECORD_COUNT, true),
    FIELD(record_rank, data_wait_ms, RECORD_REAL, true),
    FIELD(record_rank, recompute_gain, RECORD_REAL, true),
    {.name = NULL},
};

static const void *place(const struct record_field *field, const void *record)
{
    return (const char *)record + field->offset;
}

uint64_t record_count(const struct record_field *field, const void *record)
{
    return *(const uint64_t *)place(field, record);
}

double record_real(const struct record_field *field, const void *record)
{
    return *(const double *)place(field, record);
}

const char *record_name(const struct record_field *field, const void *record)
{
    return place(field, record);
}

const struct record_field *record_find(const struct record_field *fields, const char *name)
{
    while (fields->name != NULL && strcmp(fields->name, name) != 0) {
        fields++;
    }
    return fields->name == NULL ? NULL : fields;
}
