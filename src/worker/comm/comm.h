// SPDX-License-Identifier: Apache-2.0
//
// Communicators: how ranks exchange messages. Each kind is one const table, chosen once.
//
// "Collective" entries must be called by all ranks in the same order. They block until this rank's part is done,
// unless they say otherwise. A failure inside a communicator ends the whole job: there is no recovery from a lost rank.
//
// Threads: the thread that created it.
#ifndef HEADROOM_WORKER_COMM_COMM_H
#define HEADROOM_WORKER_COMM_COMM_H

#include <stddef.h>
#include <stdint.h>

#include "mem/error.h"

struct comm;

struct comm_ops {
    const char *name; // "self", "mpi"
    // Collective. The caller owns the communicator.
    enum status (*create)(struct comm **comm_p, struct error *error);
    // Collective. Accepts NULL.
    void (*destroy)(struct comm *comm);
    // Collective: `bytes` at `data` become those of rank 0.
    void (*broadcast)(struct comm *comm, void *data, size_t bytes);
    // Collective: starts bringing every rank's `bytes` at `mine` to all[rank]; does not block. Both stay untouched
    // until gather_wait, also collective, returns. One at a time.
    void (*gather_start)(struct comm *comm, const void *mine, void *all, size_t bytes);
    void (*gather_wait)(struct comm *comm);
    // Not collective: ends every rank at once with this exit code. Does not return.
    void (*abort)(struct comm *comm, int exit_code) __attribute__((noreturn));
};

struct comm {
    const struct comm_ops *ops;
    uint32_t rank, size;
    uint32_t host; // the lowest rank of those that share memory with this one
};

extern const struct comm_ops comm_self, comm_mpi;

// Collective: every rank's `bytes`, in rank order, for the caller to free. Ends the job where host memory runs out.
void *comm_gather(struct comm *comm, const void *mine, size_t bytes);

// Collective: the lowest rank whose `status` is not STATUS_OK, and that status at `*status_p`; comm->size when there
// is none.
uint32_t comm_first_failure(struct comm *comm, enum status status, enum status *status_p);

// "Open MPI v4.1.4", also before a communicator was made.
#define COMM_VERSION_MAX 8192
const char *comm_mpi_version(char buffer[COMM_VERSION_MAX]);

#endif
