// SPDX-License-Identifier: Apache-2.0
#include "worker/run/record.h"

#include <string.h>

#define COUNT(of, field)                                                                                               \
    {                                                                                                                  \
#field, RECORD_COUNT, offsetof(struct of, field)                                                               \
    }
#define REAL(of, field)                                                                                                \
    {                                                                                                                  \
#field, RECORD_REAL, offsetof(struct of, field)                                                                \
    }
#define NAME(of, field)                                                                                                \
    {                                                                                                                  \
#field, RECORD_NAME, offsetof(struct of, field)                                                                \
    }

const struct record_field record_step_fields[] = {
    COUNT(record_step, step),         COUNT(record_step, epoch),          REAL(record_step, loss),
    COUNT(record_step, samples),      COUNT(record_step, tokens),         REAL(record_step, lr),
    REAL(record_step, grad_norm),     REAL(record_step, step_ms),         REAL(record_step, predicted_ms),
    REAL(record_step, samples_per_s), REAL(record_step, tokens_per_s),    REAL(record_step, data_wait_ms),
    REAL(record_step, comm_ms),       REAL(record_step, coordination_ms), {NULL, RECORD_COUNT, 0},
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
    COUNT(record_rank, others_bytes),
    COUNT(record_rank, kept_bytes),
    COUNT(record_rank, fragmented_bytes),
    REAL(record_rank, data_wait_ms),
    {NULL, RECORD_COUNT, 0},
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
