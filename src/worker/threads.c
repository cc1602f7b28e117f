// SPDX-License-Identifier: Apache-2.0
#include "worker/threads.h"

#include <omp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct place {
    char host[256];
    cpu_set_t cores;
};

// Ranks that may run on these cores, this one included.
static int sharers(struct comm *comm, const struct place *mine)
{
    int count = 1;
    struct place *all = comm_gather(comm, mine, sizeof(*mine));
    for (uint32_t i = 0; i < comm->size; i++) {
        count += i != comm->rank && memcmp(&all[i], mine, sizeof(*mine)) == 0;
    }
    free(all);
    return count;
}

void threads_choose(struct comm *comm)
{
    struct place mine = {0};
    gethostname(mine.host, sizeof(mine.host) - 1);
    sched_getaffinity(0, sizeof(mine.cores), &mine.cores); // on failure no cores, and so one thread
    int threads = CPU_COUNT(&mine.cores) / sharers(comm, &mine);
    if (getenv("OMP_NUM_THREADS") == NULL) {
        omp_set_num_threads(threads > 0 ? threads : 1);
    }
}
