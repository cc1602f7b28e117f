// SPDX-License-Identifier: Apache-2.0
//
// Buffers are placed from the bottom up: each as low as those placed before it allow, and never below the one placed
// last, so every packing is met in one order only. A section is a stretch of time in which the most buffers are alive
// together; those of it that are not placed yet must fit between the lowest place left in it and the capacity, which is
// looked at after each step, before any deeper one. What a step splits into stretches that share no buffer is solved
// one after the other. Moffitt and Pollack, "Optimal rectangle packing: a meta-CSP approach" (2006), and Moffitt,
// "MiniMalloc: a lightweight memory allocator for hardware-accelerated machine learning" (2023).
//
// Which buffer goes first where several can decides how long it takes. So the search starts anew again and again, with
// other orders, and longer from time to time (Luby, Sinclair and Zuckerman, 1993); sections in which it failed often
// come first then, as in search by weighted constraints (Boussemart et al., 2004).
#include "mem/layout_search.h"

#include <stdlib.h>
#include <string.h>

#include "mem/uint64.h"

enum key { WIDTH, AREA, TOTAL, DURATION, KEYS };

#define KEYS_COMPARED 3 // in one order

struct piece {
    uint64_t bytes;
    uint32_t birth, death;
    uint32_t first, last; // sections, inclusive
    uint32_t rank;        // in this run, among those that may go first
    bool placed;
    double keys[KEYS];
    size_t buffer;
};

struct section {
    size_t first, born_end, end; // members: those born in it come first
    uint64_t bytes;              // of all members
    uint64_t left_bytes;         // of those that are not placed
    uint64_t floor;              // the lowest place of one that is not placed
    uint64_t witness;            // a member that was at the floor when last looked at
    double weight;               // how often the search failed here, lately
};

struct change {
    uint64_t *where, before;
};

// Pieces head..end-1 that are not placed when it begins, and the one that is tried at their bottom.
struct frame {
    uint32_t head, end;
    uint64_t least_place;  // the next to be tried is not before this place,
    uint32_t least_rank;   // or at it but before this rank,
    uint32_t tried;        // nor, at the same place, like this one; the search's count: none
    uint64_t limit;        // the one at the bottom is below that, or another would fit beneath it
    bool alone;            // nothing that is not placed lives at the time of the one that was tried
    uint32_t rest;         // where the part of what is above it begins that is to be solved next
    size_t changes, steps; // when it began
};

struct ranked {
    double keys[KEYS_COMPARED];
    uint32_t piece;
};

struct layout_search {
    struct piece *pieces; // in order of birth
    uint64_t *lowest;     // of each: place above those placed before it; once it is placed: where
    uint32_t count;
    struct section *sections;
    uint32_t section_count;
    uint32_t *members;
    size_t member_count;
    uint64_t capacity, work;
    struct change *changes;
    size_t change_count, change_capacity;
    uint32_t *steps; // pieces in the order in which they were placed
    size_t step_count;
    struct frame *frames;
    struct ranked *ranked;
    uint64_t random;
};

// More than these would take a gigabyte each of the host's memory.
#define MEMBERS_MAX (UINT64_C(1) << 28)
#define CHANGES_MAX (UINT64_C(1) << 26)

#define MEMBER_WORK 8 // of preparing a member, most of it waiting for memory

static void spend(struct layout_search *search, uint64_t work)
{
    search->work -= uint64_min(search->work, work);
}

static uint64_t sort_work(uint64_t count)
{
    uint64_t levels = 1;
    while (count >> levels > 0) {
        levels++;
    }
    return 4 * count * levels;
}

// ---- Pieces and sections ----

static int order_by_birth(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;
    if (x->birth != y->birth) {
        return x->birth < y->birth ? -1 : 1;
    }
    if (x->death != y->death) {
        return x->death > y->death ? -1 : 1;
    }
    if (x->bytes != y->bytes) {
        return x->bytes > y->bytes ? -1 : 1;
    }
    return x->buffer < y->buffer ? -1 : x->buffer > y->buffer;
}

static int order_moments(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

// The last section that begins at the moment or before it.
static uint32_t section_at(const uint32_t *begins, uint32_t count, uint32_t moment)
{
    uint32_t low = 0, high = count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (begins[middle] <= moment) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// A birth that follows a death begins a section. moments[2 * count] is scratch.
static void find_sections(struct layout_search *search, uint32_t *moments)
{
    uint32_t *deaths = moments, *begins = moments + search->count, dead = 0;
    for (uint32_t i = 0; i < search->count; i++) {
        deaths[i] = search->pieces[i].death;
    }
    qsort(deaths, search->count, sizeof(*deaths), order_moments);
    for (uint32_t i = 0; i < search->count; i++) {
        bool died = i == 0;
        for (; deaths[dead] < search->pieces[i].birth; dead++) {
            died = true;
        }
        if (died) {
            begins[search->section_count++] = search->pieces[i].birth;
        }
        search->pieces[i].first = search->section_count - 1;
    }
    for (uint32_t i = 0; i < search->count; i++) {
        search->pieces[i].last = section_at(begins, search->section_count, search->pieces[i].death);
    }
}

// What each section holds, from what begins and what ends there: O(pieces + sections).
static void measure_sections(struct layout_search *search)
{
    struct section *sections = search->sections;
    for (uint32_t i = 0; i < search->count; i++) {
        const struct piece *piece = &search->pieces[i];
        sections[piece->first].end++;
        sections[piece->first].bytes += piece->bytes;
        sections[piece->last + 1].end--;
        sections[piece->last + 1].bytes -= piece->bytes;
    }
    search->member_count = sections[0].end;
    for (uint32_t s = 1; s < search->section_count; s++) {
        sections[s].end += sections[s - 1].end;
        sections[s].bytes += sections[s - 1].bytes;
        search->member_count += sections[s].end;
    }
}

static void fill_members(struct layout_search *search)
{
    size_t next = 0;
    for (uint32_t s = 0; s < search->section_count; s++) {
        struct section *section = &search->sections[s];
        size_t count = section->end;
        section->first = section->born_end = section->end = next;
        next += count;
    }
    for (uint32_t i = 0; i < search->count; i++) {
        struct section *section = &search->sections[search->pieces[i].first];
        search->members[section->end++] = i;
        section->born_end = section->end;
    }
    for (uint32_t i = 0; i < search->count; i++) {
        const struct piece *piece = &search->pieces[i];
        for (uint32_t s = piece->first + 1; s <= piece->last; s++) {
            search->members[search->sections[s].end++] = i;
        }
    }
}

static void find_keys(struct layout_search *search)
{
    for (uint32_t i = 0; i < search->count; i++) {
        struct piece *piece = &search->pieces[i];
        uint64_t total = 0;
        for (uint32_t s = piece->first; s <= piece->last; s++) {
            total = uint64_max(total, search->sections[s].bytes);
        }
        double width = (double)(piece->last - piece->first) + 1; // whatever the moments between are numbered
        piece->keys[WIDTH] = width;
        piece->keys[AREA] = width * (double)piece->bytes;
        piece->keys[TOTAL] = (double)total;
        piece->keys[DURATION] = (double)piece->death - piece->birth + 1;
    }
}

void layout_search_destroy(struct layout_search *search)
{
    if (search == NULL) {
        return;
    }
    free(search->ranked);
    free(search->frames);
    free(search->steps);
    free(search->changes);
    free(search->members);
    free(search->sections);
    free(search->lowest);
    free(search->pieces);
    free(search);
}

static bool allocate(struct layout_search *search, size_t count)
{
    search->pieces = calloc(count, sizeof(*search->pieces));
    search->lowest = malloc(count * sizeof(*search->lowest));
    search->sections = calloc(count + 1, sizeof(*search->sections));
    search->steps = malloc(count * sizeof(*search->steps));
    search->frames = malloc((count + 2) * sizeof(*search->frames));
    search->ranked = malloc(count * sizeof(*search->ranked));
    return search->pieces != NULL && search->lowest != NULL && search->sections != NULL && search->steps != NULL &&
           search->frames != NULL && search->ranked != NULL;
}

static bool find_pieces(struct layout_search *search, const struct mem_buffer *buffers)
{
    size_t count = search->count;
    uint32_t *moments = malloc(2 * count * sizeof(*moments));
    if (moments == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        search->pieces[i] = (struct piece){
            .bytes = buffers[i].bytes, .birth = buffers[i].birth, .death = buffers[i].death, .buffer = i};
    }
    qsort(search->pieces, count, sizeof(*search->pieces), order_by_birth);
    find_sections(search, moments);
    free(moments);
    return true;
}

static bool find_members(struct layout_search *search)
{
    measure_sections(search);
    uint64_t work = MEMBER_WORK * (uint64_t)search->member_count;
    if (search->member_count > MEMBERS_MAX || work >= search->work) {
        return false;
    }
    spend(search, work);
    search->members = malloc(search->member_count * sizeof(*search->members));
    if (search->members == NULL) {
        return false;
    }
    fill_members(search);
    find_keys(search);
    return true;
}

struct layout_search *layout_search_create(const struct mem_buffer *buffers, size_t count, uint64_t *work)
{
    uint64_t sorting = 2 * sort_work(count);
    if (count == 0 || count > UINT32_MAX / 2 || sorting >= *work) {
        return NULL;
    }
    struct layout_search *search = calloc(1, sizeof(*search));
    if (search == NULL) {
        return NULL;
    }
    *search = (struct layout_search){.count = (uint32_t)count, .work = *work - sorting, .random = 1};
    bool made = allocate(search, count) && find_pieces(search, buffers) && find_members(search);
    *work = search->work;
    if (!made) {
        layout_search_destroy(search);
        return NULL;
    }
    return search;
}

// ---- Placing one ----

// Makes sure that placing a piece can note all its changes. False, and the end of all work, when they take too much.
static bool reserve_changes(struct layout_search *search)
{
    size_t needed = search->change_count + search->count + 2 * (size_t)search->section_count;
    if (needed <= search->change_capacity) {
        return true;
    }
    struct change *moved = needed > CHANGES_MAX ? NULL : realloc(search->changes, 2 * needed * sizeof(*moved));
    if (moved == NULL) {
        search->work = 0;
        return false;
    }
    search->changes = moved;
    search->change_capacity = 2 * needed;
    return true;
}

static void set(struct layout_search *search, uint64_t *where, uint64_t value)
{
    search->changes[search->change_count++] = (struct change){where, *where};
    *where = value;
}

static void blame(struct layout_search *search, const struct piece *piece)
{
    spend(search, piece->last - piece->first + 1);
    for (uint32_t s = piece->first; s <= piece->last; s++) {
        search->sections[s].weight += 1.0 / (piece->last - piece->first + 1);
    }
}

// Those that live at the piece's time and are not placed go above it. False where one of them then ends too high.
// Widens first..last to the sections of those that were raised.
static bool raise_others(struct layout_search *search, uint32_t index, uint32_t *first_p, uint32_t *last_p,
                         bool *alone_p)
{
    const struct piece *piece = &search->pieces[index];
    uint64_t top = search->lowest[index] + piece->bytes;
    *alone_p = true;
    for (uint32_t s = piece->first; s <= piece->last; s++) {
        const struct section *section = &search->sections[s];
        size_t end = s == piece->first ? section->end : section->born_end;
        spend(search, end - section->first + 1);
        for (size_t k = section->first; k < end; k++) {
            uint32_t at = search->members[k];
            const struct piece *other = &search->pieces[at];
            if (other->placed) {
                continue;
            }
            *alone_p = false;
            if (search->lowest[at] >= top) {
                continue;
            }
            set(search, &search->lowest[at], top);
            if (other->bytes > search->capacity - top) {
                blame(search, other);
                return false;
            }
            *first_p = other->first < *first_p ? other->first : *first_p;
            *last_p = other->last > *last_p ? other->last : *last_p;
        }
    }
    return true;
}

static void find_floor(struct layout_search *search, struct section *section)
{
    uint64_t floor = UINT64_MAX, witness = section->witness;
    for (size_t k = section->first; k < section->end && floor != section->floor; k++) {
        uint32_t at = search->members[k];
        if (search->lowest[at] < floor && !search->pieces[at].placed) {
            floor = search->lowest[at];
            witness = at;
        }
    }
    spend(search, section->end - section->first);
    if (floor == section->floor) {
        section->witness = witness; // as good before, should this be undone
    } else {
        set(search, &section->floor, floor);
        set(search, &section->witness, witness);
    }
}

// Whether what cannot go below `top` fits above it.
static bool rest_holds(struct layout_search *search, const struct section *section, uint64_t top)
{
    uint64_t bytes = 0;
    spend(search, section->end - section->first);
    for (size_t k = section->first; k < section->end; k++) {
        uint32_t at = search->members[k];
        bytes += search->lowest[at] >= top && !search->pieces[at].placed ? search->pieces[at].bytes : 0;
    }
    return bytes <= search->capacity - top;
}

static bool section_holds(struct layout_search *search, const struct section *section, uint64_t top)
{
    if (section->left_bytes > search->capacity - section->floor) {
        return false;
    }
    return section->floor >= top || section->left_bytes <= search->capacity - top || rest_holds(search, section, top);
}

// Whether what is left of each section fits above its floor, and what the piece that was placed last has raised to its
// top fits above that.
static bool sections_hold(struct layout_search *search, uint32_t first, uint32_t last, uint64_t top)
{
    spend(search, last - first + 1);
    for (uint32_t s = first; s <= last; s++) {
        struct section *section = &search->sections[s];
        if (section->left_bytes == 0) {
            continue;
        }
        if (search->lowest[section->witness] != section->floor || search->pieces[section->witness].placed) {
            find_floor(search, section);
        }
        if (!section_holds(search, section, top)) {
            section->weight++;
            return false;
        }
    }
    return true;
}

// False where the rest cannot fit any more.
static bool place(struct layout_search *search, uint32_t index, bool *alone_p)
{
    struct piece *piece = &search->pieces[index];
    uint32_t first = piece->first, last = piece->last;
    search->steps[search->step_count++] = index;
    piece->placed = true;
    spend(search, last - first + 1);
    for (uint32_t s = first; s <= last; s++) {
        search->sections[s].left_bytes -= piece->bytes;
    }
    return raise_others(search, index, &first, &last, alone_p) &&
           sections_hold(search, first, last, search->lowest[index] + piece->bytes);
}

// Undoes what was done since the frame began.
static void take_back(struct layout_search *search, const struct frame *frame)
{
    spend(search, search->change_count - frame->changes);
    while (search->change_count > frame->changes) {
        const struct change *change = &search->changes[--search->change_count];
        *change->where = change->before;
    }
    while (search->step_count > frame->steps) {
        struct piece *piece = &search->pieces[search->steps[--search->step_count]];
        piece->placed = false;
        spend(search, piece->last - piece->first + 1);
        for (uint32_t s = piece->first; s <= piece->last; s++) {
            search->sections[s].left_bytes += piece->bytes;
        }
    }
}

// ---- The search ----

// Whether what is left of the sections fits above the frame's least place.
static bool sections_hold_above(struct layout_search *search, const struct frame *frame)
{
    uint32_t next = 0;
    for (uint32_t i = frame->head; i < frame->end; i++) {
        const struct piece *piece = &search->pieces[i];
        for (uint32_t s = next > piece->first ? next : piece->first; !piece->placed && s <= piece->last; s++) {
            const struct section *section = &search->sections[s];
            if (section->left_bytes > search->capacity - uint64_max(section->floor, frame->least_place)) {
                return false;
            }
            next = s + 1;
            spend(search, 1);
        }
    }
    return true;
}

static void begin(struct layout_search *search, struct frame *frame, uint32_t head, uint32_t end, uint64_t least_place,
                  uint32_t least_rank)
{
    *frame = (struct frame){.head = head,
                            .end = end,
                            .least_place = least_place,
                            .least_rank = least_rank,
                            .tried = search->count,
                            .limit = UINT64_MAX,
                            .changes = search->change_count,
                            .steps = search->step_count};
    for (uint32_t i = head; i < end; i++) {
        const struct piece *piece = &search->pieces[i];
        if (!piece->placed) {
            frame->limit = uint64_min(frame->limit, search->lowest[i] + piece->bytes);
        }
    }
    if (!sections_hold_above(search, frame)) {
        frame->limit = 0;
    }
    spend(search, UINT64_C(2) * (end - head));
}

// Whether it takes nothing away to put one where the other was.
static bool alike(const struct piece *a, const struct piece *b)
{
    return a->bytes == b->bytes && a->first == b->first && a->last == b->last;
}

static bool was_tried(const struct layout_search *search, const struct frame *frame, const struct piece *piece)
{
    return piece->rank < frame->least_rank ||
           (frame->tried < search->count && alike(piece, &search->pieces[frame->tried]));
}

// The next piece for the bottom; the frame's end: none.
static uint32_t next_candidate(struct layout_search *search, const struct frame *frame)
{
    const uint64_t *lowest = search->lowest;
    uint32_t best = frame->end;
    uint64_t best_place = frame->limit;
    for (uint32_t i = frame->head; i < frame->end; i++) {
        if (lowest[i] > best_place || lowest[i] < frame->least_place || lowest[i] >= frame->limit) {
            continue;
        }
        const struct piece *piece = &search->pieces[i];
        bool tried = lowest[i] == frame->least_place && was_tried(search, frame, piece);
        bool first = lowest[i] < best_place || piece->rank < search->pieces[best].rank;
        if (!piece->placed && !tried && first) {
            best = i;
            best_place = lowest[i];
        }
    }
    spend(search, frame->end - frame->head);
    return best;
}

// Places the next piece at the frame's bottom above which the rest may fit. False where there is none.
static bool advance(struct layout_search *search, struct frame *frame)
{
    while (true) {
        uint32_t candidate = next_candidate(search, frame);
        if (candidate == frame->end) {
            return false;
        }
        frame->least_place = search->lowest[candidate];
        frame->least_rank = search->pieces[candidate].rank + 1;
        frame->tried = candidate;
        frame->rest = frame->head;
        if (place(search, candidate, &frame->alone)) {
            return true;
        }
        take_back(search, frame);
    }
}

static uint32_t next_unplaced(const struct layout_search *search, uint32_t i, uint32_t end)
{
    while (i < end && search->pieces[i].placed) {
        i++;
    }
    return i;
}

// Begins `above` with the next part of what is left of the frame's pieces, which shares no time with the others. False
// where none is left.
static bool begin_rest(struct layout_search *search, const struct frame *frame, struct frame *above)
{
    uint32_t head = next_unplaced(search, frame->rest, frame->end), end = head;
    if (head == frame->end) {
        spend(search, head - frame->rest);
        return false;
    }
    for (uint32_t last = search->pieces[head].last; end < frame->end && search->pieces[end].first <= last;
         end = next_unplaced(search, end + 1, frame->end)) {
        last = search->pieces[end].last > last ? search->pieces[end].last : last;
    }
    spend(search, end - frame->rest);
    bool whole = frame->rest == frame->head && end == frame->end;
    begin(search, above, head, end, whole ? frame->least_place : 0, whole ? frame->least_rank : 0);
    return true;
}

static void reset(struct layout_search *search)
{
    spend(search, (uint64_t)search->count + search->section_count);
    search->change_count = search->step_count = 0;
    for (uint32_t i = 0; i < search->count; i++) {
        search->pieces[i].placed = false;
        search->lowest[i] = 0;
    }
    for (uint32_t s = 0; s < search->section_count; s++) {
        struct section *section = &search->sections[s];
        section->left_bytes = section->bytes;
        section->floor = 0;
        section->witness = search->members[section->first];
    }
}

// One run of at most so many nodes.
static enum layout_answer run(struct layout_search *search, uint64_t nodes)
{
    struct frame *const root = search->frames, *frame = root;
    *root = (struct frame){.end = search->count};
    reset(search);
    if (!reserve_changes(search)) {
        return LAYOUT_GIVEN_UP;
    }
    while (true) {
        while (!begin_rest(search, frame, frame + 1)) {
            if (frame == root) {
                return LAYOUT_FITS;
            }
            frame--;
            frame->rest = frame[1].end;
        }
        frame++;
        while (!advance(search, frame)) {
            do {
                if (--frame == root) {
                    return LAYOUT_IMPOSSIBLE;
                }
                take_back(search, frame);
            } while (frame->alone); // another at the bottom leaves the rest as it is
        }
        if (--nodes == 0 || search->work == 0 || !reserve_changes(search)) {
            return LAYOUT_GIVEN_UP;
        }
    }
}

// ---- Orders ----

#define SHORT    1000 // nodes
#define WEIGHTED 8    // nodes by weight for each in a plain order
#define FADING   0.9  // of weights, from run to run

enum { PLAIN = 4, ORDERS = 7 }; // those tried plainly come first

// Only the first depends on how moments are numbered.
static const enum key orders[ORDERS][KEYS_COMPARED] = {
    {DURATION, AREA, TOTAL}, {WIDTH, AREA, TOTAL}, {TOTAL, AREA, WIDTH}, {TOTAL, WIDTH, AREA},
    {AREA, TOTAL, WIDTH},    {AREA, WIDTH, TOTAL}, {WIDTH, TOTAL, AREA},
};

// 1 to 1.125. Exact, so that a machine that multiplies and adds in one step gets the same.
static double noise(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407); // Knuth's MMIX
    return 1 + (double)(*state >> 44) * 0x1p-23;
}

static int order_by_keys(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    for (size_t i = 0; i < KEYS_COMPARED; i++) {
        if (x->keys[i] != y->keys[i]) {
            return x->keys[i] > y->keys[i] ? -1 : 1;
        }
    }
    return x->piece < y->piece ? -1 : x->piece > y->piece;
}

// A piece's share of the failures lately.
static double weight_of(struct layout_search *search, const struct piece *piece)
{
    double sum = 0;
    spend(search, piece->last - piece->first + 1);
    for (uint32_t s = piece->first; s <= piece->last; s++) {
        sum += search->sections[s].weight;
    }
    return sum;
}

static void rank(struct layout_search *search)
{
    qsort(search->ranked, search->count, sizeof(*search->ranked), order_by_keys);
    for (uint32_t i = 0; i < search->count; i++) {
        search->pieces[search->ranked[i].piece].rank = i;
    }
    spend(search, sort_work(search->count));
}

static void rank_plainly(struct layout_search *search, const enum key order[KEYS_COMPARED])
{
    for (uint32_t i = 0; i < search->count; i++) {
        search->ranked[i].piece = i;
        for (size_t k = 0; k < KEYS_COMPARED; k++) {
            search->ranked[i].keys[k] = search->pieces[i].keys[order[k]];
        }
    }
    rank(search);
}

static void rank_by_weight(struct layout_search *search, const enum key order[KEYS_COMPARED])
{
    for (uint32_t i = 0; i < search->count; i++) {
        const struct piece *piece = &search->pieces[i];
        search->ranked[i].piece = i;
        for (size_t k = 0; k < KEYS_COMPARED; k++) {
            double key = k == 0 ? weight_of(search, piece) : piece->keys[order[k]];
            search->ranked[i].keys[k] = key * noise(&search->random);
        }
    }
    for (uint32_t s = 0; s < search->section_count; s++) {
        search->sections[s].weight *= FADING;
    }
    rank(search);
}

// 1 1 2 1 1 2 4 1 1 2 ..., counted from 0.
static uint64_t luby(uint64_t n)
{
    uint64_t size = 1; // of the sequence's beginning that ends with the first number above all before it
    while (size < n + 1) {
        size = 2 * size + 1;
    }
    for (; size > n + 1; size /= 2) {
        n = n >= size / 2 ? n - size / 2 : n;
    }
    return (size + 1) / 2;
}

// Short runs by weight until they had so many nodes. Weights of before are forgotten: they would lead to where the
// search was stuck.
static enum layout_answer try_weights(struct layout_search *search, uint64_t nodes, uint64_t turn)
{
    uint64_t shortest = uint64_max(SHORT, 2 * (uint64_t)search->count), length;
    enum layout_answer answer = LAYOUT_GIVEN_UP;
    for (uint32_t s = 0; s < search->section_count; s++) {
        search->sections[s].weight = 0;
    }
    for (uint64_t restarts = 0, spent = 0; spent < nodes && answer == LAYOUT_GIVEN_UP && search->work > 0; restarts++) {
        length = shortest * luby(restarts);
        rank_by_weight(search, orders[1 + (restarts + turn) % (ORDERS - 1)]);
        answer = run(search, length);
        spent += length;
    }
    return answer;
}

// Plain orders with ever more nodes, and several times as many in runs by weight.
static enum layout_answer try_orders(struct layout_search *search)
{
    enum layout_answer answer = LAYOUT_GIVEN_UP;
    uint64_t nodes = 2 * (uint64_t)search->count;
    for (uint64_t turn = 0; answer == LAYOUT_GIVEN_UP && search->work > 0; turn++, nodes *= 2) {
        for (size_t i = 0; i < PLAIN && answer == LAYOUT_GIVEN_UP && search->work > 0; i++) {
            rank_plainly(search, orders[i]);
            answer = run(search, nodes);
        }
        if (answer == LAYOUT_GIVEN_UP && search->work > 0) {
            answer = try_weights(search, nodes * WEIGHTED * (PLAIN - 1), turn);
        }
    }
    return answer;
}

enum layout_answer layout_search_run(struct layout_search *search, uint64_t capacity, uint64_t *work, uint64_t *offsets)
{
    search->capacity = capacity;
    search->work = *work;
    enum layout_answer answer = *work == 0 ? LAYOUT_GIVEN_UP : try_orders(search);
    for (uint32_t i = 0; answer == LAYOUT_FITS && i < search->count; i++) {
        offsets[search->pieces[i].buffer] = search->lowest[i];
    }
    *work = search->work;
    return answer;
}
