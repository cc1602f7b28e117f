// SPDX-License-Identifier: Apache-2.0
//
// What streams last did with each byte of a device's memory, and which block it belongs to. Only sanitizer.c uses it.
//
// Each stream numbers its uses. A clock says how many of every stream's have passed, so whatever has a clock comes
// after the uses that it counts.
#ifndef HEADROOM_MEM_USES_H
#define HEADROOM_MEM_USES_H

#include <stddef.h>

#include "mem/sanitizer.h"

struct clock {
    uint64_t counts[SANITIZER_STREAMS_MAX];
};

static inline void clock_join(struct clock *clock, const struct clock *other)
{
    for (size_t i = 0; i < SANITIZER_STREAMS_MAX; i++) {
        clock->counts[i] = clock->counts[i] > other->counts[i] ? clock->counts[i] : other->counts[i];
    }
}

#define USE_BY_HOST UINT32_MAX // in place of a stream's number; such a use has slot and count 0

struct use {
    const char *place, *verb;
    bool writes;
    uint32_t stream; // its number
    uint32_t slot;   // among the counts of a clock
    uint64_t count;  // there; 0: none
};

struct owner {
    enum { OWNER_NONE, OWNER_LIVE, OWNER_FREED } state;
    device_address block;
    char tag[32];
    struct use freed; // its place is NULL where any stream may reuse the block
};

struct uses {
    struct range **ranges; // by address; they tile all addresses
    size_t count, capacity;
    size_t count_kept; // when passed uses were last forgotten
};

// Bytes [from, to) of one owner, in conflict with one earlier use or free.
struct conflict {
    bool found, after_free;
    device_address from, to;
    struct owner owner;
    struct use earlier;
};

// False without host memory, here and below.
bool uses_init(struct uses *uses);
void uses_finish(struct uses *uses);

// A use that comes after what the clock counts. The first conflict with what was there. To one by the host it is all
// the same whether a block was freed, and it is not kept: all that is enqueued later comes after it.
bool uses_add(struct uses *uses, device_address address, uint64_t bytes, const struct use *use,
              const struct clock *clock, struct conflict *conflict_p);

bool uses_begin_block(struct uses *uses, device_address address, uint64_t bytes, const char *tag);
// The bytes are of no block.
bool uses_end_blocks(struct uses *uses, device_address address, uint64_t bytes);
// Any stream may reuse the block.
void uses_free_block(struct uses *uses, device_address address);
// Only what comes after `freed` may, which is a use of the whole block.
void uses_free_block_after(struct uses *uses, device_address address, const struct use *freed,
                           const struct clock *clock, struct conflict *conflict_p);

// Forgets uses that come before all others to come, once there is enough to forget.
void uses_forget(struct uses *uses, const struct clock *passed);

#endif
