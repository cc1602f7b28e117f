// SPDX-License-Identifier: Apache-2.0
#include "mem/layout.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "mem/uint64.h"

struct item {
    uint64_t bytes; // rounded up
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

static bool overlap_in_time(uint32_t birth_a, uint32_t death_a, uint32_t birth_b, uint32_t death_b)
{
    return birth_a <= death_b && birth_b <= death_a;
}

// The lowest offset at which the item fits between those that are alive with it; 0 for an empty one. placed[count] is
// in order of offset.
static uint64_t first_fit(const struct item *item, struct item *const *placed, size_t count)
{
    uint64_t offset = 0;
    for (size_t i = 0; i < count; i++) {
        const struct item *other = placed[i];
        if (!overlap_in_time(item->birth, item->death, other->birth, other->death)) {
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

// Fallback when the host's memory runs out: one after the other, the empty at 0.
static uint64_t place_apart(const struct mem_buffer *buffers, size_t count, uint64_t alignment, uint64_t *offsets)
{
    uint64_t end = 0;
    for (size_t i = 0; i < count; i++) {
        offsets[i] = buffers[i].bytes > 0 ? end : 0;
        end += uint64_round_up(buffers[i].bytes, alignment);
    }
    return end;
}

uint64_t mem_layout_place(const struct mem_buffer *buffers, size_t count, uint64_t alignment, uint64_t *offsets)
{
    static int (*const orders[])(const void *, const void *) = {order_by_size, order_by_area, order_by_duration,
                                                                order_by_birth};
    struct item *items = malloc((count + 1) * sizeof(*items));
    struct item **placed = malloc((count + 1) * sizeof(struct item *));
    uint64_t best = UINT64_MAX;
    if (items == NULL || placed == NULL) {
        best = place_apart(buffers, count, alignment, offsets);
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        items[i] = (struct item){.bytes = uint64_round_up(buffers[i].bytes, alignment),
                                 .birth = buffers[i].birth,
                                 .death = buffers[i].death,
                                 .index = i};
    }
    uint64_t bound = mem_layout_lower_bound(buffers, count, alignment);
    for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]) && best > bound; i++) {
        qsort(items, count, sizeof(*items), orders[i]);
        uint64_t end = place_in_order(items, count, placed);
        if (end < best) {
            best = end;
            for (size_t k = 0; k < count; k++) {
                offsets[items[k].index] = items[k].offset;
            }
        }
    }
out:
    free(placed);
    free(items);
    return best;
}

uint64_t mem_layout_lower_bound(const struct mem_buffer *buffers, size_t count, uint64_t alignment)
{
    uint64_t largest = 0;
    uint32_t last = 0;
    for (size_t i = 0; i < count; i++) {
        assert(buffers[i].birth <= buffers[i].death);
        last = buffers[i].death > last ? buffers[i].death : last;
    }
    // changes[t]: bytes born at t less bytes that died before it
    int64_t *changes = calloc((size_t)last + 2, sizeof(*changes));
    if (changes == NULL) {
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        int64_t bytes = (int64_t)uint64_round_up(buffers[i].bytes, alignment);
        changes[buffers[i].birth] += bytes;
        changes[(size_t)buffers[i].death + 1] -= bytes;
    }
    int64_t live = 0;
    for (size_t t = 0; t <= last; t++) {
        live += changes[t];
        largest = uint64_max(largest, (uint64_t)live);
    }
    free(changes);
    return largest;
}

bool mem_layout_valid(const struct mem_buffer *buffers, const uint64_t *offsets, size_t count, uint64_t bytes)
{
    for (size_t i = 0; i < count; i++) {
        const struct mem_buffer *a = &buffers[i];
        if (a->bytes > 0 && (offsets[i] > bytes || a->bytes > bytes - offsets[i])) {
            return false;
        }
        for (size_t j = 0; j < i; j++) {
            const struct mem_buffer *b = &buffers[j];
            bool together = overlap_in_time(a->birth, a->death, b->birth, b->death);
            bool apart = offsets[i] + a->bytes <= offsets[j] || offsets[j] + b->bytes <= offsets[i];
            if (a->bytes > 0 && b->bytes > 0 && together && !apart) {
                return false;
            }
        }
    }
    return true;
}
