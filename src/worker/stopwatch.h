// SPDX-License-Identifier: Apache-2.0
//
// How long micro-steps take on the device, without waiting for them: marks in the stream, read once they have passed.
//
// Threads: one. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_STOPWATCH_H
#define HEADROOM_WORKER_STOPWATCH_H

#include "mem/device.h"

struct stopwatch;

struct lap {
    uint64_t samples, levers, time_ns;
};

// The device must outlive the stopwatch. NULL where the host's memory or the device's events run out.
struct stopwatch *stopwatch_create(struct device *device);
// Accepts NULL.
void stopwatch_destroy(struct stopwatch *stopwatch);

// Mark the begin and the end of a micro-step of `samples` under `levers` on the stream. Where more than a few dozen are
// under way, some are not measured. Do not block.
void stopwatch_start(struct stopwatch *stopwatch, struct stream *stream);
void stopwatch_stop(struct stopwatch *stopwatch, struct stream *stream, uint64_t samples, uint64_t levers);

// The oldest micro-step that is over and was not read yet; false: there is none. Does not block.
bool stopwatch_read(struct stopwatch *stopwatch, struct lap *lap_p);

#endif
