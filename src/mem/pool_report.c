// SPDX-License-Identifier: Apache-2.0
//
// A refusal: its cause, what surrounds it, and all that in words.
#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "mem/pool_state.h"

// What a request would make the device give once everything was trimmed.
static uint64_t growth_after_trim(const struct mem_pool *pool, uint64_t bytes)
{
    uint64_t granularity = pool->device->ops->granularity_bytes, least = uint64_round_up(bytes, granularity);
    for (size_t i = 0; i < LIFETIMES && !pool->device->plain; i++) {
        uint64_t live_end = segment_live_end(pool->arenas[i].segments);
        uint64_t spare = uint64_round_up(live_end, granularity) - live_end;
        least = uint64_min(least, uint64_round_up(bytes - uint64_min(bytes, spare), granularity));
    }
    return least;
}

// Whether work that is under way uses a free block of what trimming would return.
static bool trim_would_wait(struct mem_pool *pool)
{
    for (size_t i = 0; i < LIFETIMES; i++) {
        for (const struct segment *segment = pool->arenas[i].segments; segment != NULL; segment = segment->next) {
            device_address end = segment->base + segment->held_bytes - pool_releasable(pool, segment);
            for (const struct block *block = segment->last; block != NULL && block->address + block->bytes > end;
                 block = block->previous) {
                if (!pool_is_done(pool, block->stream)) {
                    return true;
                }
            }
        }
    }
    return false;
}

// Nothing of another stream is to be had without the host: the request found no place among all free blocks.
static enum mem_cause find_cause(struct mem_pool *pool, const struct request *request, const struct device_info *info)
{
    const struct mem_pool_stats *stats = &pool->stats;
    uint64_t allocated = pool_live(pool), limit = pool_limit(pool);
    if (request->block_bytes > stats->limit_bytes - allocated) {
        return MEM_CAUSE_CAPACITY;
    }
    if (allocated > limit || request->block_bytes > limit - allocated) {
        return MEM_CAUSE_EXTERNAL;
    }
    uint64_t releasable = 0;
    for (size_t i = 0; i < LIFETIMES; i++) {
        releasable += pool_arena_releasable(pool, &pool->arenas[i]);
    }
    uint64_t needed = growth_after_trim(pool, request->block_bytes), keep = pool_held(pool) - releasable;
    if (keep > limit || needed > limit - keep) {
        return MEM_CAUSE_FRAGMENTED; // and trimming will not do
    }
    if (needed + pool_owed(info) > info->free_bytes + releasable) {
        return MEM_CAUSE_EXTERNAL;
    }
    return trim_would_wait(pool) ? MEM_CAUSE_PENDING : MEM_CAUSE_FRAGMENTED;
}

static uint64_t pending_bytes(struct mem_pool *pool)
{
    uint64_t bytes = 0;
    struct stream *asked = NULL; // neighbours are often of one stream
    bool done = true;
    for (struct block *block = pool_next_block(pool, NULL); block != NULL; block = pool_next_block(pool, block)) {
        if (block->live) {
            continue;
        }
        if (block->stream != asked) {
            asked = block->stream;
            done = pool_is_done(pool, asked);
        }
        bytes += done ? 0 : block->bytes;
    }
    return bytes;
}

static void list_tags(const struct mem_pool *pool, struct mem_out_of_memory *report)
{
    const struct tag *largest[MEM_TAGS_REPORTED];
    size_t count = tags_largest(&pool->tags, largest, MEM_TAGS_REPORTED);
    for (size_t i = 0; i < count; i++) {
        snprintf(report->top[i].tag, sizeof(report->top[i].tag), "%s", largest[i]->name);
        report->top[i].bytes = largest[i]->live_bytes;
    }
}

void pool_refuse(struct mem_pool *pool, const struct request *request, bool injected)
{
    struct mem_out_of_memory *report = &pool->refusal;
    const struct mem_pool_stats *stats = &pool->stats;
    *report = (struct mem_out_of_memory){
        .request_bytes = request->bytes,
        .limit_bytes = stats->limit_bytes,
        .soft_limit_bytes = stats->soft_limit_bytes,
        .allocated_bytes = stats->allocated_bytes.current,
        .reserved_bytes = pool_held(pool),
        .largest_free_bytes =
            uint64_max(pool_largest_free(&pool->arenas[FOR_STEP]), pool_largest_free(&pool->arenas[FOR_RUN])),
        .pending_bytes = pending_bytes(pool),
    };
    pool->device->ops->info(pool->device, &report->device);
    report->usage_known = device_ask_usage(pool->device, &report->usage);
    snprintf(report->tag, sizeof(report->tag), "%s", request->tag);
    list_tags(pool, report);
    report->cause = injected ? MEM_CAUSE_INJECTED : find_cause(pool, request, &report->device);
    pool->refused = (struct request){.block_bytes = request->block_bytes, .lifetime = request->lifetime};
}

const char *mem_cause_name(enum mem_cause cause)
{
    static const char *const names[] = {
        [MEM_CAUSE_CAPACITY] = "capacity", [MEM_CAUSE_FRAGMENTED] = "fragmented", [MEM_CAUSE_PENDING] = "pending",
        [MEM_CAUSE_EXTERNAL] = "external", [MEM_CAUSE_INJECTED] = "injected",
    };
    return names[cause];
}

static const char *explanation(enum mem_cause cause)
{
    static const char *const texts[] = {
        [MEM_CAUSE_CAPACITY] = "what is live and the request together exceed the limit",
        [MEM_CAUSE_FRAGMENTED] = "enough is free, but not in one piece",
        [MEM_CAUSE_PENDING] = "enough is free once work that is under way is done",
        [MEM_CAUSE_EXTERNAL] = "others hold or claim what the limit promised",
        [MEM_CAUSE_INJECTED] = "a fault that the configuration asked for",
    };
    return texts[cause];
}

const char *mem_size_text(uint64_t bytes, char *text)
{
    const char *const units[] = {bytes == 1 ? "byte" : "bytes", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1024 && unit < 4; unit++) {
        value /= 1024;
    }
    snprintf(text, MEM_SIZE_TEXT_MAX, unit == 0 ? "%.0f %s" : "%.2f %s", value, units[unit]);
    return text;
}

// Appends to text[size], of which `used` bytes are written already; answers how many are then.
static size_t __attribute__((format(printf, 4, 5)))
append(char *text, size_t size, size_t used, const char *format, ...)
{
    if (used >= size) {
        return used;
    }
    va_list arguments;
    va_start(arguments, format);
    // NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): LLVM loses va_start where it inlines the function
    int written = vsnprintf(text + used, size - used, format, arguments);
    va_end(arguments);
    return written < 0 ? used : used + (size_t)written;
}

// Who else has a part of the device, as far as that is known.
static size_t append_others(const struct mem_out_of_memory *report, char *text, size_t size, size_t used)
{
    char others[MEM_SIZE_TEXT_MAX], library[MEM_SIZE_TEXT_MAX];
    if (!report->usage_known) {
        return append(text, size, used, "others hold %s", mem_size_text(report->device.others_bytes, others));
    }
    mem_size_text(report->usage.library_bytes, library);
    mem_size_text(report->usage.others_bytes, others);
    return append(text, size, used, "this process's libraries hold %s, %" PRIu32 " other processes %s", library,
                  report->usage.other_processes, others);
}

void mem_out_of_memory_format(const struct mem_out_of_memory *report, const struct device_ops *ops, char *text,
                              size_t size)
{
    char kind[16], sizes[5][MEM_SIZE_TEXT_MAX];
    size_t length = 0;
    for (; ops->name[length] != '\0' && length + 1 < sizeof(kind); length++) {
        kind[length] = (char)toupper((unsigned char)ops->name[length]);
    }
    kind[length] = '\0';
    size_t used = append(text, size, 0,
                         "%s out of memory. Tried to allocate %s (%s). The device has a total capacity of %s of which "
                         "%s is free; ",
                         kind, mem_size_text(report->request_bytes, sizes[0]), report->tag,
                         mem_size_text(report->device.capacity_bytes, sizes[1]),
                         mem_size_text(report->device.free_bytes, sizes[2]));
    used = append_others(report, text, size, used);
    uint64_t limit_bytes = uint64_min(report->limit_bytes, report->soft_limit_bytes);
    used =
        append(text, size, used,
               ". Under the limit of %s, %s is allocated, and %s is reserved but unallocated, the largest free block "
               "%s",
               mem_size_text(limit_bytes, sizes[0]), mem_size_text(report->allocated_bytes, sizes[1]),
               mem_size_text(report->reserved_bytes - report->allocated_bytes, sizes[2]),
               mem_size_text(report->largest_free_bytes, sizes[3]));
    if (report->pending_bytes > 0) {
        used = append(text, size, used, ", %s pending on streams", mem_size_text(report->pending_bytes, sizes[0]));
    }
    used = append(text, size, used, ". Cause: %s (%s).", mem_cause_name(report->cause), explanation(report->cause));
    for (size_t i = 0; i < MEM_TAGS_REPORTED && report->top[i].bytes > 0; i++) {
        bool last = i + 1 == MEM_TAGS_REPORTED || report->top[i + 1].bytes == 0;
        used = append(text, size, used, "%s%s %s%s", i == 0 ? " Largest: " : ", ", report->top[i].tag,
                      mem_size_text(report->top[i].bytes, sizes[0]), last ? "." : "");
    }
}

// The step's live block behind this one; of NULL the first, and NULL behind the last.
static struct block *next_kept(struct mem_pool *pool, struct block *block)
{
    do {
        block = pool_next_block(pool, block);
    } while (block != NULL && (!block->live || block->stays));
    return block;
}

static bool same_leak(const struct block *a, const struct block *b)
{
    return a->tag == b->tag && a->step == b->step;
}

// Whether it is the first of its tag and step.
static bool leads(struct mem_pool *pool, const struct block *block)
{
    struct block *other = next_kept(pool, NULL);
    while (other != block && !same_leak(other, block)) {
        other = next_kept(pool, other);
    }
    return other == block;
}

uint64_t mem_pool_leaks(struct mem_pool *pool, char *text, size_t size)
{
    uint64_t leaks = 0;
    size_t used = append(text, size, 0, "%s", "");
    for (struct block *block = next_kept(pool, NULL); block != NULL; block = next_kept(pool, block)) {
        if (!leads(pool, block)) {
            continue;
        }
        uint64_t blocks = 0, bytes = 0;
        for (struct block *other = block; other != NULL; other = next_kept(pool, other)) {
            blocks += same_leak(other, block);
            bytes += same_leak(other, block) ? other->bytes : 0;
        }
        char total[MEM_SIZE_TEXT_MAX];
        used = append(text, size, used, "%s%" PRIu64 " of '%s' (%s) since step %" PRIu64, used > 0 ? ", " : "", blocks,
                      block->tag->name, mem_size_text(bytes, total), block->step);
        leaks += blocks;
    }
    return leaks;
}

// `count` where there is none of that tag.
static size_t find_kept(const struct mem_pool_kept *kept, size_t count, const char *tag)
{
    size_t i = 0;
    while (i < count && strcmp(kept[i].tag, tag) != 0) {
        i++;
    }
    return i;
}

static void add_kept(struct mem_pool_kept *kept, const struct block *block)
{
    kept->first_step = kept->blocks == 0 ? block->step : uint64_min(kept->first_step, block->step);
    kept->last_step = uint64_max(kept->last_step, block->step);
    kept->blocks++;
    kept->bytes += block->bytes;
}

uint64_t mem_pool_kept_bytes(struct mem_pool *pool, const char *tag)
{
    uint64_t bytes = 0;
    for (struct block *block = next_kept(pool, NULL); block != NULL; block = next_kept(pool, block)) {
        bytes += strcmp(block->tag->name, tag) == 0 ? block->bytes : 0;
    }
    return bytes;
}

size_t mem_pool_kept(struct mem_pool *pool, struct mem_pool_kept *kept, size_t most)
{
    size_t count = 0;
    for (struct block *block = next_kept(pool, NULL); block != NULL; block = next_kept(pool, block)) {
        size_t i = find_kept(kept, count, block->tag->name);
        if (i == most) {
            continue;
        }
        if (i == count) {
            kept[count] = (struct mem_pool_kept){0};
            snprintf(kept[count++].tag, sizeof(kept->tag), "%s", block->tag->name);
        }
        add_kept(&kept[i], block);
    }
    return count;
}
