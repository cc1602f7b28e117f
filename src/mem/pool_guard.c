// SPDX-License-Identifier: Apache-2.0
//
// What the pool does for a sanitizer: red zones around blocks, memory that is poisoned while it is free, and word of
// where blocks begin and end.
#include <inttypes.h>

#include "mem/pool_state.h"
#include "mem/sanitizer.h"

#define GUARD_BYTES MEM_POOL_ALIGNMENT
#define ZONE_BYTE   0xfd
#define POISON_BYTE 0xff // reads as NaN in every precision

void mem_pool_sanitize(struct mem_pool *pool)
{
    pool->guard_bytes = GUARD_BYTES;
}

// The zone behind what was requested, which rounding makes longer.
static uint64_t zone_behind(const struct mem_pool *pool, const struct block *block)
{
    return pool_user_bytes(pool, block) - block->requested_bytes + pool->guard_bytes;
}

void pool_guard_taken(struct mem_pool *pool, const struct block *block, struct stream *stream)
{
    struct device *device = pool->device;
    device_address address = pool_user_address(pool, block), end = address + block->requested_bytes;
    if (pool->guard_bytes == 0) {
        return;
    }
    sanitizer_set_poison(device, block->address, block->bytes, false);
    sanitizer_fill(device, stream, block->address, pool->guard_bytes, ZONE_BYTE);
    sanitizer_fill(device, stream, address, block->requested_bytes, POISON_BYTE);
    sanitizer_fill(device, stream, end, zone_behind(pool, block), ZONE_BYTE);
    sanitizer_block(device, address, pool_user_bytes(pool, block), block->tag->name);
    sanitizer_set_poison(device, block->address, pool->guard_bytes, true);
    sanitizer_set_poison(device, end, zone_behind(pool, block), true);
}

static void check_zone(struct mem_pool *pool, const struct block *block, struct stream *stream, device_address zone,
                       uint64_t bytes)
{
    uint64_t offset;
    if (sanitizer_find_damage(pool->device, stream, zone, bytes, ZONE_BYTE, &offset)) {
        int64_t place = (int64_t)(zone + offset - pool_user_address(pool, block));
        sanitizer_report(pool->device,
                         "block '%s' of %" PRIu64 " bytes, allocated in step %" PRIu64 ": byte %" PRId64
                         " is outside of it and was written to",
                         block->tag->name, block->requested_bytes, block->step, place);
    }
}

void pool_guard_given(struct mem_pool *pool, const struct block *block, struct stream *stream)
{
    struct device *device = pool->device;
    device_address address = pool_user_address(pool, block);
    if (pool->guard_bytes == 0) {
        return;
    }
    sanitizer_set_poison(device, block->address, block->bytes, false);
    check_zone(pool, block, stream, block->address, pool->guard_bytes);
    check_zone(pool, block, stream, address + block->requested_bytes, zone_behind(pool, block));
    sanitizer_fill(device, stream, block->address, block->bytes, POISON_BYTE);
    sanitizer_block_freed(device, address, stream);
    sanitizer_set_poison(device, block->address, block->bytes, true);
}

void pool_guard_returned(struct mem_pool *pool, device_address address, uint64_t bytes)
{
    if (pool->guard_bytes > 0) {
        sanitizer_set_poison(pool->device, address, bytes, false);
    }
}
