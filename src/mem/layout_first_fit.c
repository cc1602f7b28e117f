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
    uint64_t offset; // once placed
};

static int by_birth(const struct item *x, const struct item *y)
{
    if (x->birth != y->birth) {
        return x->birth < y->birth ? -1 : 1;
    }
    return x->index < y->index ? -1 : x->index > y->index;
}

static int order_by_size(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->bytes != y->bytes) {
        return x->bytes > y->bytes ? -1 : 1;
    }
    return by_birth(x, y);
}

static int order_by_area(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    double area_x = (double)x->bytes * (x->death - x->birth + 1.0);
    double area_y = (double)y->bytes * (y->death - y->birth + 1.0);
    if (area_x != area_y) {
        return area_x > area_y ? -1 : 1;
    }
    return by_birth(x, y);
}

static int order_by_duration(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    uint32_t duration_x = x->death - x->birth, duration_y = y->death - y->birth;
    if (duration_x != duration_y) {
        return duration_x > duration_y ? -1 : 1;
    }
    return order_by_size(a, b);
}

static int order_by_birth(const void *a, const void *b)
{
    return by_birth(a, b);
}

static bool live_together(const struct item *x, const struct item *y)
{
    return x->birth <= y->death && y->birth <= x->death;
}

// The lowest offset at which the item fits between those that are alive with it. placed[count] is in order of offset.
static uint64_t first_fit(const struct item *item, struct item *const *placed, size_t count)
{
    uint64_t offset = 0;
    for (size_t i = 0; i < count; i++) {
        const struct item *other = placed[i];
        if (!live_together(item, other)) {
            continue;
        }
        if (other->offset >= offset + item->bytes) {
            break;
        }
        uint64_t end = other->offset + other->bytes;
        offset = uint64_max(offset, end);
    }
    return offset;
}

static void insert_by_offset(struct item **placed, size_t count, struct item *item)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (placed[middle]->offset <= item->offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    memmove(&placed[low + 1], &placed[low], (count - low) * sizeof(*placed));
    placed[low] = item;
}

// Places the items in the order they are in; answers the end of the highest.
static uint64_t place_in_order(struct item *items, size_t count, struct item **placed)
{
    uint64_t end = 0;
    for (size_t i = 0; i < count; i++) {
        items[i].offset = first_fit(&items[i], placed, i);
        insert_by_offset(placed, i, &items[i]);
        end = uint64_max(end, items[i].offset + items[i].bytes);
    }
    return end;
}

uint64_t layout_first_fit(const struct mem_buffer *buffers, size_t count, uint64_t goal_bytes, uint64_t *offsets)
{
    static int (*const orders[])(const void *, const void *) = {order_by_size, order_by_area, order_by_duration,
                                                                order_by_birth};
    struct item *items = malloc((count + 1) * sizeof(*items));
    struct item **placed = malloc((count + 1) * sizeof(struct item *));
    uint64_t best = UINT64_MAX;
    for (size_t i = 0; items != NULL && i < count; i++) {
        items[i] =
            (struct item){.bytes = buffers[i].bytes, .birth = buffers[i].birth, .death = buffers[i].death, .index = i};
    }
    bool made = items != NULL && placed != NULL;
    for (size_t i = 0; made && i < sizeof(orders) / sizeof(orders[0]) && best > goal_bytes; i++) {
        qsort(items, count, sizeof(*items), orders[i]);
        uint64_t end = place_in_order(items, count, placed);
        for (size_t k = 0; end < best && k < count; k++) {
            offsets[items[k].index] = items[k].offset;
        }
        best = uint64_min(best, end);
    }
    free(placed);
    free(items);
    return best;
}
