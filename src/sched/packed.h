// SPDX-License-Identifier: Apache-2.0
//
// A report as it travels: short, with figures of time as float32. All ranks plan from what travelled, their own report
// included.
#ifndef HEADROOM_SCHED_PACKED_H
#define HEADROOM_SCHED_PACKED_H

#include "sched/plan.h"

struct sched_packed_offer {
    float overhead_ns, sample_ns, step_ns;
    uint32_t micro_batch_max;
};

// As struct sched_report.
struct sched_packed_report {
    struct sched_packed_offer offers[SCHED_LEVERS_MAX];
    uint64_t headroom_bytes;
    uint32_t plan_hash;
    bool measured;
    uint8_t noise;
    bool refused;
};

// Figures become the nearest float32; packed once more they stay.
struct sched_packed_report sched_pack(const struct sched_report *report);
void sched_unpack(const struct sched_packed_report *packed, struct sched_report *report);

#endif
