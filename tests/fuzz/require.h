// SPDX-License-Identifier: Apache-2.0
//
// What ends a fuzz: a promise that does not hold.
#ifndef HEADROOM_TESTS_REQUIRE_H
#define HEADROOM_TESTS_REQUIRE_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

// Where the fuzz is, for whoever has to find out why it ended.
struct require_place {
    uint64_t seed, operation;
    const char *name;
};

extern struct require_place require_place;

static inline void require_failed(const char *file, int line, const char *condition)
{
    fprintf(stderr, "%s:%d: seed %" PRIu64 ", operation %" PRIu64 " (%s): not true: %s\n", file, line,
            require_place.seed, require_place.operation, require_place.name, condition);
    abort();
}

#define require(condition) ((condition) ? (void)0 : require_failed(__FILE__, __LINE__, #condition))

#endif
