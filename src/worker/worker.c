// SPDX-License-Identifier: Apache-2.0
#include "worker/worker.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "mem/sanitizer.h"
#include "mem/uint64.h"
#include "worker/advice.h"
#include "worker/bind.h"
#include "worker/checkpoint/writer.h"
#include "worker/faults.h"
#include "worker/fixed_sums.h"
#include "worker/job.h"
#include "worker/run/memory_files.h"
#include "worker/step.h"
#include "worker/threads.h"
#include "worker/warm_up.h"

uint64_t worker_position(const struct worker *worker, uint64_t step)
{
    return worker->first_position + (step - worker->first_step) * worker->config->train.global_batch_size;
}

struct model_shape worker_shape(const struct worker *worker, const struct sched_share *share)
{
    return offers_shape(share->micro_batch * worker->grain, worker->model->target_elements, share->levers);
}

enum status worker_check(struct worker *worker, struct error *error)
{
    enum status status = worker->reducer->ops->check(worker->reducer, error);
    return status == STATUS_OK ? worker->device->ops->check(worker->device, error) : status;
}

void worker_note(struct worker *worker, const char *what, bool waits)
{
    watchdog_note(worker->watchdog, worker->present_step, what, waits);
}

void worker_begin_progress(struct worker *worker, const char *what, enum progress_unit unit, uint64_t total)
{
    if (worker->comm->rank == 0) {
        progress_begin(&worker->progress, what, unit, total, worker->config->run.log_seconds);
    }
}

void worker_log(struct worker *worker, const char *format, ...)
{
    if (worker->log == NULL) {
        return;
    }
    va_list arguments;
    char *text;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    line_file_write(worker->log, length < 0 ? NULL : text);
}

// Devices that several ranks share have a name that only this job knows, unless the user gives one.
static const char *device_name(const struct config *config, const struct comm *comm, uint64_t job, char *buffer,
                               size_t size)
{
    bool whole_machine = config->device.capacities_count == 0;
    uint64_t device = whole_machine ? 0 : comm->rank / config->device.ranks_per_device;
    if (config->device.name != NULL) {
        snprintf(buffer, size, "%s-%" PRIu64, config->device.name, device);
        return buffer;
    }
    if (comm->size == 1 || (!whole_machine && config->device.ranks_per_device == 1)) {
        return NULL;
    }
    snprintf(buffer, size, "job-%" PRIx64 "-%" PRIu64, job, device);
    return buffer;
}

static enum status no_streams(const struct worker *worker, struct error *error)
{
    return error_set(error, STATUS_ERROR, "cannot make streams on device %s", worker->device->ops->name);
}

// Streams, and the events that order them.
static enum status make_streams(struct worker *worker, struct error *error)
{
    const struct device_ops *ops = worker->device->ops;
    bool made = ops->stream_create(worker->device, &worker->stream) == STATUS_OK &&
                ops->stream_create(worker->device, &worker->copy_stream) == STATUS_OK;
    for (size_t i = 0; made && i < WORKER_SLOTS_MAX; i++) {
        made = ops->event_create(worker->device, &worker->slot_filled[i]) == STATUS_OK &&
               ops->event_create(worker->device, &worker->slot_used[i]) == STATUS_OK;
    }
    worker->stopwatch = made ? stopwatch_create(worker->device) : NULL;
    worker->op_timer = op_timer_create(worker->device);
    return worker->stopwatch != NULL && worker->op_timer != NULL ? STATUS_OK : no_streams(worker, error);
}

static uint64_t others_bytes(struct device *device)
{
    struct device_info info;
    device->ops->info(device, &info);
    return info.others_bytes;
}

static enum status open_device(struct worker *worker, struct error *error)
{
    const struct config *config = worker->config;
    char name[128];
    struct device_config device = {
        .name = device_name(config, worker->comm, worker->job, name, sizeof(name)),
        .capacity_bytes = job_capacity(config, worker->comm->rank),
        .faulting_addresses = config->device.faulting_addresses,
        .index = worker->place.index,
        .sharers = worker->place.sharers,
        .plain = config->device.segments == CONFIG_PLAIN,
    };
    enum status status = worker->place.ops->create(&device, &worker->device, error);
    if (status == STATUS_OK && config->device.sanitize) {
        status = sanitizer_attach(worker->device, error);
    }
    if (status == STATUS_OK) {
        worker->others_bytes = others_bytes(worker->device);
        status = make_streams(worker, error);
    }
    if (status == STATUS_OK) {
        status = mem_pool_create(worker->device, device.capacity_bytes, &worker->pool, error);
    }
    if (status == STATUS_OK && config->device.sanitize) {
        mem_pool_sanitize(worker->pool);
    }
    return status;
}

static enum status out_of_memory(struct worker *worker, const char *tag, bool levers_help, struct error *error)
{
    char text[768], advice[ADVICE_MAX];
    const struct mem_out_of_memory *report = mem_pool_out_of_memory(worker->pool);
    mem_out_of_memory_format(report, worker->device->ops, text, sizeof(text));
    return error_set(error, STATUS_OUT_OF_MEMORY, "cannot hold the %s: %s %s", tag, text,
                     advice_out_of_memory(worker, report->cause, levers_help, advice));
}

static bool trains(const struct worker *worker)
{
    return worker->purpose == LIST_TRAIN;
}

// Zeroed memory for the whole run; none where `bytes` is 0.
static enum status hold(struct worker *worker, const char *tag, uint64_t bytes, device_address *address_p,
                        struct error *error)
{
    if (bytes == 0) {
        return STATUS_OK;
    }
    enum status status = mem_pool_hold(worker->pool, bytes, worker->stream, tag, address_p);
    if (status != STATUS_OK) {
        return status == STATUS_OUT_OF_MEMORY ? out_of_memory(worker, tag, false, error)
                                              : error_out_of_host_memory(error);
    }
    worker->device->ops->fill_zero(worker->device, worker->stream, *address_p, bytes);
    return STATUS_OK;
}

// All that stays on the device for the whole run but the optimizer's state.
static enum status hold_resting_memory(struct worker *worker, struct error *error)
{
    const struct kernels *kernels = job_kernels(worker->config, worker->place.ops);
    struct optimizer_memory *optimizer = &worker->optimizer_memory;
    uint64_t bytes = worker->model->elements * sizeof(float);
    device_address workspace = 0;
    enum status status = hold(worker, "weights", bytes, &optimizer->parameters, error);
    if (status == STATUS_OK) {
        status = hold(worker, "weights' copy", model_copy_bytes(worker->model), &optimizer->copy, error);
    }
    if (status == STATUS_OK) {
        status = hold(worker, "gradients", trains(worker) ? bytes : 0, &optimizer->gradients, error);
    }
    if (status == STATUS_OK) {
        status = hold(worker, "workspace", kernels->workspace_bytes, &workspace, error);
    }
    if (status == STATUS_OK) {
        status = hold(worker, "sums", sizeof(struct step_values), &worker->values, error);
    }
    if (status == STATUS_OK && worker->config->train.reproducible && trains(worker)) {
        status = hold(worker, "integer sums", fixed_sums_gradient_bytes(worker->model->elements),
                      &worker->fixed.gradients, error);
    }
    if (status == STATUS_OK && worker->config->train.reproducible) {
        status = hold(worker, "sums", sizeof(struct fixed_values), &worker->fixed.values, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
    optimizer->scale = worker->values + offsetof(struct step_values, gradient_scale);
    worker->memory = (struct list_memory){
        .parameters = optimizer->copy != 0 ? optimizer->copy : optimizer->parameters,
        .gradients = optimizer->gradients,
        .tally = worker->values + offsetof(struct step_values, tally),
        .transfers = &worker->transfers.list,
    };
    status = faults_fragment(worker, error);
    if (status != STATUS_OK) {
        return status;
    }
    struct mem_pool_stats stats;
    mem_pool_stats(worker->pool, &stats);
    worker->resting_bytes = stats.allocated_bytes.current;
    return kernels->context_create(worker->device, worker->stream, workspace, &worker->kernels, error);
}

// Above all else that stays: there its memory can go back to the device.
static enum status hold_optimizer_state(struct worker *worker, struct error *error)
{
    enum status status = optimizer_state_hold(worker);
    if (status == STATUS_OUT_OF_MEMORY) {
        return out_of_memory(worker, "optimizer state", true, error);
    }
    return status == STATUS_OK ? STATUS_OK : error_out_of_host_memory(error);
}

static enum status write_initial_weights(struct worker *worker, struct error *error)
{
    device_address weights = worker->optimizer_memory.parameters;
    for (size_t i = 0; i < worker->model->parameter_count; i++) {
        const struct parameter *parameter = &worker->model->parameters[i];
        uint64_t elements = parameter->rows * parameter->columns;
        float *values = malloc(elements * sizeof(*values));
        if (values == NULL) {
            return error_out_of_host_memory(error);
        }
        model_initial_values(worker->model, i, worker->config->train.seed, values);
        worker->device->ops->copy_to_device(worker->device, worker->stream, weights + parameter->offset * sizeof(float),
                                            values, elements * sizeof(*values));
        worker->device->ops->stream_synchronize(worker->device, worker->stream);
        free(values);
    }
    optimizer_copy(worker->model, worker->kernels, &worker->optimizer_memory);
    return worker->device->ops->check(worker->device, error);
}

// The most that lists and the optimizer's state take in host memory. While that of lists grows there is what they had,
// and what they had before that is free between others, each less than what is asked for.
static uint64_t offloaded_bytes(const struct worker *worker)
{
    const struct offers *offers = &worker->offers;
    if (offers->work[MODEL_LEVERS_OFFLOAD] == 0 && offers->work[OFFERS_ALL] == 0) {
        return uint64_min(offers->state.bytes, offers->host_bytes);
    }
    struct model_shape largest = offers_shape(offers->most, worker->model->target_elements, MODEL_LEVERS_OFFLOAD);
    uint64_t lists = price_host_bytes(worker->prices, LIST_TRAIN, largest);
    return 4 * uint64_min(lists, offers->host_bytes) + uint64_min(offers->state.bytes, offers->host_bytes);
}

static struct loader_config loader_config(const struct worker *worker)
{
    const struct config *config = worker->config;
    return (struct loader_config){
        .set = worker->train,
        .device = worker->device,
        .staging = worker->staging,
        .seed = config->train.seed,
        .batch = config->train.global_batch_size,
        .shuffle = config->data.shuffle,
        .threads = (uint32_t)config->data.threads,
        .read_ms = faults_read_ms(worker),
        .prefetch_bytes = config->data.prefetch_bytes,
    };
}

// Host memory for what goes to the device and comes from it: the loader's ring, an evaluation's, small things, and what
// is offloaded.
static enum status open_staging(struct worker *worker, struct error *error)
{
    const struct device_ops *ops = worker->device->ops->staging;
    const struct config *config = worker->config;
    enum { SMALL_THINGS = 16 << 20 };
    uint64_t bytes = SMALL_THINGS;
    if (worker->train != NULL) {
        const struct loader_config train = loader_config(worker);
        bytes += loader_staging_bytes(&train);
    }
    if (worker->validation != NULL) {
        struct loader_config validation = {.set = worker->validation, .prefetch_bytes = config->data.prefetch_bytes};
        bytes += loader_staging_bytes(&validation);
    }
    bytes += offloaded_bytes(worker) + checkpoint_copy_bytes(worker);
    struct device_config device = {
        .capacity_bytes = uint64_round_up(bytes, ops->granularity_bytes),
        .index = worker->place.index,
    };
    enum status status = ops->create(&device, &worker->staging_device, error);
    if (status == STATUS_OK) {
        status = mem_pool_create(worker->staging_device, 0, &worker->staging, error);
    }
    if (status == STATUS_OK && !transfers_init(&worker->transfers, worker->device, worker->staging)) {
        status = no_streams(worker, error);
    }
    return status;
}

static enum status make_loader(struct worker *worker, struct error *error)
{
    const struct loader_config loader = loader_config(worker);
    return worker->train == NULL ? STATUS_OK : loader_create(&loader, &worker->loader, error);
}

static enum status open_data(struct worker *worker, struct error *error)
{
    const struct config *config = worker->config;
    enum status status = trains(worker) ? data_open(config, DATA_TRAIN, &worker->train, error) : STATUS_OK;
    if (status == STATUS_OK) {
        status = data_open(config, DATA_VALIDATION, &worker->validation, error);
    }
    if (status == STATUS_OK && worker->train != NULL) {
        worker->steps = job_steps(config, worker->train->samples);
    }
    return status;
}

static enum status make_model(struct worker *worker, struct error *error)
{
    struct model_config config = job_model_config(worker->config);
    enum status status = model_create(&config, &worker->model, error);
    if (status != STATUS_OK) {
        return status;
    }
    worker->optimizer = job_optimizer_config(worker->config, worker->steps);
    worker->prices = price_book_create(worker->model, job_slots(worker->place.ops));
    worker->costs = costs_create();
    return worker->prices != NULL && worker->costs != NULL ? STATUS_OK : error_out_of_host_memory(error);
}

static enum status make_coordinator(struct worker *worker, struct error *error)
{
    size_t ranks = worker->comm->size;
    worker->grain = job_grain(worker->config);
    uint64_t grains = job_grains(worker->config, worker->config->train.global_batch_size);
    fixed_sums_init(&worker->fixed, grains);
    worker->coordinator = sched_coordinator_create(ranks, grains, worker->config->train.micro_batch_size);
    worker->plan = calloc(ranks, sizeof(*worker->plan));
    worker->reports = calloc(ranks, sizeof(*worker->reports));
    worker->left = calloc(ranks, sizeof(*worker->left));
    worker->messages = calloc(ranks, sizeof(*worker->messages));
    bool made = worker->coordinator != NULL && worker->plan != NULL && worker->reports != NULL &&
                worker->left != NULL && worker->messages != NULL;
    return made ? STATUS_OK : error_out_of_host_memory(error);
}

static const struct reduce_ops *choose_reduce(const struct worker *worker)
{
    const struct reduce_ops *between = reduce_between(worker->place.ops->name);
    enum config_reduce asked = worker->config->comm.reduce;
    if (worker->comm->size == 1) {
        return &reduce_self;
    }
    if (asked == CONFIG_REDUCE_AUTO) {
        return between == NULL || worker->place.shared ? &reduce_mpi : between;
    }
    return asked == CONFIG_REDUCE_MPI ? &reduce_mpi : between;
}

static bool make_buckets(struct worker *worker)
{
    const struct list *list = price_list(worker->prices, LIST_TRAIN, model_shape_max(worker->model, 1));
    if (list == NULL) {
        return false;
    }
    worker->bucket_count = buckets_make(worker->model, list, worker->config->comm.bucket_bytes, &worker->buckets);
    worker->early_buckets = choose_reduce(worker)->overlaps && !worker->config->train.reproducible;
    worker->bucket_ready = calloc(worker->bucket_count + 1, sizeof(*worker->bucket_ready));
    return worker->bucket_count > 0 && worker->bucket_ready != NULL;
}

// Steps under way, and how their gradients are added up.
static enum status make_steps(struct worker *worker, struct error *error)
{
    worker->records = step_records_create(worker);
    return make_buckets(worker) && worker->records != NULL ? STATUS_OK : error_out_of_host_memory(error);
}

// What the rank could give the optimizer's state.
static uint64_t headroom_for_state(const struct worker *worker)
{
    const struct kernels *kernels = job_kernels(worker->config, worker->place.ops);
    struct resting_bytes resting = job_resting(worker->config, worker->model, kernels->workspace_bytes);
    return mem_pool_headroom_beside(job_resting_bytes(&resting), mem_pool_headroom(worker->pool),
                                    worker->device->ops->granularity_bytes);
}

static enum status choose_shard(struct worker *worker, struct error *error)
{
    uint32_t ranks = worker->comm->size;
    worker->state.shard = (struct shard){.first = 0, .elements = trains(worker) ? worker->model->elements : 0};
    if (!trains(worker) || !worker->config->train.shard_optimizer || ranks == 1) {
        return STATUS_OK;
    }
    uint64_t mine = headroom_for_state(worker);
    uint64_t *headroom_bytes = comm_gather(worker->comm, &mine, sizeof(mine));
    worker->shards = calloc(ranks, sizeof(*worker->shards));
    if (worker->shards != NULL) {
        shards_cut(worker->model->elements, headroom_bytes, ranks, worker->shards);
        worker->state.shard = worker->shards[worker->comm->rank];
    }
    free(headroom_bytes);
    return worker->shards != NULL ? STATUS_OK : error_out_of_host_memory(error);
}

static enum status make_offers(struct worker *worker, struct error *error)
{
    worker->state.size = optimizer_state_size(worker->state.shard.elements, &worker->optimizer);
    enum status status =
        offers_init(&worker->offers, worker->config, worker->model, &worker->state.size, worker->prices, error);
    return status == STATUS_OK ? unrestricted_init(&worker->unrestricted, worker->config, worker->model,
                                                   &worker->state.size, worker->prices, error)
                               : status;
}

typedef enum status part(struct worker *worker, struct error *error);

static enum status do_parts(struct worker *worker, part *const *parts, size_t count, struct error *error)
{
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < count; i++) {
        status = parts[i](worker, error);
    }
    if (status != STATUS_OK) {
        worker_finish(worker);
    }
    return status;
}

static enum status choose_place(struct worker *worker, struct error *error)
{
    struct place *place = &worker->place;
    enum status status = place_choose(worker->config, worker->comm, place, error);
    bind_near(&place->location, worker->binding, sizeof(worker->binding));
    threads_choose(worker->comm, worker->config->train.reproducible);
    return status == STATUS_OK ? config_check_devices(worker->config, place->instead.text, place->shared, error)
                               : status;
}

enum status worker_open(struct worker *worker, const struct config *config, enum list_purpose purpose,
                        struct comm *comm, struct error *error)
{
    static part *const parts[] = {choose_place, open_data, make_model, make_coordinator, open_device};
    *worker = (struct worker){.config = config, .purpose = purpose, .comm = comm};
    (void)!getrandom(&worker->job, sizeof(worker->job), 0);
    comm->ops->broadcast(comm, &worker->job, sizeof(worker->job));
    return do_parts(worker, parts, sizeof(parts) / sizeof(parts[0]), error);
}

enum status worker_hold(struct worker *worker, struct error *error)
{
    static part *const parts[] = {
        choose_shard,    make_offers,           open_staging, hold_resting_memory, hold_optimizer_state,
        warm_up_kernels, write_initial_weights, make_loader,  make_steps,
    };
    enum status status = do_parts(worker, parts, sizeof(parts) / sizeof(parts[0]), error);
    if (status == STATUS_OK) {
        struct mem_pool_stats stats;
        mem_pool_stats(worker->pool, &stats);
        worker->message.limit_bytes = stats.limit_bytes;
    }
    return status;
}

// By the driver's count, where it tells processes apart; else what the GPU has less of since it was opened, where no
// other rank takes of it meanwhile.
static void note_usage(struct worker *worker)
{
    worker->others_known = device_ask_usage(worker->device, &worker->usage);
    if (!worker->others_known && device_is_apart(worker->device->ops) && !worker->place.shared) {
        uint64_t bytes = others_bytes(worker->device);
        worker->usage.library_bytes = bytes - uint64_min(bytes, worker->others_bytes);
    }
}

enum status worker_connect(struct worker *worker, struct error *error)
{
    enum status status =
        choose_reduce(worker)->create(worker->comm, worker->device, worker->staging, &worker->reducer, error);
    if (status == STATUS_OK) {
        status = warm_up_reduce(worker, error);
    }
    if (status == STATUS_OK) {
        note_usage(worker);
        faults_refuse(worker);
    }
    return status;
}

static void close_device(struct worker *worker)
{
    const struct device_ops *ops = worker->device->ops;
    ops->synchronize(worker->device);
    memory_files_close(worker);
    if (worker->reducer != NULL) {
        worker->reducer->ops->destroy(worker->reducer);
    }
    step_records_destroy(worker, worker->records);
    loader_destroy(worker->loader);
    optimizer_state_finish(worker);
    transfers_finish(&worker->transfers);
    mem_pool_destroy(worker->staging);
    if (worker->staging_device != NULL) {
        worker->staging_device->ops->destroy(worker->staging_device);
    }
    if (worker->kernels != NULL) {
        worker->kernels->kernels->context_destroy(worker->kernels);
    }
    mem_pool_destroy(worker->pool);
    profile_destroy(worker->profile);
    op_timer_destroy(worker->op_timer);
    stopwatch_destroy(worker->stopwatch);
    for (size_t i = 0; i < WORKER_SLOTS_MAX; i++) {
        ops->event_destroy(worker->device, worker->slot_filled[i]);
        ops->event_destroy(worker->device, worker->slot_used[i]);
    }
    ops->stream_destroy(worker->device, worker->copy_stream);
    ops->stream_destroy(worker->device, worker->stream);
    ops->destroy(worker->device);
}

void worker_finish(struct worker *worker)
{
    if (worker->device != NULL) {
        close_device(worker);
    }
    sched_coordinator_destroy(worker->coordinator);
    free(worker->shards);
    free(worker->bucket_ready);
    free(worker->buckets);
    sched_undone_finish(&worker->undone);
    free(worker->messages);
    free(worker->left);
    free(worker->reports);
    free(worker->plan);
    costs_destroy(worker->costs);
    price_book_destroy(worker->prices);
    model_destroy(worker->model);
    data_close(worker->validation);
    data_close(worker->train);
    line_file_close(worker->log);
    *worker = (struct worker){0};
}
