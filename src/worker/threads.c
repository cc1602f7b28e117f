// SPDX-License-Identifier: Apache-2.0
#include "worker/threads.h"

#include <omp.h>
#include <sched.h>
#include <stdlib.h>

struct cores {
    uint32_t host;
    cpu_set_t set;
};

// Ranks that may run on these cores, this one included.
static int sharers(struct comm *comm, const struct cores *mine)
{
    int count = 1;
    struct cores *all = comm_gather(comm, mine, sizeof(*mine));
    for (uint32_t i = 0; i < comm->size; i++) {
        count += i != comm->rank && all[i].host == mine->host && CPU_EQUAL(&all[i].set, &mine->set);
    }
    free(all);
    return count;
}

void threads_choose(struct comm *comm, bool reproducible)
{
    struct cores mine = {.host = comm->host};
    sched_getaffinity(0, sizeof(mine.set), &mine.set); // on failure no cores, and so one thread
    int threads = CPU_COUNT(&mine.set) / sharers(comm, &mine);
    if (reproducible) {
        omp_set_num_threads(1);
    } else if (getenv("OMP_NUM_THREADS") == NULL) {
        omp_set_num_threads(threads > 0 ? threads : 1);
    }
}
