// SPDX-License-Identifier: Apache-2.0
#include "worker/comm/launcher.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool launcher_is_mpi(void)
{
    return getenv("PMIX_RANK") != NULL || getenv("PMI_RANK") != NULL;
}

bool launcher_started_several(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "PMI_SIZE"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *size = getenv(names[i]);
        if (size != NULL && strtoul(size, NULL, 10) > 1) {
            return true;
        }
    }
    return false;
}

// Open MPI gives every rank a pseudo-terminal of its own; whether a person watches shows at its launcher's output.
bool launcher_is_watched(void)
{
    char link[64], target[64] = "";
    if (getenv("OMPI_COMM_WORLD_RANK") == NULL) {
        return isatty(STDOUT_FILENO) == 1;
    }
    snprintf(link, sizeof(link), "/proc/%ld/fd/%d", (long)getppid(), STDOUT_FILENO);
    return readlink(link, target, sizeof(target) - 1) > 0 && strncmp(target, "/dev/pts/", strlen("/dev/pts/")) == 0;
}
