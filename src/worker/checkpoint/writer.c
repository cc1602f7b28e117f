// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/writer.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "mem/clock.h"
#include "mem/sanitizer.h"
#include "worker/checkpoint/model_file.h"

#define NOTE_NS 500000000

// What is done of a checkpoint: this rank's files; where there are shards, the wait for the others'; its name, or what
// there is of it is thrown away. Rank 0 alone comes further than the wait.
enum stage { IDLE, FILES, WAITS, NAME, DONE };

// How a rank's files went.
struct rank_part {
    struct error error;
    struct file_sum sum; // of its file of the optimizer's state
};

// Files of a checkpoint: these, then those of the optimizer's state.
enum { MODEL, CONFIG, MODEL_FILES };

struct checkpoint_writer {
    struct worker *worker;
    const char *run;
    bool writes_model, writes_state;
    struct safetensors_item *items; // one for each parameter
    char *config;
    device_address staged; // the copy, in worker->staging
    float *copy;           // the same: weights and the optimizer's state, side by side
    bool direct;           // there is none

    struct checkpoint_state state; // of the checkpoint that is written
    struct checkpoint_report report;
    struct checkpoint_file *files; // all of a checkpoint
    struct rank_part part;         // this rank's
    struct rank_part *parts;       // of all ranks that write
    uint32_t part_count;
    uint64_t given; // elements of the checkpoint that were given to be written; atomic
    pthread_t thread;
    pthread_mutex_t mutex; // over what follows
    pthread_cond_t changed;
    enum stage stage;
    bool stop;
};

static bool is_first(const struct worker *worker)
{
    return worker->comm->rank == 0;
}

static bool has_shards(const struct worker *worker)
{
    return worker->shards != NULL && optimizer_state_count(&worker->optimizer) > 0;
}

static bool writes_state(const struct worker *worker)
{
    return optimizer_state_count(&worker->optimizer) > 0 && (is_first(worker) || has_shards(worker));
}

static uint64_t weights_elements(const struct worker *worker)
{
    return is_first(worker) ? worker->model->elements : 0;
}

uint64_t checkpoint_copy_bytes(const struct worker *worker)
{
    uint64_t state_bytes = writes_state(worker) ? worker->state.size.bytes : 0;
    return weights_elements(worker) * sizeof(float) + state_bytes;
}

// From the device ----------------------------------------------------------------------------------------------------

static void read_weights(struct worker *worker, uint64_t first, uint64_t count, float *values)
{
    const struct device_ops *ops = worker->device->ops;
    device_address from = worker->optimizer_memory.parameters + first * sizeof(float);
    ops->copy_to_host(worker->device, worker->stream, values, from, count * sizeof(float));
    ops->stream_synchronize(worker->device, worker->stream);
}

// Where state number `number` begins in the copy.
static float *copy_of_state(const struct checkpoint_writer *writer, size_t number)
{
    const struct worker *worker = writer->worker;
    return writer->copy + weights_elements(worker) + number * worker->state.shard.elements;
}

static void hold_copy(struct checkpoint_writer *writer)
{
    struct worker *worker = writer->worker;
    uint64_t bytes = checkpoint_copy_bytes(worker);
    writer->direct = mem_pool_hold(worker->staging, bytes, NULL, "checkpoint", &writer->staged) != STATUS_OK;
    if (writer->direct) {
        worker_log(worker, "the host has no %" PRIu64 " bytes for a copy: training waits for each checkpoint", bytes);
    } else {
        writer->copy = mem_pool_host_pointer(worker->staging, writer->staged);
    }
}

// Or it turns out that there is no memory for it.
static void make_copy(struct checkpoint_writer *writer)
{
    struct worker *worker = writer->worker;
    uint64_t bytes = checkpoint_copy_bytes(worker), elements = worker->state.shard.elements;
    if (bytes == 0) {
        return;
    }
    if (writer->copy == NULL && !writer->direct) {
        hold_copy(writer);
    }
    if (writer->direct) {
        return;
    }
    sanitizer_host_access(worker->device, writer->copy, bytes, true, "checkpoint");
    if (writer->writes_model) {
        read_weights(worker, 0, worker->model->elements, writer->copy);
    }
    for (size_t i = 0; writer->writes_state && i < optimizer_state_count(&worker->optimizer); i++) {
        optimizer_state_read(worker, i, 0, elements, copy_of_state(writer, i));
    }
}

// To the disk --------------------------------------------------------------------------------------------------------

// Training waits meanwhile.
static void note_direct(struct checkpoint_writer *writer, uint64_t elements)
{
    worker_note(writer->worker, "a checkpoint", false);
    progress_add(&writer->worker->progress, elements * sizeof(float));
}

static enum status give_weights(void *context, size_t number, uint64_t first, uint64_t count, float *values,
                                struct error *error)
{
    (void)error;
    struct checkpoint_writer *writer = context;
    __atomic_fetch_add(&writer->given, count, __ATOMIC_RELAXED);
    first += writer->worker->model->parameters[number].offset;
    if (writer->direct) {
        note_direct(writer, count);
        read_weights(writer->worker, first, count, values);
    } else {
        memcpy(values, writer->copy + first, count * sizeof(*values));
    }
    return STATUS_OK;
}

static enum status give_state(void *context, size_t number, uint64_t first, uint64_t count, float *values,
                              struct error *error)
{
    (void)error;
    struct checkpoint_writer *writer = context;
    __atomic_fetch_add(&writer->given, count, __ATOMIC_RELAXED);
    if (writer->direct) {
        note_direct(writer, count);
        optimizer_state_read(writer->worker, number, first, count, values);
    } else {
        memcpy(values, copy_of_state(writer, number) + first, count * sizeof(*values));
    }
    return STATUS_OK;
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
            .shape = {writer->worker->state.shard.elements},
        };
    }
    return safetensors_write(path, items, count, give_state, writer, sum, error);
}

static enum status write_config(struct checkpoint_writer *writer, const char *path, struct file_sum *sum,
                                struct error *error)
{
    return hashed_file_write_text(path, writer->config, sum, error);
}

typedef enum status write_file(struct checkpoint_writer *writer, const char *path, struct file_sum *sum,
                               struct error *error);

static enum status write_in_folder(struct checkpoint_writer *writer, const struct checkpoint_file *file,
                                   write_file *write, struct file_sum *sum, struct error *error)
{
    char part[CHECKPOINT_PATH_MAX], path[CHECKPOINT_PATH_MAX + CHECKPOINT_NAME_MAX];
    checkpoint_part_path(writer->run, writer->state.step, part);
    snprintf(path, sizeof(path), "%s/%s", part, file->name);
    return write(writer, path, sum, error);
}

// This rank's files.
static void write_files(struct checkpoint_writer *writer)
{
    struct worker *worker = writer->worker;
    struct error *error = &writer->part.error;
    uint64_t start_ns = clock_ns();
    enum status status = error->status;
    if (writer->writes_model && status == STATUS_OK) {
        status = write_in_folder(writer, &writer->files[MODEL], write_weights, &writer->files[MODEL].sum, error);
    }
    if (writer->writes_model && status == STATUS_OK) {
        status = write_in_folder(writer, &writer->files[CONFIG], write_config, &writer->files[CONFIG].sum, error);
    }
    if (writer->writes_state && status == STATUS_OK) {
        const struct checkpoint_file *file = &writer->files[MODEL_FILES + worker->comm->rank];
        status = write_in_folder(writer, file, write_state, &writer->part.sum, error);
    }
    if (status == STATUS_OK && writer->direct) {
        status = worker_check(worker, error);
    }
    error->status = status;
    writer->report.write_ns += clock_ns() - start_ns;
}

static enum status give_name(struct checkpoint_writer *writer, struct error *error)
{
    size_t count = MODEL_FILES + writer->state.optimizer_files;
    for (size_t i = 0; i < count; i++) {
        struct file_sum *sum = &writer->files[i].sum;
        *sum = i < MODEL_FILES ? *sum : writer->parts[i - MODEL_FILES].sum;
        writer->report.bytes += sum->bytes;
    }
    return checkpoint_end(writer->run, &writer->state, writer->files, count, error);
}

// What was written becomes the newest checkpoint, or, where something could not be, nothing.
static void finish_files(struct checkpoint_writer *writer)
{
    const struct config *config = writer->worker->config;
    struct checkpoint_report *report = &writer->report;
    uint64_t start_ns = clock_ns();
    for (uint32_t i = 0; i < writer->part_count && report->error.status == STATUS_OK; i++) {
        report->error = writer->parts[i].error;
    }
    if (report->error.status == STATUS_OK) {
        report->error.status = give_name(writer, &report->error);
    }
    if (report->error.status == STATUS_OK) {
        checkpoint_prune(writer->run, writer->state.step, config->checkpoint.keep_last, config->checkpoint.keep_every);
    } else {
        checkpoint_discard_parts(writer->run);
    }
    report->write_ns += clock_ns() - start_ns;
}

static void set_stage(struct checkpoint_writer *writer, enum stage stage)
{
    pthread_mutex_lock(&writer->mutex);
    writer->stage = stage;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->mutex);
}

static enum stage get_stage(struct checkpoint_writer *writer)
{
    pthread_mutex_lock(&writer->mutex);
    enum stage stage = writer->stage;
    pthread_mutex_unlock(&writer->mutex);
    return stage;
}

static bool is_at_work(const struct checkpoint_writer *writer)
{
    return writer->stage == FILES || writer->stage == NAME;
}

// One stage's work, until others are to be waited for or all is done.
static enum stage work(struct checkpoint_writer *writer, enum stage stage)
{
    if (stage == NAME) {
        finish_files(writer);
        return DONE;
    }
    write_files(writer);
    if (has_shards(writer->worker)) {
        return WAITS;
    }
    *writer->parts = writer->part;
    return NAME;
}

static void *work_when_due(void *argument)
{
    struct checkpoint_writer *writer = argument;
    pthread_mutex_lock(&writer->mutex);
    while (!writer->stop || is_at_work(writer)) {
        if (!is_at_work(writer)) {
            pthread_cond_wait(&writer->changed, &writer->mutex);
            continue;
        }
        enum stage stage = writer->stage;
        pthread_mutex_unlock(&writer->mutex);
        set_stage(writer, work(writer, stage));
        pthread_mutex_lock(&writer->mutex);
    }
    pthread_mutex_unlock(&writer->mutex);
    return NULL;
}

// Between the two ----------------------------------------------------------------------------------------------------

static void begin_progress(struct checkpoint_writer *writer)
{
    uint64_t bytes = checkpoint_copy_bytes(writer->worker);
    worker_begin_progress(writer->worker, "saving the checkpoint", PROGRESS_BYTES, bytes);
}

// A slow disk is no rank that has stopped, so the watchdog is told as long as the thread comes further.
static void wait_for_thread(struct checkpoint_writer *writer)
{
    uint64_t seen = 0;
    worker_note(writer->worker, "a checkpoint", false);
    begin_progress(writer);
    pthread_mutex_lock(&writer->mutex);
    while (is_at_work(writer)) {
        const struct timespec until = clock_after(CLOCK_REALTIME, NOTE_NS);
        uint64_t given = __atomic_load_n(&writer->given, __ATOMIC_RELAXED);
        if (given != seen) {
            worker_note(writer->worker, "a checkpoint", false);
        }
        progress_add(&writer->worker->progress, (given - seen) * sizeof(float));
        seen = given;
        pthread_cond_timedwait(&writer->changed, &writer->mutex, &until);
    }
    pthread_mutex_unlock(&writer->mutex);
    progress_end(&writer->worker->progress);
}

static void describe(struct checkpoint_writer *writer, uint64_t steps, bool evaluation_due)
{
    const struct worker *worker = writer->worker;
    struct checkpoint_state *state = &writer->state;
    writer->report = (struct checkpoint_report){.step = steps};
    writer->part = (struct rank_part){0};
    __atomic_store_n(&writer->given, 0, __ATOMIC_RELAXED);
    state->step = steps;
    state->samples = worker_position(worker, steps);
    state->sum_exponent = worker->fixed.exponent;
    memcpy(state->plan, worker->plan, worker->comm->size * sizeof(*worker->plan));
    state->evaluation_due = evaluation_due;
}

// The folder for all ranks' files.
static enum status make_folder(struct checkpoint_writer *writer)
{
    struct comm *comm = writer->worker->comm;
    enum status status = STATUS_OK;
    if (is_first(writer->worker)) {
        status = checkpoint_begin(writer->run, writer->state.step, &writer->report.error);
    }
    if (has_shards(writer->worker)) {
        worker_note(writer->worker, "a checkpoint's folder", !is_first(writer->worker));
        comm->ops->broadcast(comm, &status, sizeof(status));
        worker_note(writer->worker, "a checkpoint", false);
    }
    return status;
}

static void start_files(struct checkpoint_writer *writer)
{
    struct worker *worker = writer->worker;
    make_copy(writer);
    writer->part.error.status = worker_check(worker, &writer->part.error);
    if (!writer->direct) {
        set_stage(writer, FILES);
        return;
    }
    begin_progress(writer);
    set_stage(writer, work(writer, FILES));
    progress_end(&worker->progress);
}

void checkpoint_writer_start(struct checkpoint_writer *writer, uint64_t steps, bool evaluation_due, uint64_t since_ns)
{
    describe(writer, steps, evaluation_due);
    if (make_folder(writer) == STATUS_OK) {
        start_files(writer);
    } else if (is_first(writer->worker)) {
        set_stage(writer, NAME);
    }
    writer->report.pause_ns = clock_ns() - since_ns;
}

bool checkpoint_writer_waits(struct checkpoint_writer *writer)
{
    return get_stage(writer) == WAITS;
}

void checkpoint_writer_agree(struct checkpoint_writer *writer)
{
    struct worker *worker = writer->worker;
    worker_note(worker, "a checkpoint", true);
    struct rank_part *parts = comm_gather(worker->comm, &writer->part, sizeof(writer->part));
    worker_note(worker, "a checkpoint", false);
    memcpy(writer->parts, parts, writer->part_count * sizeof(*parts));
    free(parts);
    set_stage(writer, is_first(worker) ? NAME : IDLE);
}

void checkpoint_writer_settle(struct checkpoint_writer *writer)
{
    wait_for_thread(writer);
    if (checkpoint_writer_waits(writer)) {
        checkpoint_writer_agree(writer);
        wait_for_thread(writer);
    }
}

double checkpoint_writer_part(struct checkpoint_writer *writer)
{
    uint64_t given = __atomic_load_n(&writer->given, __ATOMIC_RELAXED), bytes = checkpoint_copy_bytes(writer->worker);
    enum stage stage = get_stage(writer);
    return stage == IDLE || stage == DONE || bytes == 0 ? -1 : (double)(given * sizeof(float)) / (double)bytes;
}

bool checkpoint_writer_read(struct checkpoint_writer *writer, struct checkpoint_report *report_p)
{
    bool read = get_stage(writer) == DONE;
    if (read) {
        *report_p = writer->report;
        set_stage(writer, IDLE);
    }
    return read;
}

static struct checkpoint_file *make_files(uint32_t optimizer_files)
{
    struct checkpoint_file *files = calloc(MODEL_FILES + (size_t)optimizer_files, sizeof(*files));
    if (files != NULL) {
        strcpy(files[MODEL].name, CHECKPOINT_MODEL);
        strcpy(files[CONFIG].name, CHECKPOINT_CONFIG);
    }
    for (uint32_t i = 0; files != NULL && i < optimizer_files; i++) {
        checkpoint_optimizer_name(i, optimizer_files, files[MODEL_FILES + i].name);
    }
    return files;
}

static void free_writer(struct checkpoint_writer *writer)
{
    free(writer->files);
    free(writer->parts);
    free(writer->state.plan);
    free(writer->config);
    free(writer->items);
    free(writer);
}

enum status checkpoint_writer_create(struct worker *worker, const char *run, struct checkpoint_writer **writer_p,
                                     struct error *error)
{
    uint32_t ranks = worker->comm->size;
    *writer_p = NULL;
    if (!is_first(worker) && !writes_state(worker)) {
        return STATUS_OK;
    }
    struct checkpoint_writer *writer = calloc(1, sizeof(*writer));
    if (writer == NULL) {
        return error_out_of_host_memory(error);
    }
    writer->worker = worker;
    writer->run = run;
    writer->writes_model = is_first(worker);
    writer->writes_state = writes_state(worker);
    writer->part_count = has_shards(worker) ? ranks : 1;
    writer->parts = calloc(writer->part_count, sizeof(*writer->parts));
    writer->items = model_file_items(worker->model);
    writer->config = config_print(worker->config);
    writer->state.seed = worker->config->train.seed;
    writer->state.optimizer_files = writer->writes_state ? writer->part_count : 0;
    writer->files = make_files(writer->state.optimizer_files);
    writer->state.ranks = ranks;
    writer->state.plan = calloc(ranks, sizeof(*writer->state.plan));
    pthread_mutex_init(&writer->mutex, NULL);
    pthread_cond_init(&writer->changed, NULL);
    bool made = writer->items != NULL && writer->config != NULL && writer->state.plan != NULL &&
                writer->parts != NULL && writer->files != NULL;
    if (!made || pthread_create(&writer->thread, NULL, work_when_due, writer) != 0) {
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
