// SPDX-License-Identifier: Apache-2.0
//
// What the files of the pool share. Nobody else includes it.
#ifndef HEADROOM_MEM_POOL_STATE_H
#define HEADROOM_MEM_POOL_STATE_H

#include "mem/blocks.h"
#include "mem/pool.h"
#include "mem/recorder.h"

#define POOL_STREAMS_MAX 64 // that records tell apart

// One arena each.
enum lifetime { FOR_STEP, FOR_RUN, LIFETIMES };

struct request {
    uint64_t bytes;       // as asked
    uint64_t block_bytes; // what they take
    struct stream *stream;
    const char *tag;
    enum lifetime lifetime;
    bool anywhere; // at the other end too
};

struct mem_pool {
    struct device *device;
    struct arena arenas[LIFETIMES];
    struct blocks blocks;
    struct tags tags;
    struct mem_pool_stats stats;
    struct mem_pressure *pressure;
    struct mem_recorder *recorder;            // NULL: none
    struct stream *streams[POOL_STREAMS_MAX]; // by their numbers in records, from 1
    uint64_t guard_bytes;                     // on each side of a block; 0: not sanitized
    struct mem_out_of_memory refusal;         // the last, and the request
    struct request refused;
    uint64_t step;
    struct mem_faults faults;
    uint64_t calls; // since they were injected
};

// The most that may be held now.
static inline uint64_t pool_limit(const struct mem_pool *pool)
{
    return uint64_min(pool->stats.limit_bytes, pool->stats.soft_limit_bytes);
}

static inline uint64_t pool_held(const struct mem_pool *pool)
{
    return pool->stats.reserved_bytes.current;
}

// What is held of the device although others need it.
static inline uint64_t pool_owed(const struct device_info *info)
{
    uint64_t taken = info->held_bytes + info->others_bytes;
    return taken - uint64_min(taken, info->capacity_bytes);
}

// Bytes of live blocks, red zones included.
static inline uint64_t pool_live(const struct mem_pool *pool)
{
    return pool->stats.allocated_bytes.current + 2 * pool->guard_bytes * pool->stats.allocation.current;
}

// The block behind this one, over all segments; behind NULL the first. NULL: there is none.
struct block *pool_next_block(struct mem_pool *pool, struct block *block);
// What trimming would return of the segment.
uint64_t pool_releasable(const struct mem_pool *pool, const struct segment *segment);
// The same of all segments of an arena.
uint64_t pool_arena_releasable(const struct mem_pool *pool, const struct arena *arena);
// The bytes of the arena's largest piece that is held and free.
uint64_t pool_largest_free(const struct arena *arena);
// Whether all that the stream was given is done. NULL is always done.
bool pool_is_done(struct mem_pool *pool, struct stream *stream);

// Fills in pool->refusal for a request that found no place.
void pool_refuse(struct mem_pool *pool, const struct request *request, bool injected);

// Records, where there is a recorder.
void pool_record_block(struct mem_pool *pool, enum mem_action action, const struct block *block, struct stream *stream);
void pool_record_memory(struct mem_pool *pool, bool comes, device_address address, uint64_t bytes);
void pool_record_refusal(struct mem_pool *pool, const struct request *request);

// For a sanitizer, where there is one: after a block was taken, before it is given back, and before its memory is.
void pool_guard_taken(struct mem_pool *pool, const struct block *block, struct stream *stream);
void pool_guard_given(struct mem_pool *pool, const struct block *block, struct stream *stream);
void pool_guard_returned(struct mem_pool *pool, device_address address, uint64_t bytes);

// What the block's user may use of it.
static inline device_address pool_user_address(const struct mem_pool *pool, const struct block *block)
{
    return block->address + pool->guard_bytes;
}
static inline uint64_t pool_user_bytes(const struct mem_pool *pool, const struct block *block)
{
    return block->bytes - 2 * pool->guard_bytes;
}

// Statistics follow what was done to a block, a segment's memory, or the free blocks of a segment.
void pool_count_taken(struct mem_pool *pool, const struct block *block);
void pool_count_given(struct mem_pool *pool, const struct block *block);
void pool_count_held(struct mem_pool *pool, const struct segment *segment, uint64_t before_bytes);
void pool_count_split(struct mem_pool *pool, struct segment *segment);
bool pool_statistics_hold(struct mem_pool *pool);

#endif
