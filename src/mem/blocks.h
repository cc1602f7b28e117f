// SPDX-License-Identifier: Apache-2.0
//
// The pool's books: segments, the block records that tile them, free blocks by size, live blocks by address.
//
// A segment is a range of addresses with memory behind its beginning. Segments whose blocks may stand in for one
// another form an arena. An arena's free blocks lie in classes of similar size, 16 to each power of two, with a bitmap
// of the classes in use (the index of TLSF: Masmano et al., 2004). The best fit is the smallest in the first class that
// has one, and each class is a tree, so a hit takes logarithmic time at worst.
#ifndef HEADROOM_MEM_BLOCKS_H
#define HEADROOM_MEM_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/device.h"
#include "mem/tags.h"

#define BLOCK_CLASSES 1024

struct block {
    device_address address;
    uint64_t bytes;
    struct segment *segment;
    struct block *previous, *next;  // in the segment, in order of address
    struct stream *stream;          // free: safe after this stream's work until then; NULL: safe for any
    struct block *smaller, *larger; // while free: in the tree of its class (mem/free_tree.h)
    bool live;
    bool stays; // while live: beyond the step; as is what follows
    uint64_t requested_bytes;
    uint64_t step; // in which it was allocated
    struct tag *tag;
};

static inline bool block_is_safe(const struct block *block, const struct stream *stream)
{
    return block->stream == NULL || block->stream == stream;
}

// Free blocks of a segment that has live ones.
struct split {
    uint64_t blocks, bytes;
};

struct segment {
    device_address base;
    uint64_t range_bytes;       // of addresses
    uint64_t held_bytes;        // with memory behind, from the base on
    struct block *first, *last; // tile it from the base to its top; what is held above was never in a block
    uint64_t blocks, live_count;
    uint64_t live_bytes;
    struct split counted; // in the pool's statistics
    struct arena *arena;
    struct segment *next; // of the arena, in order of making
};

struct arena {
    struct segment *segments;
    struct block *classes[BLOCK_CLASSES]; // free blocks, a tree each
    uint64_t used[BLOCK_CLASSES / 64];    // classes that have some
};

// What all arenas share.
struct blocks {
    struct block **live;              // open-addressed by address
    size_t live_count, live_capacity; // capacity: a power of two
    struct block *spare;              // unused records, linked by `next`
    void **slabs;                     // of records
    size_t slab_count, slab_capacity;
};

// False when the host's memory runs out.
bool blocks_init(struct blocks *blocks);
void blocks_finish(struct blocks *blocks);

// Makes room for two more records and one more live block, so that what follows cannot fail.
bool blocks_prepare(struct blocks *blocks);

// The end of the segment's blocks.
device_address segment_top(const struct segment *segment);
// Where the segment's last live block ends, from its base.
uint64_t segment_live_end(const struct segment *segment);

// The smallest free block of at least `bytes` that is safe for `stream`; the lowest address among equals. NULL: none.
struct block *blocks_best_fit(const struct arena *arena, uint64_t bytes, const struct stream *stream);
// The first of the fewest bytes of neighbouring free blocks, of whichever streams, that are at least `bytes` together.
// NULL: there are none.
struct block *blocks_best_run(const struct arena *arena, uint64_t bytes);
// The first of the free blocks at the segment's end, and the bytes of all of them. NULL: there are none.
struct block *segment_last_run(const struct segment *segment, uint64_t *bytes_p);
// Joins free neighbours, from this one on, to one block of `stream` with at least `bytes`. What the last of them has
// beyond stays as it is. Needs blocks_prepare.
struct block *blocks_join_run(struct blocks *blocks, struct block *first, uint64_t bytes, struct stream *stream);
// Appends a free block for `stream` at the segment's top, joined with a last block that is free and safe for it. Needs
// blocks_prepare.
struct block *blocks_append(struct blocks *blocks, struct segment *segment, uint64_t bytes, struct stream *stream);
// Shortens the segment's free last block by `bytes`, or removes it whole.
void blocks_shorten_last(struct blocks *blocks, struct segment *segment, uint64_t bytes);

// Makes the front of a free block live, for its caller to describe, and leaves the rest free. Needs blocks_prepare.
void blocks_take(struct blocks *blocks, struct block *block, uint64_t bytes);
struct block *blocks_find(const struct blocks *blocks, device_address address);
// Makes a live block free and joins it with its neighbours.
void blocks_give(struct blocks *blocks, struct block *block, struct stream *stream);
// The arena's free blocks of this stream become safe for any.
void blocks_forget_stream(struct blocks *blocks, struct arena *arena, const struct stream *stream);

// True when everything above agrees with everything else.
bool blocks_check(const struct blocks *blocks, const struct arena *arenas, size_t count);

#endif
