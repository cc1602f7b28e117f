// SPDX-License-Identifier: Apache-2.0
//
// A device that is bookkeeping alone, and ends the fuzz where its contract is broken. It has no memory. Work on its
// streams is done when it is waited for or when the test says so. It knows which memory unfinished work may use and,
// transitively, which work comes after which.
#ifndef HEADROOM_TESTS_SIM_DEVICE_H
#define HEADROOM_TESTS_SIM_DEVICE_H

#include <stddef.h>

#include "mem/device.h"

#define SIM_STREAMS      4
#define SIM_GRANULES_MAX 128
#define SIM_RANGES_MAX   (SIM_GRANULES_MAX + 2)
#define SIM_PIECES_MAX   2048

// How much of each stream's work comes before something. What that work in turn comes after is in it too.
struct sim_clock {
    uint64_t of[SIM_STREAMS];
};

struct stream {
    size_t number;
    struct sim_clock clock; // before what comes next
};

// Calls that can fail.
enum sim_call { SIM_RESERVE, SIM_COMMIT, SIM_EVENT_CREATE, SIM_HOST_MEMORY, SIM_CALLS };

struct sim_config {
    uint64_t granularity_bytes, capacity_bytes;
    bool plain;
    bool high_first; // ranges come from the highest free addresses, else from the lowest
    bool usage_known;
};

struct sim_range {
    device_address base; // 0: none
    uint64_t bytes;
    uint64_t granules; // committed
    bool committed[SIM_GRANULES_MAX];
};

// Memory that work uses, or used.
struct sim_piece {
    device_address address, end;
    size_t stream;          // of the last work
    struct sim_clock clock; // with which that is done
    bool live;
};

// Since sim_watch.
struct sim_seen {
    uint64_t reserves, commits, commit_bytes, releases, last_release_bytes, stream_waits, failed;
    bool synchronized[SIM_STREAMS];
    bool failed_call[SIM_CALLS];
};

struct sim_device {
    struct device device;
    struct device_ops ops;
    struct sim_config config;
    struct stream streams[SIM_STREAMS];
    struct sim_clock done, known; // done; and of that, what the host knows of
    struct sim_range ranges[SIM_RANGES_MAX];
    struct sim_piece pieces[SIM_PIECES_MAX];
    size_t piece_count;
    uint64_t events;
    uint64_t held_bytes, others_bytes;
    uint64_t allowed_bytes; // no commit may go beyond
    uint64_t calls[SIM_CALLS];
    uint64_t fail_at[SIM_CALLS], fault_at[SIM_CALLS]; // the calls of these numbers fail; 0: none
    uint64_t failed;
    uint64_t commits, releases;                           // since it was made, as is what follows
    uint64_t peak_bytes, committed_bytes, released_bytes; // the peak: since it was last set
    uint64_t segments, segments_peak, segments_begun, segments_ended;
    struct sim_seen seen;
};

void sim_init(struct sim_device *sim, const struct sim_config *config);
// Nothing may be left.
void sim_finish(struct sim_device *sim);

void sim_watch(struct sim_device *sim);
// Whether this call is one that must fail. Counts it.
bool sim_fails(struct sim_device *sim, enum sim_call call);
uint64_t sim_free_bytes(const struct sim_device *sim);
// Committed from the range's base on; nothing is committed behind that.
uint64_t sim_range_held(const struct sim_device *sim, const struct sim_range *range);

// From now on work on the stream uses the memory, which nobody else has, until sim_end_use.
void sim_begin_use(struct sim_device *sim, device_address address, uint64_t bytes, struct stream *stream);
// One more piece of work uses it, after those before.
void sim_touch(struct sim_device *sim, device_address address, struct stream *stream);
// The stream's work until now is the last that uses it.
void sim_end_use(struct sim_device *sim, device_address address, struct stream *stream);

// Whether what the stream does next comes after all that used the memory; NULL: what any does.
bool sim_is_safe(const struct sim_device *sim, device_address address, device_address end, const struct stream *stream);
// Whether unfinished work uses the memory.
bool sim_is_used(const struct sim_device *sim, device_address address, device_address end);
// Whether all that the stream was given is done.
bool sim_is_idle(const struct sim_device *sim, const struct stream *stream);
// The stream does all that it was given.
void sim_complete(struct sim_device *sim, const struct stream *stream);

#endif
