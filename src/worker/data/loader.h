// SPDX-License-Identifier: Apache-2.0
//
// The loader: threads that read samples ahead of the step loop into a staging buffer of bounded size.
//
// The buffer is a ring of slots, one sample each. The step loop says with loader_expect which positions of the run it
// will ask for; threads fill slots in that order, a few steps ahead and no further; loader_next enqueues copies of the
// samples it is asked for to the device, and their slots are free again once the stream has passed. When other
// positions are expected, because the plan changed, slots whose samples are among them stay, and only the others are
// read: a wrong guess costs time, never a wrong sample. The sample at a position is data_order's.
//
// Threads: the functions below belong to one thread. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_DATA_LOADER_H
#define HEADROOM_WORKER_DATA_LOADER_H

#include <stdbool.h>
#include <stdint.h>

#include "mem/pool.h"
#include "worker/data/data.h"

struct loader;

struct loader_config {
    const struct data_set *set; // these three must outlive the loader
    struct device *device;      // that samples are copied to
    struct mem_pool *staging;   // host memory for the ring
    uint64_t seed;
    uint64_t batch; // the most samples that are expected of a step; 0: any number
    bool shuffle;
    uint32_t threads;        // at least 1
    uint64_t read_ms;        // that reading a sample takes longer: a fault for tests
    uint64_t prefetch_bytes; // the most that the staging buffer takes; one sample always fits, and never more than all,
                             // or than what is read ahead of steps of `batch`
    bool shrinks;            // it takes less where the host has not as much memory
};

enum status loader_create(const struct loader_config *config, struct loader **loader_p, struct error *error);
// Stops the threads and frees everything. Accepts NULL.
void loader_destroy(struct loader *loader);

// The next positions wanted are [first, first + count), and after them [first + stride, first + stride + count), and
// so on; where stride is 0, none after. `count` is at least 1, and at most a stride that is not 0. Of the samples of
// the next few such steps those that were read ahead, or are being read, stay. Does not block.
void loader_expect(struct loader *loader, uint64_t first, uint64_t count, uint64_t stride);

// The length of the longest sample at positions [first, first + count): its targets that are no padding.
uint64_t loader_longest(const struct loader *loader, uint64_t first, uint64_t count);

// Enqueues on `stream` copies of the samples at positions [first, first + count), each cut to `length` targets: inputs
// at `inputs`, targets at `targets`, both packed. `count` may exceed the ring. Where they are not what is expected
// next, they are from now on, and nothing after them. Blocks until they are read, and for the stream only where the
// ring is too short for what was asked for or dozens of copies are under way. Adds the time that it waited to
// loader_wait_ns. Where one of these samples cannot be read, answers the status and line that its reading gave; those
// before it may have been copied.
enum status loader_next(struct loader *loader, struct stream *stream, uint64_t first, uint64_t count, uint64_t length,
                        device_address inputs, device_address targets, struct error *error);

// Nanoseconds that loader_next has waited for data since the loader was made.
uint64_t loader_wait_ns(const struct loader *loader);
// Nanoseconds from one sample to the next when all threads read: of the newest reads the median, so single slow ones do
// not count; 0: not known yet.
uint64_t loader_sample_ns(struct loader *loader);
// Bytes of its staging buffer,
uint64_t loader_bytes(const struct loader *loader);
// and those that a loader with this config takes where the host has them.
uint64_t loader_staging_bytes(const struct loader_config *config);

#endif
