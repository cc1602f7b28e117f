// SPDX-License-Identifier: Apache-2.0
#include "pool_fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "mem/random.h"
#include "oracle.h"
#include "picture.h"
#include "require.h"

#define OWNERS 2

struct require_place require_place;

struct owner {
    struct world *world;
    struct mem_pressure pressure;
    size_t number;
};

struct world {
    const uint8_t *bytes;
    size_t size, read;
    struct sim_device sim;
    struct mem_pool *pool;
    struct oracle oracle;
    uint64_t step;
    uint64_t fail_every, calls; // injected
    struct owner owners[OWNERS];
    size_t owner_count;
    size_t asks_next;       // owner; OWNERS: whoever was added last
    uint64_t asked;         // in this operation
    uint64_t request_bytes; // of the block that is asked for
    struct picture before, after;
    struct fuzz_coverage *coverage;
};

// ---- The host's memory ----

// While the pool runs, its host allocations count as device calls. The linker puts these in place of the library's.
static struct sim_device *host_of;

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size);

void *__wrap_calloc(size_t count, size_t size)
{
    return host_of != NULL && sim_fails(host_of, SIM_HOST_MEMORY) ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return host_of != NULL && sim_fails(host_of, SIM_HOST_MEMORY) ? NULL : __real_realloc(old, size);
}

// ---- Bytes ----

static uint64_t next(struct world *world)
{
    return world->read < world->size ? world->bytes[world->read++] : 0;
}

static uint64_t next_below(struct world *world, uint64_t bound)
{
    uint64_t value = next(world);
    return bound > 256 ? (value << 8 | next(world)) % bound : value % bound;
}

static struct stream *next_stream(struct world *world)
{
    return &world->sim.streams[next_below(world, SIM_STREAMS)];
}

static uint64_t next_request(struct world *world)
{
    const uint64_t granularity = world->sim.config.granularity_bytes, limit = world->oracle.limit_bytes;
    switch (next_below(world, 16)) {
    case 0:
        return next_below(world, 4) == 0 ? UINT64_MAX - next(world) : next_below(world, 2);
    case 1:
    case 2:
    case 3:
        return granularity * (1 + next_below(world, 8)) - next_below(world, 2) * (next(world) & 1);
    case 4:
        return limit / 256 * (1 + next(world));
    case 5:
    case 6:
    case 7:
        return limit / 1024 * (1 + next(world));
    case 8:
        return mem_pool_headroom(world->pool) + MEM_POOL_ALIGNMENT * next_below(world, 3);
    default:
        return 1 + next(world) * granularity / 128;
    }
}

// ---- The whole pool ----

static void check_blocks(const struct world *world)
{
    size_t live = 0;
    for (size_t i = 0; i < world->after.block_count; i++) {
        const struct picture_block *block = &world->after.blocks[i];
        if (!block->live) {
            require(sim_is_safe(&world->sim, block->address, block->address + block->bytes, block->stream));
            continue;
        }
        size_t place = oracle_find(&world->oracle, block->address);
        const struct oracle_block *expected = &world->oracle.blocks[place];
        require(place < world->oracle.count && expected->address == block->address);
        require(expected->bytes == block->bytes && expected->requested_bytes == block->requested_bytes);
        require(expected->stays == block->stays && expected->step == block->step);
        require(strcmp(block->tag, oracle_cut_tags[expected->tag]) == 0);
        live++;
    }
    require(live == world->oracle.count);
}

static const struct sim_range *range_at(const struct world *world, device_address base)
{
    size_t i = 0;
    while (world->sim.ranges[i].base != base) {
        require(++i < SIM_RANGES_MAX);
    }
    return &world->sim.ranges[i];
}

static void check_segments(const struct world *world)
{
    uint64_t held = 0, split_blocks = 0, split_bytes = 0;
    for (size_t i = 0; i < world->after.segment_count; i++) {
        const struct picture_segment *segment = &world->after.segments[i];
        require(segment->held_bytes == sim_range_held(&world->sim, range_at(world, segment->base)));
        held += segment->held_bytes;
        uint64_t unused = 0, unused_bytes = 0;
        for (uint64_t j = segment->first; j < segment->first + segment->count; j++) {
            unused += !world->after.blocks[j].live;
            unused_bytes += world->after.blocks[j].live ? 0 : world->after.blocks[j].bytes;
        }
        split_blocks += unused < segment->count ? unused : 0;
        split_bytes += unused < segment->count ? unused_bytes : 0;
    }
    require(held == world->sim.held_bytes);
    require(world->after.stats.inactive_split.current == split_blocks);
    require(world->after.stats.inactive_split_bytes.current == split_bytes);
}

static void check_all(struct world *world)
{
    require(mem_pool_check(world->pool));
    picture_take(&world->after, world->pool);
    check_blocks(world);
    check_segments(world);
    struct mem_pool_stats stats;
    mem_pool_stats(world->pool, &stats);
    oracle_check_stats(&world->oracle, &stats);
    require(world->sim.events == 0);

    struct fuzz_coverage *coverage = world->coverage;
    coverage->live_max = uint64_max(coverage->live_max, world->oracle.count);
    coverage->free_blocks_max = uint64_max(coverage->free_blocks_max, world->after.block_count - world->oracle.count);
    coverage->segments_max = uint64_max(coverage->segments_max, world->sim.segments);
}

// The operation is one, or a part of one that this test makes of several calls.
static void begin(struct world *world)
{
    sim_watch(&world->sim);
    world->asked = 0;
    world->asks_next = OWNERS;
    picture_take(&world->before, world->pool);
}

static void note_seen(struct world *world)
{
    const struct sim_seen *seen = &world->sim.seen;
    for (size_t i = 0; i < SIM_STREAMS; i++) {
        world->coverage->host_waits += seen->synchronized[i];
    }
    for (size_t i = 0; i < SIM_CALLS; i++) {
        world->coverage->failed_calls[i] += seen->failed_call[i];
    }
    world->coverage->stream_waits += seen->stream_waits;
    world->coverage->commits += seen->commits;
    world->coverage->releases += seen->releases;
}

static void end(struct world *world)
{
    note_seen(world);
    check_all(world);
}

// ---- Freeing ----

static void free_block(struct world *world, size_t i, struct stream *stream)
{
    device_address address = world->oracle.blocks[i].address;
    sim_end_use(&world->sim, address, stream);
    mem_pool_free(world->pool, address, stream);
    oracle_remove(&world->oracle, i);
}

// What is watched starts again: all that was decided until now was undone.
static bool give_up(void *context, uint64_t bytes)
{
    struct owner *owner = context;
    struct world *world = owner->world;
    require(bytes == world->request_bytes);
    require(owner->number + 1 == world->asks_next || owner->number + 1 == world->owner_count);
    world->asks_next = owner->number;
    world->asked++;
    world->coverage->asked++;
    size_t i = 0;
    while (i < world->oracle.count && world->oracle.blocks[i].owner != owner->number) {
        i++;
    }
    if (i == world->oracle.count) {
        return false;
    }
    free_block(world, i, next_stream(world));
    world->coverage->given_up++;
    picture_take(&world->before, world->pool);
    return true;
}

// That uses the oracle's block.
static struct stream *own_stream(struct world *world, size_t i)
{
    const struct sim_piece *piece = world->sim.pieces;
    while (!piece->live || piece->address != world->oracle.blocks[i].address) {
        piece++;
    }
    return &world->sim.streams[piece->stream];
}

static void free_any(struct world *world, bool on_another)
{
    if (world->oracle.count == 0) {
        mem_pool_free(world->pool, 0, next_stream(world));
        return;
    }
    size_t i = next_below(world, world->oracle.count);
    free_block(world, i, on_another ? next_stream(world) : own_stream(world, i));
}

// To half of what it was, or to twice as much. To shrink is refused only where the host's memory runs out; what may not
// grow is as large as before. Each try but one that a test refuses gives the block and takes one.
static void resize_any(struct world *world)
{
    if (world->oracle.count == 0) {
        return;
    }
    size_t i = next_below(world, world->oracle.count);
    struct stream *stream = own_stream(world, i);
    struct oracle_block block = world->oracle.blocks[i];
    const device_address before = block.address;
    const uint64_t bytes = next(world) * block.requested_bytes / 128, taken = world->pool->stats.allocation.allocated;
    bool grows = mem_pool_block_bytes(bytes) > block.bytes;
    sim_end_use(&world->sim, before, stream);
    host_of = &world->sim;
    enum status status = mem_pool_resize(world->pool, &block.address, bytes, stream);
    host_of = NULL;
    const uint64_t tries = world->pool->stats.allocation.allocated - taken;
    require(status != STATUS_OUT_OF_MEMORY || grows);
    require(status != STATUS_ERROR || (world->sim.seen.failed_call[SIM_HOST_MEMORY] && tries == 0));
    require(tries > 0 || (status != STATUS_OK && block.address == before));
    world->calls = world->pool->calls;
    world->oracle.num_ooms += status == STATUS_OUT_OF_MEMORY;
    block.bytes = status == STATUS_OK ? mem_pool_block_bytes(bytes) : block.bytes;
    block.requested_bytes = status == STATUS_OK ? bytes : block.requested_bytes;
    block.step = tries > 0 ? world->step : block.step;
    sim_begin_use(&world->sim, block.address, block.bytes, stream);
    for (uint64_t k = 0; k < tries; k++) {
        struct oracle_block taken_block = k + 1 < tries ? world->oracle.blocks[i] : block;
        oracle_remove(&world->oracle, i);
        oracle_add(&world->oracle, &taken_block);
        i = oracle_find(&world->oracle, taken_block.address);
    }
}

// ---- Asking ----

struct asked {
    uint64_t bytes, lifetime;
    size_t tag;
    struct stream *stream;
};

// At the request's own end, were so many bytes held.
static struct placement_request at_end(const struct world *world, const struct asked *asked, uint64_t held_bytes)
{
    uint64_t limit = oracle_limit(&world->oracle), capacity = world->sim.config.capacity_bytes;
    return (struct placement_request){
        .bytes = world->request_bytes,
        .stream = asked->stream,
        .lifetime = asked->lifetime,
        .limit_bytes = world->oracle.limit_bytes,
        .room = limit - uint64_min(limit, held_bytes),
        .free_bytes = capacity - uint64_min(capacity, held_bytes + world->sim.others_bytes),
        .granularity = world->sim.config.granularity_bytes,
        .plain = world->sim.config.plain,
    };
}

static bool is_busy(const struct world *world, const struct picture_block *block)
{
    return !block->live && block->stream != NULL && !sim_is_idle(&world->sim, block->stream);
}

static uint64_t busy_bytes(const struct world *world)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < world->after.block_count; i++) {
        bytes += is_busy(world, &world->after.blocks[i]) ? world->after.blocks[i].bytes : 0;
    }
    return bytes;
}

// Whether what trimming would return is of a stream that has not done all it was given.
static bool trim_would_wait(const struct world *world)
{
    for (size_t i = 0; i < world->after.block_count; i++) {
        const struct picture_block *block = &world->after.blocks[i];
        const struct picture_segment *segment = &world->after.segments[block->segment];
        uint64_t releasable = oracle_range_releasable(&world->oracle, range_at(world, segment->base));
        device_address from = segment->base + segment->held_bytes - releasable;
        if (block->address + block->bytes > from && is_busy(world, block)) {
            return true;
        }
        require(block->live || !sim_is_used(&world->sim, block->address, block->address + block->bytes) ||
                is_busy(world, block));
    }
    return false;
}

static void check_cause(const struct world *world, const struct mem_out_of_memory *report)
{
    bool blind = world->sim.seen.failed_call[SIM_EVENT_CREATE]; // what cannot be asked counts as busy
    enum mem_cause cause = oracle_cause(&world->oracle, mem_pool_block_bytes(report->request_bytes));
    if (cause == MEM_CAUSE_FRAGMENTED && oracle_trim_would_do(&world->oracle, world->request_bytes) &&
        (trim_would_wait(world) || (blind && report->cause == MEM_CAUSE_PENDING))) {
        cause = MEM_CAUSE_PENDING;
    }
    require(report->cause == cause);
    uint64_t busy = busy_bytes(world);
    require(report->pending_bytes == busy || (blind && report->pending_bytes > busy));
}

static void check_report(const struct world *world, uint64_t bytes, size_t tag, bool injected)
{
    const struct mem_out_of_memory *report = mem_pool_out_of_memory(world->pool);
    require(report->request_bytes == bytes);
    require(report->limit_bytes == world->oracle.limit_bytes);
    require(report->soft_limit_bytes == world->oracle.soft_limit_bytes);
    require(report->allocated_bytes == world->oracle.allocated_bytes.current);
    require(report->reserved_bytes == world->sim.held_bytes);
    require(report->largest_free_bytes == oracle_largest_free(&world->oracle));
    require(report->device.free_bytes == sim_free_bytes(&world->sim));
    require(report->device.others_bytes == world->sim.others_bytes);
    require(report->usage_known == world->sim.config.usage_known);
    require(strcmp(report->tag, oracle_cut_tags[tag]) == 0);
    oracle_check_tags(&world->oracle, report);
    char text[1024];
    mem_out_of_memory_format(report, &world->sim.ops, text, sizeof(text));
    require(strstr(text, mem_cause_name(report->cause)) != NULL);
    if (injected) {
        require(report->cause == MEM_CAUSE_INJECTED);
    } else {
        check_cause(world, report);
    }
    world->coverage->refusals[report->cause]++;
}

// Of the free blocks from the address on that a request takes, those that others freed.
static uint64_t foreign_blocks(const struct world *world, device_address address, const struct stream *stream)
{
    uint64_t foreign = 0;
    for (size_t i = 0; i < world->before.block_count; i++) {
        const struct picture_block *block = &world->before.blocks[i];
        foreign += block->address >= address && block->address < address + world->request_bytes &&
                   block->stream != NULL && block->stream != stream;
    }
    return foreign;
}

// With the memory that it takes and no more, after whoever had that and nobody else.
static void check_placed(struct world *world, const struct placement *placement, device_address address,
                         const struct stream *stream)
{
    const struct sim_seen *seen = &world->sim.seen;
    world->coverage->places[placement->how]++;
    require(placement->how != PLACE_NONE);
    require(seen->commit_bytes == placement->commit_bytes);
    require(seen->commits == (placement->commit_bytes > 0));
    if (placement->how == PLACE_SEGMENT) {
        require(range_at(world, address)->bytes == placement->commit_bytes);
    } else {
        require(address == placement->address);
    }
    require(seen->stream_waits <= foreign_blocks(world, address, stream));
}

// Where the request goes, from how the pool was when it last decided.
static struct placement place_anywhere(struct world *world, const struct asked *asked)
{
    struct placement_request request = at_end(world, asked, world->before.stats.reserved_bytes.current);
    struct placement placement = picture_place(&world->before, &request);
    if (placement.how == PLACE_NONE) {
        request.lifetime = 1 - asked->lifetime;
        placement = picture_place(&world->before, &request);
        world->coverage->other_end += placement.how != PLACE_NONE;
    }
    return placement;
}

static uint64_t lifetime_at(const struct world *world, device_address address)
{
    size_t i = 0;
    while (!world->after.blocks[i].live || world->after.blocks[i].address != address) {
        require(++i < world->after.block_count);
    }
    return world->after.segments[world->after.blocks[i].segment].lifetime;
}

// Decided at once, with nothing given back and nobody waited for.
static void check_step_answer(struct world *world, const struct asked *asked, enum status status,
                              device_address address)
{
    const struct sim_seen *seen = &world->sim.seen;
    for (size_t i = 0; i < SIM_STREAMS; i++) {
        require(!seen->synchronized[i]);
    }
    require(seen->releases == 0);
    if (status != STATUS_OK) {
        require(picture_equal(&world->before, &world->after));
    }
    if (seen->failed > 0) {
        return;
    }
    struct placement placement = place_anywhere(world, asked);
    if (status == STATUS_OK) {
        check_placed(world, &placement, address, asked->stream);
    } else if (mem_pool_out_of_memory(world->pool)->cause != MEM_CAUSE_INJECTED) {
        require(placement.how == PLACE_NONE);
    }
}

// What trimming could return of one end.
static uint64_t releasable_at(const struct world *world, uint64_t lifetime)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < world->after.segment_count; i++) {
        const struct picture_segment *segment = &world->after.segments[i];
        if (segment->lifetime == lifetime) {
            bytes += oracle_range_releasable(&world->oracle, range_at(world, segment->base));
        }
    }
    return bytes;
}

// A request for what stays: waiting and trimming come before the other end.
static void check_hold_answer(struct world *world, const struct asked *asked, enum status status,
                              device_address address)
{
    const struct sim_seen *seen = &world->sim.seen;
    if (status != STATUS_OK) {
        require(picture_same_live(&world->before, &world->after));
        require(seen->releases > 0 || picture_equal(&world->before, &world->after));
    }
    if (seen->failed > 0 || world->fail_every > 0) {
        return;
    }
    struct placement_request own = at_end(world, asked, world->before.stats.reserved_bytes.current);
    if (seen->releases == 0 && status == STATUS_OK) {
        struct placement placement = place_anywhere(world, asked);
        check_placed(world, &placement, address, asked->stream);
    } else if (seen->releases > 0 && world->asked == 0) {
        require(picture_place(&world->before, &own).how == PLACE_NONE);
    }
    if (status == STATUS_OK && !world->sim.config.plain && lifetime_at(world, address) != asked->lifetime) {
        own = at_end(world, asked, world->sim.held_bytes - releasable_at(world, 1 - asked->lifetime));
        require(picture_place(&world->after, &own).how == PLACE_NONE || world->asked > 0);
    }
}

// Injected failures count calls, of which a hold makes several.
static bool count_calls(struct world *world, bool hold, uint64_t retries)
{
    uint64_t least = world->calls + 1 + retries, calls = world->pool->calls;
    require(calls == least || (hold && calls == least + 1));
    world->calls = calls;
    return world->fail_every > 0 && calls % world->fail_every == 0;
}

static enum status ask(struct world *world, const struct asked *asked, size_t owner, device_address *address_p)
{
    bool hold = asked->lifetime == FOR_RUN;
    device_address address = 77;
    const uint64_t retries = world->pool->stats.num_alloc_retries, releases = world->sim.releases;
    begin(world);
    world->request_bytes = mem_pool_block_bytes(asked->bytes);
    host_of = &world->sim;
    enum status status = (hold ? mem_pool_hold : mem_pool_alloc)(world->pool, asked->bytes, asked->stream,
                                                                 oracle_tags[asked->tag], &address);
    host_of = NULL;
    const uint64_t retried = world->pool->stats.num_alloc_retries - retries;
    require((retried > 0) == (world->sim.releases > releases));
    bool injected = count_calls(world, hold, retried);
    if (status == STATUS_OK) {
        require(!injected);
        sim_begin_use(&world->sim, address, world->request_bytes, asked->stream);
        oracle_add(&world->oracle, &(struct oracle_block){.address = address,
                                                          .bytes = world->request_bytes,
                                                          .requested_bytes = asked->bytes,
                                                          .step = world->step,
                                                          .stays = hold,
                                                          .tag = asked->tag,
                                                          .owner = owner});
        world->coverage->blocks++;
        world->coverage->zero_bytes += asked->bytes == 0;
        *address_p = address;
    } else {
        require(address == 77);
    }
    world->oracle.num_ooms += status == STATUS_OUT_OF_MEMORY;
    end(world);
    if (status == STATUS_OUT_OF_MEMORY) {
        check_report(world, asked->bytes, asked->tag, injected);
        require(injected || world->sim.seen.failed > 0 || !oracle_has_place(&world->oracle, world->request_bytes));
    } else if (status == STATUS_ERROR) {
        require(world->sim.seen.failed_call[SIM_HOST_MEMORY]);
        world->coverage->host_full++;
    }
    (hold ? check_hold_answer : check_step_answer)(world, asked, status, address);
    world->coverage->retried += retried;
    return status;
}

// ---- Giving back ----

static uint64_t held_of(const struct picture *picture, device_address base)
{
    for (size_t i = 0; i < picture->segment_count; i++) {
        if (picture->segments[i].base == base) {
            return picture->segments[i].held_bytes;
        }
    }
    return 0;
}

// Where what is still held of the block's segment ends.
static device_address kept_end(const struct world *world, const struct picture_block *block)
{
    device_address base = world->before.segments[block->segment].base;
    return base + held_of(&world->after, base);
}

// Whether free memory of the stream went back; `nearly`: or was in one run with what did.
static bool gave_back(const struct world *world, const struct stream *stream, bool nearly)
{
    bool in_run = false;
    for (size_t i = 0; i < world->before.block_count; i++) {
        const struct picture_block *block = &world->before.blocks[i];
        bool follows = i > 0 && world->before.blocks[i - 1].segment == block->segment;
        bool own = !block->live && block->stream == stream;
        in_run = (in_run && follows && nearly && !block->live) || own;
        if (in_run && block->address + block->bytes > kept_end(world, block)) {
            return true;
        }
    }
    return false;
}

// No stream is waited for in vain, and blocks are where they were. Once one was waited for, its blocks may join those
// of others, and are then theirs.
static void check_trimmed(const struct world *world)
{
    size_t gave = 0;
    for (size_t i = 0; i < SIM_STREAMS; i++) {
        gave += gave_back(world, &world->sim.streams[i], false);
    }
    for (size_t i = 0; i < SIM_STREAMS; i++) {
        bool joined = gave > 1 || world->sim.seen.releases > 1;
        require(!world->sim.seen.synchronized[i] || gave_back(world, &world->sim.streams[i], joined));
    }
    for (size_t i = 0; i < world->after.block_count; i++) {
        const struct stream *stream = world->after.blocks[i].stream;
        require(stream == NULL || !world->sim.seen.synchronized[stream->number]);
    }
    require(world->sim.seen.commits == 0 && world->sim.seen.stream_waits == 0);
    require(picture_same_live(&world->before, &world->after));
}

// Until `bytes` are held, and no further; whole segments of a plain device.
static void check_trimmed_to(const struct world *world, uint64_t bytes)
{
    const struct sim_device *sim = &world->sim;
    uint64_t held = sim->held_bytes;
    require(held <= bytes || oracle_releasable(&world->oracle) == 0);
    if (sim->seen.releases > 0) {
        uint64_t last = sim->config.plain ? sim->seen.last_release_bytes : sim->config.granularity_bytes;
        require(held + last > bytes);
    }
    check_trimmed(world);
}

static void trim(struct world *world)
{
    uint64_t bytes = next_below(world, 3) == 0 ? 0 : world->oracle.limit_bytes / 256 * next(world);
    uint64_t held = world->sim.held_bytes;
    uint64_t back = mem_pool_trim(world->pool, bytes);
    require(back == held - world->sim.held_bytes);
    end(world);
    check_trimmed_to(world, bytes);
}

static void set_soft_limit(struct world *world)
{
    uint64_t bytes = next_below(world, 3) == 0 ? UINT64_MAX : world->oracle.limit_bytes / 256 * next(world);
    world->oracle.soft_limit_bytes = bytes;
    world->sim.allowed_bytes = oracle_limit(&world->oracle);
    mem_pool_set_soft_limit(world->pool, bytes);
    end(world);
    check_trimmed_to(world, bytes);
}

static uint64_t held_at(const struct picture *picture, uint64_t lifetime)
{
    uint64_t held = 0;
    for (size_t i = 0; i < picture->segment_count; i++) {
        held += picture->segments[i].lifetime == lifetime ? picture->segments[i].held_bytes : 0;
    }
    return held;
}

// As much went back as the request takes that was refused last, of its own end only what the other had not.
static void check_relieved(const struct world *world, uint64_t held)
{
    uint64_t bytes = mem_pool_block_bytes(mem_pool_out_of_memory(world->pool)->request_bytes);
    uint64_t wanted = uint64_round_up(bytes, world->sim.config.granularity_bytes);
    uint64_t own = world->pool->refused.lifetime;
    check_trimmed_to(world, held - uint64_min(held, wanted));
    require(held_at(&world->after, own) == held_at(&world->before, own) || releasable_at(world, 1 - own) == 0);
}

static bool relieve(struct world *world)
{
    begin(world);
    enum mem_cause cause = mem_pool_out_of_memory(world->pool)->cause;
    const uint64_t held = world->sim.held_bytes, retries = world->pool->stats.num_alloc_retries;
    bool relieved = mem_pool_relieve(world->pool);
    require(relieved == (world->sim.held_bytes < held));
    require(world->pool->stats.num_alloc_retries == retries + relieved);
    require(!relieved || cause == MEM_CAUSE_PENDING || cause == MEM_CAUSE_FRAGMENTED);
    end(world);
    if (relieved) {
        check_relieved(world, held);
    }
    world->coverage->relieved += relieved;
    world->coverage->retried += relieved;
    return relieved;
}

// Asks until nothing helps.
static enum status ask_persistently(struct world *world, const struct asked *asked, device_address *address_p)
{
    enum status status = ask(world, asked, SIZE_MAX, address_p);
    while (status == STATUS_OUT_OF_MEMORY && relieve(world)) {
        status = ask(world, asked, SIZE_MAX, address_p);
    }
    return status;
}

static void free_address(struct world *world, device_address address, struct stream *stream)
{
    begin(world);
    free_block(world, oracle_find(&world->oracle, address), stream);
    end(world);
}

// ---- Operations ----

static void make_request(struct world *world, uint64_t lifetime)
{
    struct asked asked = {.lifetime = lifetime, .stream = next_stream(world)};
    asked.bytes = next_request(world);
    uint64_t how = next(world);
    asked.tag = how % ORACLE_TAGS;
    size_t owner = how / 16 % 4;
    bool owned = lifetime == FOR_STEP && owner < world->owner_count;
    if (world->oracle.count == ORACLE_BLOCKS - 2) {
        return;
    }
    device_address address;
    if (how < 128) {
        ask(world, &asked, owned ? owner : SIZE_MAX, &address);
        return;
    }
    const uint64_t failed = world->sim.failed;
    enum status status = ask_persistently(world, &asked, &address);
    // Where trimming was to help, it did.
    require(status == STATUS_OK || world->sim.failed > failed || world->fail_every > 0 ||
            !oracle_trim_would_do(&world->oracle, world->request_bytes));
}

static void touch(struct world *world)
{
    struct stream *stream = next_stream(world);
    if (world->oracle.count > 0) {
        size_t i = next_below(world, world->oracle.count);
        sim_touch(&world->sim, world->oracle.blocks[i].address, stream);
    }
}

static void stop_injecting(struct world *world)
{
    world->fail_every = world->calls = 0;
    mem_pool_inject_failures(world->pool, (struct mem_faults){0});
    memset(world->sim.fail_at, 0, sizeof(world->sim.fail_at));
}

// Whether the pool holds what a lowered limit or others want back. That is no headroom, although requests may get it.
static bool is_owing(const struct world *world)
{
    return world->sim.held_bytes > oracle_limit(&world->oracle) ||
           world->sim.held_bytes + world->sim.others_bytes > world->sim.config.capacity_bytes;
}

// Holes between live blocks are no headroom where the device has virtual memory.
static bool is_hole(const struct world *world, device_address address)
{
    const struct sim_range *range = world->sim.ranges;
    while (address < range->base || address - range->base >= range->bytes) {
        range++;
    }
    return !world->sim.config.plain &&
           range->base + oracle_live_end(&world->oracle, range) > address + world->request_bytes;
}

// What headroom promises, a request gets; and the step's end gives no more.
static void check_headroom(struct world *world)
{
    struct asked asked = {.lifetime = FOR_STEP, .stream = next_stream(world), .tag = 2};
    stop_injecting(world);
    uint64_t headroom = mem_pool_headroom(world->pool);
    require(headroom <= world->oracle.limit_bytes);
    const uint64_t failed = world->sim.failed;
    device_address address;
    if (headroom > 0) {
        asked.bytes = headroom / MEM_POOL_ALIGNMENT * MEM_POOL_ALIGNMENT;
        if (ask_persistently(world, &asked, &address) != STATUS_OK) {
            require(world->sim.failed > failed);
            return;
        }
        free_address(world, address, asked.stream);
        world->coverage->headroom_kept++;
    }
    if (world->owner_count > 0 || is_owing(world) || next_below(world, 2) == 0) {
        return;
    }
    asked.bytes = headroom + MEM_POOL_ALIGNMENT;
    if (ask_persistently(world, &asked, &address) == STATUS_OK) {
        require(world->sim.failed > failed || is_hole(world, address) ||
                (headroom > 0 && lifetime_at(world, address) == FOR_RUN));
        free_address(world, address, asked.stream);
    }
}

static void reset_peaks(struct world *world)
{
    mem_pool_reset_peaks(world->pool);
    oracle_reset_peaks(&world->oracle);
    world->sim.peak_bytes = world->sim.held_bytes;
    world->sim.segments_peak = world->sim.segments;
}

static void change_neighbour(struct world *world)
{
    uint64_t free_bytes = sim_free_bytes(&world->sim) + world->sim.others_bytes;
    uint64_t most = next_below(world, 4) == 0 ? world->sim.config.capacity_bytes : free_bytes;
    world->sim.others_bytes = next_below(world, 2) == 0 ? 0 : most / 256 * next(world);
}

static void inject(struct world *world)
{
    world->fail_every = next_below(world, 2) == 0 ? 0 : 1 + next_below(world, 8);
    world->calls = 0;
    mem_pool_inject_failures(world->pool, (struct mem_faults){world->fail_every, world->fail_every, UINT64_MAX});
}

static void fail_call(struct world *world)
{
    size_t call = next_below(world, SIM_CALLS);
    world->sim.fail_at[call] = world->sim.calls[call] + 1 + next_below(world, 4);
}

// Of 80 bytes so many ask for the operation.
static const uint8_t weights[FUZZ_OPERATIONS] = {
    [FUZZ_ALLOC] = 22,    [FUZZ_HOLD] = 8,      [FUZZ_FREE] = 18,       [FUZZ_FREE_ON_ANOTHER] = 8,
    [FUZZ_TOUCH] = 2,     [FUZZ_TRIM] = 2,      [FUZZ_RELIEVE] = 2,     [FUZZ_SOFT_LIMIT] = 2,
    [FUZZ_NEIGHBOUR] = 2, [FUZZ_COMPLETE] = 3,  [FUZZ_BEGIN_STEP] = 1,  [FUZZ_LEAKS] = 1,
    [FUZZ_INJECT] = 1,    [FUZZ_FAIL_CALL] = 2, [FUZZ_RESET_PEAKS] = 1, [FUZZ_HEADROOM] = 3,
    [FUZZ_RESIZE] = 2,
};
#define WEIGHTS 80

uint8_t fuzz_operation_byte(enum fuzz_operation operation)
{
    uint8_t byte = 0;
    for (size_t i = 0; i < operation; i++) {
        byte = (uint8_t)(byte + weights[i]);
    }
    return byte;
}

static enum fuzz_operation next_operation(struct world *world)
{
    uint64_t draw = next_below(world, WEIGHTS);
    size_t operation = 0;
    while (draw >= weights[operation]) {
        draw -= weights[operation++];
    }
    return (enum fuzz_operation)operation;
}

static const char *const names[FUZZ_OPERATIONS] = {
    [FUZZ_ALLOC] = "alloc",
    [FUZZ_HOLD] = "hold",
    [FUZZ_FREE] = "free",
    [FUZZ_FREE_ON_ANOTHER] = "free on any stream",
    [FUZZ_TOUCH] = "touch",
    [FUZZ_TRIM] = "trim",
    [FUZZ_RELIEVE] = "relieve",
    [FUZZ_SOFT_LIMIT] = "soft limit",
    [FUZZ_NEIGHBOUR] = "neighbour",
    [FUZZ_COMPLETE] = "complete",
    [FUZZ_BEGIN_STEP] = "begin step",
    [FUZZ_LEAKS] = "leaks",
    [FUZZ_INJECT] = "inject",
    [FUZZ_FAIL_CALL] = "fail a call",
    [FUZZ_RESET_PEAKS] = "reset peaks",
    [FUZZ_HEADROOM] = "headroom",
    [FUZZ_RESIZE] = "resize",
};

static void operate(struct world *world)
{
    enum fuzz_operation operation = next_operation(world);
    require_place.operation++;
    require_place.name = names[operation];
    world->coverage->operations[operation]++;
    switch (operation) {
    case FUZZ_ALLOC:
        make_request(world, FOR_STEP);
        return;
    case FUZZ_HOLD:
        make_request(world, FOR_RUN);
        return;
    case FUZZ_RELIEVE:
        relieve(world);
        return;
    case FUZZ_HEADROOM:
        check_headroom(world);
        return;
    default:
        break;
    }
    begin(world);
    switch (operation) {
    case FUZZ_TRIM:
        trim(world);
        return;
    case FUZZ_SOFT_LIMIT:
        set_soft_limit(world);
        return;
    case FUZZ_FREE:
    case FUZZ_FREE_ON_ANOTHER:
        free_any(world, operation == FUZZ_FREE_ON_ANOTHER);
        break;
    case FUZZ_RESIZE:
        resize_any(world);
        break;
    case FUZZ_TOUCH:
        touch(world);
        break;
    case FUZZ_NEIGHBOUR:
        change_neighbour(world);
        break;
    case FUZZ_COMPLETE:
        sim_complete(&world->sim, next_stream(world));
        break;
    case FUZZ_BEGIN_STEP:
        world->step = next_below(world, 4);
        mem_pool_begin_step(world->pool, world->step);
        break;
    case FUZZ_LEAKS:
        oracle_check_leaks(&world->oracle, world->pool);
        break;
    case FUZZ_INJECT:
        inject(world);
        break;
    case FUZZ_FAIL_CALL:
        fail_call(world);
        break;
    case FUZZ_RESET_PEAKS:
        reset_peaks(world);
        break;
    default:
        break;
    }
    end(world);
}

// ---- A run ----

static bool open_world(struct world *world, struct fuzz_fault fault)
{
    uint64_t flags = next(world);
    struct sim_config config = {
        .granularity_bytes = MEM_POOL_ALIGNMENT << next_below(world, 12),
        .plain = (flags & 1) != 0,
        .high_first = (flags & 2) != 0,
        .usage_known = (flags & 4) != 0,
    };
    config.capacity_bytes = config.granularity_bytes * (1 + next_below(world, SIM_GRANULES_MAX)) + next(world);
    uint64_t limit = next_below(world, 4) == 0 ? 0 : 1 + config.capacity_bytes / 128 * next_below(world, 256);
    sim_init(&world->sim, &config);
    world->sim.fault_at[fault.call] = fault.number;
    world->coverage->plain_runs += config.plain;
    struct error error;
    host_of = &world->sim;
    enum status status = mem_pool_create(&world->sim.device, limit, &world->pool, &error);
    host_of = NULL;
    if (status != STATUS_OK) {
        require(status == STATUS_ERROR && world->sim.seen.failed > 0);
        note_seen(world);
        return false;
    }
    uint64_t most = limit == 0 ? config.capacity_bytes : uint64_min(limit, config.capacity_bytes);
    world->oracle = (struct oracle){.sim = &world->sim,
                                    .limit_bytes = most / config.granularity_bytes * config.granularity_bytes,
                                    .soft_limit_bytes = UINT64_MAX};
    world->sim.allowed_bytes = world->oracle.limit_bytes;
    world->owner_count = (flags & 8) != 0 ? OWNERS : 0;
    for (size_t i = 0; i < world->owner_count; i++) {
        world->owners[i] = (struct owner){world, {give_up, &world->owners[i], NULL}, i};
        mem_pool_on_pressure(world->pool, &world->owners[i].pressure);
    }
    return true;
}

// Blocks that are live die with the pool.
static void close_world(struct world *world)
{
    require_place.name = "close";
    while (world->oracle.count > 0) {
        sim_end_use(&world->sim, world->oracle.blocks[0].address, next_stream(world));
        oracle_remove(&world->oracle, 0);
    }
    mem_pool_destroy(world->pool);
}

struct fuzz_run fuzz_pool(const uint8_t *bytes, size_t size, struct fuzz_fault fault, struct fuzz_coverage *coverage)
{
    static struct world world; // too large for a stack
    world.bytes = bytes;
    world.size = size;
    world.read = 0;
    world.step = world.fail_every = world.calls = 0;
    world.coverage = coverage;
    require_place.operation = 0;
    require_place.name = "open";
    coverage->runs++;
    if (open_world(&world, fault)) {
        while (world.read < world.size) {
            operate(&world);
        }
        close_world(&world);
    }
    sim_finish(&world.sim);
    struct fuzz_run run = {.operations = require_place.operation};
    memcpy(run.calls, world.sim.calls, sizeof(run.calls));
    return run;
}

void fuzz_fill(uint8_t *bytes, size_t size, uint64_t seed)
{
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)random_draw(seed, i);
    }
}

static void print_counts(const char *what, const char *const *labels, const uint64_t *counts, size_t count)
{
    printf("%s:", what);
    for (size_t i = 0; i < count; i++) {
        printf("%s %s %" PRIu64, i == 0 ? "" : ",", labels[i], counts[i]);
    }
    printf("\n");
}

void fuzz_print(const struct fuzz_coverage *coverage)
{
    static const char *const places[FUZZ_PLACES] = {"none",          "a hit", "growth",
                                                    "a new segment", "a run", "a run and growth"};
    static const char *const calls[SIM_CALLS] = {"reserve", "commit", "event", "host memory"};
    const char *causes[FUZZ_CAUSES];
    for (size_t i = 0; i < FUZZ_CAUSES; i++) {
        causes[i] = mem_cause_name((enum mem_cause)i);
    }
    printf("%" PRIu64 " runs, %" PRIu64 " on a plain device\n", coverage->runs, coverage->plain_runs);
    print_counts("operations", names, coverage->operations, FUZZ_OPERATIONS);
    printf("blocks: %" PRIu64 ", of which %" PRIu64 " of 0 bytes; at the other end %" PRIu64 "\n", coverage->blocks,
           coverage->zero_bytes, coverage->other_end);
    print_counts("found by", places + 1, coverage->places + 1, FUZZ_PLACES - 1);
    print_counts("refused", causes, coverage->refusals, FUZZ_CAUSES);
    print_counts("calls failed", calls, coverage->failed_calls, SIM_CALLS);
    printf("host full %" PRIu64 ", tried again %" PRIu64 ", relieved %" PRIu64 ", owners asked %" PRIu64
           ", of which gave up %" PRIu64 ", headroom kept %" PRIu64 "\n",
           coverage->host_full, coverage->retried, coverage->relieved, coverage->asked, coverage->given_up,
           coverage->headroom_kept);
    printf("waits of streams %" PRIu64 ", of the host %" PRIu64 ", commits %" PRIu64 ", releases %" PRIu64 "\n",
           coverage->stream_waits, coverage->host_waits, coverage->commits, coverage->releases);
    printf("at most: live blocks %" PRIu64 ", free blocks %" PRIu64 ", segments %" PRIu64 "\n", coverage->live_max,
           coverage->free_blocks_max, coverage->segments_max);
}
