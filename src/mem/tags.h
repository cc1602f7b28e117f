// SPDX-License-Identifier: Apache-2.0
//
// The names under which blocks are allocated, each kept once, with what is live under it.
#ifndef HEADROOM_MEM_TAGS_H
#define HEADROOM_MEM_TAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TAG_MAX     32 // with the byte that ends it; longer ones are cut
#define TAGS_RECENT 64

struct tag {
    char name[TAG_MAX];
    uint32_t hash;
    uint64_t live_bytes, live_blocks;
};

struct tags {
    struct tag **table; // open-addressed by hash
    size_t count, capacity;
    struct tag *recent[TAGS_RECENT]; // found last, by where the name stood that was asked for
};

// Knows no tag yet, and holds nothing.
void tags_init(struct tags *tags);
void tags_finish(struct tags *tags);

// The tag of that name, which stays where it is. NULL when the host's memory runs out.
struct tag *tags_find(struct tags *tags, const char *name);

// Fills largest[most] with those of the most live bytes, the largest first and those of equal bytes by name; answers
// how many have some.
size_t tags_largest(const struct tags *tags, const struct tag **largest, size_t most);

#endif
