// SPDX-License-Identifier: Apache-2.0
//
// Who started this process and who watches it, as far as that can be told before any communicator is made.
#ifndef HEADROOM_WORKER_COMM_LAUNCHER_H
#define HEADROOM_WORKER_COMM_LAUNCHER_H

#include <stdbool.h>
#include <stddef.h>

// mpirun did, or srun with an MPI plugin.
bool launcher_is_mpi(void);
// A launcher started this process as one of several.
bool launcher_started_several(void);
// A person watches the standard output.
bool launcher_is_watched(void);
// Columns of the terminal where one does; 80 where it does not say.
size_t launcher_columns(void);

#endif
