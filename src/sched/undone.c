// SPDX-License-Identifier: Apache-2.0
#include "sched/undone.h"

#include <stdlib.h>

static bool append(struct sched_undone *undone, struct sched_range range)
{
    if (undone->count == undone->capacity) {
        size_t capacity = undone->capacity == 0 ? 4 : 2 * undone->capacity;
        struct sched_range *ranges = realloc(undone->ranges, capacity * sizeof(*ranges));
        if (ranges == NULL) {
            return false;
        }
        undone->ranges = ranges;
        undone->capacity = capacity;
    }
    undone->ranges[undone->count++] = range;
    return true;
}

bool sched_undone_init(struct sched_undone *undone, uint64_t global_batch)
{
    *undone = (struct sched_undone){0};
    return append(undone, (struct sched_range){.samples = global_batch});
}

void sched_undone_finish(struct sched_undone *undone)
{
    free(undone->ranges);
    *undone = (struct sched_undone){0};
}

bool sched_undone_next(const struct sched_undone *undone, const struct sched_share *share, uint64_t *place_p,
                       struct sched_range *range_p)
{
    uint64_t place = share->first + *place_p, most = share->samples - *place_p;
    size_t i = 0;
    while (i < undone->count && place >= undone->ranges[i].samples) {
        place -= undone->ranges[i++].samples;
    }
    if (most == 0 || i == undone->count) {
        return false;
    }
    uint64_t samples = undone->ranges[i].samples - place;
    samples = samples < most ? samples : most;
    *range_p = (struct sched_range){.first = undone->ranges[i].first + place, .samples = samples};
    *place_p += samples;
    return true;
}

bool sched_undone_leave(struct sched_undone *undone, const struct sched_share *shares, const uint64_t *left,
                        size_t ranks)
{
    struct sched_undone next = {0};
    for (size_t i = 0; i < ranks; i++) {
        struct sched_range range;
        uint64_t place = shares[i].samples - left[i];
        while (sched_undone_next(undone, &shares[i], &place, &range)) {
            if (!append(&next, range)) {
                sched_undone_finish(&next);
                return false;
            }
        }
    }
    free(undone->ranges);
    *undone = next;
    return true;
}

uint64_t sched_undone_samples(const struct sched_undone *undone)
{
    uint64_t samples = 0;
    for (size_t i = 0; i < undone->count; i++) {
        samples += undone->ranges[i].samples;
    }
    return samples;
}
