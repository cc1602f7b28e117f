// SPDX-License-Identifier: Apache-2.0
//
// Ranks under MPI. Gradients are reduced in host memory: in place where the host can reach the device's memory, else
// through a staging buffer.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/comm.h"

#define REDUCE_AT_ONCE   (UINT64_C(1) << 28) // floats: a count must fit an int
#define STAGING_ELEMENTS (UINT64_C(1) << 18)

struct comm_mpi {
    struct comm base;
    MPI_Request gather;
    float *staging; // STAGING_ELEMENTS
};

static enum status create(struct comm **comm_p, struct error *error)
{
    int provided, rank, size;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);

    struct comm_mpi *comm = calloc(1, sizeof(*comm));
    float *staging = malloc(STAGING_ELEMENTS * sizeof(*staging));
    if (comm == NULL || staging == NULL) {
        free(comm);
        free(staging);
        MPI_Finalize();
        return error_set(error, STATUS_ERROR, "out of host memory");
    }
    comm->base = (struct comm){.ops = &comm_mpi, .rank = (uint32_t)rank, .size = (uint32_t)size};
    comm->gather = MPI_REQUEST_NULL;
    comm->staging = staging;
    *comm_p = &comm->base;
    return STATUS_OK;
}

static void destroy(struct comm *comm)
{
    struct comm_mpi *mpi = (struct comm_mpi *)comm;
    if (mpi != NULL) {
        MPI_Finalize();
        free(mpi->staging);
        free(mpi);
    }
}

static void broadcast(struct comm *comm, void *data, size_t bytes)
{
    (void)comm;
    MPI_Bcast(data, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD);
}

static void gather_start(struct comm *comm, const void *mine, void *all, size_t bytes)
{
    struct comm_mpi *mpi = (struct comm_mpi *)comm;
    MPI_Iallgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, MPI_COMM_WORLD, &mpi->gather);
}

static void gather_wait(struct comm *comm)
{
    struct comm_mpi *mpi = (struct comm_mpi *)comm;
    MPI_Wait(&mpi->gather, MPI_STATUS_IGNORE);
}

static void reduce_in_place(float *values, uint64_t count)
{
    for (uint64_t done = 0; done < count; done += REDUCE_AT_ONCE) {
        uint64_t n = count - done < REDUCE_AT_ONCE ? count - done : REDUCE_AT_ONCE;
        MPI_Allreduce(MPI_IN_PLACE, values + done, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    }
}

static void reduce_staged(struct comm_mpi *mpi, struct device *device, struct stream *stream, device_address values,
                          uint64_t count)
{
    for (uint64_t done = 0; done < count; done += STAGING_ELEMENTS) {
        uint64_t n = count - done < STAGING_ELEMENTS ? count - done : STAGING_ELEMENTS;
        device_address part = values + done * sizeof(float);
        device->ops->copy_to_host(device, stream, mpi->staging, part, n * sizeof(float));
        device->ops->stream_synchronize(device, stream);
        MPI_Allreduce(MPI_IN_PLACE, mpi->staging, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        device->ops->copy_to_device(device, stream, part, mpi->staging, n * sizeof(float));
        device->ops->stream_synchronize(device, stream);
    }
}

static void all_reduce(struct comm *comm, struct device *device, struct stream *stream, device_address values,
                       uint64_t count)
{
    float *host = device->ops->host_pointer(device, values);
    if (host == NULL) {
        reduce_staged((struct comm_mpi *)comm, device, stream, values, count);
        return;
    }
    device->ops->stream_synchronize(device, stream);
    reduce_in_place(host, count);
}

static void __attribute__((noreturn)) abort_all(struct comm *comm, int exit_code)
{
    (void)comm;
    fflush(NULL);
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    abort(); // MPI_Abort does not return
}

const char *comm_mpi_version(char buffer[COMM_VERSION_MAX])
{
    _Static_assert(COMM_VERSION_MAX >= MPI_MAX_LIBRARY_VERSION_STRING, "the buffer is too small");
    int length;
    MPI_Get_library_version(buffer, &length);
    buffer[strcspn(buffer, ",\n")] = '\0';
    return buffer;
}

const struct comm_ops comm_mpi = {
    .name = "mpi",
    .create = create,
    .destroy = destroy,
    .broadcast = broadcast,
    .gather_start = gather_start,
    .gather_wait = gather_wait,
    .all_reduce = all_reduce,
    .abort = abort_all,
};
