// SPDX-License-Identifier: Apache-2.0
//
// An allocator's state and history as a file that PyTorch's tools open: pytorch.org/memory_viz, and
// torch/cuda/_memory_viz.py for text. The format is that of torch.cuda.memory._dump_snapshot()
// (torch/csrc/cuda/memory_snapshot.cpp), as far as these tools read it. A block's tag and step are shown as the place
// in the code that asked for it: "step:12:activations".
//
// The viewer goes back from the state at the end, event by event, so the state must be what the events led to. Blocks
// tile their segment in order of address. Each block that an event allocates or frees lies, at that moment, in a
// segment; a segment's events have its stream. A free is an event once it is completed, so not yet that of a block that
// is pending.
//
// Threads: not while another one uses the recorder. Ranks: nothing is collective.
#ifndef HEADROOM_MEM_SNAPSHOT_H
#define HEADROOM_MEM_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/error.h"
#include "mem/recorder.h"

// By PyTorch's names.
enum mem_block_state {
    MEM_BLOCK_ACTIVE_ALLOCATED,
    MEM_BLOCK_INACTIVE, // free
};

struct mem_snapshot_block {
    device_address address;
    uint64_t bytes;
    uint64_t requested_bytes; // as asked, before rounding; 0 where it is free
    enum mem_block_state state;
    const char *tag; // NULL: none
    uint64_t step;
};

struct mem_snapshot_segment {
    device_address address;
    uint64_t bytes;
    uint64_t stream; // a number, as in events
    uint64_t pool;   // 0: the usual one; the viewer shows others apart
    bool expandable;
    const struct mem_snapshot_block *blocks;
    size_t block_count;
};

// All of it is the caller's.
struct mem_snapshot {
    uint32_t device; // the number under which the viewer shows it
    const struct mem_snapshot_segment *segments;
    size_t segment_count;
    const struct mem_recorder *recorder; // NULL: no history
};

// Writes it as whole_file_write does. STATUS_ERROR with a line that names the file.
enum status mem_snapshot_write(const char *path, const struct mem_snapshot *snapshot, struct error *error);

#endif
