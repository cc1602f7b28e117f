// SPDX-License-Identifier: Apache-2.0
#include "worker/step.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "mem/device_cpu.h"
#include "mem/uint64.h"
#include "worker/clock.h"
#include "worker/samples.h"

// Neighbours from the config stand for other programs on this rank's device.
static void set_neighbours(struct worker *worker, uint64_t step)
{
    const struct config *config = worker->config;
    uint64_t bytes = 0;
    for (size_t i = 0; i < config->device.neighbours_count; i++) {
        const struct config_neighbour *neighbour = &config->device.neighbours[i];
        if (neighbour->rank == worker->comm->rank && neighbour->from_step <= step && step < neighbour->to_step) {
            bytes += neighbour->bytes;
        }
    }
    if (config->device.neighbours_count > 0) {
        device_cpu_set_neighbour(worker->device, bytes);
    }
}

// Where others have pushed the device over its capacity, cached memory goes back.
static void yield_memory(struct worker *worker)
{
    struct device_info info;
    worker->device->ops->info(worker->device, &info);
    uint64_t taken = info.held_bytes + info.others_bytes;
    if (taken > info.capacity_bytes) {
        uint64_t deficit = taken - info.capacity_bytes;
        mem_pool_trim(worker->pool, info.held_bytes > deficit ? info.held_bytes - deficit : 0);
    }
}

// Fills in this rank's report for the plan of step `next_step`.
static void report(struct worker *worker, uint64_t next_step)
{
    struct sched_report *report = &worker->message.report;
    set_neighbours(worker, next_step);
    yield_memory(worker);
    report->headroom_bytes = mem_pool_headroom(worker->pool);
    report->micro_batch_max = (uint32_t)price_largest_fit(worker->prices, LIST_TRAIN, report->headroom_bytes,
                                                          worker->config->train.global_batch_size);
    sched_speed_get(&worker->speed, &report->overhead_ns, &report->sample_ns);
    report->plan_hash = sched_plan_hash(worker->plan, worker->comm->size);
}

static enum status no_plan(const struct worker *worker, struct error *error)
{
    uint32_t rank = 0;
    while (worker->messages[rank].report.micro_batch_max > 0) {
        rank++;
    }
    const struct step_message *message = &worker->messages[rank];
    uint64_t own_bytes = worker->resting_bytes + message->report.headroom_bytes;
    uint64_t others_bytes = message->limit_bytes - uint64_min(message->limit_bytes, own_bytes);
    return error_set(error, STATUS_OUT_OF_MEMORY,
                     "rank %" PRIu32 " cannot hold a single sample: a micro-step of one needs %" PRIu64
                     " bytes and its headroom is %" PRIu64 " bytes. Of its limit of %" PRIu64 " bytes it holds %" PRIu64
                     " itself, and %" PRIu64
                     " are held by others on its device. Raise device.capacity, make the model smaller, or leave the "
                     "device to this job.",
                     rank, price_block_bytes(worker->prices, LIST_TRAIN, 1), message->report.headroom_bytes,
                     message->limit_bytes, worker->resting_bytes, others_bytes);
}

static enum status decide(struct worker *worker, bool *changed_p, struct error *error)
{
    uint32_t ranks = worker->comm->size;
    for (uint32_t i = 0; i < ranks; i++) {
        worker->reports[i] = worker->messages[i].report;
        if (worker->reports[i].plan_hash != worker->reports[0].plan_hash) {
            return error_set(error, STATUS_ERROR, "rank %" PRIu32 " ran another plan than rank 0: this is a bug", i);
        }
    }
    const struct sched_share *plan = sched_coordinator_plan(worker->coordinator, worker->reports, changed_p);
    if (plan == NULL) {
        return no_plan(worker, error);
    }
    memcpy(worker->plan, plan, ranks * sizeof(*plan));
    return STATUS_OK;
}

static void exchange_start(struct worker *worker)
{
    worker->comm->ops->gather_start(worker->comm, &worker->message, worker->messages, sizeof(worker->message));
}

// Every rank's report for the plan of step `next_step`, in worker->messages.
static void exchange_reports(struct worker *worker, uint64_t next_step)
{
    report(worker, next_step);
    exchange_start(worker);
    worker->comm->ops->gather_wait(worker->comm);
}

// Where a rank cannot hold a sample, others on its device may cache what it lacks. So before the job ends all give that
// back, and report twice: a first report may be older than what another gave back.
static enum status decide_or_trim(struct worker *worker, uint64_t next_step, bool *changed_p, struct error *error)
{
    enum status status = decide(worker, changed_p, error);
    for (int round = 0; status == STATUS_OUT_OF_MEMORY && round < 2; round++) {
        mem_pool_empty_cache(worker->pool);
        exchange_reports(worker, next_step);
        status = decide(worker, changed_p, error);
    }
    return status;
}

enum status step_plan_first(struct worker *worker, struct error *error)
{
    bool changed;
    exchange_reports(worker, 0);
    return decide_or_trim(worker, 0, &changed, error);
}

enum status step_plan_next(struct worker *worker, struct step_result *result, struct error *error)
{
    uint64_t start_ns = clock_ns();
    enum status status = decide_or_trim(worker, result->step + 1, &result->plan_changed, error);
    uint64_t spent_ns = clock_ns() - start_ns;
    result->coordination_ns += spent_ns;
    result->step_ns += spent_ns;
    return status;
}

static enum status run_share(struct worker *worker, uint64_t step, struct error *error)
{
    const struct sched_share *share = &worker->plan[worker->comm->rank];
    uint64_t global_batch = worker->config->train.global_batch_size;
    struct sample_range range = {
        .purpose = LIST_TRAIN,
        .loader = worker->loader,
        .first = step * global_batch + share->first,
        .count = share->samples,
        .micro_batch = share->micro_batch,
    };
    loader_expect(worker->loader, range.first, range.count, global_batch);
    worker->device->ops->fill_zero(worker->device, worker->stream, worker->memory.gradients,
                                   worker->model->elements * sizeof(float));
    return samples_run(worker, &range, error);
}

// Adds up what the ranks did; every sample of the global batch must be there exactly once.
static enum status add_up(const struct worker *worker, uint64_t step, struct step_result *result, struct error *error)
{
    uint64_t global_batch = worker->config->train.global_batch_size, hash = 0, expected = 0;
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        const struct step_message *message = &worker->messages[i];
        result->samples += message->samples;
        hash += message->position_hash;
    }
    result->tally = worker_tally(worker);
    for (uint64_t i = 0; i < global_batch; i++) {
        expected += position_hash(step * global_batch + i);
    }
    if (result->samples != global_batch || hash != expected) {
        return error_set(error, STATUS_ERROR, "step %" PRIu64 " did not do every sample exactly once: this is a bug",
                         step);
    }
    return STATUS_OK;
}

// The norm of the sum of gradients.
static double gradient_sum_norm(struct worker *worker)
{
    double squares;
    worker->kernels->sum_of_squares(worker->stream, worker->gradient_square_sum, worker->memory.gradients,
                                    worker->model->elements);
    worker->device->ops->copy_to_host(worker->device, worker->stream, &squares, worker->gradient_square_sum,
                                      sizeof(squares));
    worker->device->ops->stream_synchronize(worker->device, worker->stream);
    return sqrt(squares);
}

// Divides the sum of gradients by the global count, clips, and steps.
static enum status apply(struct worker *worker, uint64_t step, struct step_result *result, struct error *error)
{
    double count = result->tally.count > 0 ? result->tally.count : 1;
    double clip = worker->config->train.clip_norm, scale = 1 / count;
    result->loss = result->tally.loss / count;
    result->gradient_norm = gradient_sum_norm(worker) / count;
    result->learning_rate = optimizer_learning_rate(&worker->optimizer, step);
    if (!isfinite(result->loss) || !isfinite(result->gradient_norm)) {
        return error_set(error, STATUS_DIVERGED, "step %" PRIu64 ": loss %g, gradient norm %g: " WORKER_DIVERGED, step,
                         fabs(result->loss), fabs(result->gradient_norm)); // no sign on a nan
    }
    if (clip > 0 && result->gradient_norm > clip) {
        scale *= clip / result->gradient_norm;
    }
    struct optimizer_memory memory = {.parameters = worker->memory.parameters, .gradients = worker->memory.gradients};
    memcpy(memory.states, worker->optimizer_states, sizeof(memory.states));
    optimizer_step(&worker->optimizer, worker->model, worker->kernels, worker->stream, &memory, step, scale);
    return STATUS_OK;
}

enum status step_train(struct worker *worker, uint64_t step, struct step_result *result_p, struct error *error)
{
    struct comm *comm = worker->comm;
    uint64_t start_ns = clock_ns();
    *result_p = (struct step_result){
        .step = step,
        .epoch = step * worker->config->train.global_batch_size / worker->train->samples,
    };
    enum status status = run_share(worker, step, error);
    if (status != STATUS_OK) {
        return status;
    }
    uint64_t ran_ns = clock_ns();
    report(worker, step + 1);
    exchange_start(worker);
    uint64_t reported_ns = clock_ns();
    comm->ops->all_reduce(comm, worker->device, worker->stream, worker->memory.gradients, worker->model->elements);
    uint64_t reduced_ns = clock_ns();
    comm->ops->gather_wait(comm);
    uint64_t exchanged_ns = clock_ns();
    status = add_up(worker, step, result_p, error);
    if (status == STATUS_OK) {
        status = apply(worker, step, result_p, error);
    }
    result_p->coordination_ns = (reported_ns - ran_ns) + (exchanged_ns - reduced_ns);
    result_p->comm_ns = reduced_ns - reported_ns;
    result_p->step_ns = clock_ns() - start_ns;
    return status;
}
