// SPDX-License-Identifier: Apache-2.0
//
// What different allocators would have held from the device for a trace, on a device that refuses nothing.
#ifndef HEADROOM_MEM_REPLAY_H
#define HEADROOM_MEM_REPLAY_H

#include "mem/trace.h"

// Each answers the most bytes that were ever held; UINT64_MAX when the host's memory ran out. Buffers come and go in
// the order of mem_trace_events, on one stream.

// The pool: one range that grows by `granularity_bytes`, best fit; or plain segments.
uint64_t mem_replay_pool(const struct mem_trace *trace, const struct mem_trace_event *events,
                         uint64_t granularity_bytes, bool plain);

// PyTorch's rules (c10/cuda/CUDACachingAllocator.cpp, without expandable segments): sizes are rounded up to 512 bytes;
// those up to 1 MiB come from segments of 2 MiB, others from segments of 20 MiB, or of their own size in multiples of
// 2 MiB from 10 MiB on; best fit within either kind; a block is split where at least 512 bytes of a small or more than
// 1 MiB of a large one are left; free neighbours of a segment are joined. No segment is returned. Empty buffers take
// nothing.
uint64_t mem_replay_pytorch(const struct mem_trace *trace, const struct mem_trace_event *events);

#endif
