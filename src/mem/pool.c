// SPDX-License-Identifier: Apache-2.0
#include "mem/pool.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/blocks.h"
#include "mem/uint64.h"

struct mem_pool {
    struct device *device;
    device_address base;
    uint64_t range_bytes; // reserved addresses
    struct blocks blocks;
    struct mem_pool_stats stats;
    struct mem_out_of_memory refusal;
    uint64_t fail_every, calls; // injected failures
};

enum status mem_pool_create(struct device *device, uint64_t limit_bytes, struct mem_pool **pool_p, struct error *error)
{
    struct device_info info;
    uint64_t granularity = device->ops->granularity_bytes;
    device->ops->info(device, &info);
    uint64_t limit = limit_bytes == 0 ? info.capacity_bytes : uint64_min(limit_bytes, info.capacity_bytes);
    struct mem_pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL || !blocks_init(&pool->blocks)) {
        free(pool);
        return error_set(error, STATUS_ERROR, "out of host memory");
    }
    pool->device = device;
    pool->stats.limit_bytes = limit / granularity * granularity;
    pool->range_bytes = uint64_max(pool->stats.limit_bytes, granularity);
    if (device->ops->reserve(device, pool->range_bytes, &pool->base) != STATUS_OK) {
        blocks_finish(&pool->blocks);
        free(pool);
        char size[MEM_SIZE_TEXT_MAX];
        return error_set(
            error, STATUS_ERROR,
            "device %s: cannot reserve %s of addresses: lower the device's capacity, or raise the limit on "
            "address space (ulimit -v)",
            device->ops->name, mem_size_text(limit, size));
    }
    *pool_p = pool;
    return STATUS_OK;
}

void mem_pool_destroy(struct mem_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    pool->device->ops->synchronize(pool->device);
    if (pool->stats.reserved_bytes > 0) {
        pool->device->ops->release(pool->device, pool->base, pool->stats.reserved_bytes);
    }
    pool->device->ops->unreserve(pool->device, pool->base, pool->range_bytes);
    blocks_finish(&pool->blocks);
    free(pool);
}

// The end of the blocks. What is held above it, less than a granule, was never in one.
static uint64_t top(const struct mem_pool *pool)
{
    const struct block *last = pool->blocks.last;
    return last == NULL ? 0 : last->offset + last->bytes;
}

// How far above the top a block of `bytes` that is safe for `stream` would reach.
static uint64_t beyond_top(const struct mem_pool *pool, uint64_t bytes, const struct stream *stream)
{
    const struct block *last = pool->blocks.last;
    bool usable = last != NULL && !last->live && (last->stream == NULL || last->stream == stream);
    return bytes - (usable ? uint64_min(last->bytes, bytes) : 0);
}

// A free block of at least `bytes` at the top, for which only what is missing there is committed.
static struct block *grow(struct mem_pool *pool, uint64_t bytes, struct stream *stream)
{
    const struct device_ops *ops = pool->device->ops;
    struct mem_pool_stats *stats = &pool->stats;
    uint64_t more = beyond_top(pool, bytes, stream), spare = stats->reserved_bytes - top(pool);
    uint64_t missing = more > spare ? uint64_round_up(more - spare, ops->granularity_bytes) : 0;
    if (missing > stats->limit_bytes - stats->reserved_bytes) {
        return NULL;
    }
    if (missing > 0) {
        stats->device_calls++;
        if (ops->commit(pool->device, pool->base + stats->reserved_bytes, missing) != STATUS_OK) {
            return NULL;
        }
        stats->reserved_bytes += missing;
        stats->reserved_peak_bytes = uint64_max(stats->reserved_peak_bytes, stats->reserved_bytes);
    }
    return blocks_append(&pool->blocks, more, stream);
}

static void synchronize(struct mem_pool *pool)
{
    pool->device->ops->synchronize(pool->device);
    blocks_forget_streams(&pool->blocks);
}

// A block of another stream, once `stream` waits for that stream's work.
static struct block *borrow(struct mem_pool *pool, uint64_t bytes, struct stream *stream)
{
    const struct device_ops *ops = pool->device->ops;
    struct block *block = blocks_best_fit(&pool->blocks, bytes, stream, true);
    struct event *event;
    if (block == NULL || ops->event_create(pool->device, &event) != STATUS_OK) {
        return NULL;
    }
    ops->event_record(pool->device, event, block->stream);
    ops->event_wait(pool->device, stream, event);
    ops->event_destroy(pool->device, event);
    return block;
}

static struct block *find(struct mem_pool *pool, uint64_t bytes, struct stream *stream)
{
    struct block *block = blocks_best_fit(&pool->blocks, bytes, stream, false);
    if (block == NULL) {
        block = grow(pool, bytes, stream);
    }
    if (block == NULL) {
        block = borrow(pool, bytes, stream);
    }
    if (block == NULL) {
        synchronize(pool);
        block = blocks_best_fit(&pool->blocks, bytes, stream, false);
    }
    if (block == NULL) {
        block = grow(pool, bytes, stream);
    }
    return block;
}

static void count_tag(struct mem_out_of_memory *report, const struct block *block, const struct blocks *blocks)
{
    uint64_t sum = 0;
    for (const struct block *other = blocks->first; other != NULL; other = other->next) {
        if (other->live && strcmp(other->tag, block->tag) == 0) {
            if (other->offset < block->offset) {
                return; // counted there
            }
            sum += other->bytes;
        }
    }
    for (size_t i = 0; i < MEM_TAGS_REPORTED; i++) {
        if (sum > report->top[i].bytes) {
            memmove(&report->top[i + 1], &report->top[i], (MEM_TAGS_REPORTED - 1 - i) * sizeof(report->top[0]));
            report->top[i].bytes = sum;
            memcpy(report->top[i].tag, block->tag, sizeof(report->top[i].tag));
            return;
        }
    }
}

// What is live leaves no room under the limit, so no waiting and no trimming helps.
static bool over_limit(const struct mem_pool *pool, uint64_t bytes)
{
    return uint64_max(bytes, 1) > pool->stats.limit_bytes - pool->stats.allocated_bytes;
}

// Why a request found no place. If it is not over the limit, streams were synchronised and nothing is pending.
static enum mem_cause find_cause(const struct mem_pool *pool, uint64_t bytes)
{
    if (over_limit(pool, bytes)) {
        return MEM_CAUSE_CAPACITY;
    }
    bool device_refused = beyond_top(pool, mem_pool_block_bytes(bytes), NULL) <= pool->stats.limit_bytes - top(pool);
    return device_refused ? MEM_CAUSE_EXTERNAL : MEM_CAUSE_FRAGMENTED;
}

static enum status refuse(struct mem_pool *pool, uint64_t bytes, const char *tag, bool injected)
{
    struct mem_out_of_memory *report = &pool->refusal;
    *report = (struct mem_out_of_memory){
        .request_bytes = bytes,
        .limit_bytes = pool->stats.limit_bytes,
        .allocated_bytes = pool->stats.allocated_bytes,
        .reserved_bytes = pool->stats.reserved_bytes,
    };
    pool->stats.out_of_memory_count++;
    pool->device->ops->info(pool->device, &report->device);
    snprintf(report->tag, sizeof(report->tag), "%s", tag);
    for (const struct block *block = pool->blocks.first; block != NULL; block = block->next) {
        if (block->live) {
            count_tag(report, block, &pool->blocks);
        } else {
            report->largest_free_bytes = uint64_max(report->largest_free_bytes, block->bytes);
            report->pending_bytes += block->stream == NULL ? 0 : block->bytes;
        }
    }
    const struct block *last = pool->blocks.last;
    uint64_t spare = pool->stats.reserved_bytes - top(pool);
    report->largest_free_bytes =
        uint64_max(report->largest_free_bytes, spare + (last != NULL && !last->live ? last->bytes : 0));
    report->cause = injected ? MEM_CAUSE_INJECTED : find_cause(pool, bytes);
    return STATUS_OUT_OF_MEMORY;
}

enum status mem_pool_alloc(struct mem_pool *pool, uint64_t bytes, struct stream *stream, const char *tag,
                           device_address *address_p)
{
    pool->calls++;
    if (pool->fail_every > 0 && pool->calls % pool->fail_every == 0) {
        return refuse(pool, bytes, tag, true);
    }
    if (over_limit(pool, bytes)) {
        return refuse(pool, bytes, tag, false);
    }
    if (!blocks_prepare(&pool->blocks)) {
        return STATUS_ERROR;
    }
    uint64_t block_bytes = mem_pool_block_bytes(bytes);
    struct block *block = find(pool, block_bytes, stream);
    if (block == NULL) {
        return refuse(pool, bytes, tag, false);
    }
    blocks_take(&pool->blocks, block, block_bytes, tag);
    struct mem_pool_stats *stats = &pool->stats;
    stats->alloc_count++;
    stats->live_blocks++;
    stats->allocated_bytes += block_bytes;
    stats->allocated_peak_bytes = uint64_max(stats->allocated_peak_bytes, stats->allocated_bytes);
    *address_p = pool->base + block->offset;
    return STATUS_OK;
}

void mem_pool_free(struct mem_pool *pool, device_address address, struct stream *stream)
{
    if (address == 0) {
        return;
    }
    struct block *block = blocks_find(&pool->blocks, address - pool->base);
    assert(block != NULL);
    pool->stats.free_count++;
    pool->stats.live_blocks--;
    pool->stats.allocated_bytes -= block->bytes;
    blocks_give(&pool->blocks, block, stream);
}

void *mem_pool_host_pointer(const struct mem_pool *pool, device_address address)
{
    return pool->device->ops->host_pointer(pool->device, address);
}

uint64_t mem_pool_trim(struct mem_pool *pool, uint64_t bytes)
{
    struct mem_pool_stats *stats = &pool->stats;
    synchronize(pool);
    const struct block *last = pool->blocks.last;
    if (last == NULL || last->live) {
        return 0; // less than a granule lies above
    }
    uint64_t granularity = pool->device->ops->granularity_bytes;
    uint64_t keep = uint64_max(uint64_round_up(last->offset, granularity), bytes / granularity * granularity);
    if (keep >= stats->reserved_bytes) {
        return 0;
    }
    uint64_t released = stats->reserved_bytes - keep;
    blocks_shorten_last(&pool->blocks, top(pool) - keep);
    pool->device->ops->release(pool->device, pool->base + keep, released);
    stats->device_calls++;
    stats->reserved_bytes = keep;
    return released;
}

uint64_t mem_pool_empty_cache(struct mem_pool *pool)
{
    return mem_pool_trim(pool, 0);
}

uint64_t mem_pool_headroom(struct mem_pool *pool)
{
    struct device_info info;
    pool->device->ops->info(pool->device, &info);
    const struct mem_pool_stats *stats = &pool->stats;
    uint64_t granularity = pool->device->ops->granularity_bytes;
    const struct block *block = pool->blocks.last;
    while (block != NULL && !block->live) {
        block = block->previous;
    }
    uint64_t live_end = block == NULL ? 0 : block->offset + block->bytes;
    uint64_t taken = info.held_bytes + info.others_bytes;
    uint64_t end = stats->reserved_bytes + info.free_bytes / info.sharers / granularity * granularity;
    if (taken > info.capacity_bytes) { // others need some of what is held here
        uint64_t deficit = uint64_round_up(taken - info.capacity_bytes, granularity);
        end -= uint64_min(end, deficit);
    }
    end = uint64_min(end, stats->limit_bytes);
    return end > live_end ? end - live_end : 0;
}

void mem_pool_stats(const struct mem_pool *pool, struct mem_pool_stats *stats_p)
{
    *stats_p = pool->stats;
}

void mem_pool_reset_peaks(struct mem_pool *pool)
{
    pool->stats.allocated_peak_bytes = pool->stats.allocated_bytes;
    pool->stats.reserved_peak_bytes = pool->stats.reserved_bytes;
}

const struct mem_out_of_memory *mem_pool_out_of_memory(const struct mem_pool *pool)
{
    return &pool->refusal;
}

void mem_pool_inject_failures(struct mem_pool *pool, uint64_t every)
{
    pool->fail_every = every;
    pool->calls = 0;
}

bool mem_pool_check(const struct mem_pool *pool)
{
    const struct mem_pool_stats *stats = &pool->stats;
    return stats->allocated_bytes <= stats->reserved_bytes && stats->reserved_bytes <= stats->limit_bytes &&
           stats->allocated_peak_bytes >= stats->allocated_bytes &&
           stats->reserved_peak_bytes >= stats->reserved_bytes && stats->live_blocks == pool->blocks.live_count &&
           stats->reserved_bytes - top(pool) < pool->device->ops->granularity_bytes &&
           blocks_check(&pool->blocks, top(pool), stats->allocated_bytes);
}
