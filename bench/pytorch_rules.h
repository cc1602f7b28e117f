// SPDX-License-Identifier: Apache-2.0
//
// PyTorch's caching allocator by its rules and with its containers (c10/cuda/CUDACachingAllocator.cpp), to be measured
// beside the pool where there is no GPU: a lock, a set of free blocks in order of size and address for small and large
// ones, a hash table of live ones. Its segments are numbers; nothing is recorded.
#ifndef HEADROOM_BENCH_PYTORCH_RULES_H
#define HEADROOM_BENCH_PYTORCH_RULES_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pytorch_rules;

struct pytorch_rules *pytorch_rules_create(void);
void pytorch_rules_destroy(struct pytorch_rules *rules);
uint64_t pytorch_rules_alloc(struct pytorch_rules *rules, uint64_t bytes);
// `address` must be live.
void pytorch_rules_free(struct pytorch_rules *rules, uint64_t address);
// Segments taken so far.
uint64_t pytorch_rules_segments(const struct pytorch_rules *rules);

#ifdef __cplusplus
}
#endif

#endif
