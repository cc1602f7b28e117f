// SPDX-License-Identifier: Apache-2.0
//
// headroom train: from the configuration to the end of the run, on every rank.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/clock.h"
#include "mem/uint64.h"
#include "worker/checksum.h"
#include "worker/comm/launcher.h"
#include "worker/commands/commands.h"
#include "worker/run/console.h"
#include "worker/run/memory_files.h"
#include "worker/run/metrics.h"
#include "worker/run/run_folder.h"

// What rank 0 has besides its worker.
struct reporter {
    struct metrics *metrics;
    struct console *console;
    char folder[RUN_FOLDER_MAX];
    uint64_t start_ns;
};

// What one rank met, and which rank it is where that matters.
static void print_failure(const struct comm *comm, const struct error *error)
{
    if (comm->size == 1 || error->status == STATUS_INVALID) {
        fprintf(stderr, "headroom: %s\n", error->text);
    } else {
        char host[256] = "?";
        gethostname(host, sizeof(host) - 1);
        fprintf(stderr, "headroom: rank %" PRIu32 " on %s: %s\n", comm->rank, host, error->text);
    }
    fflush(stderr);
}

// Every rank ran short. One says why, and what there is on each.
static void print_shortage(const struct worker *worker, const struct error *error)
{
    if (worker->comm->rank != worker->spokesman) {
        return;
    }
    print_failure(worker->comm, error);
    if (worker->comm->size == 1) {
        return;
    }
    fprintf(stderr, "%-6s %14s %14s %14s\n", "rank", "limit", "headroom", "held by others");
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        char limit[MEM_SIZE_TEXT_MAX], headroom[MEM_SIZE_TEXT_MAX], others[MEM_SIZE_TEXT_MAX];
        const struct step_message *message = &worker->messages[i];
        fprintf(stderr, "%-6" PRIu32 " %14s %14s %14s\n", i, mem_size_text(message->limit_bytes, limit),
                mem_size_text(message->report.headroom_bytes, headroom), mem_size_text(message->others_bytes, others));
    }
}

// Collective: every rank answers the status of the lowest rank that failed, which prints its line.
static enum status agree(struct comm *comm, enum status status, const struct error *error)
{
    enum status first;
    if (comm_first_failure(comm, status, &first) == comm->rank) {
        print_failure(comm, error);
    }
    return first;
}

// Ends the job from one rank, when the others are not at a place where they could agree.
static void __attribute__((noreturn)) fail_alone(struct worker *worker, const struct error *error)
{
    print_failure(worker->comm, error);
    worker_log(worker, "%s", error->text);
    if (worker->memory_files != NULL) {
        memory_files_end(worker, NULL); // as far as it goes
    }
    worker->comm->ops->abort(worker->comm, (int)error->status);
}

// Rank 0 reads the configuration; the others get the resolved text, so all hold the same. Collective.
static enum status read_config(const struct command_line *command, struct comm *comm, struct config *config,
                               struct error *error)
{
    char *text = NULL;
    uint64_t size = 0;
    enum status status = STATUS_OK;
    if (comm->rank == 0) {
        status = config_read(config, command->config_path, command->overrides, command->override_count, error);
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
        error_set(error, STATUS_ERROR, "out of host memory");
        print_failure(comm, error);
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

static enum status open_reports(struct worker *worker, struct reporter *reporter, struct error *error)
{
    enum status status = run_folder_open_log(reporter->folder, worker->comm->rank, &worker->log, error);
    if (status == STATUS_OK) {
        limit_file_name(reporter->folder, worker->comm->rank, worker->limit.path);
        status = memory_files_open(worker, reporter->folder, error);
    }
    if (status != STATUS_OK || worker->comm->rank != 0) {
        return status;
    }
    status = metrics_open(reporter->folder, &reporter->metrics, error);
    if (status != STATUS_OK) {
        return status;
    }
    reporter->console = console_create(stdout, launcher_is_watched(), reporter->start_ns, worker);
    return reporter->console == NULL ? error_set(error, STATUS_ERROR, "out of host memory") : STATUS_OK;
}

static void log_start(struct worker *worker)
{
    struct mem_pool_stats stats;
    mem_pool_stats(worker->pool, &stats);
    worker_log(worker,
               "device %s (%s), limit %" PRIu64 " bytes, resting %" PRIu64 " bytes, headroom %" PRIu64
               " bytes, all-reduce by %s",
               worker->device->ops->name, worker->device->ops->description(worker->device), stats.limit_bytes,
               worker->resting_bytes, mem_pool_headroom(worker->pool), worker->reducer->ops->name);
    if (worker->binding[0] != '\0') {
        worker_log(worker, "%s", worker->binding);
    }
    const struct device_usage *usage = &worker->usage;
    if (usage->library_bytes > 0) {
        worker_log(worker, "CUDA, cuBLASLt and NCCL hold %" PRIu64 " bytes of the device", usage->library_bytes);
    }
    if (worker->others_known) {
        worker_log(worker, "%" PRIu32 " other processes hold %" PRIu64 " bytes of the device", usage->other_processes,
                   usage->others_bytes);
    }
}

static void log_plan(struct worker *worker, uint64_t step, const struct sched_share *plan)
{
    const struct sched_share *share = &plan[worker->comm->rank];
    struct model_shape shape = worker_shape(worker, share);
    uint64_t first = share->first * worker->grain, samples = worker_share_samples(worker->config, share);
    if (share->samples == 0) {
        worker_log(worker, "step %" PRIu64 ": cannot hold a sample and rests", step);
        return;
    }
    worker_log(worker,
               "step %" PRIu64 ": share %" PRIu64 "..%" PRIu64 ", micro-batch %" PRIu64 ", accumulation steps %" PRIu64
               ", levers %s, layout %" PRIu64 " bytes above its lower bound",
               step, first, first + samples - 1, (uint64_t)shape.samples, share->accumulation_steps,
               offers_levers_name(share->levers), price_slack_bytes(worker->prices, LIST_TRAIN, shape));
}

// STATUS_DIVERGED or STATUS_OUT_OF_MEMORY on every rank, or STATUS_OK.
static enum status evaluate_and_report(struct worker *worker, struct reporter *reporter, uint64_t steps_done,
                                       struct error *error)
{
    struct evaluation evaluation;
    enum status status = evaluate(worker, &evaluation, error);
    if (status == STATUS_DIVERGED || status == STATUS_OUT_OF_MEMORY) {
        return status;
    }
    if (status != STATUS_OK) {
        fail_alone(worker, error);
    }
    if (worker->comm->rank == 0) {
        console_evaluation(reporter->console, steps_done, &evaluation);
        if (metrics_evaluation(reporter->metrics, worker, steps_done, &evaluation, error) != STATUS_OK) {
            fail_alone(worker, error);
        }
    }
    return STATUS_OK;
}

static void report_step(struct worker *worker, struct reporter *reporter, const struct step_result *result)
{
    struct error error;
    if (result->plan_changed) {
        log_plan(worker, result->step + 1, result->next_plan);
    }
    if (worker->comm->rank == 0) {
        console_step(reporter->console, result);
        if (metrics_step(reporter->metrics, worker, result, &error) != STATUS_OK) {
            fail_alone(worker, &error);
        }
    }
    if (worker->log_errno != 0) {
        error_set(&error, STATUS_ERROR, "%s/logs/rank_%" PRIu32 ".log: cannot write: %s", reporter->folder,
                  worker->comm->rank, strerror(worker->log_errno));
        fail_alone(worker, &error);
    }
}

static bool evaluation_due(const struct worker *worker, uint64_t steps_done)
{
    uint64_t every = worker->config->train.eval_every;
    return worker->validation != NULL && worker->profile == NULL &&
           (steps_done == worker->steps || (every > 0 && steps_done % every == 0));
}

// Finishes and reports steps until no more than `left` are under way. STATUS_DIVERGED on every rank, or STATUS_OK.
static enum status finish_steps(struct worker *worker, struct reporter *reporter, uint64_t started, uint64_t left,
                                uint64_t *steps_done_p, struct error *error)
{
    while (started - *steps_done_p > left) {
        const struct step_result *result;
        enum status status = step_finish(worker, &result, error);
        if (status == STATUS_DIVERGED) {
            return status;
        }
        if (status != STATUS_OK) {
            fail_alone(worker, error);
        }
        ++*steps_done_p;
        if (worker->profile != NULL) {
            profile_step(worker->profile, worker, result);
        }
        report_step(worker, reporter, result);
    }
    return STATUS_OK;
}

// One step is enqueued while the one before it runs. The status is the same on every rank: what only one rank meets
// ends the job from there.
static enum status run_steps(struct worker *worker, struct reporter *reporter, uint64_t *steps_done_p,
                             struct error *error)
{
    enum status planned = STATUS_OK, status = STATUS_OK;
    *steps_done_p = 0;
    for (uint64_t step = 0; planned == STATUS_OK && status == STATUS_OK && step < worker->steps; step++) {
        planned = step_start(worker, step, error);
        if (planned == STATUS_OUT_OF_MEMORY || planned == STATUS_DIVERGED) {
            status = finish_steps(worker, reporter, step, 0, steps_done_p, error);
            break;
        }
        if (planned != STATUS_OK) {
            fail_alone(worker, error);
        }
        memory_files_after_step(worker, step);
        if (step + 1 < worker->steps) {
            planned = step_plan_next(worker, error);
        }
        bool goes_on = planned == STATUS_OK && worker->profile == NULL && step + 1 < worker->steps &&
                       !evaluation_due(worker, step + 1);
        status = finish_steps(worker, reporter, step + 1, goes_on ? STEPS_UNDER_WAY_MAX - 1 : 0, steps_done_p, error);
        if (planned == STATUS_OK && status == STATUS_OK && evaluation_due(worker, step + 1)) {
            status = evaluate_and_report(worker, reporter, step + 1, error);
        }
    }
    return status != STATUS_OK ? status : planned;
}

static enum status run(struct worker *worker, struct reporter *reporter, struct error *error)
{
    uint64_t steps_done = 0;
    log_start(worker);
    enum status status = step_plan_first(worker, error);
    if (status == STATUS_OK) {
        log_plan(worker, 0, worker->plan);
        if (worker->comm->rank == 0) {
            console_start(reporter->console, reporter->folder);
        }
        status = run_steps(worker, reporter, &steps_done, error);
    }
    struct error write_error;
    if (memory_files_end(worker, &write_error) != STATUS_OK ||
        (worker->profile == NULL && // which takes the times of operations for itself
         costs_write(worker->costs, reporter->folder, worker->comm->rank, &write_error) != STATUS_OK)) {
        fail_alone(worker, &write_error);
    }
    if (worker->comm->rank == 0) {
        double seconds = (double)(clock_ns() - reporter->start_ns) / 1e9;
        uint64_t checksum = 0;
        bool summed = worker->config->train.reproducible;
        if (summed && checksum_weights(worker, &checksum, &write_error) != STATUS_OK) {
            fail_alone(worker, &write_error);
        }
        const struct run_end end = {steps_done, seconds, status, summed ? &checksum : NULL};
        if (metrics_end(reporter->metrics, &end, &write_error) != STATUS_OK) {
            fail_alone(worker, &write_error);
        }
        console_end(reporter->console, reporter->folder);
        if (worker->profile != NULL) {
            profile_print(worker->profile, worker, stdout);
        }
    }
    return status;
}

static enum status start_profile(struct worker *worker, uint64_t steps, struct error *error)
{
    if (steps == 0) {
        return STATUS_OK;
    }
    worker->steps = uint64_min(worker->steps, PROFILE_WARM_UP + steps);
    worker->profile = profile_create();
    return worker->profile == NULL ? error_set(error, STATUS_ERROR, "out of host memory") : STATUS_OK;
}

static enum status train(const struct command_line *command, struct comm *comm, struct config *config)
{
    struct error error = {0};
    struct worker worker;
    struct reporter reporter = {.start_ns = clock_ns()};
    enum status status = agree(comm, worker_init(&worker, config, comm, &error), &error);
    if (status == STATUS_OK && worker_connect(&worker, &error) != STATUS_OK) {
        fail_alone(&worker, &error);
    }
    if (status == STATUS_OK && config->device.name == NULL) {
        worker.device->ops->forget_name(worker.device); // all ranks that share it have opened it
    }
    if (status == STATUS_OK) {
        status = agree(comm, run_folder_create(config, comm, command->argv, reporter.folder, &error), &error);
    }
    if (status == STATUS_OK) {
        status = agree(comm, open_reports(&worker, &reporter, &error), &error);
    }
    if (status == STATUS_OK) {
        status = agree(comm, start_profile(&worker, command->profile_steps, &error), &error);
    }
    if (status == STATUS_OK) {
        status = run(&worker, &reporter, &error);
        if (status == STATUS_OUT_OF_MEMORY) {
            print_shortage(&worker, &error);
        } else if (status != STATUS_OK && comm->rank == 0) { // all ranks met it
            fprintf(stderr, "headroom: %s\n", error.text);
        }
    }
    console_destroy(reporter.console);
    metrics_close(reporter.metrics);
    worker_finish(&worker);
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
        agree(comm, error->status, error);
        comm->ops->destroy(comm);
    }
    return (int)error->status;
}

int command_train(const struct command_line *command)
{
    struct comm *comm;
    struct config config = {0};
    struct error error = {0};
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
    status = agree(comm, read_config(command, comm, &config, &error), &error);
    if (status == STATUS_OK) {
        status = train(command, comm, &config);
        config_finish(&config);
    }
    comm->ops->destroy(comm);
    return (int)status;
}
