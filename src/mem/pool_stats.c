// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>

#include "mem/pool_state.h"

static void add(struct mem_stat *stat, uint64_t amount)
{
    stat->current += amount;
    stat->allocated += amount;
    stat->peak = uint64_max(stat->peak, stat->current);
}

static void subtract(struct mem_stat *stat, uint64_t amount)
{
    stat->current -= amount;
    stat->freed += amount;
}

static void move(struct mem_stat *stat, uint64_t before, uint64_t after)
{
    if (after > before) {
        add(stat, after - before);
    } else if (after < before) {
        subtract(stat, before - after);
    }
}

void pool_count_taken(struct mem_pool *pool, const struct block *block)
{
    add(&pool->stats.allocation, 1);
    add(&pool->stats.allocated_bytes, block->bytes);
    add(&pool->stats.requested_bytes, block->requested_bytes);
    block->tag->live_blocks++;
    block->tag->live_bytes += block->bytes;
}

void pool_count_given(struct mem_pool *pool, const struct block *block)
{
    subtract(&pool->stats.allocation, 1);
    subtract(&pool->stats.allocated_bytes, block->bytes);
    subtract(&pool->stats.requested_bytes, block->requested_bytes);
    block->tag->live_blocks--;
    block->tag->live_bytes -= block->bytes;
}

void pool_count_held(struct mem_pool *pool, const struct segment *segment, uint64_t before_bytes)
{
    move(&pool->stats.reserved_bytes, before_bytes, segment->held_bytes);
    move(&pool->stats.segment, before_bytes > 0, segment->held_bytes > 0);
    pool->stats.num_device_alloc += segment->held_bytes > before_bytes;
    pool->stats.num_device_free += segment->held_bytes < before_bytes;
}

// Free blocks beside live ones.
static struct split split_of(const struct segment *segment)
{
    if (segment->live_count == 0) {
        return (struct split){0};
    }
    return (struct split){.blocks = segment->blocks - segment->live_count,
                          .bytes = segment_top(segment) - segment->base - segment->live_bytes};
}

void pool_count_split(struct mem_pool *pool, struct segment *segment)
{
    struct split split = split_of(segment);
    move(&pool->stats.inactive_split, segment->counted.blocks, split.blocks);
    move(&pool->stats.inactive_split_bytes, segment->counted.bytes, split.bytes);
    segment->counted = split;
}

static bool stat_holds(const struct mem_stat *stat, uint64_t current)
{
    return stat->current == current && stat->allocated - stat->freed == current && stat->peak >= current;
}

bool pool_statistics_hold(struct mem_pool *pool)
{
    uint64_t live = 0, live_bytes = 0, requested_bytes = 0, held_bytes = 0, segments = 0;
    struct split split = {0};
    for (size_t i = 0; i < LIFETIMES; i++) {
        for (const struct segment *segment = pool->arenas[i].segments; segment != NULL; segment = segment->next) {
            live += segment->live_count;
            live_bytes += segment->live_bytes;
            held_bytes += segment->held_bytes;
            segments += segment->held_bytes > 0;
            split.blocks += split_of(segment).blocks;
            split.bytes += split_of(segment).bytes;
        }
    }
    for (struct block *block = pool_next_block(pool, NULL); block != NULL; block = pool_next_block(pool, block)) {
        requested_bytes += block->live ? block->requested_bytes : 0;
    }
    uint64_t tagged = 0, tagged_bytes = 0;
    for (size_t i = 0; i < pool->tags.capacity; i++) {
        const struct tag *tag = pool->tags.table[i];
        tagged += tag == NULL ? 0 : tag->live_blocks;
        tagged_bytes += tag == NULL ? 0 : tag->live_bytes;
    }
    const struct mem_pool_stats *stats = &pool->stats;
    return stat_holds(&stats->allocation, live) && stat_holds(&stats->allocated_bytes, live_bytes) &&
           stat_holds(&stats->requested_bytes, requested_bytes) && stat_holds(&stats->reserved_bytes, held_bytes) &&
           stat_holds(&stats->segment, segments) && stat_holds(&stats->inactive_split, split.blocks) &&
           stat_holds(&stats->inactive_split_bytes, split.bytes) && tagged == live && tagged_bytes == live_bytes;
}

void mem_pool_stats(const struct mem_pool *pool, struct mem_pool_stats *stats_p)
{
    *stats_p = pool->stats;
}

void mem_pool_reset_peaks(struct mem_pool *pool)
{
    struct mem_pool_stats *stats = &pool->stats;
    struct mem_stat *const all[] = {&stats->allocation,      &stats->segment,        &stats->inactive_split,
                                    &stats->allocated_bytes, &stats->reserved_bytes, &stats->inactive_split_bytes,
                                    &stats->requested_bytes};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        all[i]->peak = all[i]->current;
    }
}

void mem_pool_stats_visit(const struct mem_pool_stats *stats,
                          void (*visit)(void *context, const char *name, uint64_t value), void *context)
{
    const struct {
        const char *name;
        const struct mem_stat *stat;
    } all[] = {
        {"active", &stats->allocation},
        {"active_bytes", &stats->allocated_bytes},
        {"allocated_bytes", &stats->allocated_bytes},
        {"allocation", &stats->allocation},
        {"inactive_split", &stats->inactive_split},
        {"inactive_split_bytes", &stats->inactive_split_bytes},
        {"requested_bytes", &stats->requested_bytes},
        {"reserved_bytes", &stats->reserved_bytes},
        {"segment", &stats->segment},
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        const struct mem_stat *stat = all[i].stat;
        const struct {
            const char *name;
            uint64_t value;
        } parts[] = {
            {"current", stat->current}, {"peak", stat->peak}, {"allocated", stat->allocated}, {"freed", stat->freed}};
        for (size_t k = 0; k < sizeof(parts) / sizeof(parts[0]); k++) {
            char name[64];
            snprintf(name, sizeof(name), "%s.all.%s", all[i].name, parts[k].name);
            visit(context, name, parts[k].value);
        }
    }
    visit(context, "num_alloc_retries", stats->num_alloc_retries);
    visit(context, "num_device_alloc", stats->num_device_alloc);
    visit(context, "num_device_free", stats->num_device_free);
    visit(context, "num_ooms", stats->num_ooms);
}
