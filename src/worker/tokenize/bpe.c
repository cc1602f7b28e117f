// SPDX-License-Identifier: Apache-2.0
//
// The symbols of a word are a list, and its pairs a heap of ranks and places. What a merge makes is part of later
// merges only (vocabulary.h), so no pair that comes up ranks before those of the merge under way: taken one by one, by
// rank and then from the left, pairs merge as they would in rounds.
#include "worker/tokenize/bpe.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "worker/tokenize/splitter.h"

#define CACHE_SLOTS   65536
#define CACHED_BYTES  30
#define CACHED_TOKENS 16
#define NONE          UINT32_MAX
#define CHILDREN      4 // of a pair in the heap

struct symbol {
    uint32_t previous, next; // NONE: there is none
    uint16_t token;
    uint16_t rank; // of the pair with the next; VOCABULARY_NO_RANK: it is none, or the symbol is gone
};

struct cached { // a word that was encoded
    uint8_t bytes, count;
    char word[CACHED_BYTES];
    uint16_t tokens[CACHED_TOKENS];
};

struct bpe {
    const struct vocabulary *vocabulary;
    struct splitter *splitter;
    struct cached *cache;   // a word has one slot where it may be
    struct symbol *symbols; // of a word
    uint64_t *heap;         // rank and place of a pair: the least is at 0
    size_t symbols_max, heap_count;
};

enum status bpe_create(const struct vocabulary *vocabulary, struct bpe **bpe_p, struct error *error)
{
    struct bpe *bpe = calloc(1, sizeof(*bpe));
    if (bpe == NULL) {
        return error_out_of_host_memory(error);
    }
    bpe->vocabulary = vocabulary;
    bpe->cache = calloc(CACHE_SLOTS, sizeof(*bpe->cache));
    enum status status = bpe->cache == NULL ? error_out_of_host_memory(error) : splitter_create(&bpe->splitter, error);
    if (status != STATUS_OK) {
        bpe_destroy(bpe);
        return status;
    }
    *bpe_p = bpe;
    return STATUS_OK;
}

void bpe_destroy(struct bpe *bpe)
{
    if (bpe != NULL) {
        splitter_destroy(bpe->splitter);
        free(bpe->cache);
        free(bpe->symbols);
        free(bpe->heap);
        free(bpe);
    }
}

// The heap ------------------------------------------------------------------------------------------------------------

static void push(struct bpe *bpe, uint64_t pair)
{
    size_t hole = bpe->heap_count++;
    for (; hole > 0 && bpe->heap[(hole - 1) / CHILDREN] > pair; hole = (hole - 1) / CHILDREN) {
        bpe->heap[hole] = bpe->heap[(hole - 1) / CHILDREN];
    }
    bpe->heap[hole] = pair;
}

static size_t least_child(const struct bpe *bpe, size_t first)
{
    size_t least = first, end = first + CHILDREN < bpe->heap_count ? first + CHILDREN : bpe->heap_count;
    for (size_t child = first + 1; child < end; child++) {
        least = bpe->heap[child] < bpe->heap[least] ? child : least;
    }
    return least;
}

static uint64_t pop(struct bpe *bpe)
{
    uint64_t *heap = bpe->heap, least = heap[0], last = heap[--bpe->heap_count];
    size_t hole = 0;
    for (size_t first = 1; first < bpe->heap_count; first = CHILDREN * hole + 1) {
        size_t child = least_child(bpe, first);
        if (heap[child] >= last) {
            break;
        }
        heap[hole] = heap[child];
        hole = child;
    }
    heap[hole] = last;
    return least;
}

// A word --------------------------------------------------------------------------------------------------------------

// A merge takes one pair from the heap and adds two at most, so there are never more than twice as many as symbols.
static bool make_room(struct bpe *bpe, size_t symbols)
{
    if (symbols <= bpe->symbols_max) {
        return true;
    }
    free(bpe->symbols);
    free(bpe->heap);
    bpe->symbols = malloc(symbols * sizeof(*bpe->symbols));
    bpe->heap = malloc(2 * symbols * sizeof(*bpe->heap));
    bpe->symbols_max = bpe->symbols != NULL && bpe->heap != NULL ? symbols : 0;
    return bpe->symbols_max > 0;
}

// Looks whether the symbol and its next are a pair to merge.
static void pair_up(struct bpe *bpe, uint32_t place)
{
    struct symbol *symbol = &bpe->symbols[place];
    symbol->rank = symbol->next == NONE
                       ? VOCABULARY_NO_RANK
                       : vocabulary_rank(bpe->vocabulary, symbol->token, bpe->symbols[symbol->next].token);
    if (symbol->rank != VOCABULARY_NO_RANK) {
        push(bpe, (uint64_t)symbol->rank << 32 | place);
    }
}

static void merge(struct bpe *bpe, uint32_t place)
{
    struct symbol *symbol = &bpe->symbols[place], *next = &bpe->symbols[symbol->next];
    symbol->token = vocabulary_merged(bpe->vocabulary, symbol->rank);
    symbol->next = next->next;
    next->rank = VOCABULARY_NO_RANK;
    if (symbol->next != NONE) {
        bpe->symbols[symbol->next].previous = place;
    }
    pair_up(bpe, place);
    if (symbol->previous != NONE) {
        pair_up(bpe, symbol->previous);
    }
}

static size_t encode_word(struct bpe *bpe, const char *word, size_t bytes, uint16_t *tokens)
{
    for (uint32_t i = 0; i < bytes; i++) {
        bpe->symbols[i] = (struct symbol){.previous = i == 0 ? NONE : i - 1,
                                          .next = i + 1 == bytes ? NONE : i + 1,
                                          .token = vocabulary_byte(bpe->vocabulary, (uint8_t)word[i])};
    }
    bpe->heap_count = 0;
    for (uint32_t i = 0; i < bytes; i++) {
        pair_up(bpe, i);
    }
    while (bpe->heap_count > 0) {
        uint64_t pair = pop(bpe);
        uint32_t place = (uint32_t)pair;
        if (bpe->symbols[place].rank == pair >> 32) { // else one of the two has been merged with another
            merge(bpe, place);
        }
    }
    size_t count = 0;
    for (uint32_t i = 0; i != NONE; i = bpe->symbols[i].next) {
        tokens[count++] = bpe->symbols[i].token;
    }
    return count;
}

static void remember(struct cached *cached, const char *word, size_t bytes, const uint16_t *tokens, size_t count)
{
    if (count <= CACHED_TOKENS) {
        cached->bytes = (uint8_t)bytes;
        cached->count = (uint8_t)count;
        memcpy(cached->word, word, bytes);
        memcpy(cached->tokens, tokens, count * sizeof(*tokens));
    }
}

static size_t encode_short_word(struct bpe *bpe, const char *word, size_t bytes, uint16_t *tokens)
{
    struct cached *cached = &bpe->cache[XXH3_64bits(word, bytes) % CACHE_SLOTS];
    if (cached->bytes == bytes && memcmp(cached->word, word, bytes) == 0) {
        memcpy(tokens, cached->tokens, cached->count * sizeof(*tokens));
        return cached->count;
    }
    size_t count = encode_word(bpe, word, bytes, tokens);
    remember(cached, word, bytes, tokens, count);
    return count;
}

enum status bpe_encode(struct bpe *bpe, const char *text, size_t bytes, uint16_t *tokens, size_t *count_p)
{
    size_t count = 0;
    if (!splitter_accepts(bpe->splitter, text, bytes, count_p)) {
        return STATUS_INVALID;
    }
    for (size_t first = 0, end; first < bytes; first = end) {
        end = splitter_next(bpe->splitter, text, bytes, first);
        if (end == 0 || !make_room(bpe, end - first)) {
            return STATUS_ERROR;
        }
        count += (end - first <= CACHED_BYTES ? encode_short_word : encode_word)(bpe, text + first, end - first,
                                                                                 tokens + count);
    }
    *count_p = count;
    return STATUS_OK;
}

enum status bpe_decode(const struct vocabulary *vocabulary, const uint16_t *tokens, size_t count, char **text_p,
                       size_t *bytes_p, struct error *error)
{
    size_t bytes = 0, more = 0;
    for (size_t i = 0; i < count; i++) {
        if (vocabulary_text(vocabulary, tokens[i], &more) == NULL) {
            return error_set(error, STATUS_INVALID, "%u is no token of the vocabulary", tokens[i]);
        }
        bytes += more;
    }
    char *text = malloc(bytes + 1), *next = text;
    if (text == NULL) {
        return error_out_of_host_memory(error);
    }
    for (size_t i = 0; i < count; i++) {
        const uint8_t *token = vocabulary_text(vocabulary, tokens[i], &more);
        memcpy(next, token, more);
        next += more;
    }
    *next = '\0';
    *text_p = text;
    *bytes_p = bytes;
    return STATUS_OK;
}
