// SPDX-License-Identifier: Apache-2.0
#include "mem/layout.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "mem/layout_first_fit.h"
#include "mem/layout_search.h"
#include "mem/uint64.h"

// The buffers that have bytes, these rounded up, and what is known of them.
struct packing {
    struct mem_buffer *buffers;
    size_t *indices; // of each, among the caller's
    size_t count;
    uint64_t granule;      // divides all bytes, and so where a buffer ends that nothing keeps from sinking
    uint64_t bound, least; // the lower bound, and what is proved beyond it: no end is below
    uint64_t end;          // the highest of offsets
    uint64_t *offsets, *found;
};

static void finish(struct packing *packing)
{
    free(packing->found);
    free(packing->offsets);
    free(packing->indices);
    free(packing->buffers);
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b > 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

// False when the host's memory runs out.
static bool prepare(struct packing *packing, const struct mem_buffer *buffers, size_t count, uint64_t alignment)
{
    *packing = (struct packing){
        .buffers = calloc(count + 1, sizeof(*packing->buffers)),
        .indices = malloc((count + 1) * sizeof(*packing->indices)),
        .offsets = malloc((count + 1) * sizeof(*packing->offsets)),
        .found = malloc((count + 1) * sizeof(*packing->found)),
    };
    if (packing->buffers == NULL || packing->indices == NULL || packing->offsets == NULL || packing->found == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (buffers[i].bytes > 0) {
            uint64_t bytes = uint64_round_up(buffers[i].bytes, alignment);
            packing->buffers[packing->count] = buffers[i];
            packing->buffers[packing->count].bytes = bytes;
            packing->indices[packing->count++] = i;
            packing->granule = common_divisor(packing->granule, bytes);
        }
    }
    packing->bound = packing->least = mem_layout_lower_bound(packing->buffers, packing->count, 1);
    return packing->bound != UINT64_MAX;
}

static uint64_t end_of(const struct packing *packing, const uint64_t *offsets)
{
    uint64_t end = 0;
    for (size_t i = 0; i < packing->count; i++) {
        end = uint64_max(end, offsets[i] + packing->buffers[i].bytes);
    }
    return end;
}

// Looks for an end of at most `target` bytes with part of the work, and keeps what it learns.
static enum layout_answer look(struct packing *packing, struct layout_search *search, uint64_t target, uint64_t part,
                               uint64_t *work)
{
    uint64_t left = part;
    enum layout_answer answer = layout_search_run(search, target, &left, packing->found);
    *work -= part - left;
    if (answer == LAYOUT_FITS) {
        memcpy(packing->offsets, packing->found, packing->count * sizeof(*packing->offsets));
        packing->end = end_of(packing, packing->offsets);
    }
    if (answer == LAYOUT_IMPOSSIBLE) {
        packing->least = target + packing->granule;
    }
    return answer;
}

// Halfway from what may fit to what does, or a granule less where all between has been tried.
static uint64_t next_target(const struct packing *packing, uint64_t low)
{
    uint64_t granule = packing->granule;
    return low < packing->end ? low + (packing->end - low) / 2 / granule * granule : packing->end - granule;
}

// Half of the work for the goal itself, then half of the rest for what is halfway to it, and so on.
static void tighten(struct packing *packing, uint64_t goal_bytes, uint64_t work)
{
    struct layout_search *search =
        packing->end > goal_bytes ? layout_search_create(packing->buffers, packing->count, &work) : NULL;
    uint64_t low = search == NULL ? 0 : goal_bytes / packing->granule * packing->granule, target = low;
    while (search != NULL && work > 0 && packing->end > goal_bytes && packing->end > packing->least) {
        uint64_t part = low < packing->end ? (work + 1) / 2 : work;
        if (look(packing, search, target, part, &work) != LAYOUT_FITS) {
            low = target + packing->granule;
        }
        target = next_target(packing, low);
    }
    layout_search_destroy(search);
}

bool mem_layout_place(const struct mem_buffer *buffers, size_t count, uint64_t alignment,
                      const struct mem_layout_goal *goal, uint64_t *offsets, struct mem_layout *layout_p)
{
    struct packing packing;
    bool placed = prepare(&packing, buffers, count, alignment);
    if (placed) {
        uint64_t goal_bytes = uint64_max(goal->bytes, packing.bound);
        packing.end = layout_first_fit(packing.buffers, packing.count, goal_bytes, packing.offsets);
        placed = packing.end != UINT64_MAX;
        tighten(&packing, goal_bytes, placed ? goal->work : 0);
    }
    if (placed) {
        memset(offsets, 0, count * sizeof(*offsets));
        for (size_t i = 0; i < packing.count; i++) {
            offsets[packing.indices[i]] = packing.offsets[i];
        }
        *layout_p = (struct mem_layout){packing.end, packing.bound, packing.end <= packing.least};
        assert(mem_layout_valid(buffers, offsets, count, alignment, packing.end));
    }
    finish(&packing);
    return placed;
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
    uint64_t total = 0;
    if (changes == NULL) {
        return UINT64_MAX;
    }
    for (size_t i = 0; i < count; i++) {
        int64_t bytes = (int64_t)uint64_round_up(buffers[i].bytes, alignment);
        assert(buffers[i].birth <= buffers[i].death);
        assert(bytes >= 0 && (uint64_t)bytes <= INT64_MAX - total);
        total += (uint64_t)bytes;
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
