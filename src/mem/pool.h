// SPDX-License-Identifier: Apache-2.0
//
// The caching allocator: hands out blocks of a device's memory, keeps what is freed for the next call, and knows at
// every moment how much it holds and how much it could still hand out.
//
// What a step needs (mem_pool_alloc) and what stays (mem_pool_hold) come from two ends that never meet: each has a
// range of addresses of its own, with memory behind it from the bottom up, a granule at a time. So a step's blocks
// leave no hole between those that stay, and all they took can go back to the device. Blocks tile a range up to its
// top, the highest byte that was ever in one. A request takes the smallest free block that holds it (best fit, lowest
// address on a tie), is split off it, and is coalesced with its free neighbours when it returns; a miss moves the top,
// as little as it must. Best fit in a growable range: Knuth, TAOCP 1, 2.5; PyTorch calls it expandable segments. On a
// plain device a miss takes a new segment instead, and only whole segments go back.
//
// Sizes are in bytes; each block is rounded up to MEM_POOL_ALIGNMENT, and `allocated` counts rounded blocks, as in
// PyTorch. Always: allocated <= reserved <= limit.
//
// Stream order: `free` names the stream after whose present work the block may be reused (NULL: nothing under way uses
// it), as in RMM and cudaMallocAsync. The same stream reuses it at once; another where growing fails, and only after
// the pool has made it wait for the first, on the device. Streams that blocks were freed on must outlive the pool.
//
// Threads: one thread at a time. Ranks: nothing is collective.
#ifndef HEADROOM_MEM_POOL_H
#define HEADROOM_MEM_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/device.h"
#include "mem/recorder.h"
#include "mem/uint64.h"

#define MEM_POOL_ALIGNMENT UINT64_C(512)

struct mem_pool;

// PyTorch's: since the pool was made `allocated` came and `freed` went; what is left is `current`.
struct mem_stat {
    uint64_t current, peak, allocated, freed;
};

// By the names of torch.cuda.memory_stats(). Freed blocks can be allocated again at once, in the order of streams, so
// what PyTorch calls active is what is allocated.
struct mem_pool_stats {
    uint64_t limit_bytes;                                // never exceeded
    uint64_t soft_limit_bytes;                           // not exceeded by growing
    struct mem_stat allocation, segment, inactive_split; // counts
    struct mem_stat allocated_bytes, reserved_bytes, inactive_split_bytes, requested_bytes;
    uint64_t num_alloc_retries; // requests that were tried again after waiting or trimming
    uint64_t num_ooms;          // refusals
    uint64_t num_device_alloc, num_device_free;
};

// Why a request was refused, and so what helps.
enum mem_cause {
    MEM_CAUSE_CAPACITY,   // live + request > limit: ask for less
    MEM_CAUSE_FRAGMENTED, // enough is free, not in one piece: trim, or where that returns nothing, ask for less
    MEM_CAUSE_PENDING,    // as fragmented, but work that uses what trimming would return is not done: wait, then trim
    MEM_CAUSE_EXTERNAL,   // others hold or claim what the limit promised: ask for less
    MEM_CAUSE_INJECTED,   // a fault asked for by a test
};

#define MEM_TAGS_REPORTED 4

struct mem_out_of_memory {
    enum mem_cause cause;
    uint64_t request_bytes; // as asked, before rounding
    uint64_t limit_bytes, soft_limit_bytes, allocated_bytes, reserved_bytes;
    uint64_t largest_free_bytes; // the largest piece that is held and free
    uint64_t pending_bytes;      // free, but only after a stream has passed
    struct device_info device;
    struct device_usage usage;
    bool usage_known;
    char tag[32]; // of the request
    struct {
        char tag[32];
        uint64_t bytes;
    } top[MEM_TAGS_REPORTED]; // the largest sums of live blocks by tag; unused ones have 0 bytes
};

// Asked before a request of `bytes` is refused or trims: may free blocks of the pool, and answers whether
// it did. The caller of mem_pool_on_pressure owns it; it stays until the pool is destroyed.
struct mem_pressure {
    bool (*relieve)(void *context, uint64_t bytes);
    void *context;
    struct mem_pressure *next; // the pool's
};

// `limit_bytes`: the most the pool will ever hold; 0: the device's capacity. The device must outlive the pool.
enum status mem_pool_create(struct device *device, uint64_t limit_bytes, struct mem_pool **pool_p, struct error *error);
// Gives everything back to the device. Live blocks die with it. Accepts NULL.
void mem_pool_destroy(struct mem_pool *pool);

// A block of at least `bytes` (0 counts as 1) that a step uses on `stream` (NULL: the host does; then no block of the
// pool is freed on a stream); contents undefined. `tag` names it in
// reports (cut at 31 bytes). Never blocks the host. STATUS_OUT_OF_MEMORY leaves every block as it was;
// `mem_pool_out_of_memory` then tells why. STATUS_ERROR does too; the host's memory has run out.
enum status mem_pool_alloc(struct mem_pool *pool, uint64_t bytes, struct stream *stream, const char *tag,
                           device_address *address_p);
// The same for a block that outlives steps. Blocks the host where waiting or trimming helps.
enum status mem_pool_hold(struct mem_pool *pool, uint64_t bytes, struct stream *stream, const char *tag,
                          device_address *address_p);
// `address` must come from this pool and be live, or be 0. Never blocks.
void mem_pool_free(struct mem_pool *pool, device_address address, struct stream *stream);

// A live block, used on `stream` alone, becomes one of at least `bytes`; it may move, and its contents become
// undefined. To shrink is never refused. To grow may be; then it has as many bytes as before. It grows at its own end,
// and owners are not asked under pressure. STATUS_ERROR when the host's memory runs out, with nothing changed. Blocks
// the host where waiting or trimming lets it grow.
enum status mem_pool_resize(struct mem_pool *pool, device_address *address_p, uint64_t bytes, struct stream *stream);

// What the cause of the last refusal asks for: waits for work that is pending, or trims. False where neither would
// help; else the request is worth another try.
bool mem_pool_relieve(struct mem_pool *pool);

// The address as a host pointer where the device's memory is the host's, else NULL.
void *mem_pool_host_pointer(const struct mem_pool *pool, device_address address);

// Returns cached memory to the device until no more than `bytes` are held, as far as live blocks allow; answers how
// many bytes went back. Waits for the streams that used what goes back, not for the device (a plain GPU's own call
// does).
uint64_t mem_pool_trim(struct mem_pool *pool, uint64_t bytes);

// From now on the pool does not grow beyond `bytes`, and returns cached memory beyond them, as mem_pool_trim does. Live
// blocks may hold it above. UINT64_MAX: no such limit.
void mem_pool_set_soft_limit(struct mem_pool *pool, uint64_t bytes);

// The last that was added is asked first.
void mem_pool_on_pressure(struct mem_pool *pool, struct mem_pressure *pressure);

// Bytes that one request of a step could still get, once the pool has been relieved where that helps: what the device
// has free for this process under the limits, plus what the pool holds and no live block keeps from it. On a shared
// device each sharer counts an equal part of what is free. Does not block.
uint64_t mem_pool_headroom(struct mem_pool *pool);
// The same, were the others who share the device to take none of what is free.
uint64_t mem_pool_headroom_alone(struct mem_pool *pool);
// The same of a pool of `limit_bytes` in which `held_bytes` are held and no step has begun. Where no whole granule is
// left for steps, they get the rest of the last one.
static inline uint64_t mem_pool_headroom_beside(uint64_t held_bytes, uint64_t limit_bytes, uint64_t granularity_bytes)
{
    uint64_t rounded = uint64_round_up(held_bytes, granularity_bytes);
    return limit_bytes - uint64_min(limit_bytes, rounded < limit_bytes ? rounded : held_bytes);
}

// Bytes that are held and free, but that lie between live blocks: neither would a step's request get them, nor could
// they be returned. The rest of a granule counts, too.
uint64_t mem_pool_fragmented(const struct mem_pool *pool);

void mem_pool_stats(const struct mem_pool *pool, struct mem_pool_stats *stats_p);
// Calls `visit` with each statistic, under the name that torch.cuda.memory_stats() has for it.
void mem_pool_stats_visit(const struct mem_pool_stats *stats,
                          void (*visit)(void *context, const char *name, uint64_t value), void *context);
// Peaks start again from the present.
void mem_pool_reset_peaks(struct mem_pool *pool);

// For a device with a sanitizer (mem/sanitizer.h), before the first block: every block gets red zones of 512 bytes that
// nobody may write, and bytes that read as NaN when it is new and when it is freed. `allocated` does not count the
// zones. From then on alloc and free block the host.
void mem_pool_sanitize(struct mem_pool *pool);

// From now on what the pool does is recorded, after what it holds now, as if it came just then. The recorder is the
// caller's and must stay until it is replaced; NULL: none.
void mem_pool_record(struct mem_pool *pool, struct mem_recorder *recorder);
// Writes what the pool holds, and what is recorded, as a file for PyTorch's memory viewer (mem/snapshot.h), in which
// the device has this number. Whole or not at all.
enum status mem_pool_snapshot(struct mem_pool *pool, uint32_t device, const char *path, struct error *error);

// Blocks allocated from now on belong to this step.
void mem_pool_begin_step(struct mem_pool *pool, uint64_t step);
// The step's blocks that are still live, by tag and step, as "2 of 'scratch' (1.00 MiB) since step 3". Writes and
// answers how many blocks there are; those that `size` has no room for are counted only.
uint64_t mem_pool_leaks(struct mem_pool *pool, char *text, size_t size);

// The same summed up by tag: fills in the first `most` tags that are met, and answers how many these are.
struct mem_pool_kept {
    char tag[32];
    uint64_t blocks, bytes, first_step, last_step;
};
size_t mem_pool_kept(struct mem_pool *pool, struct mem_pool_kept *kept, size_t most);
// Bytes of those of one tag.
uint64_t mem_pool_kept_bytes(struct mem_pool *pool, const char *tag);

// The last refusal.
const struct mem_out_of_memory *mem_pool_out_of_memory(const struct mem_pool *pool);
const char *mem_cause_name(enum mem_cause cause);
// "1.50 MiB". Writes and answers `text`, of MEM_SIZE_TEXT_MAX bytes.
#define MEM_SIZE_TEXT_MAX 32
const char *mem_size_text(uint64_t bytes, char *text);
// The refusal in one line, in PyTorch's wording and then what that lacks. Cut at `size`.
void mem_out_of_memory_format(const struct mem_out_of_memory *report, const struct device_ops *ops, char *text,
                              size_t size);

// Tests: of the calls of mem_pool_alloc and mem_pool_hold, and of mem_pool_resize to grow, from now on, counted from 1,
// `count` are refused: the `first`, and then every `every`-th (0: none at all).
struct mem_faults {
    uint64_t every, first, count;
};
void mem_pool_inject_failures(struct mem_pool *pool, struct mem_faults faults);
// Walks the whole structure; true when blocks tile what is held but for less than a granule, neighbours are coalesced,
// the index of free blocks and every sum agree.
bool mem_pool_check(struct mem_pool *pool);

// What a request of `bytes` adds to allocated. UINT64_MAX where that is beyond 64 bits.
static inline uint64_t mem_pool_block_bytes(uint64_t bytes)
{
    return uint64_round_up(uint64_max(bytes, 1), MEM_POOL_ALIGNMENT);
}

#endif
