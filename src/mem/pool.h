// SPDX-License-Identifier: Apache-2.0
//
// The caching allocator: hands out blocks of a device's memory, keeps what is freed for the next call, and knows at
// every moment how much it holds and how much it could still hand out.
//
// The pool reserves one range of addresses and commits it from the bottom up, a granule at a time. Blocks tile it up to
// the top, the highest byte that was ever in one. A request takes the smallest free block that holds it (best fit,
// lowest address on a tie), is split off it, and is coalesced with its free neighbours when it returns; a miss moves
// the top, as little as it must. One growable range instead of separate segments means that memory freed at the top
// serves a larger request without going back to the device. Best fit in one growable range: Knuth, TAOCP 1, 2.5;
// PyTorch calls it expandable segments.
//
// Sizes are in bytes; each block is rounded up to MEM_POOL_ALIGNMENT, and `allocated` counts rounded blocks, as in
// PyTorch. Always: allocated <= reserved <= limit.
//
// Stream order, as in RMM and cudaMallocAsync: `free` names the stream after whose present work the block may be
// reused. The same stream reuses it at once; another only after the pool has ordered the two.
//
// Threads: one thread at a time. Ranks: nothing is collective.
#ifndef HEADROOM_MEM_POOL_H
#define HEADROOM_MEM_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/device.h"
#include "mem/uint64.h"

#define MEM_POOL_ALIGNMENT UINT64_C(512)

struct mem_pool;

struct mem_pool_stats {
    uint64_t limit_bytes;
    uint64_t allocated_bytes, allocated_peak_bytes; // in live blocks
    uint64_t reserved_bytes, reserved_peak_bytes;   // held from the device
    uint64_t live_blocks;
    uint64_t alloc_count, free_count;
    uint64_t device_calls; // commits and releases
    uint64_t out_of_memory_count;
};

// Why a request was refused, and so what helps.
enum mem_cause {
    MEM_CAUSE_CAPACITY,   // live + request > limit: ask for less
    MEM_CAUSE_FRAGMENTED, // enough is free, not in one piece: trim or lay out anew
    MEM_CAUSE_EXTERNAL,   // others hold what the limit promised: ask for less
    MEM_CAUSE_INJECTED,   // a fault asked for by a test
};

#define MEM_TAGS_REPORTED 4

struct mem_out_of_memory {
    enum mem_cause cause;
    uint64_t request_bytes; // as asked, before rounding
    uint64_t limit_bytes, allocated_bytes, reserved_bytes;
    uint64_t largest_free_bytes; // the largest piece that is held and free
    uint64_t pending_bytes;      // free, but only after a stream has passed
    struct device_info device;
    char tag[32]; // of the request
    struct {
        char tag[32];
        uint64_t bytes;
    } top[MEM_TAGS_REPORTED]; // the largest sums of live blocks by tag; unused ones have 0 bytes
};

// `limit_bytes`: the most the pool will ever hold; 0: the device's capacity. The device must outlive the pool.
enum status mem_pool_create(struct device *device, uint64_t limit_bytes, struct mem_pool **pool_p, struct error *error);
// Gives everything back to the device. Live blocks die with it. Accepts NULL.
void mem_pool_destroy(struct mem_pool *pool);

// A block of at least `bytes` (0 counts as 1) for work on `stream`; contents undefined. `tag` names it in reports
// (cut at 31 bytes). STATUS_OUT_OF_MEMORY leaves every block as it was; `mem_pool_out_of_memory` then tells why.
// STATUS_ERROR does too; the host's memory has run out. Blocks the host only where nothing else can satisfy the
// request.
enum status mem_pool_alloc(struct mem_pool *pool, uint64_t bytes, struct stream *stream, const char *tag,
                           device_address *address_p);
// `address` must come from this pool and be live, or be 0. Never blocks.
void mem_pool_free(struct mem_pool *pool, device_address address, struct stream *stream);

// The address as a host pointer where the device's memory is the host's, else NULL.
void *mem_pool_host_pointer(const struct mem_pool *pool, device_address address);

// Returns cached memory to the device, after synchronising it; answers how many bytes went back.
uint64_t mem_pool_empty_cache(struct mem_pool *pool);
// Returns cached memory to the device until no more than `bytes` are held, as far as live blocks allow.
uint64_t mem_pool_trim(struct mem_pool *pool, uint64_t bytes);

// Bytes that one request could still get: what the device has free for this process under the limit, plus what the
// pool holds above its highest live block. On a shared device each sharer counts an equal part of what is free. Does
// not block.
uint64_t mem_pool_headroom(struct mem_pool *pool);

void mem_pool_stats(const struct mem_pool *pool, struct mem_pool_stats *stats_p);
// Peaks start again from the present.
void mem_pool_reset_peaks(struct mem_pool *pool);

// The last refusal.
const struct mem_out_of_memory *mem_pool_out_of_memory(const struct mem_pool *pool);
const char *mem_cause_name(enum mem_cause cause);
// "1.50 MiB". Writes and answers `text`, of MEM_SIZE_TEXT_MAX bytes.
#define MEM_SIZE_TEXT_MAX 32
const char *mem_size_text(uint64_t bytes, char *text);
// The refusal in one line, in PyTorch's wording and then what that lacks. Cut at `size`.
void mem_out_of_memory_format(const struct mem_out_of_memory *report, const struct device_ops *ops, char *text,
                              size_t size);

// Tests: from now on every `every`-th call of mem_pool_alloc is refused (0: none).
void mem_pool_inject_failures(struct mem_pool *pool, uint64_t every);
// Walks the whole structure; true when blocks tile the held range but for less than a granule, neighbours are
// coalesced, the index of free blocks and every sum agree.
bool mem_pool_check(const struct mem_pool *pool);

// What a request of `bytes` adds to allocated. UINT64_MAX where that is beyond 64 bits.
static inline uint64_t mem_pool_block_bytes(uint64_t bytes)
{
    return uint64_round_up(uint64_max(bytes, 1), MEM_POOL_ALIGNMENT);
}

#endif
