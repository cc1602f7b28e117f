// SPDX-License-Identifier: Apache-2.0
//
// What commands that all ranks of a job run have in common: the communicator, and the configuration, which rank 0 reads
// for all.
#ifndef HEADROOM_WORKER_COMMANDS_JOB_H
#define HEADROOM_WORKER_COMMANDS_JOB_H

#include "worker/comm/comm.h"
#include "worker/commands/commands.h"
#include "worker/config/config.h"

#define JOB_PATH_MAX 8192

struct job {
    // Reads the configuration on rank 0, which borrows `path`.
    enum status (*read)(const struct command_line *command, uint32_t ranks, char path[JOB_PATH_MAX],
                        struct config *config, struct error *error);
    // Collective; the status is the same on every rank but for what rank 0 alone can tell, and what is wrong was
    // printed.
    enum status (*run)(const struct command_line *command, struct comm *comm, struct config *config);
};

// Every rank of the job calls it. Answers the exit code.
int job_run(const struct command_line *command, const struct job *job);

#endif
