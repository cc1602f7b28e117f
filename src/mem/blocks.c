// SPDX-License-Identifier: Apache-2.0
#include "mem/blocks.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static size_t home_of(const struct blocks *blocks, uint64_t offset)
{
    return (size_t)((offset / MEM_POOL_ALIGNMENT * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (blocks->live_capacity - 1);
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
    size_t place = home_of(blocks, block->offset);
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
    // Growing and splitting take a record each.
    bool records = blocks->spare != NULL && blocks->spare->next != NULL;
    bool places = 2 * (blocks->live_count + 1) <= blocks->live_capacity;
    return (records || add_slab(blocks)) && (places || grow_live(blocks));
}

static size_t place_of(const struct blocks *blocks, uint64_t offset)
{
    size_t place = home_of(blocks, offset);
    while (blocks->live[place] != NULL && blocks->live[place]->offset != offset) {
        place = (place + 1) & (blocks->live_capacity - 1);
    }
    return place;
}

struct block *blocks_find(const struct blocks *blocks, uint64_t offset)
{
    return blocks->live[place_of(blocks, offset)];
}

// Linear probing without tombstones: later entries of the run move up (Knuth, TAOCP 3, 6.4, algorithm R).
static void remove_live(struct blocks *blocks, const struct block *block)
{
    size_t mask = blocks->live_capacity - 1;
    size_t hole = place_of(blocks, block->offset);
    for (size_t i = (hole + 1) & mask; blocks->live[i] != NULL; i = (i + 1) & mask) {
        size_t home = home_of(blocks, blocks->live[i]->offset);
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            blocks->live[hole] = blocks->live[i];
            hole = i;
        }
    }
    blocks->live[hole] = NULL;
    blocks->live_count--;
}

static void insert_free(struct blocks *blocks, struct block *block)
{
    size_t class = class_of(block->bytes);
    block->class_previous = NULL;
    block->class_next = blocks->classes[class];
    if (block->class_next != NULL) {
        block->class_next->class_previous = block;
    }
    blocks->classes[class] = block;
    blocks->used[class / 64] |= UINT64_C(1) << class % 64;
}

static void remove_free(struct blocks *blocks, struct block *block)
{
    size_t class = class_of(block->bytes);
    if (block->class_previous != NULL) {
        block->class_previous->class_next = block->class_next;
    } else {
        blocks->classes[class] = block->class_next;
    }
    if (block->class_next != NULL) {
        block->class_next->class_previous = block->class_previous;
    }
    if (blocks->classes[class] == NULL) {
        blocks->used[class / 64] &= ~(UINT64_C(1) << class % 64);
    }
}

// The first class from `class` on that has a block; BLOCK_CLASSES: none.
static size_t next_used(const struct blocks *blocks, size_t class)
{
    size_t word = class / 64;
    if (word >= BLOCK_CLASSES / 64) {
        return BLOCK_CLASSES;
    }
    uint64_t bits = blocks->used[word] & (~UINT64_C(0) << class % 64);
    while (bits == 0) {
        if (++word == BLOCK_CLASSES / 64) {
            return BLOCK_CLASSES;
        }
        bits = blocks->used[word];
    }
    return word * 64 + (size_t)__builtin_ctzll(bits);
}

static bool better(const struct block *block, const struct block *best)
{
    return best == NULL || block->bytes < best->bytes || (block->bytes == best->bytes && block->offset < best->offset);
}

struct block *blocks_best_fit(const struct blocks *blocks, uint64_t bytes, const struct stream *stream,
                              bool other_streams)
{
    struct block *best = NULL;
    for (size_t class = next_used(blocks, class_of(bytes)); class < BLOCK_CLASSES && best == NULL;
         class = next_used(blocks, class + 1)) {
        for (struct block *block = blocks->classes[class]; block != NULL; block = block->class_next) {
            bool safe = other_streams || block->stream == NULL || block->stream == stream;
            if (safe && block->bytes >= bytes && better(block, best)) {
                best = block;
            }
        }
    }
    return best;
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

static void unlink_block(struct blocks *blocks, struct block *block)
{
    *(block->previous != NULL ? &block->previous->next : &blocks->first) = block->next;
    *(block->next != NULL ? &block->next->previous : &blocks->last) = block->previous;
}

static void link_after(struct blocks *blocks, struct block *previous, struct block *block)
{
    block->previous = previous;
    block->next = previous != NULL ? previous->next : blocks->first;
    *(block->previous != NULL ? &block->previous->next : &blocks->first) = block;
    *(block->next != NULL ? &block->next->previous : &blocks->last) = block;
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
    unlink_block(blocks, next);
    drop_record(blocks, next);
}

// Enters a free block that is in no class, joined with its neighbours.
static struct block *settle(struct blocks *blocks, struct block *block)
{
    if (joinable(block, block->next)) {
        remove_free(blocks, block->next);
        absorb_next(blocks, block);
    }
    if (joinable(block->previous, block)) {
        block = block->previous;
        remove_free(blocks, block);
        absorb_next(blocks, block);
    }
    insert_free(blocks, block);
    return block;
}

struct block *blocks_append(struct blocks *blocks, uint64_t bytes, struct stream *stream)
{
    struct block *block = new_record(blocks), *last = blocks->last;
    *block = (struct block){.offset = last == NULL ? 0 : last->offset + last->bytes, .bytes = bytes, .stream = stream};
    link_after(blocks, last, block);
    return settle(blocks, block);
}

void blocks_shorten_last(struct blocks *blocks, uint64_t bytes)
{
    struct block *last = blocks->last;
    assert(!last->live && bytes <= last->bytes);
    remove_free(blocks, last);
    last->bytes -= bytes;
    if (last->bytes == 0) {
        unlink_block(blocks, last);
        drop_record(blocks, last);
    } else {
        insert_free(blocks, last);
    }
}

void blocks_take(struct blocks *blocks, struct block *block, uint64_t bytes, const char *tag)
{
    remove_free(blocks, block);
    if (block->bytes > bytes) {
        struct block *rest = new_record(blocks);
        *rest = (struct block){.offset = block->offset + bytes, .bytes = block->bytes - bytes, .stream = block->stream};
        block->bytes = bytes;
        link_after(blocks, block, rest);
        insert_free(blocks, rest);
    }
    block->live = true;
    size_t length = strnlen(tag, BLOCK_TAG_MAX - 1);
    memcpy(block->tag, tag, length);
    block->tag[length] = '\0';
    insert_live(blocks, block);
}

void blocks_give(struct blocks *blocks, struct block *block, struct stream *stream)
{
    remove_live(blocks, block);
    block->live = false;
    block->stream = stream;
    settle(blocks, block);
}

void blocks_forget_streams(struct blocks *blocks)
{
    for (struct block *block = blocks->first; block != NULL; block = block->next) {
        block->stream = NULL;
    }
    for (struct block *block = blocks->first; block != NULL; block = block->next) {
        while (joinable(block, block->next)) {
            remove_free(blocks, block);
            remove_free(blocks, block->next);
            absorb_next(blocks, block);
            insert_free(blocks, block);
        }
    }
}

static bool in_its_class(const struct blocks *blocks, const struct block *block)
{
    const struct block *other = blocks->classes[class_of(block->bytes)];
    while (other != NULL && other != block) {
        other = other->class_next;
    }
    return other == block;
}

// Of all classes; SIZE_MAX where their links or the bitmap disagree.
static size_t count_free(const struct blocks *blocks)
{
    size_t count = 0;
    for (size_t class = 0; class < BLOCK_CLASSES; class ++) {
        bool used = (blocks->used[class / 64] >> class % 64 & 1) != 0;
        if (used != (blocks->classes[class] != NULL)) {
            return SIZE_MAX;
        }
        const struct block *previous = NULL;
        for (const struct block *block = blocks->classes[class]; block != NULL; block = block->class_next) {
            if (block->class_previous != previous) {
                return SIZE_MAX;
            }
            previous = block;
            count++;
        }
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

bool blocks_check(const struct blocks *blocks, uint64_t end, uint64_t live_bytes)
{
    uint64_t offset = 0, live_sum = 0;
    size_t live = 0, unused = 0;
    for (const struct block *block = blocks->first; block != NULL; block = block->next) {
        bool known = block->live ? blocks_find(blocks, block->offset) == block : in_its_class(blocks, block);
        bool linked = block->next == NULL ? blocks->last == block : block->next->previous == block;
        bool sized = block->offset == offset && block->bytes > 0 && block->bytes % MEM_POOL_ALIGNMENT == 0;
        if (!known || !linked || !sized || joinable(block, block->next)) {
            return false;
        }
        offset += block->bytes;
        live += block->live;
        unused += !block->live;
        live_sum += block->live ? block->bytes : 0;
    }
    return offset == end && live_sum == live_bytes && live == blocks->live_count && live == count_live(blocks) &&
           unused == count_free(blocks) && live + unused + count_spare(blocks) == blocks->slab_count * SLAB_RECORDS;
}
