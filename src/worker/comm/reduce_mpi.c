// SPDX-License-Identifier: Apache-2.0
//
// In host memory by MPI: in place where the host can reach the device's memory, else through a staging buffer. All
// block until they are done.
#include <mpi.h>
#include <stdlib.h>

#include "mem/sanitizer.h"
#include "mem/uint64.h"
#include "worker/comm/reduce.h"

#define REDUCE_AT_ONCE (UINT64_C(1) << 28) // values: a count must fit an int
#define STAGING_BYTES  (UINT64_C(1) << 20)

struct reducer_mpi {
    struct reducer base;
    struct device *device;
    uint32_t rank, ranks;
    struct mem_pool *pool;
    device_address staging; // STAGING_BYTES
    char *staging_pointer;
};

static enum status create(struct comm *comm, struct device *device, struct mem_pool *staging,
                          struct reducer **reducer_p, struct error *error)
{
    struct reducer_mpi *mpi = calloc(1, sizeof(*mpi));
    if (mpi == NULL || mem_pool_hold(staging, STAGING_BYTES, NULL, "all-reduce", &mpi->staging) != STATUS_OK) {
        free(mpi);
        return error_out_of_host_memory(error);
    }
    mpi->base.ops = &reduce_mpi;
    mpi->device = device;
    mpi->rank = comm->rank;
    mpi->ranks = comm->size;
    mpi->pool = staging;
    mpi->staging_pointer = mem_pool_host_pointer(staging, mpi->staging);
    *reducer_p = &mpi->base;
    return STATUS_OK;
}

static void destroy(struct reducer *reducer)
{
    struct reducer_mpi *mpi = (struct reducer_mpi *)reducer;
    if (mpi != NULL) {
        mem_pool_free(mpi->pool, mpi->staging, NULL);
        free(mpi);
    }
}

static MPI_Datatype datatype_of(enum reduce_type type)
{
    switch (type) {
    case REDUCE_FLOAT32:
        return MPI_FLOAT;
    case REDUCE_FLOAT64:
        return MPI_DOUBLE;
    case REDUCE_INT64:
        return MPI_INT64_T;
    }
    return MPI_DATATYPE_NULL;
}

static void reduce_in_place(struct reducer_mpi *mpi, char *values, uint64_t count, enum reduce_type type)
{
    sanitizer_host_access(mpi->device, values, count * reduce_type_bytes(type), true, "all-reduce");
    for (uint64_t done = 0; done < count; done += REDUCE_AT_ONCE) {
        uint64_t n = uint64_min(count - done, REDUCE_AT_ONCE);
        MPI_Allreduce(MPI_IN_PLACE, values + done * reduce_type_bytes(type), (int)n, datatype_of(type), MPI_SUM,
                      MPI_COMM_WORLD);
    }
}

static void reduce_staged(struct reducer_mpi *mpi, struct stream *stream, device_address values, uint64_t count,
                          enum reduce_type type)
{
    const struct device_ops *ops = mpi->device->ops;
    uint64_t part = STAGING_BYTES / reduce_type_bytes(type);
    for (uint64_t done = 0; done < count; done += part) {
        uint64_t n = uint64_min(count - done, part), bytes = n * reduce_type_bytes(type);
        device_address at = values + done * reduce_type_bytes(type);
        ops->copy_to_host(mpi->device, stream, mpi->staging_pointer, at, bytes);
        ops->stream_synchronize(mpi->device, stream);
        reduce_in_place(mpi, mpi->staging_pointer, n, type);
        ops->copy_to_device(mpi->device, stream, at, mpi->staging_pointer, bytes);
        ops->stream_synchronize(mpi->device, stream); // the buffer is used again
    }
}

static void start(struct reducer *reducer, struct stream *stream, device_address values, uint64_t count,
                  enum reduce_type type)
{
    struct reducer_mpi *mpi = (struct reducer_mpi *)reducer;
    char *host = mpi->device->ops->host_pointer(mpi->device, values);
    if (host == NULL) {
        reduce_staged(mpi, stream, values, count, type);
        return;
    }
    mpi->device->ops->stream_synchronize(mpi->device, stream);
    reduce_in_place(mpi, host, count, type);
}

// From the rank that has them to all others, the values being at `host`.
static void broadcast(struct reducer_mpi *mpi, char *host, uint64_t count, uint32_t root)
{
    sanitizer_host_access(mpi->device, host, count * sizeof(float), root != mpi->rank, "all-gather");
    for (uint64_t done = 0; done < count; done += REDUCE_AT_ONCE) {
        uint64_t n = uint64_min(count - done, REDUCE_AT_ONCE);
        MPI_Bcast(host + done * sizeof(float), (int)n, MPI_FLOAT, (int)root, MPI_COMM_WORLD);
    }
}

static void broadcast_staged(struct reducer_mpi *mpi, struct stream *stream, device_address values, uint64_t count,
                             uint32_t root)
{
    const struct device_ops *ops = mpi->device->ops;
    uint64_t part = STAGING_BYTES / sizeof(float);
    for (uint64_t done = 0; done < count; done += part) {
        uint64_t n = uint64_min(count - done, part);
        device_address at = values + done * sizeof(float);
        if (root == mpi->rank) {
            ops->copy_to_host(mpi->device, stream, mpi->staging_pointer, at, n * sizeof(float));
            ops->stream_synchronize(mpi->device, stream);
        }
        broadcast(mpi, mpi->staging_pointer, n, root);
        if (root != mpi->rank) {
            ops->copy_to_device(mpi->device, stream, at, mpi->staging_pointer, n * sizeof(float));
            ops->stream_synchronize(mpi->device, stream); // the buffer is used again
        }
    }
}

static void gather(struct reducer *reducer, struct stream *stream, device_address values, const struct shard *shards)
{
    struct reducer_mpi *mpi = (struct reducer_mpi *)reducer;
    char *host = mpi->device->ops->host_pointer(mpi->device, values);
    mpi->device->ops->stream_synchronize(mpi->device, stream);
    for (uint32_t rank = 0; rank < mpi->ranks; rank++) {
        uint64_t first_byte = shards[rank].first * sizeof(float);
        if (host == NULL) {
            broadcast_staged(mpi, stream, values + first_byte, shards[rank].elements, rank);
        } else {
            broadcast(mpi, host + first_byte, shards[rank].elements, rank);
        }
    }
}

static void finish(struct reducer *reducer, struct stream *stream)
{
    (void)reducer, (void)stream;
}

static enum status check(struct reducer *reducer, struct error *error)
{
    (void)reducer, (void)error;
    return STATUS_OK;
}

const struct reduce_ops reduce_mpi = {.name = "mpi",
                                      .create = create,
                                      .destroy = destroy,
                                      .start = start,
                                      .gather = gather,
                                      .finish = finish,
                                      .check = check};
