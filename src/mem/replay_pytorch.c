// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "mem/replay.h"
#include "mem/uint64.h"

#define KIB           UINT64_C(1024)
#define MIB           (1024 * KIB)
#define MIN_BLOCK     UINT64_C(512)
#define SMALL_SIZE    MIB // the largest request that small segments serve
#define SMALL_SEGMENT (2 * MIB)
#define MIN_LARGE     (10 * MIB) // the smallest request with a segment of its own
#define LARGE_SEGMENT (20 * MIB)
#define ROUND_LARGE   (2 * MIB)

struct block {
    uint64_t bytes;
    bool small, free;
    struct block *previous, *next;           // of the segment
    struct block *free_previous, *free_next; // of its kind
    uint64_t segment, offset;                // stand for the address
};

struct cache {
    struct block *free[2]; // large, small
    uint64_t held_bytes, segments;
    struct block **live; // of each buffer
};

static void enter(struct cache *cache, struct block *block)
{
    struct block **head = &cache->free[block->small];
    block->free = true;
    block->free_previous = NULL;
    block->free_next = *head;
    if (*head != NULL) {
        (*head)->free_previous = block;
    }
    *head = block;
}

static void leave(struct cache *cache, struct block *block)
{
    block->free = false;
    *(block->free_previous != NULL ? &block->free_previous->free_next : &cache->free[block->small]) = block->free_next;
    if (block->free_next != NULL) {
        block->free_next->free_previous = block->free_previous;
    }
}

// By size, then by address.
static bool precedes(const struct block *a, const struct block *b)
{
    if (a->bytes != b->bytes) {
        return a->bytes < b->bytes;
    }
    return a->segment != b->segment ? a->segment < b->segment : a->offset < b->offset;
}

static struct block *best_fit(const struct cache *cache, uint64_t bytes, bool small)
{
    struct block *best = NULL;
    for (struct block *block = cache->free[small]; block != NULL; block = block->free_next) {
        if (block->bytes >= bytes && (best == NULL || precedes(block, best))) {
            best = block;
        }
    }
    return best;
}

static uint64_t segment_bytes(uint64_t bytes)
{
    if (bytes <= SMALL_SIZE) {
        return SMALL_SEGMENT;
    }
    return bytes < MIN_LARGE ? LARGE_SEGMENT : uint64_round_up(bytes, ROUND_LARGE);
}

static struct block *new_segment(struct cache *cache, uint64_t bytes)
{
    struct block *block = calloc(1, sizeof(*block));
    if (block == NULL) {
        return NULL;
    }
    block->bytes = segment_bytes(bytes);
    block->small = bytes <= SMALL_SIZE;
    block->segment = cache->segments++;
    cache->held_bytes += block->bytes;
    enter(cache, block);
    return block;
}

// Gives back what the block has beyond `bytes`. False when memory runs out.
static bool split(struct cache *cache, struct block *block, uint64_t bytes)
{
    uint64_t left = block->bytes - bytes;
    if (block->small ? left < MIN_BLOCK : left <= SMALL_SIZE) {
        return true;
    }
    struct block *rest = calloc(1, sizeof(*rest));
    if (rest == NULL) {
        return false;
    }
    *rest = (struct block){.bytes = left,
                           .small = block->small,
                           .previous = block,
                           .next = block->next,
                           .segment = block->segment,
                           .offset = block->offset + bytes};
    if (rest->next != NULL) {
        rest->next->previous = rest;
    }
    block->next = rest;
    block->bytes = bytes;
    enter(cache, rest);
    return true;
}

static bool take(struct cache *cache, uint32_t buffer, uint64_t request)
{
    uint64_t bytes = uint64_round_up(request, MIN_BLOCK);
    struct block *block = best_fit(cache, bytes, bytes <= SMALL_SIZE);
    if (block == NULL) {
        block = new_segment(cache, bytes);
    }
    if (block == NULL) {
        return false;
    }
    leave(cache, block);
    cache->live[buffer] = block;
    return split(cache, block, bytes);
}

// Joins the next block to this one.
static void absorb(struct block *block)
{
    struct block *next = block->next;
    block->bytes += next->bytes;
    block->next = next->next;
    if (block->next != NULL) {
        block->next->previous = block;
    }
    free(next);
}

static void give(struct cache *cache, struct block *block)
{
    if (block->next != NULL && block->next->free) {
        leave(cache, block->next);
        absorb(block);
    }
    if (block->previous != NULL && block->previous->free) {
        block = block->previous;
        leave(cache, block);
        absorb(block);
    }
    enter(cache, block);
}

uint64_t mem_replay_pytorch(const struct mem_trace *trace, const struct mem_trace_event *events)
{
    struct cache cache = {.live = calloc(trace->count, sizeof(*cache.live))};
    bool done = cache.live != NULL;
    for (size_t i = 0; done && i < 2 * trace->count; i++) {
        uint32_t buffer = events[i].buffer;
        if (trace->buffers[buffer].bytes == 0) {
            continue; // PyTorch allocates no block
        }
        if (!events[i].frees) {
            done = take(&cache, buffer, trace->buffers[buffer].bytes);
        } else {
            give(&cache, cache.live[buffer]);
            cache.live[buffer] = NULL;
        }
    }
    for (size_t i = 0; cache.live != NULL && i < trace->count; i++) {
        if (cache.live[i] != NULL) { // memory ran out
            give(&cache, cache.live[i]);
        }
    }
    for (size_t i = 0; i < 2; i++) {
        while (cache.free[i] != NULL) {
            struct block *block = cache.free[i];
            leave(&cache, block);
            free(block);
        }
    }
    free(cache.live);
    return done ? cache.held_bytes : UINT64_MAX;
}
