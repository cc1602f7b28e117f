// SPDX-License-Identifier: Apache-2.0
#include "model/price.h"

#include <stdlib.h>

#define PURPOSES 2

struct entry {
    uint64_t block_bytes; // 0: not known yet
    struct list *list;    // NULL: not kept
};

struct price_book {
    const struct model *model;
    size_t largest;
    struct entry *entries[PURPOSES]; // by micro-batch - 1
};

struct price_book *price_book_create(const struct model *model, size_t largest)
{
    struct price_book *book = calloc(1, sizeof(*book));
    if (book == NULL) {
        return NULL;
    }
    book->model = model;
    book->largest = largest;
    for (size_t i = 0; i < PURPOSES; i++) {
        book->entries[i] = calloc(largest, sizeof(*book->entries[i]));
        if (book->entries[i] == NULL) {
            price_book_destroy(book);
            return NULL;
        }
    }
    return book;
}

void price_book_destroy(struct price_book *book)
{
    if (book == NULL) {
        return;
    }
    for (size_t purpose = 0; purpose < PURPOSES; purpose++) {
        for (size_t i = 0; book->entries[purpose] != NULL && i < book->largest; i++) {
            if (book->entries[purpose][i].list != NULL) {
                list_finish(book->entries[purpose][i].list);
                free(book->entries[purpose][i].list);
            }
        }
        free(book->entries[purpose]);
    }
    free(book);
}

const struct list *price_list(struct price_book *book, enum list_purpose purpose, size_t micro_batch)
{
    struct entry *entry = &book->entries[purpose][micro_batch - 1];
    if (entry->list != NULL) {
        return entry->list;
    }
    struct list *list = malloc(sizeof(*list));
    if (list == NULL || !model_list(book->model, micro_batch, purpose, list)) {
        free(list);
        return NULL;
    }
    *entry = (struct entry){.block_bytes = list->block_bytes, .list = list};
    return list;
}

uint64_t price_block_bytes(struct price_book *book, enum list_purpose purpose, size_t micro_batch)
{
    struct entry *entry = &book->entries[purpose][micro_batch - 1];
    if (entry->block_bytes == 0) {
        struct list list;
        if (!model_list(book->model, micro_batch, purpose, &list)) {
            return UINT64_MAX;
        }
        entry->block_bytes = list.block_bytes;
        list_finish(&list);
    }
    return entry->block_bytes;
}

size_t price_largest_fit(struct price_book *book, enum list_purpose purpose, uint64_t bytes, size_t most)
{
    size_t fits = 0, too_large = (most < book->largest ? most : book->largest) + 1;
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
