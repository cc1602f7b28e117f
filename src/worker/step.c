// SPDX-License-Identifier: Apache-2.0
#include "worker/step.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "mem/clock.h"
#include "mem/device_cpu.h"
#include "mem/range.h"
#include "mem/sanitizer.h"
#include "mem/uint64.h"
#include "worker/fixed_sums.h"
#include "worker/memory_files.h"
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

// Notes what someone outside lets this rank hold from step `next_step` on.
static void follow_limit(struct worker *worker, uint64_t next_step)
{
    struct limit_file *limit = &worker->limit;
    enum limit_news news = limit_file_follow(limit);
    if (news == LIMIT_UNCLEAR) {
        worker_log(worker, "step %" PRIu64 ": %s: %s; the limit stays as it was", next_step, limit->path,
                   limit->complaint);
    } else if (news == LIMIT_CHANGED && limit->bytes == 0) {
        worker_log(worker, "step %" PRIu64 ": no limit from outside any more", next_step);
    } else if (news == LIMIT_CHANGED) {
        worker_log(worker, "step %" PRIu64 ": limited to %" PRIu64 " bytes by %s", next_step, limit->bytes,
                   limit->path);
    }
}

// What others leave of the device, or what someone outside allows, is this rank's limit: where that fell, cached memory
// goes back.
static void yield_memory(struct worker *worker)
{
    struct device_info info;
    struct mem_pool_stats stats;
    worker->device->ops->info(worker->device, &info);
    mem_pool_stats(worker->pool, &stats);
    uint64_t left_bytes = info.capacity_bytes - uint64_min(info.capacity_bytes, info.others_bytes);
    uint64_t most_bytes = worker->limit.bytes == 0 ? UINT64_MAX : worker->limit.bytes;
    mem_pool_set_soft_limit(worker->pool, uint64_min(left_bytes, most_bytes));
    left_bytes = uint64_min(left_bytes, stats.limit_bytes);
    worker->message.limit_bytes = uint64_min(stats.limit_bytes, most_bytes);
    worker->message.withheld_bytes = left_bytes - uint64_min(left_bytes, uint64_max(most_bytes, worker->resting_bytes));
    worker->message.others_bytes = info.others_bytes - uint64_min(info.others_bytes, worker->usage.library_bytes);
}

static void read_stopwatch(struct worker *worker)
{
    struct lap lap;
    while (stopwatch_read(worker->stopwatch, &lap)) {
        offers_observe(&worker->offers, lap.levers, lap.samples, lap.time_ns);
    }
}

// What the rank offers in a block of at most `bytes`.
static void offer(struct worker *worker, uint64_t bytes)
{
    offers_fill(&worker->offers, worker->model->target_elements, bytes, &worker->message.report);
}

// Fills in this rank's report for the plan of step `next_step`. A rank that could not hold a sample of this step does
// not offer to.
static void report(struct worker *worker, uint64_t next_step)
{
    struct sched_report *report = &worker->message.report;
    read_stopwatch(worker);
    set_neighbours(worker, next_step);
    follow_limit(worker, next_step);
    yield_memory(worker);
    report->headroom_bytes = mem_pool_headroom(worker->pool);
    offer(worker, worker->spent ? 0 : report->headroom_bytes);
    report->refused = worker->message.oom_retries > 0;
    report->plan_hash = sched_plan_hash(worker->plan, worker->comm->size);
}

// What would be this rank's headroom without others on its device and without a limit from outside holds a sample.
static bool fits_alone(const struct worker *worker, const struct step_message *message)
{
    uint64_t bytes = message->report.headroom_bytes + message->others_bytes + message->withheld_bytes;
    return offers_least_bytes(&worker->offers) <= bytes;
}

// Which of the ranks, none of which can hold a sample, is to say why: the lowest that a limit from outside keeps from
// it, else that was refused memory, else the lowest.
static uint32_t choose_spokesman(const struct worker *worker)
{
    uint32_t squeezed = UINT32_MAX, refused = UINT32_MAX;
    for (uint32_t i = worker->comm->size; i-- > 0;) {
        const struct step_message *message = &worker->messages[i];
        squeezed = message->withheld_bytes > 0 && fits_alone(worker, message) ? i : squeezed;
        refused = message->report.refused ? i : refused;
    }
    uint32_t rank = squeezed < UINT32_MAX ? squeezed : refused;
    return rank < UINT32_MAX ? rank : 0;
}

// No rank can hold a sample. One of them is to say why; `error` is what each would say.
static enum status no_plan(struct worker *worker, struct error *error)
{
    char advice[WORKER_ADVICE_MAX];
    worker->spokesman = choose_spokesman(worker);
    memory_files_out_of_memory(worker, true);
    if (worker->shortage.status != STATUS_OK) {
        *error = worker->shortage;
        return error->status;
    }
    const struct step_message *message = &worker->message;
    bool promised = message->others_bytes + message->withheld_bytes > 0 && fits_alone(worker, message);
    enum mem_cause cause = promised ? MEM_CAUSE_EXTERNAL : MEM_CAUSE_CAPACITY;
    return error_set(error, STATUS_OUT_OF_MEMORY,
                     "cannot hold a single sample: a micro-step of one needs %" PRIu64
                     " bytes and the headroom is %" PRIu64 " bytes. Of the limit of %" PRIu64
                     " bytes%s it holds %" PRIu64 " itself, and %" PRIu64 " are held by others on its device. %s",
                     offers_least_bytes(&worker->offers), message->report.headroom_bytes, message->limit_bytes,
                     message->withheld_bytes > 0 ? " that headroom limit set" : "", worker->resting_bytes,
                     message->others_bytes, worker_advice(worker, cause, true, advice));
}

static enum status read_reports(struct worker *worker, struct error *error)
{
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        worker->reports[i] = worker->messages[i].report;
        if (worker->reports[i].plan_hash != worker->reports[0].plan_hash) {
            return error_set(error, STATUS_ERROR, "rank %" PRIu32 " ran another plan than rank 0: this is a bug", i);
        }
    }
    return STATUS_OK;
}

static enum status decide(struct worker *worker, bool *changed_p, struct error *error)
{
    enum status status = read_reports(worker, error);
    if (status != STATUS_OK) {
        return status;
    }
    bool changed;
    const struct sched_share *plan = sched_coordinator_plan(worker->coordinator, worker->reports, &changed);
    if (plan == NULL) {
        return no_plan(worker, error);
    }
    *changed_p |= changed;
    memcpy(worker->plan, plan, worker->comm->size * sizeof(*plan));
    return STATUS_OK;
}

static void exchange_start(struct worker *worker)
{
    worker->comm->ops->gather_start(worker->comm, &worker->message, worker->messages, sizeof(worker->message));
}

static void exchange(struct worker *worker)
{
    exchange_start(worker);
    worker->comm->ops->gather_wait(worker->comm);
}

// Others on a rank's device may cache what it lacks: all give that back, and report anew. Twice, because a first report
// may be older than what another gave back.
static void trim_all(struct worker *worker, uint64_t next_step)
{
    worker->spent = false;
    for (int round = 0; round < 2; round++) {
        mem_pool_trim(worker->pool, 0);
        report(worker, next_step);
        exchange(worker);
    }
}

// The memory of this rank's share is reserved, or the rank offers less than what was refused.
static void reserve(struct worker *worker)
{
    const struct sched_share *share = &worker->plan[worker->comm->rank];
    worker->message.report.plan_hash = sched_plan_hash(worker->plan, worker->comm->size);
    worker->message.report.refused = !samples_reserve(worker, share);
    if (worker->message.report.refused) {
        offer(worker, samples_smaller_bytes(worker, worker_shape(worker, share)));
    }
}

static bool any_refused(const struct worker *worker)
{
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        if (worker->messages[i].report.refused) {
            return true;
        }
    }
    return false;
}

// A plan for step `next_step` whose memory every rank has reserved; that of a plan which has not changed is. A rank
// that is refused its share offers less in the next round, so there is a last one; before the job ends all ranks trim
// once. Collective where the plan changes or memory runs short.
static enum status negotiate(struct worker *worker, uint64_t next_step, bool *changed_p, struct error *error)
{
    bool trimmed = false;
    *changed_p = false;
    for (;;) {
        enum status status = decide(worker, changed_p, error);
        if (status == STATUS_OUT_OF_MEMORY && !trimmed) {
            trimmed = true;
            trim_all(worker, next_step);
            status = decide(worker, changed_p, error);
        }
        if (status != STATUS_OK || !*changed_p) {
            return status;
        }
        reserve(worker);
        exchange(worker);
        if (!any_refused(worker)) {
            return STATUS_OK;
        }
    }
}

enum status step_plan_first(struct worker *worker, struct error *error)
{
    bool changed;
    report(worker, 0);
    exchange(worker);
    return negotiate(worker, 0, &changed, error);
}

static enum status run_share(struct worker *worker, uint64_t step, const struct sched_share *share, bool closes,
                             struct error *error)
{
    const struct sample_share samples = {
        .purpose = LIST_TRAIN,
        .loader = worker->loader,
        .batch = step * worker->config->train.global_batch_size,
        .batch_samples = worker->config->train.global_batch_size,
        .share = share,
        .closes = closes,
    };
    enum status status = samples_run(worker, &samples, error);
    worker->spent |= worker->message.left > 0;
    return status;
}

// Of gradients and of the tally.
static void clear_sums(struct worker *worker)
{
    const struct device_ops *ops = worker->device->ops;
    ops->fill_zero(worker->device, worker->stream, worker->memory.gradients, worker->model->elements * sizeof(float));
    ops->fill_zero(worker->device, worker->stream, worker->values, sizeof(struct step_values));
    if (worker->config->train.reproducible) {
        fixed_sums_clear(worker);
    }
}

static enum status run_own_share(struct worker *worker, uint64_t step, struct error *error)
{
    const struct sched_share *share = &worker->plan[worker->comm->rank];
    samples_begin(worker);
    worker->spent = false;
    worker->message.micro_batch = share->micro_batch * worker->grain;
    worker->message.accumulation_steps = share->accumulation_steps;
    worker->message.levers = (uint32_t)share->levers;
    clear_sums(worker);
    sched_undone_finish(&worker->undone);
    if (!sched_undone_init(&worker->undone, worker_grains(worker->config))) {
        return error_set(error, STATUS_ERROR, "out of host memory");
    }
    return run_share(worker, step, share, true, error);
}

// Every rank holds the sum of what was done: it is added up again with what is done now, so one rank alone keeps it.
static void keep_sums_once(struct worker *worker)
{
    if (worker->comm->rank != 0) {
        clear_sums(worker);
    }
    worker->buckets_started = 0;
}

// Who does what is undone; NULL: nobody can.
static const struct sched_share *deal(struct worker *worker, uint64_t samples)
{
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        worker->reports[i] = worker->messages[i].report;
    }
    return sched_coordinator_settle(worker->coordinator, worker->reports, samples);
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
        shares = deal(worker, samples);
        if (shares == NULL && !trimmed) {
            trimmed = true;
            trim_all(worker, step + 1);
            shares = deal(worker, samples);
        }
        if (shares == NULL) {
            return no_plan(worker, error);
        }
        keep_sums_once(worker);
        status = run_share(worker, step, &shares[worker->comm->rank], false, error);
        if (status != STATUS_OK) {
            return status;
        }
        report(worker, step + 1);
        exchange_start(worker);
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
        expected += position_hash(result->step * global_batch + i);
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
    optimizer_step(&worker->optimizer, worker->model, context, &worker->optimizer_memory, step);
}

static enum status run_and_reduce(struct worker *worker, struct step_record *record, uint64_t step, struct error *error)
{
    enum status status = run_own_share(worker, step, error);
    if (status != STATUS_OK) {
        return status;
    }
    mark(worker, record, RAN);
    uint64_t ran_ns = clock_ns();
    report(worker, step + 1);
    exchange_start(worker);
    uint64_t reported_ns = clock_ns();
    samples_reduce(worker);
    uint64_t reduced_ns = clock_ns();
    worker->comm->ops->gather_wait(worker->comm);
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

enum status step_start(struct worker *worker, uint64_t step, struct error *error)
{
    struct step_record *record = record_of(worker, step);
    record->result = (struct step_result){
        .step = step,
        .epoch = step * worker->config->train.global_batch_size / worker->train->samples,
        .learning_rate = optimizer_learning_rate(&worker->optimizer, step),
        .messages = record->messages,
        .next_plan = record->next_plan,
    };
    char name[32];
    snprintf(name, sizeof(name), "step %" PRIu64, step);
    range_begin(name);
    mem_pool_begin_step(worker->pool, step);
    mark(worker, record, BEGUN);
    enum status status = make_gradients(worker, record, step, error);
    if (status != STATUS_OK) {
        return status;
    }
    mark(worker, record, REDUCED);
    step_update(worker, step);
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
    enum status status = negotiate(worker, step, &result->plan_changed, error);
    memcpy(record_of(worker, step - 1)->next_plan, worker->plan, worker->comm->size * sizeof(*worker->plan));
    result->coordination_ns += clock_ns() - start_ns;
    mark(worker, record_of(worker, step - 1), ENDED);
    return status;
}

enum status step_finish(struct worker *worker, const struct step_result **result_p, struct error *error)
{
    struct step_record *record = record_of(worker, worker->records->oldest++);
    struct step_result *result = &record->result;
    worker->device->ops->event_synchronize(worker->device, record->marks[ENDED]);
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
    if (!isfinite(result->loss) || !isfinite(result->gradient_norm)) {
        return error_set(error, STATUS_DIVERGED, "step %" PRIu64 ": loss %g, gradient norm %g: " WORKER_DIVERGED,
                         result->step, fabs(result->loss), fabs(result->gradient_norm)); // no sign on a nan
    }
    *result_p = result;
    return STATUS_OK;
}
