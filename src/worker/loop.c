// SPDX-License-Identifier: Apache-2.0
#include "worker/loop.h"

#include "mem/clock.h"
#include "worker/failure.h"
#include "worker/run/memory_files.h"

struct loop {
    struct worker *worker;
    struct reporter *reporter;
    struct checkpoint_writer *checkpoints; // NULL on a rank that writes none
    uint64_t started, done;                // steps
    uint64_t evaluated;                    // steps before the latest validation
    uint64_t written;                      // steps before the latest checkpoint
    struct error unwritten;                // why it could not be; STATUS_OK: it was
};

// STATUS_DIVERGED or STATUS_OUT_OF_MEMORY on every rank, or STATUS_OK.
static enum status evaluate_and_report(struct loop *loop, struct error *error)
{
    struct evaluation evaluation;
    enum status status = evaluate(loop->worker, &evaluation, error);
    if (status == STATUS_DIVERGED || status == STATUS_OUT_OF_MEMORY) {
        return status;
    }
    if (status != STATUS_OK) {
        failure_alone(loop->worker, error);
    }
    loop->evaluated = loop->done;
    reporter_evaluation(loop->reporter, loop->done, &evaluation);
    return STATUS_OK;
}

static bool evaluation_due(const struct worker *worker, uint64_t steps)
{
    uint64_t every = worker->config->train.eval_every;
    return worker->validation != NULL && worker->profile == NULL &&
           (steps == worker->steps || (every > 0 && steps % every == 0));
}

static bool checkpoint_due(const struct worker *worker, uint64_t steps)
{
    uint64_t every = worker->config->checkpoint.every;
    bool last = steps == worker->steps;
    return worker->profile == NULL && (last ? worker->config->checkpoint.at_end : every > 0 && steps % every == 0);
}

static void report_checkpoint(struct loop *loop)
{
    struct checkpoint_report report;
    if (loop->checkpoints != NULL && checkpoint_writer_read(loop->checkpoints, &report)) {
        reporter_checkpoint(loop->reporter, &report);
        loop->unwritten = report.error;
    }
}

// Waits for the checkpoint that is under way.
static void settle_checkpoint(struct loop *loop)
{
    if (loop->checkpoints != NULL) {
        checkpoint_writer_settle(loop->checkpoints);
    }
    report_checkpoint(loop);
}

// A checkpoint of which every rank writes a part is whole when all have said in a step that theirs is written.
static void agree_on_checkpoint(struct loop *loop)
{
    const struct worker *worker = loop->worker;
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        if (!worker->messages[i].wrote) {
            return;
        }
    }
    checkpoint_writer_agree(loop->checkpoints);
}

static void start_checkpoint(struct loop *loop, bool evaluation_due)
{
    uint64_t since_ns = clock_ns();
    settle_checkpoint(loop);
    if (loop->checkpoints != NULL) {
        checkpoint_writer_start(loop->checkpoints, loop->done, evaluation_due, since_ns);
    }
    loop->written = loop->done;
}

// Whether the latest checkpoint is on the disk. Collective; the status is the same on every rank.
static enum status finish_checkpoints(struct loop *loop, struct error *error)
{
    struct comm *comm = loop->worker->comm;
    settle_checkpoint(loop);
    worker_note(loop->worker, "the last checkpoint", comm->rank != 0);
    comm->ops->broadcast(comm, &loop->unwritten, sizeof(loop->unwritten));
    if (loop->unwritten.status == STATUS_OK) {
        return STATUS_OK;
    }
    return error_set(error, STATUS_ERROR, "the last checkpoint could not be written: %.900s", loop->unwritten.text);
}

// Finishes and reports steps until no more than `left` are under way. STATUS_DIVERGED on every rank, or STATUS_OK.
static enum status finish_steps(struct loop *loop, uint64_t left, struct error *error)
{
    struct worker *worker = loop->worker;
    while (loop->started - loop->done > left) {
        const struct step_result *result;
        enum status status = step_finish(worker, &result, error);
        if (status == STATUS_DIVERGED) {
            return status;
        }
        if (status != STATUS_OK) {
            failure_alone(worker, error);
        }
        loop->done++;
        if (worker->profile != NULL) {
            profile_step(worker->profile, worker, result);
        }
        reporter_step(loop->reporter, result,
                      loop->checkpoints == NULL ? -1 : checkpoint_writer_part(loop->checkpoints));
        report_checkpoint(loop);
    }
    return STATUS_OK;
}

// Whether some rank was told to stop; the same on every rank.
static bool stop_is_due(const struct worker *worker)
{
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        if (worker->messages[i].stops) {
            return true;
        }
    }
    return false;
}

// What is due between two steps, none of which is under way. A run that is told to stop does not take the time for a
// validation: it is due when the run goes on.
static enum status pause_between(struct loop *loop, bool stops, struct error *error)
{
    struct worker *worker = loop->worker;
    bool evaluates = evaluation_due(worker, loop->done);
    enum status status = evaluates && !stops ? evaluate_and_report(loop, error) : STATUS_OK;
    if (status == STATUS_OK && (stops || checkpoint_due(worker, loop->done))) {
        start_checkpoint(loop, stops && evaluates);
    }
    return status == STATUS_OK && stops ? STATUS_STOPPED : status;
}

// Enqueues a step, and plans the one after it. STATUS_OUT_OF_MEMORY or STATUS_DIVERGED on every rank, or STATUS_OK;
// `*stops_p`: some rank was told to stop.
static enum status start_step(struct loop *loop, bool *stops_p, struct error *error)
{
    struct worker *worker = loop->worker;
    worker->message.wrote = loop->checkpoints != NULL && checkpoint_writer_waits(loop->checkpoints);
    enum status status = step_start(worker, loop->started, error);
    if (status == STATUS_OUT_OF_MEMORY || status == STATUS_DIVERGED) {
        return status;
    }
    if (status != STATUS_OK) {
        failure_alone(worker, error);
    }
    agree_on_checkpoint(loop);
    memory_files_after_step(worker, loop->started);
    bool last = ++loop->started == worker->steps;
    *stops_p = !last && stop_is_due(worker);
    return last ? STATUS_OK : step_plan_next(worker, error);
}

// One step is enqueued while the one before it runs.
static enum status run_steps(struct loop *loop, struct error *error)
{
    struct worker *worker = loop->worker;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && loop->started < worker->steps) {
        bool stops = false;
        enum status planned = start_step(loop, &stops, error);
        bool pauses = stops || evaluation_due(worker, loop->started) || checkpoint_due(worker, loop->started);
        bool waits = planned != STATUS_OK || pauses || worker->profile != NULL || loop->started == worker->steps;
        status = finish_steps(loop, waits ? 0 : STEPS_UNDER_WAY_MAX - 1, error);
        status = status == STATUS_OK ? planned : status;
        if (status == STATUS_OK && pauses) {
            status = pause_between(loop, stops, error);
        }
    }
    return status;
}

static void start_watchdog(struct worker *worker, const struct reporter *reporter)
{
    struct error error;
    const struct watchdog_config config = {
        .folder = reporter->folder,
        .rank = worker->comm->rank,
        .ranks = worker->comm->size,
        .stall_seconds = worker->config->run.stall_seconds,
        .operation_p = &worker->kernels->operation,
    };
    if (config.stall_seconds > 0 && watchdog_start(&config, &worker->watchdog, &error) != STATUS_OK) {
        failure_alone(worker, &error);
    }
}

enum status loop_run(struct worker *worker, struct reporter *reporter, const struct resume *resume,
                     uint64_t *steps_done_p, struct error *error)
{
    struct loop loop = {
        .worker = worker, .reporter = reporter, .started = worker->first_step, .done = worker->first_step};
    loop.written = worker->first_step;
    if (checkpoint_writer_create(worker, reporter->folder, &loop.checkpoints, error) != STATUS_OK) {
        failure_alone(worker, error);
    }
    start_watchdog(worker, reporter);
    enum status status = step_plan_first(worker, error);
    if (status == STATUS_OK) {
        reporter_start(reporter, resume);
        status = resume->state.evaluation_due ? evaluate_and_report(&loop, error) : STATUS_OK;
    }
    if (status == STATUS_OK) {
        status = run_steps(&loop, error);
    }
    if (status == STATUS_OUT_OF_MEMORY && loop.done > loop.written) {
        bool due = evaluation_due(worker, loop.done) && loop.evaluated != loop.done;
        start_checkpoint(&loop, due); // nothing of the steps before is lost
    }
    struct error unwritten;
    enum status written = finish_checkpoints(&loop, &unwritten);
    if (written != STATUS_OK && (status == STATUS_OK || status == STATUS_STOPPED)) {
        status = written;
        *error = unwritten;
    }
    checkpoint_writer_destroy(loop.checkpoints);
    watchdog_stop(worker->watchdog);
    worker->watchdog = NULL;
    *steps_done_p = loop.done;
    return status;
}
