// SPDX-License-Identifier: Apache-2.0
//
// What tests on every rank of a job share: a failed check ends the whole job, so no rank is left waiting.
#ifndef HEADROOM_TESTS_CHECK_H
#define HEADROOM_TESTS_CHECK_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/comm/comm.h"

static struct comm *comm;

#define CHECK(condition) check(condition, #condition, __func__, __LINE__)

static inline void check(bool holds, const char *condition, const char *where, int line)
{
    if (!holds) {
        fprintf(stderr, "rank %" PRIu32 ": %s:%d: %s\n", comm->rank, where, line, condition);
        comm->ops->abort(comm, 1);
    }
}

static inline void *make(size_t bytes)
{
    void *memory = malloc(bytes);
    CHECK(memory != NULL);
    return memory;
}

// The communicator and its size as the command line says: self|mpi RANKS.
static inline void open_comm(int argc, char **argv)
{
    const struct comm_ops *ops = argc > 1 && strcmp(argv[1], "self") == 0 ? &comm_self : &comm_mpi;
    if (argc != 3 || ops->create(&comm, NULL) != STATUS_OK) {
        exit(1);
    }
    CHECK(comm->ops == ops);
    CHECK(comm->size == strtoul(argv[2], NULL, 10));
}

#endif
