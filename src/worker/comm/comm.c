// SPDX-License-Identifier: Apache-2.0
#include "worker/comm/comm.h"

#include <stdio.h>
#include <stdlib.h>

void *comm_gather(struct comm *comm, const void *mine, size_t bytes)
{
    void *all = malloc(comm->size * bytes);
    if (all == NULL) {
        fprintf(stderr, "headroom: out of host memory\n");
        comm->ops->abort(comm, STATUS_ERROR);
    }
    comm->ops->gather_start(comm, mine, all, bytes);
    comm->ops->gather_wait(comm);
    return all;
}

uint32_t comm_first_failure(struct comm *comm, enum status status, enum status *status_p)
{
    int32_t mine = (int32_t)status;
    int32_t *all = comm_gather(comm, &mine, sizeof(mine));
    uint32_t rank = 0;
    while (rank < comm->size && all[rank] == STATUS_OK) {
        rank++;
    }
    *status_p = rank < comm->size ? (enum status)all[rank] : STATUS_OK;
    free(all);
    return rank;
}
