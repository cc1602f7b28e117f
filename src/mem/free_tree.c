// SPDX-License-Identifier: Apache-2.0
#include "mem/free_tree.h"

#include "mem/blocks.h"

static bool comes_before(const struct block *block, const struct stream *stream, uint64_t bytes, device_address address)
{
    if (block->stream != stream) {
        return (uintptr_t)block->stream < (uintptr_t)stream;
    }
    return block->bytes < bytes || (block->bytes == bytes && block->address < address);
}

static bool in_order(const struct block *a, const struct block *b)
{
    return comes_before(a, b->stream, b->bytes, b->address);
}

static uint64_t priority_of(const struct block *block)
{
    uint64_t hash = block->address * UINT64_C(0x9e3779b97f4a7c15);
    return (hash ^ hash >> 32) * UINT64_C(0xd6e8feb86659fd93);
}

// Cuts the tree into what comes before the block and what comes after it.
static void split(struct block *root, const struct block *block, struct block **before, struct block **after)
{
    while (root != NULL) {
        if (in_order(root, block)) {
            *before = root;
            before = &root->larger;
            root = root->larger;
        } else {
            *after = root;
            after = &root->smaller;
            root = root->smaller;
        }
    }
    *before = *after = NULL;
}

// All of `before` comes before all of `after`.
static struct block *join(struct block *before, struct block *after)
{
    struct block *root, **end = &root;
    while (before != NULL && after != NULL) {
        if (priority_of(before) > priority_of(after)) {
            *end = before;
            end = &before->larger;
            before = before->larger;
        } else {
            *end = after;
            end = &after->smaller;
            after = after->smaller;
        }
    }
    *end = before != NULL ? before : after;
    return root;
}

void free_tree_insert(struct block **root, struct block *block)
{
    uint64_t priority = priority_of(block);
    while (*root != NULL && priority_of(*root) >= priority) {
        root = in_order(*root, block) ? &(*root)->larger : &(*root)->smaller;
    }
    split(*root, block, &block->smaller, &block->larger);
    *root = block;
}

void free_tree_remove(struct block **root, const struct block *block)
{
    while (*root != block) {
        root = in_order(*root, block) ? &(*root)->larger : &(*root)->smaller;
    }
    *root = join(block->smaller, block->larger);
}

struct block *free_tree_find(struct block *root, const struct stream *stream, uint64_t bytes)
{
    struct block *first = NULL;
    while (root != NULL) {
        if (comes_before(root, stream, bytes, 0)) {
            root = root->larger;
        } else {
            first = root;
            root = root->smaller;
        }
    }
    return first != NULL && first->stream == stream ? first : NULL;
}

bool free_tree_has(const struct block *root, const struct block *block)
{
    while (root != NULL && root != block) {
        root = in_order(root, block) ? root->larger : root->smaller;
    }
    return root != NULL;
}

// Adds the tree's blocks to `count`; *last is the one before them, and then the last of them.
static bool count_in_order(const struct block *root, const struct block **last, size_t *count)
{
    if (root == NULL) {
        return true;
    }
    bool above = (root->smaller == NULL || priority_of(root->smaller) <= priority_of(root)) &&
                 (root->larger == NULL || priority_of(root->larger) <= priority_of(root));
    if (!above || !count_in_order(root->smaller, last, count) || (*last != NULL && !in_order(*last, root))) {
        return false;
    }
    *last = root;
    ++*count;
    return count_in_order(root->larger, last, count);
}

size_t free_tree_count(const struct block *root)
{
    const struct block *last = NULL;
    size_t count = 0;
    return count_in_order(root, &last, &count) ? count : SIZE_MAX;
}
