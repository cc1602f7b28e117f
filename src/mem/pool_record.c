// SPDX-License-Identifier: Apache-2.0
//
// What the pool did and holds, for others to look at.
#include <stdio.h>
#include <stdlib.h>

#include "mem/pool_state.h"
#include "mem/snapshot.h"

// In order of appearance, from 1; 0: no stream, or one too many.
static uint64_t number_of(struct mem_pool *pool, struct stream *stream)
{
    for (uint64_t i = 0; stream != NULL && i < POOL_STREAMS_MAX; i++) {
        if (pool->streams[i] == NULL) {
            pool->streams[i] = stream;
        }
        if (pool->streams[i] == stream) {
            return i + 1;
        }
    }
    return 0;
}

static void append(struct mem_pool *pool, struct mem_event *event, const char *tag)
{
    event->step = pool->step;
    snprintf(event->tag, sizeof(event->tag), "%s", tag);
    mem_recorder_append(pool->recorder, event);
}

void pool_record_block(struct mem_pool *pool, enum mem_action action, const struct block *block, struct stream *stream)
{
    if (pool->recorder != NULL) {
        struct mem_event event = {.action = action,
                                  .stream = number_of(pool, stream),
                                  .address = block->address,
                                  .bytes = block->bytes,
                                  .requested_bytes = block->requested_bytes};
        append(pool, &event, block->tag->name);
    }
}

// Memory of a segment, which serves all streams: it has the number of none.
void pool_record_memory(struct mem_pool *pool, bool comes, device_address address, uint64_t bytes)
{
    if (pool->recorder != NULL) {
        bool plain = pool->device->plain;
        enum mem_action comes_as = plain ? MEM_ACTION_SEGMENT_ALLOC : MEM_ACTION_SEGMENT_MAP;
        enum mem_action goes_as = plain ? MEM_ACTION_SEGMENT_FREE : MEM_ACTION_SEGMENT_UNMAP;
        enum mem_action action = comes ? comes_as : goes_as;
        struct mem_event event = {.action = action, .address = address, .bytes = bytes};
        append(pool, &event, "");
    }
}

void pool_record_refusal(struct mem_pool *pool, const struct request *request)
{
    if (pool->recorder != NULL) {
        struct mem_event event = {.action = MEM_ACTION_ALLOC_FAILED,
                                  .stream = number_of(pool, request->stream),
                                  .bytes = request->block_bytes,
                                  .requested_bytes = request->bytes,
                                  .device_free_bytes = pool->refusal.device.free_bytes};
        append(pool, &event, request->tag);
    }
}

static void record_holdings(struct mem_pool *pool)
{
    for (size_t i = 0; i < LIFETIMES; i++) {
        for (const struct segment *segment = pool->arenas[i].segments; segment != NULL; segment = segment->next) {
            if (segment->held_bytes > 0) {
                pool_record_memory(pool, true, segment->base, segment->held_bytes);
            }
        }
    }
    for (struct block *block = pool_next_block(pool, NULL); block != NULL; block = pool_next_block(pool, block)) {
        if (block->live) {
            pool_record_block(pool, MEM_ACTION_ALLOC, block, NULL);
        }
    }
}

void mem_pool_record(struct mem_pool *pool, struct mem_recorder *recorder)
{
    pool->recorder = recorder;
    if (recorder != NULL) {
        record_holdings(pool);
    }
}

// The segment's blocks, and what is held above them. Answers how many.
static size_t fill_blocks(const struct segment *segment, struct mem_snapshot_block *blocks)
{
    size_t count = 0;
    for (const struct block *block = segment->first; block != NULL; block = block->next) {
        blocks[count++] = (struct mem_snapshot_block){
            .address = block->address,
            .bytes = block->bytes,
            .requested_bytes = block->live ? block->requested_bytes : 0,
            .state = block->live ? MEM_BLOCK_ACTIVE_ALLOCATED : MEM_BLOCK_INACTIVE,
            .tag = block->live ? block->tag->name : NULL,
            .step = block->step,
        };
    }
    uint64_t spare = segment->base + segment->held_bytes - segment_top(segment);
    if (spare > 0) {
        blocks[count++] =
            (struct mem_snapshot_block){.address = segment_top(segment), .bytes = spare, .state = MEM_BLOCK_INACTIVE};
    }
    return count;
}

static void count_all(const struct mem_pool *pool, size_t *segments_p, size_t *blocks_p)
{
    for (size_t i = 0; i < LIFETIMES; i++) {
        for (const struct segment *segment = pool->arenas[i].segments; segment != NULL; segment = segment->next) {
            *segments_p += segment->held_bytes > 0;
            *blocks_p += segment->blocks + 1;
        }
    }
}

enum status mem_pool_snapshot(struct mem_pool *pool, uint32_t device, const char *path, struct error *error)
{
    size_t segment_count = 0, block_count = 0, segments_done = 0, blocks_done = 0;
    count_all(pool, &segment_count, &block_count);
    struct mem_snapshot_segment *segments = calloc(segment_count + 1, sizeof(*segments));
    struct mem_snapshot_block *blocks = calloc(block_count + 1, sizeof(*blocks));
    if (segments == NULL || blocks == NULL) {
        free(segments);
        free(blocks);
        return error_out_of_host_memory(error);
    }
    for (size_t i = 0; i < LIFETIMES; i++) {
        for (const struct segment *segment = pool->arenas[i].segments; segment != NULL; segment = segment->next) {
            if (segment->held_bytes == 0) {
                continue;
            }
            struct mem_snapshot_segment *shown = &segments[segments_done++];
            *shown = (struct mem_snapshot_segment){.address = segment->base,
                                                   .bytes = segment->held_bytes,
                                                   .expandable = !pool->device->plain,
                                                   .blocks = &blocks[blocks_done]};
            shown->block_count = fill_blocks(segment, &blocks[blocks_done]);
            blocks_done += shown->block_count;
        }
    }
    const struct mem_snapshot snapshot = {
        .device = device, .segments = segments, .segment_count = segments_done, .recorder = pool->recorder};
    enum status status = mem_snapshot_write(path, &snapshot, error);
    free(segments);
    free(blocks);
    return status;
}
