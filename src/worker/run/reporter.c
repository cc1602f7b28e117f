// SPDX-License-Identifier: Apache-2.0
#include "worker/run/reporter.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mem/clock.h"
#include "mem/uint64.h"
#include "worker/comm/launcher.h"
#include "worker/costs.h"
#include "worker/doctor/doctor.h"
#include "worker/job.h"
#include "worker/run/memory_files.h"

enum status reporter_open(struct reporter *reporter, struct error *error)
{
    struct worker *worker = reporter->worker;
    bool goes_on = worker->first_step > 0;
    enum status status = run_folder_open_log(reporter->folder, worker->comm->rank, goes_on, &worker->log, error);
    if (status == STATUS_OK) {
        limit_file_name(reporter->folder, worker->comm->rank, worker->limit.path);
        status = memory_files_open(worker, reporter->folder, error);
    }
    if (status != STATUS_OK || worker->comm->rank != 0) {
        return status;
    }
    status = metrics_open(reporter->folder, worker->first_step, &reporter->metrics, error);
    if (status != STATUS_OK) {
        return status;
    }
    reporter->console = console_create(stdout, launcher_is_watched(), worker);
    reporter->ranks.count = worker->comm->size;
    reporter->ranks.rank = calloc(reporter->ranks.count, sizeof(*reporter->ranks.rank));
    reporter->doctor = doctor_create(worker->config);
    if (reporter->console != NULL && reporter->ranks.rank != NULL && reporter->doctor != NULL) {
        reporter->sinks = sinks_open(worker, reporter->folder, reporter->console);
    }
    return reporter->sinks != NULL ? STATUS_OK : error_out_of_host_memory(error);
}

void reporter_close(struct reporter *reporter)
{
    sinks_close(reporter->sinks);
    doctor_destroy(reporter->doctor);
    free(reporter->ranks.rank);
    console_destroy(reporter->console);
    line_file_close(reporter->metrics);
}

// What the run is to go on without.
static void warn_of_losses(struct reporter *reporter)
{
    char text[LINE_FILE_WARNING_MAX];
    if (line_file_news(reporter->worker->log, text)) {
        console_warning(reporter->console, text);
    }
    if (reporter->metrics != NULL && line_file_news(reporter->metrics, text)) {
        console_warning(reporter->console, text);
    }
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
    uint64_t first = share->first * worker->grain, samples = job_share_samples(worker->config, share);
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

// What each rank sent.
static struct record_ranks record_ranks(struct reporter *reporter, const struct step_message *messages)
{
    for (size_t i = 0; i < reporter->ranks.count; i++) {
        const struct step_message *message = &messages[i];
        struct record_rank *rank = &reporter->ranks.rank[i];
        *rank = (struct record_rank){
            .share = message->samples,
            .micro_batch = message->micro_batch,
            .accumulation_steps = message->accumulation_steps,
            .limit_bytes = message->limit_bytes,
            .headroom_bytes = message->report.headroom_bytes,
            .allocated_peak_bytes = message->allocated_peak_bytes,
            .reserved_peak_bytes = message->reserved_peak_bytes,
            .predicted_peak_bytes = message->predicted_peak_bytes,
            .oom_retries = message->oom_retries,
            .handed_back = message->handed_back,
            .others_bytes = message->others_bytes,
            .kept_bytes = message->kept_bytes,
            .kept_gradients_bytes = message->kept_gradients_bytes,
            .fragmented_bytes = message->fragmented_bytes,
            .data_wait_ms = (double)message->data_wait_us / 1e3,
            .recompute_gain = message->recompute_gain / 100.0,
        };
        snprintf(rank->levers, sizeof(rank->levers), "%s", offers_levers_name(message->levers));
    }
    return reporter->ranks;
}

static double milliseconds(uint64_t ns)
{
    return (double)ns / 1e6;
}

// The longest that any rank waited for data.
static double data_wait_ms(const struct record_ranks *ranks)
{
    double longest = 0;
    for (size_t i = 0; i < ranks->count; i++) {
        longest = fmax(longest, ranks->rank[i].data_wait_ms);
    }
    return longest;
}

static struct record_step record_step(struct reporter *reporter, const struct step_result *result)
{
    double seconds = (double)result->step_ns / 1e9;
    struct record_ranks ranks = record_ranks(reporter, result->messages);
    return (struct record_step){
        .step = result->step,
        .epoch = result->epoch,
        .loss = result->loss,
        .samples = result->samples,
        .tokens = (uint64_t)result->tally.count,
        .lr = result->learning_rate,
        .grad_norm = result->gradient_norm,
        .step_ms = milliseconds(result->step_ns),
        .predicted_ms = result->predicted_ns == 0 ? NAN : milliseconds(result->predicted_ns),
        .samples_per_s = (double)result->samples / seconds,
        .tokens_per_s = result->tally.count / seconds,
        .data_wait_ms = data_wait_ms(&ranks),
        .comm_ms = milliseconds(result->comm_ns),
        .coordination_ms = milliseconds(result->coordination_ns),
        .ranks = ranks,
    };
}

void reporter_start(struct reporter *reporter, const struct resume *resume)
{
    struct worker *worker = reporter->worker;
    log_start(worker);
    if (resume->found[0] != '\0') {
        worker_log(worker, "goes on from %s", resume->found);
    } else if (resume->weights[0] != '\0') {
        worker_log(worker, "begins with the weights of %s", resume->weights);
    }
    log_plan(worker, worker->first_step, worker->plan);
    if (worker->comm->rank == 0) {
        console_start(reporter->console, reporter->folder, resume);
        if (resume->found[0] != '\0') {
            metrics_resume(reporter->metrics,
                           &(struct record_resume){worker->first_step, worker->comm->size, resume->found});
        }
    }
}

static void warn_of_cause(struct reporter *reporter, enum doctor_cause cause, const struct doctor_finding *finding)
{
    char text[512];
    snprintf(text, sizeof(text),
             "%s, on rank %" PRIu32 " from step %" PRIu64 " on: %s (headroom doctor %.128s shows the figures)",
             doctor_causes[cause].name, finding->rank, finding->first, finding->fix, reporter->folder);
    console_warning(reporter->console, text);
    reporter->warned[cause] = true;
}

// Each cause once, when it is found.
static void warn_of_causes(struct reporter *reporter, const struct record_step *step)
{
    struct doctor_finding findings[DOCTOR_CAUSES];
    if (!doctor_step(reporter->doctor, step)) {
        return;
    }
    doctor_find(reporter->doctor, findings);
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        if (findings[k].found && !reporter->warned[k]) {
            warn_of_cause(reporter, k, &findings[k]);
        }
    }
}

void reporter_step(struct reporter *reporter, const struct step_result *result, double saved)
{
    struct worker *worker = reporter->worker;
    if (result->plan_changed) {
        log_plan(worker, result->step + 1, result->next_plan);
    }
    if (worker->comm->rank == 0) {
        console_step(reporter->console, result, saved);
        const struct record_step step = record_step(reporter, result);
        metrics_step(reporter->metrics, &step);
        sinks_step(reporter->sinks, &step);
        warn_of_causes(reporter, &step);
    }
    warn_of_losses(reporter);
}

void reporter_evaluation(struct reporter *reporter, uint64_t steps_done, const struct evaluation *evaluation)
{
    if (reporter->worker->comm->rank == 0) {
        console_evaluation(reporter->console, steps_done, evaluation);
        const struct record_evaluation record = {
            .step = steps_done,
            .loss = evaluation->loss,
            .accuracy = evaluation->accuracy,
            .samples = evaluation->samples,
            .ranks = record_ranks(reporter, reporter->worker->messages),
        };
        metrics_evaluation(reporter->metrics, &record);
        sinks_evaluation(reporter->sinks, &record);
    }
}

void reporter_checkpoint(struct reporter *reporter, const struct checkpoint_report *checkpoint)
{
    if (checkpoint->error.status != STATUS_OK) {
        worker_log(reporter->worker, "no checkpoint after %" PRIu64 " steps: %s", checkpoint->step,
                   checkpoint->error.text);
    }
    console_checkpoint(reporter->console, checkpoint);
    struct record_checkpoint record = {
        .step = checkpoint->step,
        .written = checkpoint->error.status == STATUS_OK,
        .bytes = checkpoint->bytes,
        .pause_ms = milliseconds(checkpoint->pause_ns),
        .write_ms = milliseconds(checkpoint->write_ns),
    };
    memcpy(record.error, checkpoint->error.text, sizeof(record.error));
    metrics_checkpoint(reporter->metrics, &record);
}

// What each file lacks in the end.
static void count_losses(struct reporter *reporter)
{
    char text[LINE_FILE_WARNING_MAX];
    if (line_file_losses(reporter->worker->log, text)) {
        console_warning(reporter->console, text);
    }
    if (reporter->metrics != NULL && line_file_losses(reporter->metrics, text)) {
        console_warning(reporter->console, text);
    }
}

static enum status write_costs(const struct worker *worker, const char *folder, struct error *error)
{
    struct costs_device device;
    const struct device_ops *ops = worker->device->ops;
    snprintf(device.kind, sizeof(device.kind), "%s", ops->name);
    snprintf(device.name, sizeof(device.name), "%s", ops->description(worker->device));
    return costs_write(worker->costs, &device, folder, worker->comm->rank, error);
}

// The statistics of memory and costs are of use to a later plan, but no part of the training.
static void write_files(struct reporter *reporter)
{
    struct worker *worker = reporter->worker;
    struct error error;
    if (memory_files_end(worker, &error) != STATUS_OK) {
        console_warning(reporter->console, error.text);
    }
    if (worker->profile == NULL && // which takes the times of operations for itself
        write_costs(worker, reporter->folder, &error) != STATUS_OK) {
        console_warning(reporter->console, error.text);
    }
}

void reporter_end(struct reporter *reporter, uint64_t steps_done, enum status status, const uint64_t *checksum_p,
                  const struct record_shortage *shortage)
{
    char weights[24];
    const struct record_end end = {
        .step = steps_done,
        .seconds = (double)(clock_ns() - reporter->start_ns) / 1e9,
        .status = status,
        .weights = checksum_p == NULL ? NULL : weights,
        .shortage = *shortage,
    };
    if (checksum_p != NULL) {
        snprintf(weights, sizeof(weights), "%016" PRIx64, *checksum_p);
    }
    write_files(reporter);
    if (reporter->metrics != NULL) {
        metrics_end(reporter->metrics, &end);
    }
    sinks_close(reporter->sinks); // which show the end to whoever follows the run
    reporter->sinks = NULL;
    count_losses(reporter);
    if (reporter->console != NULL) {
        console_end(reporter->console, reporter->folder, &end);
    }
}
