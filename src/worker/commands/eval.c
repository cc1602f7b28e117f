// SPDX-License-Identifier: Apache-2.0
//
// headroom eval: the loss of a checkpoint's weights over the validation set, on every rank of a job.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "mem/uint64.h"
#include "worker/checkpoint/resume.h"
#include "worker/commands/job.h"
#include "worker/evaluate.h"
#include "worker/failure.h"
#include "worker/job.h"

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

// Of the checkpoint that rank 0 has found, and found sound.
static enum status load_weights(struct worker *worker, struct error *error)
{
    struct resume resume = {0};
    snprintf(resume.weights, sizeof(resume.weights), "%s", worker->config->checkpoint.weights);
    return failure_agree(worker->comm, resume_load(worker, &resume, error), error);
}

static enum status print_evaluation(const struct evaluation *evaluation, struct error *error)
{
    printf("loss %.6f, perplexity %.6g, accuracy %.2f %%, %" PRIu64 " samples\n", evaluation->loss,
           exp(evaluation->loss), 100 * evaluation->accuracy, evaluation->samples);
    return fflush(stdout) == 0 ? STATUS_OK : error_set(error, STATUS_ERROR, "the output cannot be written");
}

static enum status evaluate_and_print(struct worker *worker, struct error *error)
{
    struct evaluation evaluation;
    bool first = worker->comm->rank == 0;
    enum status status = evaluate(worker, &evaluation, error);
    if (status == STATUS_OUT_OF_MEMORY) {
        failure_shortage(worker, error);
        return status;
    }
    if (status != STATUS_OK && status != STATUS_DIVERGED) {
        failure_alone(worker, error);
    }
    if (status == STATUS_OK && first) {
        status = print_evaluation(&evaluation, error);
    }
    if (status != STATUS_OK && first) {
        fprintf(stderr, "headroom: %s\n", error->text);
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

// The ranks and devices that a checkpoint was trained on say nothing of those that are here, and what is printed is the
// loss.
static const char *const here[] = {
    "comm.kind=auto",     "comm.reduce=auto",          "device.kind=auto",     "device.name=null",
    "device.capacity=[]", "device.ranks_per_device=1", "device.neighbours=[]", "run.log_seconds=0",
};
#define HERE (sizeof(here) / sizeof(here[0]))

// Of a run that begins with the weights of the checkpoint, which is the one that was found, and of no other.
static enum status read_overridden(const struct command_line *command, const char *path, const char *found,
                                   struct config *config, struct error *error)
{
    static char weights[CHECKPOINT_PATH_MAX + 32]; // which the configuration borrows
    char **overrides = calloc(HERE + command->override_count + 2, sizeof(*overrides));
    size_t count = 0;
    if (overrides == NULL) {
        return error_out_of_host_memory(error);
    }
    for (size_t i = 0; i < HERE; i++) {
        overrides[count++] = (char *)here[i];
    }
    for (size_t i = 0; i < command->override_count; i++) {
        overrides[count++] = command->overrides[i];
    }
    snprintf(weights, sizeof(weights), "checkpoint.weights=%s", found);
    overrides[count++] = "checkpoint.resume=null";
    overrides[count++] = weights;
    enum status status = config_read(config, path, overrides, count, error);
    free(overrides);
    return status;
}

static enum status read_checkpoint(const struct command_line *command, uint32_t ranks, char path[JOB_PATH_MAX],
                                   struct config *config, struct error *error)
{
    char found[CHECKPOINT_PATH_MAX];
    enum status status = checkpoint_find_folder(command->config_path, stderr, found, error);
    if (status != STATUS_OK) {
        return status;
    }
    snprintf(path, JOB_PATH_MAX, "%s/" CHECKPOINT_CONFIG, found);
    status = read_overridden(command, path, found, config, error);
    if (status == STATUS_OK) { // no step is made: any batch that all ranks have a part of will do
        uint64_t least = ranks * job_grain(config);
        config->train.global_batch_size = uint64_max(config->train.global_batch_size, least);
    }
    return status;
}

int command_eval(const struct command_line *command)
{
    return job_run(command, &(struct job){.read = read_checkpoint, .run = evaluate_weights});
}
