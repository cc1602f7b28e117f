// SPDX-License-Identifier: Apache-2.0
//
// Free blocks in order of stream, size and address: a treap whose priorities are hashes of addresses (Seidel and
// Aragon, 1996), so that an operation takes logarithmic time, whatever came before. A block is in one tree at most; its
// stream, bytes and address stay as they are while it is.
#ifndef HEADROOM_MEM_FREE_TREE_H
#define HEADROOM_MEM_FREE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/device.h"

struct block;

void free_tree_insert(struct block **root, struct block *block);
void free_tree_remove(struct block **root, const struct block *block);

// The smallest of at least `bytes` whose stream is this one; the lowest address among equals. NULL: there is none.
struct block *free_tree_find(struct block *root, const struct stream *stream, uint64_t bytes);

bool free_tree_has(const struct block *root, const struct block *block);
// How many blocks there are; SIZE_MAX where their order or their priorities are broken.
size_t free_tree_count(const struct block *root);

#endif
