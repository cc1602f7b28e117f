// SPDX-License-Identifier: Apache-2.0
//
// An assertion for a child process: where it does not hold, the child says so and ends with code 1.
#ifndef HEADROOM_TESTS_EXPECT_H
#define HEADROOM_TESTS_EXPECT_H

#include <stdio.h>
#include <unistd.h>

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            fflush(NULL);                                                                                              \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

#endif
