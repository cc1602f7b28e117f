// SPDX-License-Identifier: Apache-2.0
//
// What lists move tensors with: a stream, and host memory that grows to what the largest list keeps there.
//
// Threads: one at a time. Ranks: each for itself.
#ifndef HEADROOM_WORKER_TRANSFERS_H
#define HEADROOM_WORKER_TRANSFERS_H

#include "mem/pool.h"
#include "model/list.h"

struct transfers {
    struct list_transfers list; // for list_memory.transfers
    struct device *device;
    struct mem_pool *staging;
    device_address address; // of list.host; 0: there is none
    uint64_t bytes;         // there
};

// The device and the pool of its staging memory must outlive it. False where the device's streams or events run out;
// transfers_finish is due then too.
bool transfers_init(struct transfers *transfers, struct device *device, struct mem_pool *staging);
// Nothing that uses it is under way. Accepts one that is zeroed.
void transfers_finish(struct transfers *transfers);

// Whether there is host memory for so many bytes. If not, what there is stays. Where it grows, blocks until what uses
// the present memory is done.
bool transfers_hold(struct transfers *transfers, uint64_t bytes);

// There is no host memory from now on. Blocks as well.
void transfers_drop(struct transfers *transfers);

#endif
