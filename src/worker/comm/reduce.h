// SPDX-License-Identifier: Apache-2.0
//
// The all-reduce: values on the device become their sums over all ranks; and the all-gather, which brings each rank's
// part of them to all. Each kind is one const table, chosen once: "self" for one rank, "mpi" through host memory,
// "nccl" between GPUs.
//
// "Collective" entries must be called by all ranks in the same order. A failure inside ends the whole job, or is told
// by `check`: there is no recovery from a lost rank.
//
// Threads: the thread that created it.
#ifndef HEADROOM_WORKER_COMM_REDUCE_H
#define HEADROOM_WORKER_COMM_REDUCE_H

#include "mem/pool.h"
#include "worker/comm/comm.h"
#include "worker/shards.h"

enum reduce_type { REDUCE_FLOAT32, REDUCE_FLOAT64, REDUCE_INT64 };

static inline uint64_t reduce_type_bytes(enum reduce_type type)
{
    return type == REDUCE_FLOAT32 ? 4 : 8;
}

struct reducer;

struct reduce_ops {
    const char *name;
    bool overlaps; // `start` does not block, and sums run beside what is enqueued after it
    // Collective. `staging` gives host memory; both it and the device must outlive the reducer, which the caller owns.
    enum status (*create)(struct comm *comm, struct device *device, struct mem_pool *staging,
                          struct reducer **reducer_p, struct error *error);
    // Collective. Accepts NULL.
    void (*destroy)(struct reducer *reducer);
    // Collective: starts the sum of `count` values that work enqueued on `stream` until now leaves. Blocks until
    // it is done unless it overlaps.
    void (*start)(struct reducer *reducer, struct stream *stream, device_address values, uint64_t count,
                  enum reduce_type type);
    // Collective: starts bringing the float32 of shards[r], as work enqueued on `stream` until now leaves them on each
    // rank r, to every rank; `values` is the first of all. Blocks until it is done unless it overlaps.
    void (*gather)(struct reducer *reducer, struct stream *stream, device_address values, const struct shard *shards);
    // Work enqueued on `stream` from now on sees the outcome of all that was started. Does not block.
    void (*finish)(struct reducer *reducer, struct stream *stream);
    // STATUS_ERROR where something that was started has failed. Does not block.
    enum status (*check)(struct reducer *reducer, struct error *error);
};

struct reducer {
    const struct reduce_ops *ops;
};

extern const struct reduce_ops reduce_self, reduce_mpi, reduce_nccl;

// The table that adds up between devices of that kind, without the host's memory; NULL if none was built in.
const struct reduce_ops *reduce_between(const char *device_name);

// The libraries behind the tables that were built in, "; NCCL 2.28.9", or "".
const char *reduce_library_versions(char *buffer, size_t size);

#endif
