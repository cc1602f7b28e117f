// SPDX-License-Identifier: Apache-2.0
#include "model/price.h"

#include <stdlib.h>
#include <string.h>

#define PURPOSES 2

struct entry {
    size_t micro_batch;
    uint64_t block_bytes;
    struct list *list; // NULL: not kept
};

struct entries {
    struct entry *items; // micro-batches rising
    size_t count, capacity;
};

struct price_book {
    const struct model *model;
    struct entries entries[PURPOSES];
};

struct price_book *price_book_create(const struct model *model)
{
    struct price_book *book = calloc(1, sizeof(*book));
    if (book != NULL) {
        book->model = model;
    }
    return book;
}

static void destroy_list(struct list *list)
{
    if (list != NULL) {
        list_finish(list);
        free(list);
    }
}

void price_book_destroy(struct price_book *book)
{
    if (book == NULL) {
        return;
    }
    for (size_t purpose = 0; purpose < PURPOSES; purpose++) {
        struct entries *entries = &book->entries[purpose];
        for (size_t i = 0; i < entries->count; i++) {
            destroy_list(entries->items[i].list);
        }
        free(entries->items);
    }
    free(book);
}

// Where the entry for `micro_batch` is, or would be.
static size_t place_of(const struct entries *entries, size_t micro_batch)
{
    size_t low = 0, high = entries->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (entries->items[middle].micro_batch < micro_batch) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static bool make_room(struct entries *entries)
{
    if (entries->count < entries->capacity) {
        return true;
    }
    size_t capacity = entries->capacity == 0 ? 16 : 2 * entries->capacity;
    struct entry *items = realloc(entries->items, capacity * sizeof(*items));
    if (items == NULL) {
        return false;
    }
    entries->items = items;
    entries->capacity = capacity;
    return true;
}

static struct list *build(const struct price_book *book, enum list_purpose purpose, size_t micro_batch)
{
    struct list *list = malloc(sizeof(*list));
    if (list != NULL && !model_list(book->model, micro_batch, purpose, list)) {
        free(list);
        return NULL;
    }
    return list;
}

// The entry, priced, and with its list where `keep_list` asks for it. NULL when the host's memory runs out.
static struct entry *find(struct price_book *book, enum list_purpose purpose, size_t micro_batch, bool keep_list)
{
    struct entries *entries = &book->entries[purpose];
    size_t place = place_of(entries, micro_batch);
    bool known = place < entries->count && entries->items[place].micro_batch == micro_batch;
    if (known && (entries->items[place].list != NULL || !keep_list)) {
        return &entries->items[place];
    }
    struct list *list = make_room(entries) ? build(book, purpose, micro_batch) : NULL;
    if (list == NULL) {
        return NULL;
    }
    struct entry *entry = &entries->items[place];
    if (!known) {
        memmove(entry + 1, entry, (entries->count - place) * sizeof(*entry));
        entries->count++;
    }
    *entry = (struct entry){.micro_batch = micro_batch, .block_bytes = list->block_bytes};
    if (keep_list) {
        entry->list = list;
    } else {
        destroy_list(list);
    }
    return entry;
}

const struct list *price_list(struct price_book *book, enum list_purpose purpose, size_t micro_batch)
{
    const struct entry *entry = find(book, purpose, micro_batch, true);
    return entry == NULL ? NULL : entry->list;
}

uint64_t price_block_bytes(struct price_book *book, enum list_purpose purpose, size_t micro_batch)
{
    const struct entry *entry = find(book, purpose, micro_batch, false);
    return entry == NULL ? UINT64_MAX : entry->block_bytes;
}

size_t price_largest_fit(struct price_book *book, enum list_purpose purpose, uint64_t bytes, size_t most)
{
    size_t fits = 0, too_large = 1;
    while (too_large <= most && price_block_bytes(book, purpose, too_large) <= bytes) {
        fits = too_large;
        too_large = most - fits < fits ? most + 1 : 2 * fits;
    }
    while (too_large - fits > 1) {
        size_t middle = fits + (too_large - fits) / 2;
        if (price_block_bytes(book, purpose, middle) <= bytes) {
            fits = middle;
        } else {
            too_large = middle;
        }
    }
    return fits;
}
