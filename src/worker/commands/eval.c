// SPDX-License-Identifier: Apache-2.0
//
// headroom eval: the loss of a checkpoint's weights over the validation set, on every rank of a job.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/checkpoint/resume.h"
#include "worker/commands/job.h"
#include "worker/evaluate.h"
#include "worker/failure.h"

static enum status open_worker(struct worker *worker, const struct config *config, struct comm *comm,
                               struct error *error)
{
    enum status status = failure_agree(comm, worker_open(worker, config, LIST_EVALUATE, comm, error), error);
    if (status == STATUS_OK && worker->validation == NULL) {
        error_set(error, STATUS_INVALID,
                  "%s: has no validation set; set data.validation_path, data.validation_fraction or what its data.kind "
                  "takes",
                  config->name);
        status = failure_agree(comm, error->status, error);
    }
    if (status == STATUS_OK) {
        status = failure_agree(comm, worker_hold(worker, error), error);
    }
    if (status == STATUS_OK && worker_connect(worker, error) != STATUS_OK) {
        failure_alone(worker, error);
    }
    return status;
}

static enum status load_weights(struct worker *worker, struct error *error)
{
    struct resume resume;
    struct comm *comm = worker->comm;
    enum status status = failure_agree(comm, resume_find(worker, "", &resume, error), error);
    return status == STATUS_OK ? failure_agree(comm, resume_load(worker, &resume, error), error) : status;
}

static enum status evaluate_and_print(struct worker *worker, struct error *error)
{
    struct evaluation evaluation;
    bool first = worker->comm->rank == 0;
    enum status status = evaluate(worker, &evaluation, error);
    if (status == STATUS_OUT_OF_MEMORY) {
        failure_shortage(worker, error);
    } else if (status == STATUS_DIVERGED && first) {
        fprintf(stderr, "headroom: %s\n", error->text);
    } else if (status != STATUS_OK && status != STATUS_DIVERGED) {
        failure_alone(worker, error);
    } else if (status == STATUS_OK && first) {
        printf("loss %.6f, perplexity %.6g, accuracy %.2f %%, %" PRIu64 " samples\n", evaluation.loss,
               exp(evaluation.loss), 100 * evaluation.accuracy, evaluation.samples);
    }
    return status;
}

static enum status evaluate_weights(const struct command_line *command, struct comm *comm, struct config *config)
{
    struct worker worker;
    struct error error = {0};
    (void)command;
    enum status status = open_worker(&worker, config, comm, &error);
    if (status == STATUS_OK) {
        status = load_weights(&worker, &error);
    }
    if (status == STATUS_OK) {
        status = evaluate_and_print(&worker, &error);
    }
    worker_finish(&worker);
    return status;
}

// The configuration that a checkpoint, or the newest of a run's folder, was written with.
static void find_config(const char *checkpoint, char path[CHECKPOINT_PATH_MAX])
{
    snprintf(path, CHECKPOINT_PATH_MAX, "%s/checkpoints/latest/" CHECKPOINT_CONFIG, checkpoint);
    if (access(path, F_OK) != 0) {
        snprintf(path, CHECKPOINT_PATH_MAX, "%s/" CHECKPOINT_CONFIG, checkpoint);
    }
}

// The ranks and devices that a checkpoint was trained on say nothing of those that are here.
static const char *const anew[] = {
    "checkpoint.resume=null", "comm.kind=auto",     "comm.reduce=auto",          "device.kind=auto",
    "device.name=null",       "device.capacity=[]", "device.ranks_per_device=1", "device.neighbours=[]",
};
#define ANEW (sizeof(anew) / sizeof(anew[0]))

// A run that begins with the checkpoint's weights, and does nothing but validate.
static int evaluate_checkpoint(const struct command_line *command, char **overrides)
{
    char path[CHECKPOINT_PATH_MAX], weights[CHECKPOINT_PATH_MAX];
    struct command_line own = *command;
    find_config(command->config_path, path);
    snprintf(weights, sizeof(weights), "checkpoint.weights=%s", command->config_path);
    own.config_path = path;
    own.overrides = overrides;
    own.override_count = 0;
    for (size_t i = 0; i < ANEW; i++) {
        overrides[own.override_count++] = (char *)anew[i];
    }
    for (size_t i = 0; i < command->override_count; i++) {
        overrides[own.override_count++] = command->overrides[i];
    }
    overrides[own.override_count++] = weights;
    return job_run(&own, evaluate_weights);
}

int command_eval(const struct command_line *command)
{
    struct error error;
    if (strlen(command->config_path) >= RUN_FOLDER_MAX) {
        error_set(&error, STATUS_INVALID, "%.100s...: is too long for a checkpoint's path", command->config_path);
        return command_misused(&error);
    }
    char **overrides = calloc(ANEW + command->override_count + 1, sizeof(*overrides));
    if (overrides == NULL) {
        error_out_of_host_memory(&error);
        return command_misused(&error);
    }
    int code = evaluate_checkpoint(command, overrides);
    free(overrides);
    return code;
}
