// SPDX-License-Identifier: Apache-2.0
#include "worker/comm.h"

#include <stdlib.h>

uint32_t comm_first_failure(struct comm *comm, enum status status, enum status *status_p)
{
    int32_t mine = (int32_t)status;
    int32_t *all = malloc(comm->size * sizeof(*all));
    if (all == NULL) {
        comm->ops->abort(comm, STATUS_ERROR);
    }
    comm->ops->gather_start(comm, &mine, all, sizeof(mine));
    comm->ops->gather_wait(comm);
    uint32_t rank = 0;
    while (rank < comm->size && all[rank] == STATUS_OK) {
        rank++;
    }
    *status_p = rank < comm->size ? (enum status)all[rank] : STATUS_OK;
    free(all);
    return rank;
}
