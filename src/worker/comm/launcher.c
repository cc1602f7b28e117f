// SPDX-License-Identifier: Apache-2.0
#include "worker/comm/launcher.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define OUTPUT_MAX 64 // bytes
#define COLUMNS    80

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
static const char *launcher_output(char path[OUTPUT_MAX])
{
    snprintf(path, OUTPUT_MAX, "/proc/%ld/fd/%d", (long)getppid(), STDOUT_FILENO);
    return path;
}

bool launcher_is_watched(void)
{
    char path[OUTPUT_MAX], target[64] = "";
    if (getenv("OMPI_COMM_WORLD_RANK") == NULL) {
        return isatty(STDOUT_FILENO) == 1;
    }
    return readlink(launcher_output(path), target, sizeof(target) - 1) > 0 &&
           strncmp(target, "/dev/pts/", strlen("/dev/pts/")) == 0;
}

size_t launcher_columns(void)
{
    char path[OUTPUT_MAX];
    struct winsize size = {0};
    if (getenv("OMPI_COMM_WORLD_RANK") == NULL) {
        ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    } else {
        int output = open(launcher_output(path), O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
        ioctl(output, TIOCGWINSZ, &size); // where it is not open, nothing is known
        close(output);
    }
    return size.ws_col > 0 ? size.ws_col : COLUMNS;
}
