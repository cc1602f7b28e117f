// SPDX-License-Identifier: Apache-2.0
#include "worker/worker.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "worker/threads.h"

static enum status out_of_host_memory(struct error *error)
{
    return error_set(error, STATUS_ERROR, "out of host memory");
}

struct model_config worker_model_config(const struct config *config)
{
    struct model_config model = {0};
    if (config->model.kind == CONFIG_MODEL_MLP) {
        model.kind = MODEL_MLP;
        model.mlp.count = config->model.layers_count;
        model.mlp.activation = config->model.activation == CONFIG_RELU ? MODEL_RELU : MODEL_GELU;
        for (size_t i = 0; i < config->model.layers_count; i++) {
            model.mlp.sizes[i] = config->model.layers[i];
        }
        return model;
    }
    model.kind = MODEL_GPT;
    model.gpt.vocab_size = config->model.vocab_size;
    model.gpt.seq_len = config->model.seq_len;
    model.gpt.blocks = config->model.block_count;
    model.gpt.heads = config->model.head_count;
    model.gpt.channels = config->model.channels;
    return model;
}

struct optimizer_config worker_optimizer_config(const struct config *config, uint64_t steps)
{
    static const enum optimizer_schedule schedules[] = {
        [CONFIG_CONSTANT] = SCHEDULE_CONSTANT, [CONFIG_COSINE] = SCHEDULE_COSINE, [CONFIG_LINEAR] = SCHEDULE_LINEAR};
    return (struct optimizer_config){
        .kind = config->optimizer.kind == CONFIG_SGD ? OPTIMIZER_SGD : OPTIMIZER_ADAMW,
        .learning_rate = config->optimizer.learning_rate,
        .momentum = config->optimizer.momentum,
        .weight_decay = config->optimizer.weight_decay,
        .beta1 = config->optimizer.beta1,
        .beta2 = config->optimizer.beta2,
        .epsilon = config->optimizer.epsilon,
        .schedule = schedules[config->optimizer.schedule],
        .warmup_steps = config->optimizer.warmup_steps,
        .steps = steps,
        .final_learning_rate = config->optimizer.final_learning_rate,
    };
}

uint64_t worker_steps(const struct config *config, uint64_t train_samples)
{
    uint64_t global_batch = config->train.global_batch_size;
    if (config->train.steps > 0) {
        return config->train.steps;
    }
    return (config->train.epochs * train_samples + global_batch - 1) / global_batch;
}

const struct device_ops *worker_device_ops(const struct config *config)
{
    static const char *const kinds[] = {[CONFIG_DEVICE_CPU] = "cpu"};
    return device_find(kinds[config->device.kind]);
}

uint64_t worker_capacity(const struct config *config, uint64_t rank)
{
    if (config->device.capacities_count == 0) {
        return 0;
    }
    uint64_t device = rank / config->device.ranks_per_device;
    return config->device.capacities[config->device.capacities_count == 1 ? 0 : device];
}

uint64_t worker_resting_bytes(const struct model *model, const struct optimizer_config *optimizer)
{
    uint64_t buffers = 2 + optimizer_state_count(optimizer);
    return buffers * mem_pool_block_bytes(model->elements * sizeof(float)) +
           mem_pool_block_bytes(sizeof(struct kernel_tally)) + mem_pool_block_bytes(sizeof(double));
}

uint64_t worker_peak_bytes(uint64_t resting_bytes, struct price_book *prices, enum list_purpose purpose,
                           uint64_t micro_batch)
{
    return resting_bytes + mem_pool_block_bytes(price_block_bytes(prices, purpose, micro_batch));
}

struct kernel_tally worker_tally(const struct worker *worker)
{
    struct kernel_tally sum = {0};
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        sum.loss += worker->messages[i].tally.loss;
        sum.count += worker->messages[i].tally.count;
        sum.correct += worker->messages[i].tally.correct;
    }
    return sum;
}

void worker_log(struct worker *worker, const char *format, ...)
{
    if (worker->log == NULL) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    vfprintf(worker->log, format, arguments);
    va_end(arguments);
    fputc('\n', worker->log);
    if (fflush(worker->log) != 0 && worker->log_errno == 0) {
        worker->log_errno = errno;
    }
}

// Devices that several ranks share have a name that only this job knows, unless the user gives one.
static const char *device_name(const struct config *config, struct comm *comm, char *buffer, size_t size)
{
    uint64_t job = 0;
    (void)!getrandom(&job, sizeof(job), 0);
    comm->ops->broadcast(comm, &job, sizeof(job));
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

static enum status open_device(struct worker *worker, const char *name, struct error *error)
{
    const struct config *config = worker->config;
    struct device_config device = {
        .name = name,
        .capacity_bytes = worker_capacity(config, worker->comm->rank),
        .faulting_addresses = config->device.faulting_addresses,
    };
    const struct device_ops *ops = worker_device_ops(config);
    worker->kernels = kernels_find(ops->name);
    enum status status = ops->create(&device, &worker->device, error);
    if (status != STATUS_OK) {
        return status;
    }
    if (ops->stream_create(worker->device, &worker->stream) != STATUS_OK) {
        return error_set(error, STATUS_ERROR, "cannot make a stream on device %s", ops->name);
    }
    return mem_pool_create(worker->device, 0, &worker->pool, error);
}

static enum status hold(struct worker *worker, const char *tag, uint64_t bytes, device_address *address_p,
                        struct error *error)
{
    enum status status = mem_pool_alloc(worker->pool, bytes, worker->stream, tag, address_p);
    if (status == STATUS_ERROR) {
        return out_of_host_memory(error);
    }
    if (status == STATUS_OUT_OF_MEMORY) {
        char text[768];
        mem_out_of_memory_format(mem_pool_out_of_memory(worker->pool), worker->device->ops, text, sizeof(text));
        return error_set(error, STATUS_OUT_OF_MEMORY,
                         "cannot hold the %s: %s Raise device.capacity, or make the model smaller.", tag, text);
    }
    worker->device->ops->fill_zero(worker->device, worker->stream, *address_p, bytes);
    return STATUS_OK;
}

// Everything that stays on the device for the whole run.
static enum status hold_resting_memory(struct worker *worker, struct error *error)
{
    uint64_t bytes = worker->model->elements * sizeof(float);
    enum status status = hold(worker, "weights", bytes, &worker->memory.parameters, error);
    if (status == STATUS_OK) {
        status = hold(worker, "gradients", bytes, &worker->memory.gradients, error);
    }
    for (size_t i = 0; i < optimizer_state_count(&worker->optimizer) && status == STATUS_OK; i++) {
        status = hold(worker, "optimizer state", bytes, &worker->optimizer_states[i], error);
    }
    if (status == STATUS_OK) {
        status = hold(worker, "tally", sizeof(struct kernel_tally), &worker->memory.tally, error);
    }
    if (status == STATUS_OK) {
        status = hold(worker, "gradient norm", sizeof(double), &worker->gradient_square_sum, error);
    }
    worker->resting_bytes = worker_resting_bytes(worker->model, &worker->optimizer);
    return status;
}

static enum status write_initial_weights(struct worker *worker, struct error *error)
{
    for (size_t i = 0; i < worker->model->parameter_count; i++) {
        const struct parameter *parameter = &worker->model->parameters[i];
        uint64_t elements = parameter->rows * parameter->columns;
        float *values = malloc(elements * sizeof(*values));
        if (values == NULL) {
            return out_of_host_memory(error);
        }
        model_initial_values(worker->model, i, worker->config->train.seed, values);
        worker->device->ops->copy_to_device(worker->device, worker->stream,
                                            worker->memory.parameters + parameter->offset * sizeof(float), values,
                                            elements * sizeof(*values));
        worker->device->ops->stream_synchronize(worker->device, worker->stream);
        free(values);
    }
    return STATUS_OK;
}

static enum status open_data(struct worker *worker, struct error *error)
{
    const struct config *config = worker->config;
    enum status status = data_open(config, DATA_TRAIN, &worker->train, error);
    if (status == STATUS_OK) {
        status = data_open(config, DATA_VALIDATION, &worker->validation, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
    worker->steps = worker_steps(config, worker->train->samples);
    struct loader_config loader = {
        .set = worker->train,
        .seed = config->train.seed,
        .shuffle = config->data.shuffle,
        .threads = (uint32_t)config->data.threads,
        .prefetch_bytes = config->data.prefetch_bytes,
    };
    return loader_create(&loader, &worker->loader, error);
}

static enum status make_model(struct worker *worker, struct error *error)
{
    struct model_config config = worker_model_config(worker->config);
    enum status status = model_create(&config, &worker->model, error);
    if (status != STATUS_OK) {
        return status;
    }
    worker->optimizer = worker_optimizer_config(worker->config, worker->steps);
    worker->prices = price_book_create(worker->model);
    return worker->prices == NULL ? out_of_host_memory(error) : STATUS_OK;
}

static enum status make_coordinator(struct worker *worker, struct error *error)
{
    size_t ranks = worker->comm->size;
    worker->coordinator = sched_coordinator_create(ranks, worker->config->train.global_batch_size,
                                                   worker->config->train.micro_batch_size);
    worker->plan = calloc(ranks, sizeof(*worker->plan));
    worker->reports = calloc(ranks, sizeof(*worker->reports));
    worker->messages = calloc(ranks, sizeof(*worker->messages));
    bool made =
        worker->coordinator != NULL && worker->plan != NULL && worker->reports != NULL && worker->messages != NULL;
    return made ? STATUS_OK : out_of_host_memory(error);
}

static void inject_failures(struct worker *worker)
{
    const struct config *config = worker->config;
    if (config->fault.rank == CONFIG_ALL_RANKS || config->fault.rank == worker->comm->rank) {
        mem_pool_inject_failures(worker->pool, config->fault.fail_allocation_every);
    }
}

enum status worker_init(struct worker *worker, const struct config *config, struct comm *comm, struct error *error)
{
    *worker = (struct worker){.config = config, .comm = comm};
    char buffer[128];
    const char *name = device_name(config, comm, buffer, sizeof(buffer));
    threads_choose(comm);
    enum status status = open_data(worker, error);
    if (status == STATUS_OK) {
        status = make_model(worker, error);
    }
    if (status == STATUS_OK) {
        status = make_coordinator(worker, error);
    }
    if (status == STATUS_OK) {
        status = open_device(worker, name, error);
    }
    if (status == STATUS_OK) {
        status = hold_resting_memory(worker, error);
    }
    if (status == STATUS_OK) {
        status = write_initial_weights(worker, error);
    }
    if (status != STATUS_OK) {
        worker_finish(worker);
        return status;
    }
    struct mem_pool_stats stats;
    mem_pool_stats(worker->pool, &stats);
    worker->message.limit_bytes = stats.limit_bytes;
    inject_failures(worker);
    return STATUS_OK;
}

void worker_finish(struct worker *worker)
{
    mem_pool_destroy(worker->pool);
    if (worker->stream != NULL) {
        worker->device->ops->stream_destroy(worker->device, worker->stream);
    }
    if (worker->device != NULL) {
        worker->device->ops->destroy(worker->device);
    }
    sched_coordinator_destroy(worker->coordinator);
    free(worker->messages);
    free(worker->reports);
    free(worker->plan);
    price_book_destroy(worker->prices);
    model_destroy(worker->model);
    loader_destroy(worker->loader);
    data_close(worker->validation);
    data_close(worker->train);
    if (worker->log != NULL) {
        fclose(worker->log);
    }
    *worker = (struct worker){0};
}
