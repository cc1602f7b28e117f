// SPDX-License-Identifier: Apache-2.0
//
// What a pool must answer, found the naive way: from a list of live blocks and the memory that the device gave. Knows
// nothing of the pool's own books.
#ifndef HEADROOM_TESTS_ORACLE_H
#define HEADROOM_TESTS_ORACLE_H

#include "mem/pool.h"
#include "sim_device.h"

#define ORACLE_BLOCKS 1024
#define ORACLE_TAGS   6

struct oracle_block {
    device_address address;
    uint64_t bytes; // rounded
    uint64_t requested_bytes, step;
    bool stays;
    size_t tag;
    size_t owner; // who gives it up under pressure; SIZE_MAX: nobody
};

struct oracle {
    const struct sim_device *sim;
    uint64_t limit_bytes, soft_limit_bytes;
    struct oracle_block blocks[ORACLE_BLOCKS]; // in order of address
    size_t count;
    struct mem_stat allocation, allocated_bytes, requested_bytes;
    uint64_t num_ooms;
};

// As the pool is given them, and as it keeps them.
extern const char *const oracle_tags[ORACLE_TAGS];
extern const char *const oracle_cut_tags[ORACLE_TAGS];

uint64_t oracle_limit(const struct oracle *oracle);
// The place of the block in the list; of none, where it would be.
size_t oracle_find(const struct oracle *oracle, device_address address);
void oracle_add(struct oracle *oracle, const struct oracle_block *block);
void oracle_remove(struct oracle *oracle, size_t i);

// Where the last live block of the range ends, from its base.
uint64_t oracle_live_end(const struct oracle *oracle, const struct sim_range *range);
// What trimming could return of the range, and of all.
uint64_t oracle_range_releasable(const struct oracle *oracle, const struct sim_range *range);
uint64_t oracle_releasable(const struct oracle *oracle);
// The longest stretch that is held and in no live block.
uint64_t oracle_largest_free(const struct oracle *oracle);
// Whether there is a place for a block, whoever used it, without anything going back to the device.
bool oracle_has_place(const struct oracle *oracle, uint64_t bytes);
// Whether there would be one in new memory once everything was trimmed.
bool oracle_trim_would_do(const struct oracle *oracle, uint64_t bytes);
// Why a block finds no place; pending counts as fragmented.
enum mem_cause oracle_cause(const struct oracle *oracle, uint64_t bytes);

void oracle_check_stats(const struct oracle *oracle, const struct mem_pool_stats *stats);
void oracle_reset_peaks(struct oracle *oracle);
void oracle_check_tags(const struct oracle *oracle, const struct mem_out_of_memory *report);
void oracle_check_leaks(const struct oracle *oracle, struct mem_pool *pool);

#endif
