// SPDX-License-Identifier: Apache-2.0
#include "model/price.h"

#include <stdlib.h>
#include <string.h>

#define PURPOSES 2
// What a device computes while it moves a byte: 5 to 20 on today's.
#define FLOPS_OF_A_BYTE 10.0

struct price {
    struct model_shape shape;
    uint64_t block_bytes, slack_bytes, host_bytes;
};

struct kept {
    struct model_shape shape; // no samples: none yet
    struct list list;
};

// For one purpose.
struct page {
    struct price *prices; // in the order of `compare`
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

// By length, then by levers, then by samples.
static int compare(struct model_shape a, struct model_shape b)
{
    if (a.length != b.length) {
        return a.length < b.length ? -1 : 1;
    }
    if (a.levers != b.levers) {
        return a.levers < b.levers ? -1 : 1;
    }
    return (a.samples > b.samples) - (a.samples < b.samples);
}

static const struct list *find_list(const struct page *page, struct model_shape shape)
{
    for (size_t i = 0; i < PRICE_LISTS_KEPT; i++) {
        if (compare(page->kept[i].shape, shape) == 0) {
            return &page->kept[i].list;
        }
    }
    return NULL;
}

const struct list *price_list(struct price_book *book, enum list_purpose purpose, struct model_shape shape)
{
    struct page *page = &book->pages[purpose];
    const struct list *known = find_list(page, shape);
    struct list list;
    if (known != NULL) {
        return known;
    }
    if (!model_list(book->model, shape, purpose, &list)) {
        return NULL;
    }
    struct kept *kept = &page->kept[page->oldest];
    page->oldest = (page->oldest + 1) % PRICE_LISTS_KEPT;
    list_finish(&kept->list);
    *kept = (struct kept){.shape = shape, .list = list};
    return &kept->list;
}

// Where the price of the shape is, or would be.
static size_t place_of(const struct page *page, struct model_shape shape)
{
    size_t low = 0, high = page->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(page->prices[middle].shape, shape) < 0) {
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

// NULL when the host's memory runs out.
static const struct price *find_price(struct price_book *book, enum list_purpose purpose, struct model_shape shape)
{
    struct page *page = &book->pages[purpose];
    size_t place = place_of(page, shape);
    struct list list;
    if (place < page->count && compare(page->prices[place].shape, shape) == 0) {
        return &page->prices[place];
    }
    if (!make_room(page) || !model_list(book->model, shape, purpose, &list)) {
        return NULL;
    }
    struct price *price = &page->prices[place];
    memmove(price + 1, price, (page->count - place) * sizeof(*price));
    page->count++;
    *price = (struct price){.shape = shape,
                            .block_bytes = price_list_bytes(book, &list),
                            .slack_bytes = list.locals_bytes - list.lower_bound_bytes,
                            .host_bytes = list.host_bytes};
    list_finish(&list);
    return price;
}

uint64_t price_block_bytes(struct price_book *book, enum list_purpose purpose, struct model_shape shape)
{
    const struct price *price = find_price(book, purpose, shape);
    return price == NULL ? UINT64_MAX : price->block_bytes;
}

uint64_t price_host_bytes(struct price_book *book, enum list_purpose purpose, struct model_shape shape)
{
    const struct price *price = find_price(book, purpose, shape);
    return price == NULL ? UINT64_MAX : price->host_bytes;
}

uint64_t price_slack_bytes(struct price_book *book, enum list_purpose purpose, struct model_shape shape)
{
    const struct price *price = find_price(book, purpose, shape);
    return price == NULL ? UINT64_MAX : price->slack_bytes;
}

static bool fits_in(struct price_book *book, enum list_purpose purpose, struct model_shape shape, uint64_t bytes,
                    uint64_t host_bytes, size_t samples)
{
    shape.samples = samples;
    const struct price *price = find_price(book, purpose, shape);
    return price != NULL && price->block_bytes <= bytes && price->host_bytes <= host_bytes;
}

size_t price_largest_fit(struct price_book *book, enum list_purpose purpose, struct model_shape shape, uint64_t bytes,
                         uint64_t host_bytes, size_t most)
{
    size_t fits = 0, too_large = 1;
    while (too_large <= most && fits_in(book, purpose, shape, bytes, host_bytes, too_large)) {
        fits = too_large;
        too_large = most - fits < fits ? most + 1 : 2 * fits;
    }
    while (too_large - fits > 1) {
        size_t middle = fits + (too_large - fits) / 2;
        if (fits_in(book, purpose, shape, bytes, host_bytes, middle)) {
            fits = middle;
        } else {
            too_large = middle;
        }
    }
    return fits;
}

double price_work(struct price_book *book, enum list_purpose purpose, struct model_shape shape)
{
    const struct list *list = price_list(book, purpose, shape);
    double sum = 0;
    for (size_t i = 0; list != NULL && i < list->op_count; i++) {
        struct list_work work = list_work(list, i);
        sum += (double)work.flops + FLOPS_OF_A_BYTE * (double)work.bytes;
    }
    return sum;
}
