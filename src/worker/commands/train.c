// SPDX-License-Identifier: Apache-2.0
//
// headroom train: from the configuration to the end of the run, on every rank.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "mem/clock.h"
#include "mem/uint64.h"
#include "worker/checkpoint/resume.h"
#include "worker/checksum.h"
#include "worker/commands/job.h"
#include "worker/failure.h"
#include "worker/loop.h"
#include "worker/regular_file.h"
#include "worker/run/memory_files.h"

// Collective.
static enum status go_on(struct worker *worker, const char *folder, struct resume *resume, struct error *error)
{
    struct comm *comm = worker->comm;
    enum status status = failure_agree(comm, resume_find(worker, folder, resume, error), error);
    return status == STATUS_OK ? failure_agree(comm, resume_load(worker, resume, error), error) : status;
}

// The run's folder is taken, what is there is gone on from, and only then is it written to. Collective.
static enum status open_run(const struct command_line *command, struct worker *worker, struct reporter *reporter,
                            struct resume *resume, struct error *error)
{
    struct comm *comm = worker->comm;
    struct run_folder folder;
    enum status status = failure_agree(comm, run_folder_take(worker->config, comm, &folder, error), error);
    if (status != STATUS_OK) {
        return status;
    }
    memcpy(reporter->folder, folder.path, sizeof(folder.path));
    status = go_on(worker, folder.path, resume, error);
    if (status == STATUS_OK) {
        enum status filled =
            comm->rank == 0 ? run_folder_fill(&folder, worker->config, comm->size, command->argv, error) : STATUS_OK;
        status = failure_agree(comm, filled, error);
    }
    if (status != STATUS_OK && comm->rank == 0) {
        run_folder_give_up(&folder);
    }
    return status == STATUS_OK ? failure_agree(comm, reporter_open(reporter, error), error) : status;
}

// What the rank that says why memory ran out has to say: it writes its advice. Collective.
static struct record_shortage gather_shortage(struct worker *worker, char advice[ADVICE_MAX])
{
    uint32_t rank = worker->spokesman;
    struct shortage *all = comm_gather(worker->comm, &worker->shortage, sizeof(worker->shortage));
    struct record_shortage shortage = {
        .rank = rank,
        .cause = mem_cause_name(all[rank].cause),
        .recompute = worker->messages[rank].recompute_gain == 100,
        .advice = advice,
    };
    memcpy(advice, all[rank].advice, ADVICE_MAX);
    free(all);
    return shortage;
}

// What comes after the last step.
static void end(struct worker *worker, struct reporter *reporter, uint64_t steps_done, enum status status)
{
    struct error error;
    uint64_t checksum = 0;
    bool first = worker->comm->rank == 0, summed = first && worker->config->train.reproducible;
    if (summed && checksum_weights(worker, &checksum, &error) != STATUS_OK) {
        failure_alone(worker, &error);
    }
    char advice[ADVICE_MAX];
    struct record_shortage shortage = {0};
    if (status == STATUS_OUT_OF_MEMORY) {
        shortage = gather_shortage(worker, advice);
    }
    reporter_end(reporter, steps_done, status, summed ? &checksum : NULL, &shortage);
    if (first && worker->profile != NULL) {
        profile_print(worker->profile, worker, stdout);
    }
}

static void print_end(const struct worker *worker, enum status status, const struct error *error)
{
    if (status == STATUS_OUT_OF_MEMORY) {
        failure_shortage(worker, error);
    } else if ((status == STATUS_DIVERGED || status == STATUS_ERROR) && worker->comm->rank == 0) { // all ranks met it
        fprintf(stderr, "headroom: %s\n", error->text);
    }
}

static enum status start_profile(struct worker *worker, uint64_t steps, struct error *error)
{
    if (steps == 0) {
        return STATUS_OK;
    }
    worker->steps = uint64_min(worker->steps, PROFILE_WARM_UP + steps);
    worker->profile = profile_create();
    return worker->profile == NULL ? error_out_of_host_memory(error) : STATUS_OK;
}

static enum status train(const struct command_line *command, struct comm *comm, struct config *config)
{
    struct error error = {0};
    struct worker worker;
    struct reporter reporter = {.worker = &worker, .start_ns = clock_ns()};
    struct resume go_on_from = {0};
    enum status status = failure_agree(comm, worker_open(&worker, config, LIST_TRAIN, comm, &error), &error);
    if (status == STATUS_OK) {
        status = failure_agree(comm, worker_hold(&worker, &error), &error);
    }
    if (status == STATUS_OK && worker_connect(&worker, &error) != STATUS_OK) {
        failure_alone(&worker, &error);
    }
    if (status == STATUS_OK && config->device.name == NULL) {
        worker.device->ops->forget_name(worker.device); // all ranks that share it have opened it
    }
    if (status == STATUS_OK) {
        status = open_run(command, &worker, &reporter, &go_on_from, &error);
    }
    if (status == STATUS_OK) {
        status = failure_agree(comm, start_profile(&worker, command->profile_steps, &error), &error);
    }
    if (status == STATUS_OK) {
        uint64_t steps_done;
        status = loop_run(&worker, &reporter, &go_on_from, &steps_done, &error);
        end(&worker, &reporter, steps_done, status);
        print_end(&worker, status, &error);
    }
    free(go_on_from.state.plan);
    reporter_close(&reporter);
    worker_finish(&worker);
    return status;
}

static enum status read_file(const struct command_line *command, uint32_t ranks, char path[JOB_PATH_MAX],
                             struct config *config, struct error *error)
{
    (void)ranks, (void)path;
    enum status status = config_read(config, command->config_path, command->overrides, command->override_count, error);
    if (status != STATUS_OK || config->metrics.prometheus_file == NULL) {
        return status;
    }
    status = regular_file_check_target("metrics.prometheus_file", config->metrics.prometheus_file, error);
    if (status != STATUS_OK) {
        config_finish(config);
    }
    return status;
}

int command_train(const struct command_line *command)
{
    return job_run(command, &(struct job){.read = read_file, .run = train});
}
