// SPDX-License-Identifier: Apache-2.0
#include "oracle.h"

#include <string.h>

#include "require.h"

const char *const oracle_tags[ORACLE_TAGS] = {
    "weights", "gradients", "scratch", "", "a tag that is longer than thirty-one letters", "a tag that is longer than",
};
const char *const oracle_cut_tags[ORACLE_TAGS] = {
    "weights", "gradients", "scratch", "", "a tag that is longer than thirt", "a tag that is longer than",
};

uint64_t oracle_limit(const struct oracle *oracle)
{
    return uint64_min(oracle->limit_bytes, oracle->soft_limit_bytes);
}

// ---- Live blocks ----

size_t oracle_find(const struct oracle *oracle, device_address address)
{
    size_t first = 0, end = oracle->count;
    while (first < end) {
        size_t middle = (first + end) / 2;
        if (oracle->blocks[middle].address < address) {
            first = middle + 1;
        } else {
            end = middle;
        }
    }
    return first;
}

static void add_to(struct mem_stat *stat, uint64_t amount)
{
    stat->current += amount;
    stat->allocated += amount;
    stat->peak = uint64_max(stat->peak, stat->current);
}

static void take_from(struct mem_stat *stat, uint64_t amount)
{
    stat->current -= amount;
    stat->freed += amount;
}

void oracle_add(struct oracle *oracle, const struct oracle_block *block)
{
    size_t i = oracle_find(oracle, block->address);
    require(oracle->count < ORACLE_BLOCKS);
    require(block->address % MEM_POOL_ALIGNMENT == 0);
    require(i == oracle->count || block->address + block->bytes <= oracle->blocks[i].address);
    require(i == 0 || oracle->blocks[i - 1].address + oracle->blocks[i - 1].bytes <= block->address);
    memmove(&oracle->blocks[i + 1], &oracle->blocks[i], (oracle->count - i) * sizeof(*block));
    oracle->blocks[i] = *block;
    oracle->count++;
    add_to(&oracle->allocation, 1);
    add_to(&oracle->allocated_bytes, block->bytes);
    add_to(&oracle->requested_bytes, block->requested_bytes);
}

void oracle_remove(struct oracle *oracle, size_t i)
{
    take_from(&oracle->allocation, 1);
    take_from(&oracle->allocated_bytes, oracle->blocks[i].bytes);
    take_from(&oracle->requested_bytes, oracle->blocks[i].requested_bytes);
    oracle->count--;
    memmove(&oracle->blocks[i], &oracle->blocks[i + 1], (oracle->count - i) * sizeof(oracle->blocks[0]));
}

// ---- Memory ----

uint64_t oracle_live_end(const struct oracle *oracle, const struct sim_range *range)
{
    size_t i = oracle_find(oracle, range->base + range->bytes);
    bool within = i > 0 && oracle->blocks[i - 1].address >= range->base;
    return within ? oracle->blocks[i - 1].address + oracle->blocks[i - 1].bytes - range->base : 0;
}

uint64_t oracle_range_releasable(const struct oracle *oracle, const struct sim_range *range)
{
    uint64_t held = sim_range_held(oracle->sim, range), live_end = oracle_live_end(oracle, range);
    if (oracle->sim->config.plain) {
        return live_end == 0 ? held : 0;
    }
    uint64_t granularity = oracle->sim->config.granularity_bytes;
    return held - (live_end + granularity - 1) / granularity * granularity;
}

uint64_t oracle_releasable(const struct oracle *oracle)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < SIM_RANGES_MAX; i++) {
        const struct sim_range *range = &oracle->sim->ranges[i];
        bytes += range->base == 0 ? 0 : oracle_range_releasable(oracle, range);
    }
    return bytes;
}

static uint64_t room(const struct oracle *oracle)
{
    const uint64_t granularity = oracle->sim->config.granularity_bytes;
    uint64_t limit = oracle_limit(oracle), held = oracle->sim->held_bytes;
    uint64_t bytes = uint64_min(limit - uint64_min(limit, held), sim_free_bytes(oracle->sim));
    return bytes / granularity * granularity;
}

// The longest stretch of the range in no live block, with `more` bytes behind what is held.
static uint64_t longest_gap(const struct oracle *oracle, const struct sim_range *range, uint64_t more)
{
    device_address from = range->base;
    uint64_t longest = 0;
    for (size_t i = oracle_find(oracle, range->base);
         i < oracle->count && oracle->blocks[i].address < range->base + range->bytes; i++) {
        longest = uint64_max(longest, oracle->blocks[i].address - from);
        from = oracle->blocks[i].address + oracle->blocks[i].bytes;
    }
    return uint64_max(longest, range->base + sim_range_held(oracle->sim, range) + more - from);
}

// Over all ranges.
static uint64_t longest_of_all(const struct oracle *oracle, uint64_t more)
{
    uint64_t longest = 0;
    for (size_t i = 0; i < SIM_RANGES_MAX; i++) {
        const struct sim_range *range = &oracle->sim->ranges[i];
        longest = uint64_max(longest, range->base == 0 ? 0 : longest_gap(oracle, range, more));
    }
    return longest;
}

uint64_t oracle_largest_free(const struct oracle *oracle)
{
    return longest_of_all(oracle, 0);
}

bool oracle_has_place(const struct oracle *oracle, uint64_t bytes)
{
    uint64_t more = room(oracle);
    return bytes <=
           (oracle->sim->config.plain ? uint64_max(more, longest_of_all(oracle, 0)) : longest_of_all(oracle, more));
}

// The least new memory for a block once everything was trimmed.
static uint64_t needed_after_trim(const struct oracle *oracle, uint64_t bytes)
{
    const uint64_t granularity = oracle->sim->config.granularity_bytes;
    uint64_t spare = 0;
    for (size_t i = 0; i < SIM_RANGES_MAX && !oracle->sim->config.plain; i++) {
        const struct sim_range *range = &oracle->sim->ranges[i];
        uint64_t live_end = range->base == 0 ? 0 : oracle_live_end(oracle, range);
        spare = uint64_max(spare, (granularity - live_end % granularity) % granularity);
    }
    uint64_t missing = bytes - uint64_min(bytes, spare);
    return (missing + granularity - 1) / granularity * granularity;
}

static bool limit_allows_after_trim(const struct oracle *oracle, uint64_t bytes)
{
    uint64_t kept = oracle->sim->held_bytes - oracle_releasable(oracle), limit = oracle_limit(oracle);
    return kept <= limit && needed_after_trim(oracle, bytes) <= limit - kept;
}

// What others took beyond the capacity is not got by returning as much.
static bool device_has_after_trim(const struct oracle *oracle, uint64_t bytes)
{
    uint64_t kept = oracle->sim->held_bytes - oracle_releasable(oracle) + oracle->sim->others_bytes;
    uint64_t capacity = oracle->sim->config.capacity_bytes;
    return kept <= capacity && needed_after_trim(oracle, bytes) <= capacity - kept;
}

static bool exceeds(const struct oracle *oracle, uint64_t bytes, uint64_t limit)
{
    return oracle->allocated_bytes.current > limit || bytes > limit - oracle->allocated_bytes.current;
}

bool oracle_trim_would_do(const struct oracle *oracle, uint64_t bytes)
{
    return !exceeds(oracle, bytes, oracle_limit(oracle)) && limit_allows_after_trim(oracle, bytes) &&
           device_has_after_trim(oracle, bytes);
}

enum mem_cause oracle_cause(const struct oracle *oracle, uint64_t bytes)
{
    if (exceeds(oracle, bytes, oracle->limit_bytes)) {
        return MEM_CAUSE_CAPACITY;
    }
    if (exceeds(oracle, bytes, oracle_limit(oracle))) {
        return MEM_CAUSE_EXTERNAL;
    }
    bool external = limit_allows_after_trim(oracle, bytes) && !device_has_after_trim(oracle, bytes);
    return external ? MEM_CAUSE_EXTERNAL : MEM_CAUSE_FRAGMENTED;
}

// ---- Reports ----

static void check_stat(const struct mem_stat *stat, const struct mem_stat *expected)
{
    require(stat->current == expected->current);
    require(stat->peak == expected->peak);
    require(stat->allocated == expected->allocated);
    require(stat->freed == expected->freed);
}

void oracle_check_stats(const struct oracle *oracle, const struct mem_pool_stats *stats)
{
    const struct sim_device *sim = oracle->sim;
    check_stat(&stats->allocation, &oracle->allocation);
    check_stat(&stats->allocated_bytes, &oracle->allocated_bytes);
    check_stat(&stats->requested_bytes, &oracle->requested_bytes);
    check_stat(&stats->reserved_bytes,
               &(struct mem_stat){sim->held_bytes, sim->peak_bytes, sim->committed_bytes, sim->released_bytes});
    check_stat(&stats->segment,
               &(struct mem_stat){sim->segments, sim->segments_peak, sim->segments_begun, sim->segments_ended});
    require(stats->limit_bytes == oracle->limit_bytes);
    require(stats->soft_limit_bytes == oracle->soft_limit_bytes);
    require(stats->num_ooms == oracle->num_ooms);
    require(stats->num_device_alloc == sim->commits);
    require(stats->num_device_free == sim->releases);
    require(stats->allocated_bytes.current <= stats->reserved_bytes.current);
    require(stats->reserved_bytes.current <= stats->limit_bytes);
}

void oracle_reset_peaks(struct oracle *oracle)
{
    oracle->allocation.peak = oracle->allocation.current;
    oracle->allocated_bytes.peak = oracle->allocated_bytes.current;
    oracle->requested_bytes.peak = oracle->requested_bytes.current;
}

void oracle_check_tags(const struct oracle *oracle, const struct mem_out_of_memory *report)
{
    uint64_t bytes[ORACLE_TAGS] = {0};
    for (size_t i = 0; i < oracle->count; i++) {
        bytes[oracle->blocks[i].tag] += oracle->blocks[i].bytes;
    }
    for (size_t place = 0; place < MEM_TAGS_REPORTED; place++) {
        size_t largest = 0;
        for (size_t i = 1; i < ORACLE_TAGS; i++) {
            bool before = strcmp(oracle_cut_tags[i], oracle_cut_tags[largest]) < 0;
            largest = bytes[i] > bytes[largest] || (bytes[i] == bytes[largest] && before) ? i : largest;
        }
        require(report->top[place].bytes == bytes[largest]);
        require(bytes[largest] == 0 || strcmp(report->top[place].tag, oracle_cut_tags[largest]) == 0);
        bytes[largest] = 0;
    }
}

static bool same_leak(const struct oracle_block *a, const struct oracle_block *b)
{
    return !a->stays && a->tag == b->tag && a->step == b->step;
}

void oracle_check_leaks(const struct oracle *oracle, struct mem_pool *pool)
{
    char text[4096];
    uint64_t leaks = 0, found = mem_pool_leaks(pool, text, sizeof(text));
    for (size_t i = 0; i < oracle->count; i++) {
        const struct oracle_block *block = &oracle->blocks[i];
        uint64_t blocks = 0, bytes = 0;
        leaks += !block->stays;
        for (size_t j = 0; j < oracle->count; j++) {
            bool same = same_leak(&oracle->blocks[j], block);
            blocks += same;
            bytes += same ? oracle->blocks[j].bytes : 0;
        }
        char line[128], size[MEM_SIZE_TEXT_MAX];
        snprintf(line, sizeof(line), "%" PRIu64 " of '%s' (%s) since step %" PRIu64, blocks,
                 oracle_cut_tags[block->tag], mem_size_text(bytes, size), block->step);
        require(block->stays || strlen(text) + 1 == sizeof(text) || strstr(text, line) != NULL);
    }
    require(found == leaks);
    require(leaks > 0 || text[0] == '\0');
}
