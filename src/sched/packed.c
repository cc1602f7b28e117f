// SPDX-License-Identifier: Apache-2.0
#include "sched/packed.h"

// A float32 of 2^63 or less, which a figure that was rounded up may have become.
static uint64_t figure(float value)
{
    return value < 0x1p63F ? (uint64_t)(int64_t)value : UINT64_C(1) << 63;
}

struct sched_packed_report sched_pack(const struct sched_report *report)
{
    struct sched_packed_report packed = {
        .headroom_bytes = report->headroom_bytes,
        .plan_hash = report->plan_hash,
        .measured = report->measured,
        .noise = report->noise,
        .refused = report->refused,
    };
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        const struct sched_offer *offer = &report->offers[k];
        packed.offers[k] = (struct sched_packed_offer){
            .overhead_ns = (float)offer->overhead_ns,
            .sample_ns = (float)offer->sample_ns,
            .step_ns = (float)offer->step_ns,
            .micro_batch_max = offer->micro_batch_max,
        };
    }
    return packed;
}

void sched_unpack(const struct sched_packed_report *packed, struct sched_report *report)
{
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        const struct sched_packed_offer *offer = &packed->offers[k];
        report->offers[k] = (struct sched_offer){
            .overhead_ns = figure(offer->overhead_ns),
            .sample_ns = figure(offer->sample_ns),
            .step_ns = figure(offer->step_ns),
            .micro_batch_max = offer->micro_batch_max,
        };
    }
    report->headroom_bytes = packed->headroom_bytes;
    report->plan_hash = packed->plan_hash;
    report->measured = packed->measured;
    report->noise = packed->noise;
    report->refused = packed->refused;
}
