// SPDX-License-Identifier: Apache-2.0
#include "mem/pool.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "mem/pool_state.h"
#include "mem/sanitizer.h"

static uint64_t granularity_of(const struct mem_pool *pool)
{
    return pool->device->ops->granularity_bytes;
}

static enum lifetime other_end(enum lifetime end)
{
    return end == FOR_STEP ? FOR_RUN : FOR_STEP;
}

// ---- Segments ----

// Addresses without memory, at the end of the arena's segments. NULL where there are none, or no host memory.
static struct segment *add_segment(struct mem_pool *pool, struct arena *arena, uint64_t bytes)
{
    struct segment *segment = calloc(1, sizeof(*segment));
    if (segment == NULL || pool->device->ops->reserve(pool->device, bytes, &segment->base) != STATUS_OK) {
        free(segment);
        return NULL;
    }
    segment->range_bytes = bytes;
    segment->arena = arena;
    struct segment **end = &arena->segments;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = segment;
    return segment;
}

// *link is the segment, whose memory was released.
static void remove_segment(struct mem_pool *pool, struct segment **link)
{
    struct segment *segment = *link;
    pool->device->ops->unreserve(pool->device, segment->base, segment->range_bytes);
    *link = segment->next;
    free(segment);
}

static bool may_hold_more(const struct mem_pool *pool, uint64_t bytes)
{
    return pool_held(pool) <= pool_limit(pool) && bytes <= pool_limit(pool) - pool_held(pool);
}

// Puts memory behind `bytes` more of the segment, whole granules of them.
static bool commit(struct mem_pool *pool, struct segment *segment, uint64_t bytes)
{
    const struct device_ops *ops = pool->device->ops;
    uint64_t before = segment->held_bytes;
    if (!may_hold_more(pool, bytes) || ops->commit(pool->device, segment->base + before, bytes) != STATUS_OK) {
        return false;
    }
    segment->held_bytes += bytes;
    pool_count_held(pool, segment, before);
    pool_record_memory(pool, true, segment->base + before, bytes);
    return true;
}

// Gives the memory behind the segment's last `bytes` back. They are granules, in no block, and no stream uses them.
static void release(struct mem_pool *pool, struct segment *segment, uint64_t bytes)
{
    uint64_t before = segment->held_bytes;
    pool_guard_returned(pool, segment->base + before - bytes, bytes);
    pool->device->ops->release(pool->device, segment->base + before - bytes, bytes);
    segment->held_bytes -= bytes;
    pool_record_memory(pool, false, segment->base + segment->held_bytes, bytes);
    pool_count_held(pool, segment, before);
    pool_count_split(pool, segment);
}

uint64_t pool_releasable(const struct mem_pool *pool, const struct segment *segment)
{
    if (pool->device->plain) {
        return segment->live_count == 0 ? segment->held_bytes : 0;
    }
    return segment->held_bytes - uint64_round_up(segment_live_end(segment), granularity_of(pool));
}

uint64_t pool_arena_releasable(const struct mem_pool *pool, const struct arena *arena)
{
    uint64_t bytes = 0;
    for (const struct segment *segment = arena->segments; segment != NULL; segment = segment->next) {
        bytes += pool_releasable(pool, segment);
    }
    return bytes;
}

// ---- The pool ----

enum status mem_pool_create(struct device *device, uint64_t limit_bytes, struct mem_pool **pool_p, struct error *error)
{
    struct device_info info;
    uint64_t granularity = device->ops->granularity_bytes;
    device->ops->info(device, &info);
    uint64_t limit = limit_bytes == 0 ? info.capacity_bytes : uint64_min(limit_bytes, info.capacity_bytes);
    struct mem_pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL || !blocks_init(&pool->blocks)) {
        free(pool);
        return error_out_of_host_memory(error);
    }
    pool->device = device;
    pool->stats.limit_bytes = limit / granularity * granularity;
    pool->stats.soft_limit_bytes = UINT64_MAX;
    tags_init(&pool->tags);
    uint64_t range_bytes = uint64_max(pool->stats.limit_bytes, granularity);
    for (size_t i = 0; i < LIFETIMES && !device->plain; i++) {
        if (add_segment(pool, &pool->arenas[i], range_bytes) == NULL) {
            char size[MEM_SIZE_TEXT_MAX];
            mem_pool_destroy(pool);
            return error_set(error, STATUS_ERROR,
                             "device %s: cannot reserve %s of addresses: lower the device's capacity, or raise the "
                             "limit on address space (ulimit -v)",
                             device->ops->name, mem_size_text(range_bytes, size));
        }
    }
    *pool_p = pool;
    return STATUS_OK;
}

void mem_pool_destroy(struct mem_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    const struct device_ops *ops = pool->device->ops;
    ops->synchronize(pool->device);
    for (size_t i = 0; i < LIFETIMES; i++) {
        while (pool->arenas[i].segments != NULL) {
            const struct segment *segment = pool->arenas[i].segments;
            if (segment->held_bytes > 0) {
                pool_guard_returned(pool, segment->base, segment->held_bytes);
                ops->release(pool->device, segment->base, segment->held_bytes);
            }
            remove_segment(pool, &pool->arenas[i].segments);
        }
    }
    tags_finish(&pool->tags);
    blocks_finish(&pool->blocks);
    free(pool);
}

struct block *pool_next_block(struct mem_pool *pool, struct block *block)
{
    if (block != NULL && block->next != NULL) {
        return block->next;
    }
    struct segment *segment = block == NULL ? pool->arenas[0].segments : block->segment->next;
    struct arena *arena = block == NULL ? pool->arenas : block->segment->arena;
    while (arena < pool->arenas + LIFETIMES) {
        for (; segment != NULL; segment = segment->next) {
            if (segment->first != NULL) {
                return segment->first;
            }
        }
        segment = ++arena < pool->arenas + LIFETIMES ? arena->segments : NULL;
    }
    return NULL;
}

// ---- Streams ----

bool pool_is_done(struct mem_pool *pool, struct stream *stream)
{
    const struct device_ops *ops = pool->device->ops;
    struct event *event;
    if (stream == NULL) {
        return true;
    }
    if (ops->event_create(pool->device, &event) != STATUS_OK) {
        return false;
    }
    ops->event_record(pool->device, event, stream);
    bool done = ops->event_done(pool->device, event);
    ops->event_destroy(pool->device, event);
    return done;
}

// The host waits for the stream; then what was its own is safe for any.
static void wait_for(struct mem_pool *pool, struct stream *stream)
{
    pool->device->ops->stream_synchronize(pool->device, stream);
    for (size_t i = 0; i < LIFETIMES; i++) {
        blocks_forget_stream(&pool->blocks, &pool->arenas[i], stream);
        for (struct segment *segment = pool->arenas[i].segments; segment != NULL; segment = segment->next) {
            pool_count_split(pool, segment);
        }
    }
}

// ---- Finding a block ----

// Free neighbours from this one on, `bytes` of them together, as one block for `stream`, which by `event` first comes
// after all that used them.
static struct block *claim(struct mem_pool *pool, struct block *first, uint64_t bytes, struct stream *stream,
                           struct event *event)
{
    const struct device_ops *ops = pool->device->ops;
    uint64_t claimed = 0;
    const struct stream *last = stream;
    for (struct block *block = first; claimed < bytes; block = block->next) {
        if (block->stream != NULL && block->stream != stream && block->stream != last) {
            ops->event_record(pool->device, event, block->stream);
            ops->event_wait(pool->device, stream, event);
        }
        last = block->stream;
        claimed += block->bytes;
    }
    return blocks_join_run(&pool->blocks, first, bytes, stream);
}

// A free block of at least `bytes` at the segment's top, for which only what is missing there is committed. `first` is
// the first of the free blocks there that become part of it, `free_bytes` together; NULL: none does. `event` is as
// for claim.
static struct block *raise_top(struct mem_pool *pool, struct segment *segment, uint64_t bytes, struct block *first,
                               uint64_t free_bytes, struct stream *stream, struct event *event)
{
    uint64_t more = bytes - uint64_min(free_bytes, bytes);
    uint64_t spare = segment->held_bytes - (segment_top(segment) - segment->base);
    uint64_t missing = more > spare ? uint64_round_up(more - spare, granularity_of(pool)) : 0;
    if (missing > 0 && !commit(pool, segment, missing)) {
        return NULL;
    }
    struct block *top = blocks_append(&pool->blocks, segment, more, stream);
    return first == NULL ? top : claim(pool, first, bytes, stream, event);
}

// The last block of the segment, if it is free for the stream.
static struct block *own_last(const struct segment *segment, const struct stream *stream)
{
    struct block *last = segment->last;
    bool usable = last != NULL && !last->live && block_is_safe(last, stream);
    return usable ? last : NULL;
}

// A segment of so many bytes, all of them one free block.
static struct block *add_whole_segment(struct mem_pool *pool, struct arena *arena, uint64_t bytes)
{
    struct segment *segment = may_hold_more(pool, bytes) ? add_segment(pool, arena, bytes) : NULL;
    if (segment == NULL) {
        return NULL;
    }
    if (!commit(pool, segment, bytes)) {
        struct segment **link = &arena->segments;
        while (*link != segment) {
            link = &(*link)->next;
        }
        remove_segment(pool, link);
        return NULL;
    }
    return blocks_append(&pool->blocks, segment, bytes, NULL);
}

#define PLAIN_SEGMENT_BYTES (UINT64_C(2) << 20) // where there is room for it, so that small blocks share one

static struct block *grow(struct mem_pool *pool, struct arena *arena, uint64_t bytes, struct stream *stream)
{
    if (!pool->device->plain) {
        struct block *last = own_last(arena->segments, stream);
        return raise_top(pool, arena->segments, bytes, last, last == NULL ? 0 : last->bytes, stream, NULL);
    }
    uint64_t granularity = granularity_of(pool), exact = uint64_round_up(bytes, granularity);
    uint64_t roomy = uint64_round_up(bytes, uint64_max(PLAIN_SEGMENT_BYTES, granularity));
    struct block *block = add_whole_segment(pool, arena, roomy);
    return block == NULL && exact < roomy ? add_whole_segment(pool, arena, exact) : block;
}

// What other streams have freed, once `stream` comes after them. Where no event can be made, nothing has changed.
static struct block *take_over(struct mem_pool *pool, struct arena *arena, uint64_t bytes, struct stream *stream)
{
    const struct device_ops *ops = pool->device->ops;
    uint64_t free_bytes = 0;
    struct block *first = blocks_best_run(arena, bytes);
    bool grows = first == NULL && !pool->device->plain;
    if (grows) {
        first = segment_last_run(arena->segments, &free_bytes);
        if (first == own_last(arena->segments, stream)) {
            return NULL; // growing has failed already
        }
    }
    struct event *event;
    if (first == NULL || ops->event_create(pool->device, &event) != STATUS_OK) {
        return NULL;
    }
    struct block *block = grows ? raise_top(pool, arena->segments, bytes, first, free_bytes, stream, event)
                                : claim(pool, first, bytes, stream, event);
    ops->event_destroy(pool->device, event);
    return block;
}

static struct block *find_in(struct mem_pool *pool, struct arena *arena, const struct request *request)
{
    uint64_t bytes = request->block_bytes;
    struct block *block = blocks_best_fit(arena, bytes, request->stream);
    if (block == NULL) {
        block = grow(pool, arena, bytes, request->stream);
    }
    return block == NULL ? take_over(pool, arena, bytes, request->stream) : block;
}

// At the other end only where it must be.
static struct block *find(struct mem_pool *pool, const struct request *request)
{
    if (request->block_bytes > pool->stats.limit_bytes - pool_live(pool)) {
        return NULL;
    }
    struct block *block = find_in(pool, &pool->arenas[request->lifetime], request);
    return block == NULL && request->anywhere ? find_in(pool, &pool->arenas[other_end(request->lifetime)], request)
                                              : block;
}

static struct block *find_under_pressure(struct mem_pool *pool, const struct request *request)
{
    struct block *block = find(pool, request);
    bool hopeless = request->block_bytes > pool->stats.limit_bytes;
    for (struct mem_pressure *pressure = hopeless ? NULL : pool->pressure; block == NULL && pressure != NULL;
         pressure = pressure->next) {
        if (pressure->relieve(pressure->context, request->block_bytes)) {
            block = find(pool, request);
        }
    }
    return block;
}

static enum status refuse(struct mem_pool *pool, const struct request *request, bool injected)
{
    pool_refuse(pool, request, injected);
    return STATUS_OUT_OF_MEMORY;
}

static bool is_injected(const struct mem_faults *faults, uint64_t call)
{
    return faults->every > 0 && call >= faults->first && (call - faults->first) % faults->every == 0 &&
           (call - faults->first) / faults->every < faults->count;
}

static device_address take(struct mem_pool *pool, const struct request *request, struct block *block, struct tag *tag)
{
    blocks_take(&pool->blocks, block, request->block_bytes);
    block->stays = request->lifetime == FOR_RUN;
    block->requested_bytes = request->bytes;
    block->step = pool->step;
    block->tag = tag;
    pool_count_taken(pool, block);
    pool_count_split(pool, block->segment);
    pool_record_block(pool, MEM_ACTION_ALLOC, block, request->stream);
    pool_guard_taken(pool, block, request->stream);
    return pool_user_address(pool, block);
}

static enum status allocate(struct mem_pool *pool, const struct request *request, device_address *address_p)
{
    if (is_injected(&pool->faults, ++pool->calls)) {
        return refuse(pool, request, true);
    }
    struct tag *tag = tags_find(&pool->tags, request->tag);
    if (tag == NULL || !blocks_prepare(&pool->blocks)) {
        return STATUS_ERROR;
    }
    struct block *block = find_under_pressure(pool, request);
    if (block == NULL) {
        return refuse(pool, request, false);
    }
    *address_p = take(pool, request, block, tag);
    return STATUS_OK;
}

static enum status finish_request(struct mem_pool *pool, const struct request *request, enum status status)
{
    if (status == STATUS_OUT_OF_MEMORY) {
        pool->stats.num_ooms++;
        pool_record_refusal(pool, request);
    }
    return status;
}

// With red zones.
static uint64_t block_bytes(const struct mem_pool *pool, uint64_t bytes)
{
    uint64_t rounded = mem_pool_block_bytes(bytes), zones = 2 * pool->guard_bytes;
    return rounded > UINT64_MAX - zones ? UINT64_MAX : rounded + zones;
}

enum status mem_pool_alloc(struct mem_pool *pool, uint64_t bytes, struct stream *stream, const char *tag,
                           device_address *address_p)
{
    const struct request request = {bytes, block_bytes(pool, bytes), stream, tag, FOR_STEP, true};
    enum status status = allocate(pool, &request, address_p);
    return finish_request(pool, &request, status);
}

enum status mem_pool_hold(struct mem_pool *pool, uint64_t bytes, struct stream *stream, const char *tag,
                          device_address *address_p)
{
    struct request request = {bytes, block_bytes(pool, bytes), stream, tag, FOR_RUN, false};
    enum status status = allocate(pool, &request, address_p);
    while (status == STATUS_OUT_OF_MEMORY && mem_pool_relieve(pool)) {
        status = allocate(pool, &request, address_p);
    }
    if (status == STATUS_OUT_OF_MEMORY && pool->refusal.cause != MEM_CAUSE_INJECTED) {
        request.anywhere = true;
        status = allocate(pool, &request, address_p);
    }
    return finish_request(pool, &request, status);
}

void mem_pool_free(struct mem_pool *pool, device_address address, struct stream *stream)
{
    if (address == 0) {
        return;
    }
    struct block *block = blocks_find(&pool->blocks, address - pool->guard_bytes);
    if (block == NULL && pool->guard_bytes > 0) {
        sanitizer_report(pool->device, "address 0x%" PRIx64 " is freed, where no block is live", address);
        return;
    }
    assert(block != NULL);
    struct segment *segment = block->segment;
    pool_guard_given(pool, block, stream);
    pool_record_block(pool, MEM_ACTION_FREE, block, stream);
    pool_count_given(pool, block);
    blocks_give(&pool->blocks, block, stream);
    pool_count_split(pool, segment);
}

static struct block *live_block(const struct mem_pool *pool, device_address address)
{
    struct block *block = blocks_find(&pool->blocks, address - pool->guard_bytes);
    assert(block != NULL);
    return block;
}

// A request for `bytes` in the place of the block.
static struct request request_for(const struct mem_pool *pool, const struct block *block, uint64_t bytes,
                                  struct stream *stream)
{
    return (struct request){.bytes = bytes,
                            .block_bytes = block_bytes(pool, bytes),
                            .stream = stream,
                            .tag = block->tag->name,
                            .lifetime = block->stays ? FOR_RUN : FOR_STEP};
}

// Once. What takes no more than the block finds a place when that is free, and so does the block itself.
static enum status resize(struct mem_pool *pool, device_address *address_p, const struct request *request)
{
    struct block *block = live_block(pool, *address_p);
    struct request before = request_for(pool, block, block->requested_bytes, request->stream);
    struct arena *arena = block->segment->arena;
    struct tag *tag = block->tag;
    bool grows = request->block_bytes > before.block_bytes;
    if (!blocks_prepare(&pool->blocks)) {
        return STATUS_ERROR;
    }
    if (grows && is_injected(&pool->faults, ++pool->calls)) {
        return refuse(pool, request, true);
    }
    mem_pool_free(pool, *address_p, request->stream);
    struct block *found = grows ? find(pool, request) : blocks_best_fit(arena, request->block_bytes, request->stream);
    if (found != NULL) {
        *address_p = take(pool, request, found, tag);
        return STATUS_OK;
    }
    enum status status = refuse(pool, request, false); // the block is no reason
    *address_p = take(pool, &before, blocks_best_fit(arena, before.block_bytes, request->stream), tag);
    return status;
}

enum status mem_pool_resize(struct mem_pool *pool, device_address *address_p, uint64_t bytes, struct stream *stream)
{
    struct request request = request_for(pool, live_block(pool, *address_p), bytes, stream);
    enum status status = resize(pool, address_p, &request);
    while (status == STATUS_OUT_OF_MEMORY && mem_pool_relieve(pool)) {
        status = resize(pool, address_p, &request);
    }
    return finish_request(pool, &request, status);
}

void *mem_pool_host_pointer(const struct mem_pool *pool, device_address address)
{
    return pool->device->ops->host_pointer(pool->device, address);
}

// ---- Giving back ----

// Takes what is above `end` out of the segment's blocks. It is dropped before its stream is waited for: what that makes
// safe for any joins its neighbours, whose streams may go on.
static void drop_blocks(struct mem_pool *pool, struct segment *segment, device_address end)
{
    while (segment_top(segment) > end) {
        struct stream *stream = segment->last->stream;
        blocks_shorten_last(&pool->blocks, segment, uint64_min(segment->last->bytes, segment_top(segment) - end));
        if (stream != NULL) {
            wait_for(pool, stream);
        }
    }
}

// Returns memory of the segment, `most` bytes of it or a granule more.
static void trim_segment(struct mem_pool *pool, struct segment *segment, uint64_t most)
{
    uint64_t bytes = pool_releasable(pool, segment);
    if (!pool->device->plain) {
        bytes = uint64_min(bytes, uint64_round_up(most, granularity_of(pool)));
    }
    if (bytes == 0) {
        return;
    }
    drop_blocks(pool, segment, segment->base + segment->held_bytes - bytes);
    release(pool, segment, bytes);
}

// Until no more than `bytes` are held, as far as this arena can help.
static void trim_arena(struct mem_pool *pool, struct arena *arena, uint64_t bytes)
{
    struct segment **link = &arena->segments;
    while (*link != NULL && pool_held(pool) > bytes) {
        struct segment *segment = *link;
        trim_segment(pool, segment, pool_held(pool) - bytes);
        if (pool->device->plain && segment->held_bytes == 0) {
            remove_segment(pool, link);
        } else {
            link = &segment->next;
        }
    }
}

uint64_t mem_pool_trim(struct mem_pool *pool, uint64_t bytes)
{
    uint64_t before = pool_held(pool);
    trim_arena(pool, &pool->arenas[FOR_RUN], bytes);
    trim_arena(pool, &pool->arenas[FOR_STEP], bytes);
    return before - pool_held(pool);
}

// As much as the request takes goes back, of its own arena only what the other does not have.
bool mem_pool_relieve(struct mem_pool *pool)
{
    const struct request *request = &pool->refused;
    uint64_t before = pool_held(pool), wanted = uint64_round_up(request->block_bytes, granularity_of(pool));
    if (pool->refusal.cause != MEM_CAUSE_PENDING && pool->refusal.cause != MEM_CAUSE_FRAGMENTED) {
        return false;
    }
    uint64_t keep = before - uint64_min(before, wanted);
    trim_arena(pool, &pool->arenas[other_end(request->lifetime)], keep);
    trim_arena(pool, &pool->arenas[request->lifetime], keep);
    pool->stats.num_alloc_retries += pool_held(pool) < before;
    return pool_held(pool) < before;
}

void mem_pool_set_soft_limit(struct mem_pool *pool, uint64_t bytes)
{
    pool->stats.soft_limit_bytes = bytes;
    mem_pool_trim(pool, bytes);
}

void mem_pool_on_pressure(struct mem_pool *pool, struct mem_pressure *pressure)
{
    pressure->next = pool->pressure;
    pool->pressure = pressure;
}

// ---- Looking ----

uint64_t pool_largest_free(const struct arena *arena)
{
    uint64_t largest = 0;
    for (const struct segment *segment = arena->segments; segment != NULL; segment = segment->next) {
        uint64_t run = 0; // neighbours of several streams serve together
        for (const struct block *block = segment->first; block != NULL; block = block->next) {
            run = block->live ? 0 : run + block->bytes;
            largest = uint64_max(largest, run);
        }
        largest = uint64_max(largest, segment->held_bytes - segment_live_end(segment));
    }
    return largest;
}

// What the device would still give this process under the limits.
static uint64_t growth(const struct mem_pool *pool, const struct device_info *info)
{
    uint64_t granularity = granularity_of(pool), limit = pool_limit(pool) / granularity * granularity;
    uint64_t share = info->free_bytes / info->sharers / granularity * granularity;
    return uint64_min(share, limit - uint64_min(limit, pool_held(pool)));
}

// What is held although others need it, or a limit was lowered.
static uint64_t deficit(const struct mem_pool *pool, const struct device_info *info)
{
    uint64_t over_limit = pool_held(pool) - uint64_min(pool_held(pool), pool_limit(pool));
    return uint64_round_up(uint64_max(pool_owed(info), over_limit), granularity_of(pool));
}

// What a request at one end could get of what is held, were what is cached at the other returned.
static uint64_t usable_of_held(const struct mem_pool *pool, enum lifetime end)
{
    const struct arena *arena = &pool->arenas[end], *other = &pool->arenas[other_end(end)];
    return pool_arena_releasable(pool, other) + (pool->device->plain
                                                     ? pool_arena_releasable(pool, arena)
                                                     : arena->segments->held_bytes - segment_live_end(arena->segments));
}

// The most that a request could get at one end.
static uint64_t reach(const struct mem_pool *pool, enum lifetime end, const struct device_info *info)
{
    uint64_t usable = growth(pool, info) + usable_of_held(pool, end);
    usable -= uint64_min(usable, deficit(pool, info));
    return pool->device->plain ? uint64_max(usable, pool_largest_free(&pool->arenas[end])) : usable;
}

// Where a step's request would come from.
static enum lifetime end_of_step(const struct mem_pool *pool, const struct device_info *info)
{
    return reach(pool, FOR_STEP, info) > 0 ? FOR_STEP : FOR_RUN;
}

static uint64_t headroom(const struct mem_pool *pool, const struct device_info *info)
{
    uint64_t bytes = reach(pool, end_of_step(pool, info), info);
    return bytes - uint64_min(bytes, 2 * pool->guard_bytes);
}

uint64_t mem_pool_headroom(struct mem_pool *pool)
{
    struct device_info info;
    pool->device->ops->info(pool->device, &info);
    return headroom(pool, &info);
}

uint64_t mem_pool_headroom_alone(struct mem_pool *pool)
{
    struct device_info info;
    pool->device->ops->info(pool->device, &info);
    info.sharers = 1;
    return headroom(pool, &info);
}

// What a step could get of what is held on a plain device: its largest free piece serves a step, too.
static uint64_t usable_of_segments(const struct mem_pool *pool)
{
    struct device_info info;
    pool->device->ops->info(pool->device, &info);
    enum lifetime end = end_of_step(pool, &info);
    return uint64_max(usable_of_held(pool, end), pool_largest_free(&pool->arenas[end]));
}

uint64_t mem_pool_fragmented(const struct mem_pool *pool)
{
    uint64_t free_bytes = pool_held(pool) - pool->stats.allocated_bytes.current;
    uint64_t usable = pool->device->plain ? usable_of_segments(pool) : usable_of_held(pool, FOR_STEP);
    return free_bytes - uint64_min(free_bytes, usable);
}

void mem_pool_begin_step(struct mem_pool *pool, uint64_t step)
{
    pool->step = step;
}

const struct mem_out_of_memory *mem_pool_out_of_memory(const struct mem_pool *pool)
{
    return &pool->refusal;
}

void mem_pool_inject_failures(struct mem_pool *pool, struct mem_faults faults)
{
    pool->faults = faults;
    pool->calls = 0;
}

bool mem_pool_check(struct mem_pool *pool)
{
    const struct mem_pool_stats *stats = &pool->stats;
    for (size_t i = 0; i < LIFETIMES; i++) {
        for (const struct segment *segment = pool->arenas[i].segments; segment != NULL; segment = segment->next) {
            uint64_t spare = segment->base + segment->held_bytes - segment_top(segment);
            if (spare >= (pool->device->plain ? 1 : granularity_of(pool))) {
                return false;
            }
        }
    }
    return stats->allocated_bytes.current <= pool_held(pool) && pool_held(pool) <= stats->limit_bytes &&
           pool_statistics_hold(pool) && blocks_check(&pool->blocks, pool->arenas, LIFETIMES);
}
