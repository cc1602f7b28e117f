// SPDX-License-Identifier: Apache-2.0
#include "model/price.h"

#include <stdlib.h>
#include <string.h>

#define PURPOSES 2

struct price {
    size_t micro_batch;
    uint64_t block_bytes;
};

struct kept {
    size_t micro_batch; // 0: none yet
    struct list list;
};

// For one purpose.
struct page {
    struct price *prices; // micro-batches rising
    size_t count, capacity;
    struct kept kept[PRICE_LISTS_KEPT];
    size_t oldest; // of those kept
};

struct price_book {
    const struct model *model;
    size_t slots;
    struct page pages[PURPOSES];
};

struct price_book *price_book_create(const struct model *model, size_t slots)
{
    struct price_book *book = calloc(1, sizeof(*book));
    if (book != NULL) {
        book->model = model;
        book->slots = slots;
    }
    return book;
}

void price_book_destroy(struct price_book *book)
{
    if (book == NULL) {
        return;
    }
    for (size_t purpose = 0; purpose < PURPOSES; purpose++) {
        for (size_t i = 0; i < PRICE_LISTS_KEPT; i++) {
            list_finish(&book->pages[purpose].kept[i].list);
        }
        free(book->pages[purpose].prices);
    }
    free(book);
}

static const struct list *find_list(const struct page *page, size_t micro_batch)
{
    for (size_t i = 0; i < PRICE_LISTS_KEPT; i++) {
        if (page->kept[i].micro_batch == micro_batch) {
            return &page->kept[i].list;
        }
    }
    return NULL;
}

const struct list *price_list(struct price_book *book, enum list_purpose purpose, size_t micro_batch)
{
    struct page *page = &book->pages[purpose];
    const struct list *known = find_list(page, micro_batch);
    struct list list;
    if (known != NULL) {
        return known;
    }
    if (!model_list(book->model, micro_batch, purpose, &list)) {
        return NULL;
    }
    struct kept *kept = &page->kept[page->oldest];
    page->oldest = (page->oldest + 1) % PRICE_LISTS_KEPT;
    list_finish(&kept->list);
    *kept = (struct kept){.micro_batch = micro_batch, .list = list};
    return &kept->list;
}

// Where the price of `micro_batch` is, or would be.
static size_t place_of(const struct page *page, size_t micro_batch)
{
    size_t low = 0, high = page->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (page->prices[middle].micro_batch < micro_batch) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static bool make_room(struct page *page)
{
    if (page->count < page->capacity) {
        return true;
    }
    size_t capacity = page->capacity == 0 ? 16 : 2 * page->capacity;
    struct price *prices = realloc(page->prices, capacity * sizeof(*prices));
    if (prices == NULL) {
        return false;
    }
    page->prices = prices;
    page->capacity = capacity;
    return true;
}

uint64_t price_list_bytes(const struct price_book *book, const struct list *list)
{
    return book->slots * list->inputs_bytes + list->locals_bytes;
}

uint64_t price_block_bytes(struct price_book *book, enum list_purpose purpose, size_t micro_batch)
{
    struct page *page = &book->pages[purpose];
    size_t place = place_of(page, micro_batch);
    struct list list;
    if (place < page->count && page->prices[place].micro_batch == micro_batch) {
        return page->prices[place].block_bytes;
    }
    if (!make_room(page) || !model_list(book->model, micro_batch, purpose, &list)) {
        return UINT64_MAX;
    }
    struct price *price = &page->prices[place];
    memmove(price + 1, price, (page->count - place) * sizeof(*price));
    page->count++;
    *price = (struct price){.micro_batch = micro_batch, .block_bytes = price_list_bytes(book, &list)};
    list_finish(&list);
    return price->block_bytes;
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
