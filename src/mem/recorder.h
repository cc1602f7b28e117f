// SPDX-License-Identifier: Apache-2.0
//
// What an allocator did: the newest events in memory, and on request all that touched blocks in a file.
//
// The file is the CSV of RMM's logging_resource_adaptor (rapidsai/rmm,
// cpp/src/mr/detail/logging_resource_adaptor_impl.cpp) with one more column, so RMM's replay benchmark takes it, and
// mem_trace_read does: a first line "Thread,Time,Action,Pointer,Size,Stream,Tag", then one event a line. Time is local,
// as 13:59:59.123456; actions are "allocate", "free" and "allocate failure", whose pointer is 0x0; sizes are those that
// were requested; the stream is its number. RMM knows no segments, so their events are not in it. The file grows by
// whole lines, and where it cannot grow it ends with a whole line.
//
// Threads: one thread at a time. Ranks: nothing is collective.
#ifndef HEADROOM_MEM_RECORDER_H
#define HEADROOM_MEM_RECORDER_H

#include <stddef.h>
#include <stdint.h>

#include "mem/device.h"
#include "mem/error.h"

enum mem_action {
    MEM_ACTION_ALLOC,
    MEM_ACTION_ALLOC_FAILED,
    MEM_ACTION_FREE,
    MEM_ACTION_SEGMENT_ALLOC, // a whole segment from the device
    MEM_ACTION_SEGMENT_FREE,
    MEM_ACTION_SEGMENT_MAP, // memory behind a part of a range of addresses
    MEM_ACTION_SEGMENT_UNMAP,
};

struct mem_event {
    enum mem_action action;
    uint64_t stream;            // a number that names it; 0: the default one
    device_address address;     // of the block or segment; 0 where an allocation failed
    uint64_t bytes;             // of the block or segment
    uint64_t requested_bytes;   // as asked, before rounding; of blocks only
    uint64_t device_free_bytes; // where an allocation failed
    uint64_t time_ns;           // of clock_ns
    uint64_t step;
    char tag[32];
};

struct mem_recorder;

// Keeps the newest `capacity` (> 0) events, in about 100 bytes each. `log_path` is the file, which is made new; NULL:
// none. STATUS_ERROR where it cannot be written or the host's memory runs out.
enum status mem_recorder_create(size_t capacity, const char *log_path, struct mem_recorder **recorder_p,
                                struct error *error);
// Flushes; a failure then goes untold. Accepts NULL.
void mem_recorder_destroy(struct mem_recorder *recorder);

// Copies the event and gives it the present time. Without a file it costs a look at the clock and no more than a few ns
// else, and never allocates; with one it may block on it.
void mem_recorder_append(struct mem_recorder *recorder, const struct mem_event *event);

// Writes out what the file does not have yet. STATUS_ERROR once, for the first failure since the creation; nothing more
// is written then, and the events in memory go on.
enum status mem_recorder_flush(struct mem_recorder *recorder, struct error *error);

// All that were ever appended, and those of them that are kept.
uint64_t mem_recorder_count(const struct mem_recorder *recorder);
size_t mem_recorder_kept(const struct mem_recorder *recorder);
// The kept event `i`, 0 the oldest; the recorder's, until the next append.
const struct mem_event *mem_recorder_event(const struct mem_recorder *recorder, size_t i);

// Nanoseconds since 1970 of a moment of clock_ns, by the wall clock when the recorder was made.
uint64_t mem_recorder_wall_ns(const struct mem_recorder *recorder, uint64_t time_ns);

#endif
