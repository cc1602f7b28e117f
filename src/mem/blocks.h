// SPDX-License-Identifier: Apache-2.0
//
// The pool's books: block records in order of address, free blocks by size, live blocks by address.
//
// Free blocks lie in classes of similar size, 16 to each power of two, with a bitmap of the classes in use (the index
// of TLSF: Masmano et al., 2004). The best fit is the smallest in the first class that has one, so a hit looks at one
// or two short lists.
#ifndef HEADROOM_MEM_BLOCKS_H
#define HEADROOM_MEM_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/device.h"

#define BLOCK_TAG_MAX 32
#define BLOCK_CLASSES 1024

struct block {
    uint64_t offset, bytes;                    // within the pool's range
    struct block *previous, *next;             // in order of address
    struct block *class_previous, *class_next; // while free
    struct stream *stream;                     // free: safe after this stream's work until then; NULL: safe for any
    bool live;
    char tag[BLOCK_TAG_MAX];
};

struct blocks {
    struct block *first, *last;           // tile the range from 0 to the end of the last
    struct block *classes[BLOCK_CLASSES]; // free blocks
    uint64_t used[BLOCK_CLASSES / 64];    // classes that have some
    struct block **live;                  // open-addressed by offset
    size_t live_count, live_capacity;     // capacity: a power of two
    struct block *spare;                  // unused records, linked by `next`
    void **slabs;                         // of records
    size_t slab_count, slab_capacity;
};

// False when the host's memory runs out.
bool blocks_init(struct blocks *blocks);
void blocks_finish(struct blocks *blocks);

// Makes room for one more record and one more live block, so that what follows cannot fail.
bool blocks_prepare(struct blocks *blocks);

// The smallest free block of at least `bytes` that is safe for `stream`, or for any stream if `other_streams`; the
// lowest address among equals. NULL: none.
struct block *blocks_best_fit(const struct blocks *blocks, uint64_t bytes, const struct stream *stream,
                              bool other_streams);
// Appends a free block for `stream` at the end, joined with a last block that is free and safe for it. Needs
// blocks_prepare.
struct block *blocks_append(struct blocks *blocks, uint64_t bytes, struct stream *stream);
// Shortens the free last block by `bytes`, or removes it whole.
void blocks_shorten_last(struct blocks *blocks, uint64_t bytes);

// Makes the front of a free block live and leaves the rest free. Needs blocks_prepare.
void blocks_take(struct blocks *blocks, struct block *block, uint64_t bytes, const char *tag);
struct block *blocks_find(const struct blocks *blocks, uint64_t offset);
// Makes a live block free and joins it with its neighbours.
void blocks_give(struct blocks *blocks, struct block *block, struct stream *stream);
// Every free block becomes safe for any stream.
void blocks_forget_streams(struct blocks *blocks);

// True when everything above agrees with everything else, and the last block ends at `end`.
bool blocks_check(const struct blocks *blocks, uint64_t end, uint64_t live_bytes);

#endif
