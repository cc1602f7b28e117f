// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/writer.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "mem/clock.h"
#include "mem/sanitizer.h"
#include "worker/checkpoint/safetensors.h"

#define NOTE_NS 500000000

struct checkpoint_writer {
    struct worker *worker;
    const char *run;
    struct safetensors_item *items; // one for each parameter
    char *config;
    device_address staged; // the copy, in worker->staging
    float *copy;           // the same: weights and the optimizer's state, side by side
    bool direct;           // there is none

    struct checkpoint_state state; // of the checkpoint that is written
    struct checkpoint_report report;
    pthread_t thread;
    pthread_mutex_t mutex; // over what follows
    pthread_cond_t changed;
    bool due, done, stop; // a checkpoint is to be written; it has been, and its report was not read
};

static size_t buffer_count(const struct worker *worker)
{
    return 1 + optimizer_state_count(&worker->optimizer);
}

uint64_t checkpoint_copy_bytes(const struct worker *worker)
{
    return buffer_count(worker) * worker->model->elements * sizeof(float);
}

// From the device ----------------------------------------------------------------------------------------------------

static void read_buffer(struct worker *worker, size_t buffer, uint64_t first, uint64_t count, float *values)
{
    if (buffer == 0) {
        worker->device->ops->copy_to_host(worker->device, worker->stream, values,
                                          worker->optimizer_memory.parameters + first * sizeof(float),
                                          count * sizeof(float));
        worker->device->ops->stream_synchronize(worker->device, worker->stream);
    } else {
        optimizer_state_read(worker, buffer - 1, first, count, values);
    }
}

// The copy is made, or it turns out that there is no memory for it.
static void make_copy(struct checkpoint_writer *writer)
{
    struct worker *worker = writer->worker;
    uint64_t elements = worker->model->elements;
    if (writer->copy == NULL && !writer->direct) {
        enum status status =
            mem_pool_hold(worker->staging, checkpoint_copy_bytes(worker), NULL, "checkpoint", &writer->staged);
        writer->direct = status != STATUS_OK;
        if (writer->direct) {
            worker_log(worker, "the host has no %" PRIu64 " bytes for a copy: training waits for each checkpoint",
                       checkpoint_copy_bytes(worker));
        }
        writer->copy = writer->direct ? NULL : mem_pool_host_pointer(worker->staging, writer->staged);
    }
    for (size_t i = 0; !writer->direct && i < buffer_count(worker); i++) {
        float *to = writer->copy + i * elements;
        sanitizer_host_access(worker->device, to, elements * sizeof(float), true, "checkpoint");
        read_buffer(worker, i, 0, elements, to);
    }
}

// To the disk --------------------------------------------------------------------------------------------------------

static void give(struct checkpoint_writer *writer, size_t buffer, uint64_t first, uint64_t count, float *values)
{
    uint64_t elements = writer->worker->model->elements;
    if (writer->direct) {
        worker_note(writer->worker, "a checkpoint", false);
        read_buffer(writer->worker, buffer, first, count, values);
    } else {
        memcpy(values, writer->copy + buffer * elements + first, count * sizeof(*values));
    }
}

static void give_weights(void *context, size_t number, uint64_t first, uint64_t count, float *values)
{
    struct checkpoint_writer *writer = context;
    give(writer, 0, writer->worker->model->parameters[number].offset + first, count, values);
}

static void give_state(void *context, size_t number, uint64_t first, uint64_t count, float *values)
{
    give(context, 1 + number, first, count, values);
}

static enum status write_weights(struct checkpoint_writer *writer, const char *path, struct file_sum *sum,
                                 struct error *error)
{
    return safetensors_write(path, writer->items, writer->worker->model->parameter_count, give_weights, writer, sum,
                             error);
}

static enum status write_state(struct checkpoint_writer *writer, const char *path, struct file_sum *sum,
                               struct error *error)
{
    struct safetensors_item items[OPTIMIZER_STATES_MAX];
    size_t count = optimizer_state_count(&writer->worker->optimizer);
    for (size_t i = 0; i < count; i++) {
        items[i] = (struct safetensors_item){
            .name = optimizer_state_name(&writer->worker->optimizer, i),
            .dimensions = 1,
            .shape = {writer->worker->model->elements},
        };
    }
    return safetensors_write(path, items, count, give_state, writer, sum, error);
}

static enum status write_config(struct checkpoint_writer *writer, const char *path, struct file_sum *sum,
                                struct error *error)
{
    struct hashed_file *file;
    enum status status = hashed_file_create(path, &file, error);
    if (status != STATUS_OK) {
        return status;
    }
    status = hashed_file_write(file, writer->config, strlen(writer->config), error);
    if (status != STATUS_OK) {
        hashed_file_abandon(file);
        return status;
    }
    return hashed_file_finish(file, sum, error);
}

static enum status write_files(struct checkpoint_writer *writer, const char *part, struct error *error)
{
    enum status (*const writers[])(struct checkpoint_writer *, const char *, struct file_sum *,
                                   struct error *) = {write_weights, write_config, write_state};
    struct checkpoint_file files[] = {
        {.name = CHECKPOINT_MODEL}, {.name = CHECKPOINT_CONFIG}, {.name = CHECKPOINT_OPTIMIZER}};
    size_t count = buffer_count(writer->worker) > 1 ? 3 : 2;
    enum status status = STATUS_OK;
    for (size_t i = 0; i < count && status == STATUS_OK; i++) {
        char path[CHECKPOINT_PATH_MAX + 32];
        snprintf(path, sizeof(path), "%s/%s", part, files[i].name);
        status = writers[i](writer, path, &files[i].sum, error);
        writer->report.bytes += status == STATUS_OK ? files[i].sum.bytes : 0;
    }
    if (status == STATUS_OK && writer->direct) {
        status = worker_check(writer->worker, error);
    }
    return status == STATUS_OK ? checkpoint_end(writer->run, &writer->state, files, count, error) : status;
}

static void write_checkpoint(struct checkpoint_writer *writer)
{
    const struct config *config = writer->worker->config;
    struct checkpoint_report *report = &writer->report;
    char part[CHECKPOINT_PATH_MAX];
    uint64_t start_ns = clock_ns();
    enum status status = checkpoint_begin(writer->run, writer->state.step, part, &report->error);
    if (status == STATUS_OK) {
        status = write_files(writer, part, &report->error);
    }
    if (status == STATUS_OK) {
        report->error.status = STATUS_OK;
        checkpoint_prune(writer->run, writer->state.step, config->checkpoint.keep_last, config->checkpoint.keep_every);
    } else {
        checkpoint_discard_parts(writer->run);
    }
    report->write_ns = clock_ns() - start_ns;
}

static void set_done(struct checkpoint_writer *writer)
{
    pthread_mutex_lock(&writer->mutex);
    writer->due = false;
    writer->done = true;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->mutex);
}

static void *write_when_due(void *argument)
{
    struct checkpoint_writer *writer = argument;
    pthread_mutex_lock(&writer->mutex);
    while (!writer->stop || writer->due) {
        if (!writer->due) {
            pthread_cond_wait(&writer->changed, &writer->mutex);
            continue;
        }
        pthread_mutex_unlock(&writer->mutex);
        write_checkpoint(writer);
        set_done(writer);
        pthread_mutex_lock(&writer->mutex);
    }
    pthread_mutex_unlock(&writer->mutex);
    return NULL;
}

// Between the two ----------------------------------------------------------------------------------------------------

static void set_due(struct checkpoint_writer *writer)
{
    pthread_mutex_lock(&writer->mutex);
    writer->due = true;
    writer->done = false;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->mutex);
}

// A slow disk is no rank that has stopped, so the watchdog is told now and then.
static void wait_until_written(struct checkpoint_writer *writer)
{
    pthread_mutex_lock(&writer->mutex);
    while (writer->due) {
        const struct timespec until = clock_after(CLOCK_REALTIME, NOTE_NS);
        worker_note(writer->worker, "a checkpoint", false);
        pthread_cond_timedwait(&writer->changed, &writer->mutex, &until);
    }
    pthread_mutex_unlock(&writer->mutex);
}

void checkpoint_writer_start(struct checkpoint_writer *writer, uint64_t steps, bool evaluation_due)
{
    struct worker *worker = writer->worker;
    uint64_t start_ns = clock_ns();
    wait_until_written(writer);
    writer->report = (struct checkpoint_report){.step = steps};
    writer->state.step = steps;
    writer->state.samples = worker_position(worker, steps);
    writer->state.sum_exponent = worker->fixed.exponent;
    memcpy(writer->state.plan, worker->plan, worker->comm->size * sizeof(*worker->plan));
    writer->state.evaluation_due = evaluation_due;
    make_copy(writer);
    if (worker_check(worker, &writer->report.error) != STATUS_OK) {
        set_done(writer);
    } else if (writer->direct) {
        write_checkpoint(writer);
        set_done(writer);
    } else {
        set_due(writer);
    }
    writer->report.pause_ns = clock_ns() - start_ns;
}

bool checkpoint_writer_read(struct checkpoint_writer *writer, bool wait, struct checkpoint_report *report_p)
{
    if (wait) {
        wait_until_written(writer);
    }
    pthread_mutex_lock(&writer->mutex);
    bool read = writer->done;
    if (read) {
        *report_p = writer->report;
        writer->done = false;
    }
    pthread_mutex_unlock(&writer->mutex);
    return read;
}

static struct safetensors_item *make_items(const struct model *model)
{
    struct safetensors_item *items = calloc(model->parameter_count, sizeof(*items));
    for (size_t i = 0; items != NULL && i < model->parameter_count; i++) {
        items[i].name = model->parameters[i].name;
        items[i].dimensions = model_parameter_shape(&model->parameters[i], items[i].shape);
    }
    return items;
}

static void free_writer(struct checkpoint_writer *writer)
{
    free(writer->state.plan);
    free(writer->config);
    free(writer->items);
    free(writer);
}

enum status checkpoint_writer_create(struct worker *worker, const char *run, struct checkpoint_writer **writer_p,
                                     struct error *error)
{
    struct checkpoint_writer *writer = calloc(1, sizeof(*writer));
    if (writer == NULL) {
        return error_out_of_host_memory(error);
    }
    writer->worker = worker;
    writer->run = run;
    writer->items = make_items(worker->model);
    writer->config = config_print(worker->config);
    writer->state.seed = worker->config->train.seed;
    writer->state.ranks = worker->comm->size;
    writer->state.plan = calloc(worker->comm->size, sizeof(*writer->state.plan));
    pthread_mutex_init(&writer->mutex, NULL);
    pthread_cond_init(&writer->changed, NULL);
    bool made = writer->items != NULL && writer->config != NULL && writer->state.plan != NULL;
    if (!made || pthread_create(&writer->thread, NULL, write_when_due, writer) != 0) {
        free_writer(writer);
        return error_set(error, STATUS_ERROR,
                         made ? "cannot start a thread that writes checkpoints" : "out of host memory");
    }
    *writer_p = writer;
    return STATUS_OK;
}

void checkpoint_writer_destroy(struct checkpoint_writer *writer)
{
    if (writer == NULL) {
        return;
    }
    pthread_mutex_lock(&writer->mutex);
    writer->stop = true;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->mutex);
    pthread_join(writer->thread, NULL);
    mem_pool_free(writer->worker->staging, writer->staged, NULL);
    pthread_cond_destroy(&writer->changed);
    pthread_mutex_destroy(&writer->mutex);
    free_writer(writer);
}
