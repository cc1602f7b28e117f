// SPDX-License-Identifier: Apache-2.0
#include "mem/layout.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "mem/layout_first_fit.h"
#include "mem/layout_search.h"
#include "mem/uint64.h"

// The buffers that have bytes, these rounded up, and the best that is known of them.
struct layout {
    struct mem_buffer *buffers;
    size_t *indices; // of each, among the caller's
    size_t count;
    uint64_t bound, end; // the lower bound, and the highest end of offsets
    uint64_t *offsets, *found;
};

static void finish(struct layout *layout)
{
    free(layout->found);
    free(layout->offsets);
    free(layout->indices);
    free(layout->buffers);
}

static bool prepare(struct layout *layout, const struct mem_buffer *buffers, size_t count, uint64_t alignment)
{
    *layout = (struct layout){
        .buffers = calloc(count + 1, sizeof(*layout->buffers)),
        .indices = malloc((count + 1) * sizeof(*layout->indices)),
        .offsets = malloc((count + 1) * sizeof(*layout->offsets)),
        .found = malloc((count + 1) * sizeof(*layout->found)),
    };
    if (layout->buffers == NULL || layout->indices == NULL || layout->offsets == NULL || layout->found == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (buffers[i].bytes > 0) {
            layout->buffers[layout->count] = buffers[i];
            layout->buffers[layout->count].bytes = uint64_round_up(buffers[i].bytes, alignment);
            layout->indices[layout->count++] = i;
        }
    }
    layout->bound = mem_layout_lower_bound(layout->buffers, layout->count, 1);
    return true;
}

// Takes over the offsets if some were found within the capacity; `work` comes off what is left of it.
static bool search(struct layout *layout, uint64_t capacity, uint64_t work, uint64_t *left_p)
{
    uint64_t left = work;
    bool fits = layout_search(layout->buffers, layout->count, capacity, &left, layout->found);
    *left_p -= work - left;
    if (!fits) {
        return false;
    }
    layout->end = 0;
    for (size_t i = 0; i < layout->count; i++) {
        layout->end = uint64_max(layout->end, layout->found[i] + layout->buffers[i].bytes);
    }
    memcpy(layout->offsets, layout->found, layout->count * sizeof(*layout->offsets));
    return true;
}

// Half of the work for the goal itself; then for what is halfway to it, to a thousandth.
static void tighten(struct layout *layout, uint64_t goal_bytes, uint64_t work)
{
    uint64_t low = goal_bytes;
    if (layout->end <= goal_bytes || search(layout, goal_bytes, work / 2, &work)) {
        return;
    }
    while (work > 0 && layout->end - low > low / 1000) {
        uint64_t middle = low + (layout->end - low) / 2;
        if (!search(layout, middle, (work + 1) / 2, &work)) {
            low = middle;
        }
    }
}

// Where the host's memory runs out: one after the other, the empty at 0.
static uint64_t place_apart(const struct mem_buffer *buffers, size_t count, uint64_t alignment, uint64_t *offsets)
{
    uint64_t end = 0;
    for (size_t i = 0; i < count; i++) {
        offsets[i] = buffers[i].bytes > 0 ? end : 0;
        end += uint64_round_up(buffers[i].bytes, alignment);
    }
    return end;
}

uint64_t mem_layout_place(const struct mem_buffer *buffers, size_t count, uint64_t alignment,
                          const struct mem_layout_goal *goal, uint64_t *offsets)
{
    struct layout layout;
    uint64_t end = UINT64_MAX;
    if (prepare(&layout, buffers, count, alignment)) {
        uint64_t goal_bytes = uint64_max(goal->bytes, layout.bound);
        end = layout_first_fit(layout.buffers, layout.count, goal_bytes, layout.offsets);
        layout.end = end;
    }
    if (end == UINT64_MAX) {
        finish(&layout);
        return place_apart(buffers, count, alignment, offsets);
    }
    tighten(&layout, uint64_max(goal->bytes, layout.bound), goal->work);
    memset(offsets, 0, count * sizeof(*offsets));
    for (size_t i = 0; i < layout.count; i++) {
        offsets[layout.indices[i]] = layout.offsets[i];
    }
    end = layout.end;
    finish(&layout);
    return end;
}

// What is live changes at the moment by so many bytes.
struct change {
    uint64_t moment;
    int64_t bytes;
};

// At one moment what ends comes before what begins.
static int order_changes(const void *a, const void *b)
{
    const struct change *x = a, *y = b;
    if (x->moment != y->moment) {
        return x->moment < y->moment ? -1 : 1;
    }
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

uint64_t mem_layout_lower_bound(const struct mem_buffer *buffers, size_t count, uint64_t alignment)
{
    struct change *changes = calloc(2 * count + 1, sizeof(*changes));
    if (changes == NULL) {
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        int64_t bytes = (int64_t)uint64_round_up(buffers[i].bytes, alignment);
        assert(buffers[i].birth <= buffers[i].death);
        changes[2 * i] = (struct change){buffers[i].birth, bytes};
        changes[2 * i + 1] = (struct change){(uint64_t)buffers[i].death + 1, -bytes};
    }
    qsort(changes, 2 * count, sizeof(*changes), order_changes);
    int64_t live = 0, largest = 0;
    for (size_t i = 0; i < 2 * count; i++) {
        live += changes[i].bytes;
        largest = live > largest ? live : largest;
    }
    free(changes);
    return (uint64_t)largest;
}
