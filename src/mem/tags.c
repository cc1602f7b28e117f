// SPDX-License-Identifier: Apache-2.0
#include "mem/tags.h"

#include <stdlib.h>
#include <string.h>

void tags_init(struct tags *tags)
{
    *tags = (struct tags){0};
}

void tags_finish(struct tags *tags)
{
    for (size_t i = 0; i < tags->capacity; i++) {
        free(tags->table[i]);
    }
    free(tags->table);
    tags_init(tags);
}

// FNV-1a.
static uint32_t hash_of(const char *name, size_t length)
{
    uint32_t hash = UINT32_C(2166136261);
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ (unsigned char)name[i]) * UINT32_C(16777619);
    }
    return hash;
}

static void insert(struct tags *tags, struct tag *tag)
{
    size_t place = tag->hash & (tags->capacity - 1);
    while (tags->table[place] != NULL) {
        place = (place + 1) & (tags->capacity - 1);
    }
    tags->table[place] = tag;
}

static bool make_room(struct tags *tags)
{
    if (2 * (tags->count + 1) <= tags->capacity) {
        return true;
    }
    struct tags larger = *tags;
    larger.capacity = tags->capacity == 0 ? 64 : 2 * tags->capacity;
    larger.table = calloc(larger.capacity, sizeof(struct tag *));
    if (larger.table == NULL) {
        return false;
    }
    for (size_t i = 0; i < tags->capacity; i++) {
        if (tags->table[i] != NULL) {
            insert(&larger, tags->table[i]);
        }
    }
    free(tags->table);
    *tags = larger;
    return true;
}

static struct tag *add(struct tags *tags, const char *name, size_t length, uint32_t hash)
{
    struct tag *tag = make_room(tags) ? calloc(1, sizeof(*tag)) : NULL;
    if (tag != NULL) {
        memcpy(tag->name, name, length);
        tag->hash = hash;
        insert(tags, tag);
        tags->count++;
    }
    return tag;
}

static struct tag *find_or_add(struct tags *tags, const char *name)
{
    size_t length = strnlen(name, TAG_MAX - 1);
    uint32_t hash = hash_of(name, length);
    for (size_t i = 0; i < tags->capacity; i++) {
        struct tag *tag = tags->table[(hash + i) & (tags->capacity - 1)];
        if (tag == NULL) {
            break;
        }
        if (tag->hash == hash && memcmp(tag->name, name, length) == 0 && tag->name[length] == '\0') {
            return tag;
        }
    }
    return add(tags, name, length, hash);
}

struct tag *tags_find(struct tags *tags, const char *name)
{
    struct tag **recent = &tags->recent[(uintptr_t)name / 8 % TAGS_RECENT];
    if (*recent == NULL || strncmp((*recent)->name, name, TAG_MAX - 1) != 0) {
        *recent = find_or_add(tags, name);
    }
    return *recent;
}

static bool larger(const struct tag *a, const struct tag *b)
{
    return a->live_bytes != b->live_bytes ? a->live_bytes > b->live_bytes : strcmp(a->name, b->name) < 0;
}

size_t tags_largest(const struct tags *tags, const struct tag **largest, size_t most)
{
    size_t count = 0;
    for (size_t i = 0; i < tags->capacity; i++) {
        const struct tag *tag = tags->table[i];
        if (tag == NULL || tag->live_bytes == 0) {
            continue;
        }
        size_t place = count;
        for (; place > 0 && larger(tag, largest[place - 1]); place--) {
            if (place < most) {
                largest[place] = largest[place - 1];
            }
        }
        if (place < most) {
            largest[place] = tag;
            count += count < most;
        }
    }
    return count;
}
