// SPDX-License-Identifier: Apache-2.0
#include "mem/blocks.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/free_tree.h"
#include "mem/pool.h"

#define SLAB_RECORDS 256

// Sizes in units of the alignment, 16 classes to each power of two from 16 units on, one to each size below.
static size_t class_of(uint64_t bytes)
{
    uint64_t units = bytes / MEM_POOL_ALIGNMENT;
    if (units < 16) {
        return (size_t)units;
    }
    unsigned power = 63 - (unsigned)__builtin_clzll(units);
    return (size_t)(power - 3) * 16 + (size_t)((units >> (power - 4)) & 15);
}

static size_t home_of(const struct blocks *blocks, device_address address)
{
    return (size_t)((address / MEM_POOL_ALIGNMENT * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (blocks->live_capacity - 1);
}

bool blocks_init(struct blocks *blocks)
{
    *blocks = (struct blocks){.live_capacity = 1024};
    blocks->live = calloc(blocks->live_capacity, sizeof(struct block *));
    return blocks->live != NULL;
}

void blocks_finish(struct blocks *blocks)
{
    for (size_t i = 0; i < blocks->slab_count; i++) {
        free(blocks->slabs[i]);
    }
    free(blocks->slabs);
    free(blocks->live);
    *blocks = (struct blocks){0};
}

static bool add_slab(struct blocks *blocks)
{
    if (blocks->slab_count == blocks->slab_capacity) {
        size_t larger = blocks->slab_capacity == 0 ? 16 : 2 * blocks->slab_capacity;
        void **moved = realloc(blocks->slabs, larger * sizeof(*moved));
        if (moved == NULL) {
            return false;
        }
        blocks->slabs = moved;
        blocks->slab_capacity = larger;
    }
    struct block *records = calloc(SLAB_RECORDS, sizeof(*records));
    if (records == NULL) {
        return false;
    }
    blocks->slabs[blocks->slab_count++] = records;
    for (size_t i = 0; i < SLAB_RECORDS; i++) {
        records[i].next = blocks->spare;
        blocks->spare = &records[i];
    }
    return true;
}

static void insert_live(struct blocks *blocks, struct block *block)
{
    size_t place = home_of(blocks, block->address);
    while (blocks->live[place] != NULL) {
        place = (place + 1) & (blocks->live_capacity - 1);
    }
    blocks->live[place] = block;
    blocks->live_count++;
}

static bool grow_live(struct blocks *blocks)
{
    struct block **old = blocks->live;
    size_t old_capacity = blocks->live_capacity;
    struct block **larger = calloc(2 * old_capacity, sizeof(struct block *));
    if (larger == NULL) {
        return false;
    }
    blocks->live = larger;
    blocks->live_capacity = 2 * old_capacity;
    blocks->live_count = 0;
    for (size_t i = 0; i < old_capacity; i++) {
        if (old[i] != NULL) {
            insert_live(blocks, old[i]);
        }
    }
    free(old);
    return true;
}

bool blocks_prepare(struct blocks *blocks)
{
    // Growing and cutting take a record each.
    bool records = blocks->spare != NULL && blocks->spare->next != NULL;
    bool places = 2 * (blocks->live_count + 1) <= blocks->live_capacity;
    return (records || add_slab(blocks)) && (places || grow_live(blocks));
}

static size_t place_of(const struct blocks *blocks, device_address address)
{
    size_t place = home_of(blocks, address);
    while (blocks->live[place] != NULL && blocks->live[place]->address != address) {
        place = (place + 1) & (blocks->live_capacity - 1);
    }
    return place;
}

struct block *blocks_find(const struct blocks *blocks, device_address address)
{
    return blocks->live[place_of(blocks, address)];
}

// Linear probing without tombstones: later entries of the run move up (Knuth, TAOCP 3, 6.4, algorithm R).
static void remove_live(struct blocks *blocks, const struct block *block)
{
    size_t mask = blocks->live_capacity - 1;
    size_t hole = place_of(blocks, block->address);
    for (size_t i = (hole + 1) & mask; blocks->live[i] != NULL; i = (i + 1) & mask) {
        size_t home = home_of(blocks, blocks->live[i]->address);
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            blocks->live[hole] = blocks->live[i];
            hole = i;
        }
    }
    blocks->live[hole] = NULL;
    blocks->live_count--;
}

static void insert_free(struct arena *arena, struct block *block)
{
    size_t class = class_of(block->bytes);
    free_tree_insert(&arena->classes[class], block);
    arena->used[class / 64] |= UINT64_C(1) << class % 64;
}

static void remove_free(struct arena *arena, struct block *block)
{
    size_t class = class_of(block->bytes);
    free_tree_remove(&arena->classes[class], block);
    if (arena->classes[class] == NULL) {
        arena->used[class / 64] &= ~(UINT64_C(1) << class % 64);
    }
}

// The first class from `class` on that has a block; BLOCK_CLASSES: none.
static size_t next_used(const struct arena *arena, size_t class)
{
    size_t word = class / 64;
    if (word >= BLOCK_CLASSES / 64) {
        return BLOCK_CLASSES;
    }
    uint64_t bits = arena->used[word] & (~UINT64_C(0) << class % 64);
    while (bits == 0) {
        if (++word == BLOCK_CLASSES / 64) {
            return BLOCK_CLASSES;
        }
        bits = arena->used[word];
    }
    return word * 64 + (size_t)__builtin_ctzll(bits);
}

static struct block *better(struct block *a, struct block *b)
{
    if (a == NULL || b == NULL) {
        return a == NULL ? b : a;
    }
    return a->bytes < b->bytes || (a->bytes == b->bytes && a->address < b->address) ? a : b;
}

struct block *blocks_best_fit(const struct arena *arena, uint64_t bytes, const struct stream *stream)
{
    struct block *best = NULL;
    for (size_t class = next_used(arena, class_of(bytes)); class < BLOCK_CLASSES && best == NULL;
         class = next_used(arena, class + 1)) {
        struct block *free_blocks = arena->classes[class];
        best = better(free_tree_find(free_blocks, NULL, bytes), free_tree_find(free_blocks, stream, bytes));
    }
    return best;
}

// Of the free blocks from this one on, which is free.
static uint64_t run_bytes(const struct block *first)
{
    uint64_t bytes = 0;
    for (const struct block *block = first; block != NULL && !block->live; block = block->next) {
        bytes += block->bytes;
    }
    return bytes;
}

struct block *blocks_best_run(const struct arena *arena, uint64_t bytes)
{
    struct block *best = NULL;
    uint64_t best_bytes = UINT64_MAX;
    for (const struct segment *segment = arena->segments; segment != NULL; segment = segment->next) {
        for (struct block *block = segment->first; block != NULL; block = block->next) {
            bool begins = !block->live && (block->previous == NULL || block->previous->live);
            uint64_t run = begins ? run_bytes(block) : 0;
            if (run >= bytes && run < best_bytes) {
                best = block;
                best_bytes = run;
            }
        }
    }
    return best;
}

struct block *segment_last_run(const struct segment *segment, uint64_t *bytes_p)
{
    struct block *first = NULL;
    *bytes_p = 0;
    for (struct block *block = segment->last; block != NULL && !block->live; block = block->previous) {
        first = block;
        *bytes_p += block->bytes;
    }
    return first;
}

static struct block *new_record(struct blocks *blocks)
{
    struct block *block = blocks->spare;
    assert(block != NULL);
    blocks->spare = block->next;
    return block;
}

static void drop_record(struct blocks *blocks, struct block *block)
{
    block->next = blocks->spare;
    blocks->spare = block;
}

static void unlink_block(struct block *block)
{
    struct segment *segment = block->segment;
    *(block->previous != NULL ? &block->previous->next : &segment->first) = block->next;
    *(block->next != NULL ? &block->next->previous : &segment->last) = block->previous;
    segment->blocks--;
}

static void link_after(struct segment *segment, struct block *previous, struct block *block)
{
    block->segment = segment;
    block->previous = previous;
    block->next = previous != NULL ? previous->next : segment->first;
    *(block->previous != NULL ? &block->previous->next : &segment->first) = block;
    *(block->next != NULL ? &block->next->previous : &segment->last) = block;
    segment->blocks++;
}

// Of one stream, or safe for any: the whole is then safe for the one stream.
static bool joinable(const struct block *a, const struct block *b)
{
    return a != NULL && b != NULL && !a->live && !b->live &&
           (a->stream == b->stream || a->stream == NULL || b->stream == NULL);
}

// The two are joinable; neither is in a class.
static void absorb_next(struct blocks *blocks, struct block *block)
{
    struct block *next = block->next;
    block->bytes += next->bytes;
    block->stream = block->stream != NULL ? block->stream : next->stream;
    unlink_block(next);
    drop_record(blocks, next);
}

// Enters a free block that is in no class, joined with its neighbours.
static struct block *settle(struct blocks *blocks, struct block *block)
{
    struct arena *arena = block->segment->arena;
    if (joinable(block, block->next)) {
        remove_free(arena, block->next);
        absorb_next(blocks, block);
    }
    if (joinable(block->previous, block)) {
        block = block->previous;
        remove_free(arena, block);
        absorb_next(blocks, block);
    }
    insert_free(arena, block);
    return block;
}

device_address segment_top(const struct segment *segment)
{
    const struct block *last = segment->last;
    return last == NULL ? segment->base : last->address + last->bytes;
}

uint64_t segment_live_end(const struct segment *segment)
{
    const struct block *block = segment->last;
    while (block != NULL && !block->live) {
        block = block->previous;
    }
    return block == NULL ? 0 : block->address + block->bytes - segment->base;
}

struct block *blocks_append(struct blocks *blocks, struct segment *segment, uint64_t bytes, struct stream *stream)
{
    struct block *block = new_record(blocks);
    *block = (struct block){.address = segment_top(segment), .bytes = bytes, .stream = stream};
    link_after(segment, segment->last, block);
    return settle(blocks, block);
}

void blocks_shorten_last(struct blocks *blocks, struct segment *segment, uint64_t bytes)
{
    struct arena *arena = segment->arena;
    struct block *last = segment->last;
    assert(!last->live && bytes <= last->bytes);
    remove_free(arena, last);
    last->bytes -= bytes;
    if (last->bytes == 0) {
        unlink_block(last);
        drop_record(blocks, last);
    } else {
        insert_free(arena, last);
    }
}

// Leaves the block its first `bytes`; what is behind them becomes a free block. It is in no class.
static void cut(struct blocks *blocks, struct block *block, uint64_t bytes)
{
    if (block->bytes > bytes) {
        struct block *rest = new_record(blocks);
        *rest =
            (struct block){.address = block->address + bytes, .bytes = block->bytes - bytes, .stream = block->stream};
        block->bytes = bytes;
        link_after(block->segment, block, rest);
        insert_free(block->segment->arena, rest);
    }
}

void blocks_take(struct blocks *blocks, struct block *block, uint64_t bytes)
{
    remove_free(block->segment->arena, block);
    cut(blocks, block, bytes);
    block->live = true;
    block->segment->live_count++;
    block->segment->live_bytes += bytes;
    insert_live(blocks, block);
}

void blocks_give(struct blocks *blocks, struct block *block, struct stream *stream)
{
    remove_live(blocks, block);
    block->live = false;
    block->stream = stream;
    block->segment->live_count--;
    block->segment->live_bytes -= block->bytes;
    settle(blocks, block);
}

struct block *blocks_join_run(struct blocks *blocks, struct block *first, uint64_t bytes, struct stream *stream)
{
    struct arena *arena = first->segment->arena;
    remove_free(arena, first);
    cut(blocks, first, bytes);
    while (first->bytes < bytes) {
        remove_free(arena, first->next);
        cut(blocks, first->next, bytes - first->bytes);
        absorb_next(blocks, first);
    }
    first->stream = stream;
    return settle(blocks, first);
}

void blocks_forget_stream(struct blocks *blocks, struct arena *arena, const struct stream *stream)
{
    for (struct segment *segment = arena->segments; segment != NULL; segment = segment->next) {
        for (struct block *block = segment->first; block != NULL; block = block->next) {
            if (!block->live && block->stream == stream) {
                remove_free(arena, block);
                block->stream = NULL;
                block = settle(blocks, block);
            }
        }
    }
}

// Of all classes; SIZE_MAX where a tree or the bitmap is broken.
static size_t count_free(const struct arena *arena)
{
    size_t count = 0;
    for (size_t class = 0; class < BLOCK_CLASSES; class ++) {
        bool used = (arena->used[class / 64] >> class % 64 & 1) != 0;
        size_t blocks = free_tree_count(arena->classes[class]);
        if (blocks == SIZE_MAX || used != (blocks > 0)) {
            return SIZE_MAX;
        }
        count += blocks;
    }
    return count;
}

static size_t count_live(const struct blocks *blocks)
{
    size_t count = 0;
    for (size_t i = 0; i < blocks->live_capacity; i++) {
        count += blocks->live[i] != NULL;
    }
    return count;
}

static size_t count_spare(const struct blocks *blocks)
{
    size_t count = 0;
    for (const struct block *block = blocks->spare; block != NULL; block = block->next) {
        count++;
    }
    return count;
}

// Blocks tile the segment, each is where it can be found, and the segment's sums are theirs.
static bool segment_check(const struct blocks *blocks, const struct arena *arena, const struct segment *segment)
{
    device_address address = segment->base;
    uint64_t count = 0, live = 0, live_bytes = 0;
    for (const struct block *block = segment->first; block != NULL; block = block->next) {
        bool known = block->live ? blocks_find(blocks, block->address) == block
                                 : free_tree_has(arena->classes[class_of(block->bytes)], block);
        bool linked = block->next == NULL ? segment->last == block : block->next->previous == block;
        bool sized = block->address == address && block->bytes > 0 && block->bytes % MEM_POOL_ALIGNMENT == 0;
        if (!known || !linked || !sized || block->segment != segment || segment->arena != arena ||
            joinable(block, block->next)) {
            return false;
        }
        address += block->bytes;
        count++;
        live += block->live;
        live_bytes += block->live ? block->bytes : 0;
    }
    return address - segment->base <= segment->held_bytes && segment->held_bytes <= segment->range_bytes &&
           count == segment->blocks && live == segment->live_count && live_bytes == segment->live_bytes;
}

bool blocks_check(const struct blocks *blocks, const struct arena *arenas, size_t count)
{
    uint64_t live = 0, unused = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t free_blocks = 0;
        for (const struct segment *segment = arenas[i].segments; segment != NULL; segment = segment->next) {
            if (!segment_check(blocks, &arenas[i], segment)) {
                return false;
            }
            live += segment->live_count;
            free_blocks += segment->blocks - segment->live_count;
        }
        if (free_blocks != count_free(&arenas[i])) {
            return false;
        }
        unused += free_blocks;
    }
    return live == blocks->live_count && live == count_live(blocks) &&
           live + unused + count_spare(blocks) == blocks->slab_count * SLAB_RECORDS;
}
