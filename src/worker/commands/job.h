// SPDX-License-Identifier: Apache-2.0
//
// What commands that all ranks of a job run have in common: the communicator, and the configuration, which rank 0 reads
// for all.
#ifndef HEADROOM_WORKER_COMMANDS_JOB_H
#define HEADROOM_WORKER_COMMANDS_JOB_H

#include "worker/comm/comm.h"
#include "worker/commands/commands.h"
#include "worker/config/config.h"

// Collective; the status is the same on every rank, and what is wrong was printed.
typedef enum status job(const struct command_line *command, struct comm *comm, struct config *config);

// Every rank of the job calls it. Answers the exit code.
int job_run(const struct command_line *command, job *run);

#endif
