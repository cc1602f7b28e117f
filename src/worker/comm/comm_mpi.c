// SPDX-License-Identifier: Apache-2.0
//
// Ranks under MPI.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/comm/comm.h"

struct comm_mpi {
    struct comm base;
    MPI_Request gather;
};

static uint32_t find_host(int rank)
{
    MPI_Comm host;
    uint32_t lowest = (uint32_t)rank;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &host);
    MPI_Bcast(&lowest, 1, MPI_UINT32_T, 0, host);
    MPI_Comm_free(&host);
    return lowest;
}

static enum status create(struct comm **comm_p, struct error *error)
{
    int provided, rank, size;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);

    struct comm_mpi *comm = calloc(1, sizeof(*comm));
    if (comm == NULL) {
        MPI_Finalize();
        return error_out_of_host_memory(error);
    }
    comm->base =
        (struct comm){.ops = &comm_mpi, .rank = (uint32_t)rank, .size = (uint32_t)size, .host = find_host(rank)};
    comm->gather = MPI_REQUEST_NULL;
    *comm_p = &comm->base;
    return STATUS_OK;
}

static void destroy(struct comm *comm)
{
    struct comm_mpi *mpi = (struct comm_mpi *)comm;
    if (mpi != NULL) {
        MPI_Finalize();
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
    .abort = abort_all,
};
