// SPDX-License-Identifier: Apache-2.0
//
// test_fuzz_pool [FIRST_SEED RUNS]: the pool under operations from fixed pseudo-random bytes, and what it did.
#include <stdlib.h>

#include "pool_fuzz.h"
#include "require.h"

#define RUN_BYTES 4096

int main(int count, char **arguments)
{
    uint64_t first = count == 3 ? strtoull(arguments[1], NULL, 10) : 1;
    uint64_t runs = count == 3 ? strtoull(arguments[2], NULL, 10) : 2000;
    struct fuzz_coverage coverage = {0};
    uint64_t operations = 0;
    for (uint64_t seed = first; seed < first + runs; seed++) {
        uint8_t bytes[RUN_BYTES];
        fuzz_fill(bytes, sizeof(bytes), seed);
        require_place.seed = seed;
        operations += fuzz_pool(bytes, sizeof(bytes), (struct fuzz_fault){0}, &coverage).operations;
    }
    printf("%" PRIu64 " operations\n", operations);
    fuzz_print(&coverage);
    return 0;
}
