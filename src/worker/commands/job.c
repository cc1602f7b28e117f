// SPDX-License-Identifier: Apache-2.0
#include "worker/commands/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/comm/launcher.h"
#include "worker/failure.h"

// Rank 0 reads the configuration; the others get the resolved text, so all hold the same. Collective.
static enum status read_config(const struct command_line *command, const struct job *job, struct comm *comm,
                               char path[JOB_PATH_MAX], struct config *config, struct error *error)
{
    char *text = NULL;
    uint64_t size = 0;
    enum status status = STATUS_OK;
    if (comm->rank == 0) {
        status = job->read(command, comm->size, path, config, error);
        if (status == STATUS_OK) {
            status = config_check_ranks(config, comm->size, error);
            text = config_print(config);
            size = text == NULL ? 0 : strlen(text) + 1;
            if (status != STATUS_OK) {
                config_finish(config);
            }
        }
    }
    comm->ops->broadcast(comm, &status, sizeof(status));
    comm->ops->broadcast(comm, &size, sizeof(size));
    if (status == STATUS_OK && comm->rank != 0) {
        text = malloc(size + 1);
    }
    if (status == STATUS_OK && (size == 0 || text == NULL)) {
        error_out_of_host_memory(error);
        failure_print(comm, error);
        comm->ops->abort(comm, STATUS_ERROR);
    }
    if (status == STATUS_OK) {
        comm->ops->broadcast(comm, text, size);
    }
    if (status == STATUS_OK && comm->rank != 0) {
        status = config_parse(config, text, command->config_path, NULL, 0, error);
    }
    free(text);
    return status;
}

static const struct comm_ops *launcher_comm(void)
{
    return launcher_is_mpi() ? &comm_mpi : &comm_self;
}

// Which communicator, before the configuration is known to the other ranks: `comm.kind` is read on every rank.
static const struct comm_ops *choose_comm(const struct command_line *command)
{
    struct config config;
    enum config_comm kind = CONFIG_COMM_AUTO;
    if (config_read(&config, command->config_path, command->overrides, command->override_count, NULL) == STATUS_OK) {
        kind = config.comm.kind;
        config_finish(&config);
    }
    if (kind == CONFIG_COMM_AUTO) {
        return launcher_comm();
    }
    return kind == CONFIG_COMM_MPI ? &comm_mpi : &comm_self;
}

int command_misused(const struct error *error)
{
    struct comm *comm;
    if (launcher_comm()->create(&comm, NULL) == STATUS_OK) {
        failure_agree(comm, error->status, error);
        comm->ops->destroy(comm);
    }
    return (int)error->status;
}

int job_run(const struct command_line *command, const struct job *job)
{
    struct comm *comm;
    struct config config = {0};
    struct error error = {0};
    char path[JOB_PATH_MAX];
    const struct comm_ops *ops = choose_comm(command);
    if (ops == &comm_self && launcher_started_several()) {
        error_set(&error, STATUS_INVALID,
                  "comm.kind: self is for a single process, but a launcher started several; allowed here: auto, mpi");
        return command_misused(&error);
    }
    enum status status = ops->create(&comm, &error);
    if (status != STATUS_OK) {
        fprintf(stderr, "headroom: %s\n", error.text);
        return (int)status;
    }
    status = failure_agree(comm, read_config(command, job, comm, path, &config, &error), &error);
    if (status == STATUS_OK) {
        status = job->run(command, comm, &config);
        config_finish(&config);
    }
    comm->ops->destroy(comm);
    return (int)status;
}
