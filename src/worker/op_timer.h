// SPDX-License-Identifier: Apache-2.0
//
// How long single operations take on the device: marks in the stream around each.
//
// Threads: one. Ranks: each for itself.
#ifndef HEADROOM_WORKER_OP_TIMER_H
#define HEADROOM_WORKER_OP_TIMER_H

#include "model/list.h"

struct op_timer;

struct op_timing {
    struct list_work work;
    uint64_t time_ns;
};

// The device must outlive the timer. NULL where the host's memory runs out.
struct op_timer *op_timer_create(struct device *device);
// Accepts NULL.
void op_timer_destroy(struct op_timer *timer);

// list_run, each operation between two marks. One for which no marks are to be had is not timed. Does not block.
void op_timer_run(struct op_timer *timer, const struct list *list, size_t first, size_t end,
                  struct kernel_context *context, const struct list_memory *memory);

// Whether there is something to read for which op_timer_read need not wait. Does not block.
bool op_timer_ready(const struct op_timer *timer);

// What was timed since the last call; answers how many operations. They stay until the next op_timer_run. Blocks until
// they are done.
size_t op_timer_read(struct op_timer *timer, const struct op_timing **timings_p);

#endif
