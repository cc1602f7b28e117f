// SPDX-License-Identifier: Apache-2.0
#include "picture.h"

#include <string.h>

#include "require.h"

static void add_block(struct picture *picture, const struct block *block)
{
    require(picture->block_count < PICTURE_BLOCKS);
    struct picture_block *copy = &picture->blocks[picture->block_count++];
    memset(copy, 0, sizeof(*copy));
    copy->address = block->address;
    copy->bytes = block->bytes;
    copy->segment = picture->segment_count - 1;
    copy->live = block->live;
    if (!block->live) {
        copy->stream = block->stream;
        return;
    }
    copy->requested_bytes = block->requested_bytes;
    copy->step = block->step;
    copy->stays = block->stays;
    memcpy(copy->tag, block->tag->name, TAG_MAX);
}

static void add_segment(struct picture *picture, const struct segment *segment, uint64_t lifetime)
{
    require(picture->segment_count < PICTURE_SEGMENTS);
    struct picture_segment *copy = &picture->segments[picture->segment_count++];
    *copy = (struct picture_segment){.base = segment->base,
                                     .range_bytes = segment->range_bytes,
                                     .held_bytes = segment->held_bytes,
                                     .lifetime = lifetime,
                                     .first = picture->block_count};
    for (const struct block *block = segment->first; block != NULL; block = block->next) {
        add_block(picture, block);
    }
    copy->count = picture->block_count - copy->first;
}

void picture_take(struct picture *picture, const struct mem_pool *pool)
{
    picture->stats = pool->stats;
    picture->stats.num_ooms = 0;
    picture->block_count = picture->segment_count = 0;
    for (uint64_t i = 0; i < LIFETIMES; i++) {
        for (const struct segment *segment = pool->arenas[i].segments; segment != NULL; segment = segment->next) {
            add_segment(picture, segment, i);
        }
    }
}

bool picture_equal(const struct picture *a, const struct picture *b)
{
    return a->block_count == b->block_count && a->segment_count == b->segment_count &&
           memcmp(&a->stats, &b->stats, sizeof(a->stats)) == 0 &&
           memcmp(a->segments, b->segments, a->segment_count * sizeof(a->segments[0])) == 0 &&
           memcmp(a->blocks, b->blocks, a->block_count * sizeof(a->blocks[0])) == 0;
}

static size_t next_live(const struct picture *picture, size_t i)
{
    while (i < picture->block_count && !picture->blocks[i].live) {
        i++;
    }
    return i;
}

bool picture_same_live(const struct picture *a, const struct picture *b)
{
    size_t i = next_live(a, 0), j = next_live(b, 0);
    for (; i < a->block_count && j < b->block_count; i = next_live(a, i + 1), j = next_live(b, j + 1)) {
        struct picture_block copy = a->blocks[i];
        copy.segment = b->blocks[j].segment; // those before may have gone
        if (memcmp(&copy, &b->blocks[j], sizeof(copy)) != 0) {
            return false;
        }
    }
    return i == a->block_count && j == b->block_count;
}

// ---- Placing ----

static bool is_of(const struct picture *picture, const struct picture_block *block, uint64_t lifetime)
{
    return picture->segments[block->segment].lifetime == lifetime;
}

static bool is_safe(const struct picture_block *block, const struct stream *stream)
{
    return !block->live && (block->stream == NULL || block->stream == stream);
}

static const struct picture_block *best_fit(const struct picture *picture, const struct placement_request *request)
{
    const struct picture_block *best = NULL;
    for (size_t i = 0; i < picture->block_count; i++) {
        const struct picture_block *block = &picture->blocks[i];
        if (is_of(picture, block, request->lifetime) && is_safe(block, request->stream) &&
            block->bytes >= request->bytes &&
            (best == NULL || block->bytes < best->bytes ||
             (block->bytes == best->bytes && block->address < best->address))) {
            best = block;
        }
    }
    return best;
}

// Free bytes from block i to the end of the run.
static uint64_t run_bytes(const struct picture *picture, size_t i)
{
    uint64_t bytes = 0, segment = picture->blocks[i].segment;
    for (; i < picture->block_count && picture->blocks[i].segment == segment && !picture->blocks[i].live; i++) {
        bytes += picture->blocks[i].bytes;
    }
    return bytes;
}

static const struct picture_block *best_run(const struct picture *picture, const struct placement_request *request)
{
    const struct picture_block *best = NULL;
    uint64_t best_bytes = 0;
    for (size_t i = 0; i < picture->block_count; i++) {
        const struct picture_block *block = &picture->blocks[i];
        bool follows = i > 0 && picture->blocks[i - 1].segment == block->segment && !picture->blocks[i - 1].live;
        uint64_t bytes = follows || !is_of(picture, block, request->lifetime) ? 0 : run_bytes(picture, i);
        if (bytes >= request->bytes && (best == NULL || bytes < best_bytes)) {
            best = block;
            best_bytes = bytes;
        }
    }
    return best;
}

static bool may_commit(const struct placement_request *request, uint64_t bytes)
{
    return bytes <= request->room && bytes <= request->free_bytes;
}

// At the segment's top, from `first` on, which begins the free blocks there; `count`: none.
static struct placement growth(const struct picture *picture, const struct placement_request *request,
                               const struct picture_segment *segment, uint64_t first)
{
    device_address from = segment->base;
    if (first < segment->count) {
        from = picture->blocks[segment->first + first].address;
    } else if (segment->count > 0) {
        const struct picture_block *last = &picture->blocks[segment->first + segment->count - 1];
        from = last->address + last->bytes;
    }
    uint64_t end = from - segment->base + request->bytes;
    uint64_t missing = end - uint64_min(end, segment->held_bytes);
    uint64_t granules = (missing + request->granularity - 1) / request->granularity;
    uint64_t commit_bytes = granules * request->granularity;
    return may_commit(request, commit_bytes) ? (struct placement){PLACE_GROWTH, from, commit_bytes}
                                             : (struct placement){0};
}

static struct placement own_growth(const struct picture *picture, const struct placement_request *request,
                                   const struct picture_segment *segment)
{
    bool own = segment->count > 0 && is_safe(&picture->blocks[segment->first + segment->count - 1], request->stream);
    return growth(picture, request, segment, own ? segment->count - 1 : segment->count);
}

static struct placement run_growth(const struct picture *picture, const struct placement_request *request,
                                   const struct picture_segment *segment)
{
    uint64_t first = segment->count;
    while (first > 0 && !picture->blocks[segment->first + first - 1].live) {
        first--;
    }
    struct placement placement = growth(picture, request, segment, first);
    placement.how = placement.how == PLACE_NONE ? PLACE_NONE : PLACE_RUN_GROWTH;
    return placement;
}

static struct placement new_segment(const struct placement_request *request)
{
    const uint64_t granularity = request->granularity;
    uint64_t exact = (request->bytes + granularity - 1) / granularity * granularity;
    uint64_t unit = uint64_max(UINT64_C(2) << 20, granularity), roomy = (request->bytes + unit - 1) / unit * unit;
    if (may_commit(request, roomy)) {
        return (struct placement){PLACE_SEGMENT, 0, roomy};
    }
    return may_commit(request, exact) ? (struct placement){PLACE_SEGMENT, 0, exact} : (struct placement){0};
}

struct placement picture_place(const struct picture *picture, const struct placement_request *request)
{
    if (request->bytes > request->limit_bytes) {
        return (struct placement){0};
    }
    const struct picture_block *fit = best_fit(picture, request);
    if (fit != NULL) {
        return (struct placement){PLACE_HIT, fit->address, 0};
    }
    const struct picture_segment *segment = &picture->segments[request->lifetime]; // not where the device is plain
    struct placement grown = request->plain ? new_segment(request) : own_growth(picture, request, segment);
    if (grown.how != PLACE_NONE) {
        return grown;
    }
    const struct picture_block *run = best_run(picture, request);
    if (run != NULL) {
        return (struct placement){PLACE_RUN, run->address, 0};
    }
    return request->plain ? (struct placement){0} : run_growth(picture, request, segment);
}
