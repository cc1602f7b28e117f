// SPDX-License-Identifier: Apache-2.0
//
// Allocation traces: who needed how many bytes from when to when.
//
// Two formats, told apart by the first line:
//
// - that of published traces: "id,lower,upper,size", then one buffer a line, which lives from moment `lower` to before
//   moment `upper` and takes `size` bytes, all of them decimal numbers;
// - the log of RMM's logging_resource_adaptor, or of a mem_recorder: "Thread,Time,Action,Pointer,Size,Stream", perhaps
//   with ",Tag" behind it, then one event a line. An allocation lives until the next free of its pointer, or to the
//   end; moments are events. Failures, and what is at a null pointer, count as moments only.
//
// All numbers are below 2^63, all sizes together below 2^60. Moments are counted from the first; where they lie 2^32 or
// more apart, only those count in which something changes.
#ifndef HEADROOM_MEM_TRACE_H
#define HEADROOM_MEM_TRACE_H

#include <stdio.h>

#include "mem/error.h"
#include "mem/layout.h"

struct mem_trace {
    struct mem_buffer *buffers; // in the file's order
    size_t count;
};

struct mem_trace_event {
    uint32_t buffer;
    bool frees;
};

// Reads the file to its end; errors call it `path`. STATUS_INVALID with a line that names file, line and value;
// STATUS_ERROR when memory runs out. The caller owns the trace.
enum status mem_trace_read(const char *path, FILE *file, struct mem_trace *trace_p, struct error *error);
void mem_trace_finish(struct mem_trace *trace);

// The bytes that the file's name says its buffers fit in, as A.1048576.csv does; 0: it says none.
uint64_t mem_trace_capacity(const char *path);

// The order in which a program asks: moment by moment what ends before what begins, each in the file's order. 2 * count
// events, for the caller to free; NULL when the host's memory runs out.
struct mem_trace_event *mem_trace_events(const struct mem_trace *trace);

#endif
