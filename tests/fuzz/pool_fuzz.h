// SPDX-License-Identifier: Apache-2.0
//
// Bytes as operations on a pool over the simulated device; after each, the whole pool is checked against the oracle. A
// broken promise ends the process.
#ifndef HEADROOM_TESTS_POOL_FUZZ_H
#define HEADROOM_TESTS_POOL_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "mem/pool.h"
#include "sim_device.h"

enum fuzz_operation {
    FUZZ_ALLOC,
    FUZZ_HOLD,
    FUZZ_FREE,
    FUZZ_FREE_ON_ANOTHER,
    FUZZ_TOUCH,
    FUZZ_TRIM,
    FUZZ_RELIEVE,
    FUZZ_SOFT_LIMIT,
    FUZZ_NEIGHBOUR,
    FUZZ_COMPLETE,
    FUZZ_BEGIN_STEP,
    FUZZ_LEAKS,
    FUZZ_INJECT,
    FUZZ_FAIL_CALL,
    FUZZ_RESET_PEAKS,
    FUZZ_HEADROOM,
    FUZZ_RESIZE,
    FUZZ_OPERATIONS
};

#define FUZZ_CAUSES (MEM_CAUSE_INJECTED + 1)
#define FUZZ_PLACES 6

struct fuzz_coverage {
    uint64_t runs, plain_runs, operations[FUZZ_OPERATIONS];
    uint64_t blocks, zero_bytes, refusals[FUZZ_CAUSES], host_full;
    uint64_t places[FUZZ_PLACES], other_end; // of blocks: how they were found
    uint64_t stream_waits, host_waits, commits, releases, failed_calls[SIM_CALLS];
    uint64_t relieved, retried, asked, given_up, headroom_kept;
    uint64_t live_max, free_blocks_max, segments_max;
};

// All zeros: none.
struct fuzz_fault {
    enum sim_call call;
    uint64_t number; // the call of the run that fails
};

struct fuzz_run {
    uint64_t operations;
    uint64_t calls[SIM_CALLS]; // that the run made
};

// Adds to what is covered.
struct fuzz_run fuzz_pool(const uint8_t *bytes, size_t size, struct fuzz_fault fault, struct fuzz_coverage *coverage);
// A byte that asks for the operation.
uint8_t fuzz_operation_byte(enum fuzz_operation operation);
// Pseudo-random bytes.
void fuzz_fill(uint8_t *bytes, size_t size, uint64_t seed);
void fuzz_print(const struct fuzz_coverage *coverage);

#endif
