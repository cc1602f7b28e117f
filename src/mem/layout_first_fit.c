// SPDX-License-Identifier: Apache-2.0
//
// First fit by size for dynamic storage allocation: Sekiyama et al., "Profile-guided memory optimization for deep
// neural networks" (2018); Pisarchyk and Lee, "Efficient memory management for deep neural net inference" (2020),
// Algorithm 3.
#include "mem/layout_first_fit.h"

#include <stdlib.h>
#include <string.h>

#include "mem/uint64.h"

struct item {
    uint64_t bytes;
    uint32_t birth, death;
    size_t index;    // of the buffer
    size_t leaf;     // of the calendar
    uint64_t offset; // once placed
};

static int by_birth(const struct item *x, const struct item *y)
{
    if (x->birth != y->birth) {
        return x->birth < y->birth ? -1 : 1;
    }
    return x->index < y->index ? -1 : x->index > y->index;
}

static int order_by_birth(const void *a, const void *b)
{
    return by_birth(*(struct item *const *)a, *(struct item *const *)b);
}

static int order_by_size(const void *a, const void *b)
{
    const struct item *x = *(struct item *const *)a, *y = *(struct item *const *)b;
    if (x->bytes != y->bytes) {
        return x->bytes > y->bytes ? -1 : 1;
    }
    return by_birth(x, y);
}

static int order_by_area(const void *a, const void *b)
{
    const struct item *x = *(struct item *const *)a, *y = *(struct item *const *)b;
    double area_x = (double)x->bytes * (x->death - x->birth + 1.0);
    double area_y = (double)y->bytes * (y->death - y->birth + 1.0);
    if (area_x != area_y) {
        return area_x > area_y ? -1 : 1;
    }
    return by_birth(x, y);
}

static int order_by_duration(const void *a, const void *b)
{
    const struct item *x = *(struct item *const *)a, *y = *(struct item *const *)b;
    uint32_t duration_x = x->death - x->birth, duration_y = y->death - y->birth;
    if (duration_x != duration_y) {
        return duration_x > duration_y ? -1 : 1;
    }
    return order_by_size(a, b);
}

// The items in order of birth as leaves of a binary tree, in which each node has the moment after the last death among
// those below it that were placed (0: none was): those that are alive with another are found without a look at the
// rest. Interval tree: Cormen et al., "Introduction to Algorithms", 14.3.
struct calendar {
    struct item **leaves; // leaf i is node count + i
    uint64_t *ends;       // of node n the children are 2n and 2n + 1
    size_t count;         // of leaves, a power of two; those without an item are NULL
};

static void enter(struct calendar *calendar, size_t leaf)
{
    uint64_t end = (uint64_t)calendar->leaves[leaf]->death + 1;
    for (size_t node = calendar->count + leaf; node > 0; node /= 2) {
        calendar->ends[node] = uint64_max(calendar->ends[node], end);
    }
}

// Adds to met[count] the items that were placed and are alive with this one, from the leaves [first, first + width)
// below the node; answers how many there are then.
static size_t meet(const struct calendar *calendar, size_t node, size_t first, size_t width, const struct item *item,
                   struct item **met, size_t count)
{
    const struct item *earliest = calendar->leaves[first];
    if (calendar->ends[node] <= item->birth || earliest == NULL || earliest->birth > item->death) {
        return count;
    }
    if (width == 1) {
        met[count] = calendar->leaves[first];
        return count + 1;
    }
    count = meet(calendar, 2 * node, first, width / 2, item, met, count);
    return meet(calendar, 2 * node + 1, first + width / 2, width / 2, item, met, count);
}

static int order_by_offset(const void *a, const void *b)
{
    const struct item *x = *(struct item *const *)a, *y = *(struct item *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

// The lowest offset at which the item fits between those that are alive with it.
static uint64_t first_fit(const struct item *item, struct item **met, size_t count)
{
    uint64_t offset = 0;
    qsort(met, count, sizeof(*met), order_by_offset);
    for (size_t i = 0; i < count && met[i]->offset < offset + item->bytes; i++) {
        offset = uint64_max(offset, met[i]->offset + met[i]->bytes);
    }
    return offset;
}

// Places the items in the given order; answers the end of the highest.
static uint64_t place_in_order(struct item **order, size_t count, struct calendar *calendar, struct item **met)
{
    uint64_t highest = 0;
    memset(calendar->ends, 0, 2 * calendar->count * sizeof(*calendar->ends));
    for (size_t i = 0; i < count; i++) {
        struct item *item = order[i];
        item->offset = first_fit(item, met, meet(calendar, 1, 0, calendar->count, item, met, 0));
        enter(calendar, item->leaf);
        highest = uint64_max(highest, item->offset + item->bytes);
    }
    return highest;
}

static void init_calendar(struct calendar *calendar, struct item *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        calendar->leaves[i] = &items[i];
    }
    qsort(calendar->leaves, count, sizeof(*calendar->leaves), order_by_birth);
    for (size_t i = 0; i < count; i++) {
        calendar->leaves[i]->leaf = i;
    }
}

uint64_t layout_first_fit(const struct mem_buffer *buffers, size_t count, uint64_t goal_bytes, uint64_t *offsets)
{
    static int (*const orders[])(const void *, const void *) = {order_by_size, order_by_area, order_by_duration,
                                                                order_by_birth};
    size_t leaves = 1;
    while (leaves < count) {
        leaves *= 2;
    }
    struct item *items = calloc(leaves, sizeof(*items));
    struct item **order = calloc(leaves, sizeof(struct item *)), **met = calloc(leaves, sizeof(struct item *));
    struct calendar calendar = {.leaves = calloc(leaves, sizeof(struct item *)),
                                .ends = calloc(2 * leaves, sizeof(*calendar.ends)),
                                .count = leaves};
    uint64_t best = UINT64_MAX;
    bool made = items != NULL && order != NULL && met != NULL && calendar.leaves != NULL && calendar.ends != NULL;
    for (size_t i = 0; made && i < count; i++) {
        items[i] =
            (struct item){.bytes = buffers[i].bytes, .birth = buffers[i].birth, .death = buffers[i].death, .index = i};
    }
    if (made) {
        init_calendar(&calendar, items, count);
        memcpy(order, calendar.leaves, count * sizeof(*order));
    }
    for (size_t i = 0; made && i < sizeof(orders) / sizeof(orders[0]) && best > goal_bytes; i++) {
        qsort(order, count, sizeof(*order), orders[i]);
        uint64_t end = place_in_order(order, count, &calendar, met);
        for (size_t k = 0; end < best && k < count; k++) {
            offsets[items[k].index] = items[k].offset;
        }
        best = uint64_min(best, end);
    }
    free(calendar.ends);
    free(calendar.leaves);
    free(met);
    free(order);
    free(items);
    return best;
}
