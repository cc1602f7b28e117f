// SPDX-License-Identifier: Apache-2.0
//
// What operations cost on a rank's device: nanoseconds for a unit of work (a floating-point operation, or a byte where
// an operation has none to count), for each kind of operation and tensor. Measured now and then, older measurements
// fading.
//
// What is kept are the costs relative to one another, and the device's speed: one that slows down as a whole changes
// no relation, so lists whose operations were measured at different times can be compared.
//
// Threads: one at a time. Ranks: each for itself.
#ifndef HEADROOM_WORKER_COSTS_H
#define HEADROOM_WORKER_COSTS_H

#include "mem/error.h"
#include "worker/op_timer.h"

#define COSTS_DEVICE_MAX 128 // bytes of a name, with the zero at its end

struct costs;

// On what they were measured.
struct costs_device {
    char kind[16]; // "cpu", "cuda"; "": an older file does not say
    char name[COSTS_DEVICE_MAX];
};

// NULL when the host's memory runs out.
struct costs *costs_create(void);
// Accepts NULL.
void costs_destroy(struct costs *costs);

// The operations of one micro-step.
void costs_observe(struct costs *costs, const struct op_timing *timings, size_t count);

// How long the list takes, one operation after the other. One that was not measured is held to cost what others of its
// kind do, or what others do in its unit. 0: nothing was measured, or no such thing.
double costs_list_ns(const struct costs *costs, const struct list *list);

// As costs/rank_N.json of the run folder, as run_folder_write does.
enum status costs_write(const struct costs *costs, const struct costs_device *device, const char *run_folder,
                        uint32_t rank, struct error *error);
// STATUS_INVALID with a line that names the file and what is wrong; STATUS_ERROR where it cannot be opened or the
// host's memory runs out. The caller owns the costs.
enum status costs_read(const char *path, struct costs **costs_p, struct costs_device *device_p, struct error *error);

#endif
