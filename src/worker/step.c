// SPDX-License-Identifier: Apache-2.0
#include "worker/step.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "mem/clock.h"
#include "mem/range.h"
#include "mem/sanitizer.h"
#include "mem/uint64.h"
#include "worker/faults.h"
#include "worker/fixed_sums.h"
#include "worker/job.h"
#include "worker/negotiate.h"
#include "worker/samples.h"

// Points of a step on the device's stream.
enum point { BEGUN, RAN, REDUCED, UPDATED, ENDED, POINT_COUNT };

// A step that was started, until it is finished.
struct step_record {
    struct step_result result;
    struct step_message *messages;
    struct sched_share *next_plan;
    device_address staging; // where the step's values are copied to
    const struct step_values *values;
    bool away; // the optimizer's state, in the update
    struct event *marks[POINT_COUNT];
};

struct step_records {
    struct step_record ring[STEPS_UNDER_WAY_MAX]; // step n is ring[n % STEPS_UNDER_WAY_MAX]
    uint64_t next, oldest;                        // steps to start and to finish
};

static bool create_record(struct worker *worker, struct step_record *record)
{
    struct device *device = worker->device;
    size_t ranks = worker->comm->size;
    record->messages = calloc(ranks, sizeof(*record->messages));
    record->next_plan = calloc(ranks, sizeof(*record->next_plan));
    enum status staged =
        mem_pool_hold(worker->staging, sizeof(struct step_values), NULL, "step values", &record->staging);
    if (record->messages == NULL || record->next_plan == NULL || staged != STATUS_OK) {
        return false;
    }
    record->values = mem_pool_host_pointer(worker->staging, record->staging);
    bool made = true;
    for (size_t i = 0; made && i < POINT_COUNT; i++) {
        made = device->ops->event_create(device, &record->marks[i]) == STATUS_OK;
    }
    return made;
}

static void destroy_record(struct worker *worker, struct step_record *record)
{
    struct device *device = worker->device;
    for (size_t i = 0; i < POINT_COUNT; i++) {
        device->ops->event_destroy(device, record->marks[i]);
    }
    mem_pool_free(worker->staging, record->staging, NULL);
    free(record->next_plan);
    free(record->messages);
}

struct step_records *step_records_create(struct worker *worker)
{
    struct step_records *records = calloc(1, sizeof(*records));
    bool made = records != NULL;
    for (size_t i = 0; made && i < STEPS_UNDER_WAY_MAX; i++) {
        made = create_record(worker, &records->ring[i]);
    }
    if (!made) {
        step_records_destroy(worker, records);
        return NULL;
    }
    return records;
}

void step_records_destroy(struct worker *worker, struct step_records *records)
{
    for (size_t i = 0; records != NULL && i < STEPS_UNDER_WAY_MAX; i++) {
        destroy_record(worker, &records->ring[i]);
    }
    free(records);
}

static struct step_record *record_of(struct worker *worker, uint64_t step)
{
    return &worker->records->ring[step % STEPS_UNDER_WAY_MAX];
}

static void mark(struct worker *worker, const struct step_record *record, enum point point)
{
    worker->device->ops->event_record(worker->device, record->marks[point], worker->stream);
}

static uint64_t between_ns(struct worker *worker, const struct step_record *record, enum point from, enum point to)
{
    return worker->device->ops->event_elapsed_ns(worker->device, record->marks[from], record->marks[to]);
}

enum status step_plan_first(struct worker *worker, struct error *error)
{
    bool changed;
    uint64_t first = worker->first_step;
    worker->records->next = worker->records->oldest = first;
    negotiate_report(worker, first);
    negotiate_exchange(worker);
    return negotiate_plan(worker, first, &changed, error);
}

static enum status run_share(struct worker *worker, uint64_t step, const struct sched_share *share, bool closes,
                             struct error *error)
{
    const struct sample_share samples = {
        .purpose = LIST_TRAIN,
        .loader = worker->loader,
        .batch = worker_position(worker, step),
        .batch_samples = worker->config->train.global_batch_size,
        .share = share,
        .closes = closes,
    };
    enum status status = samples_run(worker, &samples, error);
    worker->spent |= worker->message.left > 0;
    worker->times_operations = false;
    return status;
}

static void clear_gradients(struct worker *worker)
{
    worker->device->ops->fill_zero(worker->device, worker->stream, worker->memory.gradients,
                                   worker->model->elements * sizeof(float));
    if (worker->config->train.reproducible) {
        fixed_sums_clear_gradients(worker);
    }
}

// Often while little is known, then now and then. The first step is like no other.
static bool costs_are_due(uint64_t step)
{
    return step > 0 && (step < 8 || step % 16 == 0);
}

static enum status run_own_share(struct worker *worker, uint64_t step, struct error *error)
{
    const struct sched_share *share = &worker->plan[worker->comm->rank];
    samples_begin(worker);
    worker->times_operations = worker->profile != NULL || costs_are_due(step);
    offers_begin_step(&worker->offers);
    unrestricted_begin_step(&worker->unrestricted);
    worker->spent = false;
    worker->message.micro_batch = (uint32_t)(share->micro_batch * worker->grain);
    worker->message.accumulation_steps = (uint32_t)share->accumulation_steps;
    worker->message.levers = share->levers & 0xf;
    faults_stall(worker, step);
    clear_gradients(worker);
    sched_undone_finish(&worker->undone);
    if (!sched_undone_init(&worker->undone, job_grains(worker->config, worker->config->train.global_batch_size))) {
        return error_out_of_host_memory(error);
    }
    return run_share(worker, step, share, true, error);
}

// Every rank holds the sum of what was done: it is added up again with what is done now, so one rank alone keeps it.
static void keep_sums_once(struct worker *worker)
{
    if (worker->comm->rank != 0) {
        samples_clear_tally(worker);
        clear_gradients(worker);
    }
    worker->buckets_started = 0;
}

// As long as ranks have left samples, those that can do them, and all gradients are added up again. A rank that leaves
// samples offers nothing more, so there is a last round; before the job ends all ranks trim, and all may try again.
// Collective.
static enum status settle(struct worker *worker, uint64_t step, struct error *error)
{
    const struct sched_share *shares = worker->plan;
    bool trimmed = false;
    for (;;) {
        uint64_t samples = 0;
        enum status status = samples_take_back(worker, shares, &samples, error);
        if (status != STATUS_OK || samples == 0) {
            return status;
        }
        shares = negotiate_deal(worker, samples);
        if (shares == NULL && !trimmed) {
            trimmed = true;
            negotiate_trim(worker, step + 1);
            shares = negotiate_deal(worker, samples);
        }
        if (shares == NULL) {
            return negotiate_no_plan(worker, error);
        }
        keep_sums_once(worker);
        status = run_share(worker, step, &shares[worker->comm->rank], false, error);
        if (status != STATUS_OK) {
            return status;
        }
        negotiate_report(worker, step + 1);
        negotiate_exchange_start(worker);
        samples_reduce(worker);
        worker->comm->ops->gather_wait(worker->comm);
    }
}

// Every sample of the global batch must be there exactly once.
static enum status check_samples(const struct worker *worker, struct step_result *result, struct error *error)
{
    uint64_t global_batch = worker->config->train.global_batch_size, hash = 0, expected = 0;
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        result->samples += worker->messages[i].samples;
        hash += worker->messages[i].position_hash;
    }
    for (uint64_t i = 0; i < global_batch; i++) {
        expected += position_hash(worker_position(worker, result->step) + i);
    }
    if (result->samples != global_batch || hash != expected) {
        return error_set(error, STATUS_ERROR, "step %" PRIu64 " did not do every sample exactly once: this is a bug",
                         result->step);
    }
    return STATUS_OK;
}

static void tell_use(struct worker *worker, device_address address, uint64_t bytes, bool writes, const char *place)
{
    sanitizer_access(worker->device, worker->stream, address, bytes, writes, place);
}

void step_update(struct worker *worker, uint64_t step)
{
    struct kernel_context *context = worker->kernels;
    device_address squares = worker->values + offsetof(struct step_values, gradient_squares);
    tell_use(worker, worker->memory.gradients, worker->model->elements * sizeof(float), false, "sum_of_squares");
    tell_use(worker, squares, sizeof(double), true, "sum_of_squares");
    context->kernels->sum_of_squares(context, squares, worker->memory.gradients, worker->model->elements);
    tell_use(worker, worker->values, sizeof(struct step_values), true, "gradient_scale");
    context->kernels->gradient_scale(context, worker->optimizer_memory.scale, worker->memory.tally, squares,
                                     worker->config->train.clip_norm);
    optimizer_state_step(worker, step);
}

void step_share_weights(struct worker *worker)
{
    const struct reduce_ops *ops = worker->reducer->ops;
    if (worker->shards == NULL) {
        return;
    }
    worker_note(worker, "the all-gather", true);
    ops->gather(worker->reducer, worker->stream, worker->optimizer_memory.parameters, worker->shards);
    ops->finish(worker->reducer, worker->stream);
    optimizer_copy(worker->model, worker->kernels, &worker->optimizer_memory);
    worker_note(worker, "the end of the step", false);
}

static enum status run_and_reduce(struct worker *worker, struct step_record *record, uint64_t step, struct error *error)
{
    enum status status = run_own_share(worker, step, error);
    if (status != STATUS_OK) {
        return status;
    }
    mark(worker, record, RAN);
    uint64_t ran_ns = clock_ns();
    negotiate_report(worker, step + 1);
    negotiate_exchange_start(worker);
    uint64_t reported_ns = clock_ns();
    samples_reduce(worker);
    uint64_t reduced_ns = clock_ns();
    worker->comm->ops->gather_wait(worker->comm);
    worker_note(worker, "settling", false);
    record->result.coordination_ns = (reported_ns - ran_ns) + (clock_ns() - reduced_ns);
    return settle(worker, step, error);
}

// Of all ranks together. A step whose terms were too large for integer sums is done again.
static enum status make_gradients(struct worker *worker, struct step_record *record, uint64_t step, struct error *error)
{
    enum status status = run_and_reduce(worker, record, step, error);
    enum sums_end end = SUMS_DONE;
    while (status == STATUS_OK && worker->config->train.reproducible &&
           (end = fixed_sums_get(worker)) == SUMS_SPILLED) {
        worker_log(worker, "step %" PRIu64 " is done again: a term of a gradient was too large for integer sums", step);
        status = run_and_reduce(worker, record, step, error);
    }
    if (status == STATUS_OK && end == SUMS_NOT_FINITE) {
        return error_set(error, STATUS_DIVERGED, "step %" PRIu64 ": a gradient is not finite: " WORKER_DIVERGED, step);
    }
    return status;
}

// 0: not yet.
static uint64_t predict_step(const struct worker *worker)
{
    uint64_t overhead_ns, sample_ns;
    sched_speed_get(&worker->rest, &overhead_ns, &sample_ns);
    return worker->plan_ns > 0 && sample_ns > 0 ? worker->plan_ns + overhead_ns + sample_ns : 0;
}

enum status step_start(struct worker *worker, uint64_t step, struct error *error)
{
    struct step_record *record = record_of(worker, step);
    record->result = (struct step_result){
        .step = step,
        .epoch = worker_position(worker, step) / worker->train->samples,
        .learning_rate = optimizer_learning_rate(&worker->optimizer, step),
        .plan_ns = worker->plan_ns,
        .predicted_ns = predict_step(worker),
        .messages = record->messages,
        .next_plan = record->next_plan,
    };
    char name[32];
    snprintf(name, sizeof(name), "step %" PRIu64, step);
    range_begin(name);
    mem_pool_begin_step(worker->pool, step);
    worker->present_step = step;
    worker_note(worker, "its beginning", false);
    mark(worker, record, BEGUN);
    enum status status = make_gradients(worker, record, step, error);
    if (status != STATUS_OK) {
        return status;
    }
    mark(worker, record, REDUCED);
    record->away = worker->state.away;
    step_update(worker, step);
    step_share_weights(worker);
    mark(worker, record, UPDATED);
    worker->device->ops->copy_to_host(worker->device, worker->stream, (void *)record->values, worker->values,
                                      sizeof(*record->values));
    mark(worker, record, ENDED);
    memcpy(record->messages, worker->messages, worker->comm->size * sizeof(*record->messages));
    worker->records->next = step + 1;
    range_end();
    return check_samples(worker, &record->result, error);
}

enum status step_plan_next(struct worker *worker, struct error *error)
{
    uint64_t step = worker->records->next;
    struct step_result *result = &record_of(worker, step - 1)->result;
    uint64_t start_ns = clock_ns();
    enum status status = negotiate_plan(worker, step, &result->plan_changed, error);
    memcpy(record_of(worker, step - 1)->next_plan, worker->plan, worker->comm->size * sizeof(*worker->plan));
    result->coordination_ns += clock_ns() - start_ns;
    mark(worker, record_of(worker, step - 1), ENDED);
    return status;
}

enum status step_finish(struct worker *worker, const struct step_result **result_p, struct error *error)
{
    struct step_record *record = record_of(worker, worker->records->oldest++);
    struct step_result *result = &record->result;
    worker_note(worker, "the end of a step on the device", true); // of an all-reduce there, too
    worker->device->ops->event_synchronize(worker->device, record->marks[ENDED]);
    worker_note(worker, "reports", false);
    sanitizer_host_access(worker->device, record->values, sizeof(*record->values), false, "the step's values");
    enum status status = worker_check(worker, error);
    if (status != STATUS_OK) {
        return status;
    }
    result->tally = record->values->tally;
    double count = result->tally.count > 0 ? result->tally.count : 1;
    result->loss = result->tally.loss / count;
    result->gradient_norm = sqrt(record->values->gradient_squares) / count;
    result->step_ns = between_ns(worker, record, BEGUN, ENDED);
    result->comm_ns = between_ns(worker, record, RAN, REDUCED);
    result->update_ns = between_ns(worker, record, REDUCED, UPDATED);
    offers_observe_update(&worker->offers, record->away, result->update_ns);
    if (result->plan_ns > 0) {
        sched_speed_begin_step(&worker->rest);
        sched_speed_observe(&worker->rest, 1, result->step_ns - uint64_min(result->step_ns, result->plan_ns));
    }
    if (!isfinite(result->loss) || !isfinite(result->gradient_norm)) {
        return error_set(error, STATUS_DIVERGED, "step %" PRIu64 ": loss %g, gradient norm %g: " WORKER_DIVERGED,
                         result->step, fabs(result->loss), fabs(result->gradient_norm)); // no sign on a nan
    }
    *result_p = result;
    return STATUS_OK;
}
