// SPDX-License-Identifier: Apache-2.0
//
// All bytes of a range belong to the same block and were used alike. A use cuts ranges at its ends; neighbours that
// have become alike are joined. One write and a read of each stream are enough to find the first conflict: whatever
// comes after the last write comes after all that it came after, and so with a stream's last read.
#include "mem/uses.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORGOTTEN_AT_ONCE 64 // ranges, at least

struct range {
    device_address from; // to where the next begins
    struct owner owner;
    struct use write;
    struct use reads[SANITIZER_STREAMS_MAX]; // by slot, since the write
};

bool uses_init(struct uses *uses)
{
    *uses = (struct uses){.ranges = malloc(sizeof(struct range *)), .capacity = 1};
    struct range *all = calloc(1, sizeof(*all));
    if (uses->ranges == NULL || all == NULL) {
        free(uses->ranges);
        free(all);
        return false;
    }
    uses->ranges[uses->count++] = all;
    return true;
}

void uses_finish(struct uses *uses)
{
    for (size_t i = 0; i < uses->count; i++) {
        free(uses->ranges[i]);
    }
    free(uses->ranges);
}

static device_address end_of(const struct uses *uses, size_t i)
{
    return i + 1 < uses->count ? uses->ranges[i + 1]->from : UINT64_MAX;
}

// The range that holds the address.
static size_t find(const struct uses *uses, device_address address)
{
    size_t low = 0, high = uses->count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (uses->ranges[middle]->from <= address) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

static bool make_room(struct uses *uses)
{
    if (uses->count < uses->capacity) {
        return true;
    }
    struct range **ranges = realloc(uses->ranges, 2 * uses->capacity * sizeof(struct range *));
    if (ranges == NULL) {
        return false;
    }
    uses->ranges = ranges;
    uses->capacity *= 2;
    return true;
}

// Makes a range begin at the address.
static bool cut_at(struct uses *uses, device_address address)
{
    size_t i = find(uses, address);
    if (uses->ranges[i]->from == address) {
        return true;
    }
    struct range *upper = make_room(uses) ? malloc(sizeof(*upper)) : NULL;
    if (upper == NULL) {
        return false;
    }
    *upper = *uses->ranges[i];
    upper->from = address;
    memmove(&uses->ranges[i + 2], &uses->ranges[i + 1], (uses->count - i - 1) * sizeof(struct range *));
    uses->ranges[i + 1] = upper;
    uses->count++;
    return true;
}

// Makes the ranges [*first_p, *end_p) hold these bytes and no others.
static bool cut_out(struct uses *uses, device_address address, uint64_t bytes, size_t *first_p, size_t *end_p)
{
    if (!cut_at(uses, address) || !cut_at(uses, address + bytes)) {
        return false;
    }
    *first_p = find(uses, address);
    *end_p = find(uses, address + bytes);
    return true;
}

static bool same_use(const struct use *a, const struct use *b)
{
    return a->slot == b->slot && a->count == b->count && a->place == b->place;
}

static bool same_owner(const struct owner *a, const struct owner *b)
{
    return a->state == b->state && a->block == b->block && strcmp(a->tag, b->tag) == 0 &&
           same_use(&a->freed, &b->freed);
}

static bool are_alike(const struct range *a, const struct range *b)
{
    bool alike = same_owner(&a->owner, &b->owner) && same_use(&a->write, &b->write);
    for (size_t i = 0; alike && i < SANITIZER_STREAMS_MAX; i++) {
        alike = same_use(&a->reads[i], &b->reads[i]);
    }
    return alike;
}

// Joins neighbours that are alike among [first, end) and those beside them.
static void join(struct uses *uses, size_t first, size_t end)
{
    size_t last = first == 0 ? 0 : first - 1, stop = end < uses->count ? end + 1 : uses->count;
    for (size_t i = last + 1; i < stop; i++) {
        if (are_alike(uses->ranges[last], uses->ranges[i])) {
            free(uses->ranges[i]);
        } else {
            uses->ranges[++last] = uses->ranges[i];
        }
    }
    memmove(&uses->ranges[last + 1], &uses->ranges[stop], (uses->count - stop) * sizeof(struct range *));
    uses->count -= stop - (last + 1);
}

static bool has_passed(const struct use *use, const struct clock *clock)
{
    return use->count <= clock->counts[use->slot];
}

// What `use`, which comes after what the clock counts, is in conflict with. NULL: nothing.
static const struct use *find_earlier(const struct range *range, const struct use *use, const struct clock *clock)
{
    if (!has_passed(&range->write, clock)) {
        return &range->write;
    }
    for (size_t i = 0; use->writes && i < SANITIZER_STREAMS_MAX; i++) {
        if (!has_passed(&range->reads[i], clock)) {
            return &range->reads[i];
        }
    }
    return NULL;
}

static struct conflict conflict_in(const struct uses *uses, size_t i, const struct use *use, const struct clock *clock)
{
    const struct range *range = uses->ranges[i];
    bool after_free = range->owner.state == OWNER_FREED && use->stream != USE_BY_HOST;
    const struct use *earlier = after_free ? &range->owner.freed : find_earlier(range, use, clock);
    if (earlier == NULL) {
        return (struct conflict){0};
    }
    return (struct conflict){true, after_free, range->from, end_of(uses, i), range->owner, *earlier};
}

static bool goes_on(const struct conflict *conflict, const struct conflict *next)
{
    return next->found && next->after_free == conflict->after_free && same_owner(&next->owner, &conflict->owner) &&
           same_use(&next->earlier, &conflict->earlier);
}

// The first among the ranges [first, end), as far as it reaches.
static struct conflict find_conflict(const struct uses *uses, size_t first, size_t end, const struct use *use,
                                     const struct clock *clock)
{
    struct conflict conflict = {0};
    for (size_t i = first; i < end; i++) {
        struct conflict next = conflict_in(uses, i, use, clock);
        if (!conflict.found) {
            conflict = next;
        } else if (goes_on(&conflict, &next)) {
            conflict.to = next.to;
        } else {
            break;
        }
    }
    return conflict;
}

static void keep(struct range *range, const struct use *use)
{
    bool lasts = use->stream != USE_BY_HOST; // all that is enqueued later comes after the host's
    if (use->writes) {
        range->write = lasts ? *use : (struct use){0};
        memset(range->reads, 0, sizeof(range->reads));
    } else if (lasts) {
        range->reads[use->slot] = *use;
    }
}

bool uses_add(struct uses *uses, device_address address, uint64_t bytes, const struct use *use,
              const struct clock *clock, struct conflict *conflict_p)
{
    size_t first, end;
    if (!cut_out(uses, address, bytes, &first, &end)) {
        return false;
    }
    *conflict_p = find_conflict(uses, first, end, use, clock);
    for (size_t i = first; i < end; i++) {
        keep(uses->ranges[i], use);
    }
    join(uses, first, end);
    return true;
}

static bool set_owner(struct uses *uses, device_address address, uint64_t bytes, const struct owner *owner)
{
    size_t first, end;
    if (!cut_out(uses, address, bytes, &first, &end)) {
        return false;
    }
    for (size_t i = first; i < end; i++) {
        uses->ranges[i]->owner = *owner;
    }
    join(uses, first, end);
    return true;
}

bool uses_begin_block(struct uses *uses, device_address address, uint64_t bytes, const char *tag)
{
    struct owner owner = {.state = OWNER_LIVE, .block = address};
    snprintf(owner.tag, sizeof(owner.tag), "%s", tag);
    return set_owner(uses, address, bytes, &owner);
}

bool uses_end_blocks(struct uses *uses, device_address address, uint64_t bytes)
{
    return set_owner(uses, address, bytes, &(struct owner){0});
}

static bool belongs_to(const struct range *range, device_address block)
{
    return range->owner.state == OWNER_LIVE && range->owner.block == block;
}

void uses_free_block(struct uses *uses, device_address address)
{
    size_t first = find(uses, address), end = first;
    for (; end < uses->count && belongs_to(uses->ranges[end], address); end++) {
        uses->ranges[end]->owner.state = OWNER_FREED;
    }
    join(uses, first, end);
}

void uses_free_block_after(struct uses *uses, device_address address, const struct use *freed,
                           const struct clock *clock, struct conflict *conflict_p)
{
    size_t first = find(uses, address), end = first;
    while (end < uses->count && belongs_to(uses->ranges[end], address)) {
        end++;
    }
    *conflict_p = find_conflict(uses, first, end, freed, clock);
    for (size_t i = first; i < end; i++) {
        uses->ranges[i]->owner.state = OWNER_FREED;
        uses->ranges[i]->owner.freed = *freed;
        keep(uses->ranges[i], freed);
    }
    join(uses, first, end);
}

static void forget(struct use *use, const struct clock *passed)
{
    if (has_passed(use, passed)) {
        *use = (struct use){0};
    }
}

void uses_forget(struct uses *uses, const struct clock *passed)
{
    if (uses->count < 2 * uses->count_kept + FORGOTTEN_AT_ONCE) {
        return;
    }
    for (size_t i = 0; i < uses->count; i++) {
        forget(&uses->ranges[i]->write, passed);
        for (size_t slot = 0; slot < SANITIZER_STREAMS_MAX; slot++) {
            forget(&uses->ranges[i]->reads[slot], passed);
        }
    }
    join(uses, 0, uses->count);
    uses->count_kept = uses->count;
}
