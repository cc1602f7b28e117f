// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/resume.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "mem/uint64.h"
#include "worker/checkpoint/model_file.h"
#include "worker/fixed_sums.h"
#include "worker/job.h"

#define PIECE (UINT64_C(1) << 18) // elements

// Finding it ---------------------------------------------------------------------------------------------------------

// In the run's own folder: what an earlier process has left half done goes, and what it finds damaged is set aside.
static enum status find_own(const char *run, char found[CHECKPOINT_PATH_MAX], struct checkpoint_state *state,
                            struct error *error)
{
    checkpoint_discard_parts(run);
    enum status status = checkpoint_find_newest(run, stderr, found, state, error);
    if (status == STATUS_OK && found[0] != '\0') {
        checkpoint_set_aside(run, state->step);
    }
    return status;
}

// Samples would come in another order, and some twice. What was imported is of no run.
static enum status check_seed(const struct config *config, const struct checkpoint_state *state, struct error *error)
{
    if (state->ranks == 0) {
        return error_set(error, STATUS_INVALID,
                         "checkpoint.resume: '%s' is imported, and of no run to go on with; checkpoint.weights begins "
                         "with its weights",
                         config->checkpoint.resume);
    }
    if (state->seed == config->train.seed) {
        return STATUS_OK;
    }
    return error_set(error, STATUS_INVALID,
                     "train.seed: is %" PRIu64 ", but the checkpoint's run has %" PRIu64
                     ": it would see samples in another order",
                     config->train.seed, state->seed);
}

// What decides which samples there are, and in which order.
static const char *const data_keys[] = {
    "data.kind",    "data.images", "data.labels",  "data.path",        "data.validation_fraction",
    "data.samples", "data.pack",   "data.shuffle", "data.end_of_text", NULL,
};

// Going on with other data may be what is wanted; but the place in them is that of the earlier ones.
static void warn_of_other_data(const struct config *config, const char *found)
{
    char path[CHECKPOINT_FILE_MAX];
    struct config earlier;
    struct error error;
    if (checkpoint_read_config(found, path, &earlier, &error) != STATUS_OK) {
        return; // of another version
    }
    const char *key = config_difference(config, &earlier, data_keys);
    if (key != NULL) {
        fprintf(stderr,
                "headroom: warning: %s is not what it was in the checkpoint's run: samples that it has seen may come "
                "again\n",
                key);
    }
    config_finish(&earlier);
}

static enum status find(const struct worker *worker, const char *run, char found[CHECKPOINT_PATH_MAX],
                        struct checkpoint_state *state, struct error *error)
{
    const char *resume = worker->config->checkpoint.resume;
    found[0] = '\0';
    if (resume == NULL) {
        return STATUS_OK;
    }
    bool own = strcmp(resume, "auto") == 0;
    enum status status =
        own ? find_own(run, found, state, error) : checkpoint_find(resume, stderr, found, state, error);
    if (status == STATUS_OK && found[0] != '\0') {
        status = check_seed(worker->config, state, error);
    }
    if (status == STATUS_OK && found[0] != '\0') {
        warn_of_other_data(worker->config, found);
    }
    return status;
}

static enum status find_weights(const struct config *config, char found[CHECKPOINT_PATH_MAX], struct error *error)
{
    const char *weights = config->checkpoint.weights;
    return weights == NULL ? STATUS_OK : checkpoint_find_folder(weights, stderr, found, error);
}

static void tell_state(struct comm *comm, struct checkpoint_state *state)
{
    struct sched_share *plan = state->plan;
    comm->ops->broadcast(comm, state, sizeof(*state));
    state->plan = comm->rank == 0 ? plan : calloc(state->ranks + 1, sizeof(*plan));
    if (state->plan == NULL) {
        comm->ops->abort(comm, STATUS_ERROR); // out of host memory
    }
    comm->ops->broadcast(comm, state->plan, state->ranks * sizeof(*plan));
}

enum status resume_find(struct worker *worker, const char *run, struct resume *resume, struct error *error)
{
    struct comm *comm = worker->comm;
    enum status status = STATUS_OK;
    memset(resume, 0, sizeof(*resume));
    if (comm->rank == 0) {
        status = find(worker, run, resume->found, &resume->state, error);
        if (status == STATUS_OK && resume->found[0] == '\0') {
            status = find_weights(worker->config, resume->weights, error);
        }
    }
    comm->ops->broadcast(comm, &status, sizeof(status));
    comm->ops->broadcast(comm, resume->found, sizeof(resume->found));
    comm->ops->broadcast(comm, resume->weights, sizeof(resume->weights));
    if (status == STATUS_OK && resume->found[0] != '\0') {
        tell_state(comm, &resume->state);
    }
    return status;
}

// Loading it ---------------------------------------------------------------------------------------------------------

// Takes elements [first, first + count) of tensor `number`.
typedef void take(struct worker *worker, size_t number, uint64_t first, uint64_t count, const float *values);

// Elements [first, end) of a tensor of the file, for tensor `number`, in which the file's begins at `begin`.
struct range {
    size_t number;
    uint64_t first, end;
    int64_t begin;
};

static enum status load_range(struct worker *worker, const struct safetensors *file,
                              const struct safetensors_tensor *tensor, take *take, const struct range *range,
                              struct error *error)
{
    float *piece = malloc(PIECE * sizeof(*piece));
    enum status status = piece == NULL ? error_out_of_host_memory(error) : STATUS_OK;
    for (uint64_t first = range->first; first < range->end && status == STATUS_OK; first += PIECE) {
        uint64_t count = uint64_min(PIECE, range->end - first);
        status = safetensors_read(file, tensor, first, count, piece, error);
        if (status == STATUS_OK) {
            take(worker, range->number, (uint64_t)(range->begin + (int64_t)first), count, piece);
            progress_add(&worker->progress, count * sizeof(*piece));
        }
    }
    free(piece);
    return status;
}

static void take_weights(struct worker *worker, size_t number, uint64_t first, uint64_t count, const float *values)
{
    uint64_t place = worker->model->parameters[number].offset + first;
    worker->device->ops->copy_to_device(worker->device, worker->stream,
                                        worker->optimizer_memory.parameters + place * sizeof(*values), values,
                                        count * sizeof(*values));
    worker->device->ops->stream_synchronize(worker->device, worker->stream);
}

static void take_state(struct worker *worker, size_t number, uint64_t first, uint64_t count, const float *values)
{
    optimizer_state_write(worker, number, first, count, values);
}

static enum status load_weights(struct worker *worker, const struct safetensors *file, struct error *error)
{
    const struct model *model = worker->model;
    enum status status = model_file_check(file, model, error);
    for (size_t i = 0; i < model->parameter_count && status == STATUS_OK; i++) {
        const struct safetensors_tensor *tensor = safetensors_find(file, model->parameters[i].name);
        const struct range whole = {.number = i, .end = tensor->elements};
        status = load_range(worker, file, tensor, take_weights, &whole, error);
    }
    if (status == STATUS_OK) {
        optimizer_copy(model, worker->kernels, &worker->optimizer_memory);
    }
    return status;
}

// What the rank's shard has in common with one of the files, whose tensors begin at element `first` of all.
static enum status load_common(struct worker *worker, const struct safetensors *file, uint64_t first,
                               struct error *error)
{
    const struct shard *shard = &worker->state.shard;
    enum status status = STATUS_OK;
    for (size_t i = 0; i < optimizer_state_count(&worker->optimizer) && status == STATUS_OK; i++) {
        const struct safetensors_tensor *tensor = safetensors_find(file, optimizer_state_name(&worker->optimizer, i));
        const struct range common = {
            .number = i,
            .first = uint64_max(first, shard->first) - first,
            .end = uint64_min(tensor->elements, uint64_max(first, shard->first + shard->elements) - first),
            .begin = (int64_t)first - (int64_t)shard->first,
        };
        status = load_range(worker, file, tensor, take_state, &common, error);
    }
    return status;
}

// Whether the file has all states, of the same elements, and no more of these than are left.
static enum status check_states(const struct worker *worker, const struct safetensors *file, uint64_t left,
                                uint64_t *elements_p, struct error *error)
{
    for (size_t i = 0; i < optimizer_state_count(&worker->optimizer); i++) {
        const char *name = optimizer_state_name(&worker->optimizer, i);
        const struct safetensors_tensor *tensor = safetensors_find(file, name);
        if (tensor == NULL || tensor->type != SAFETENSORS_F32 || tensor->elements > left ||
            (i > 0 && tensor->elements != *elements_p)) {
            return error_set(error, STATUS_INVALID,
                             "%s: is of another optimizer, or model: it has no %s of %" PRIu64 " values",
                             safetensors_path(file), name, left);
        }
        *elements_p = tensor->elements;
    }
    return STATUS_OK;
}

static enum status load_state_file(struct worker *worker, const struct safetensors *file, bool last, uint64_t *first,
                                   struct error *error)
{
    uint64_t left = worker->model->elements - *first, elements = 0;
    enum status status = check_states(worker, file, left, &elements, error);
    if (status == STATUS_OK && last && elements != left) {
        return error_set(error, STATUS_INVALID,
                         "%s: is of another model: it has states of %" PRIu64 " values, expected %" PRIu64,
                         safetensors_path(file), elements, left);
    }
    if (status == STATUS_OK) {
        status = load_common(worker, file, *first, error);
    }
    *first += elements;
    return status;
}

static enum status open_file(const char *found, const char *name, struct safetensors **file_p, struct error *error)
{
    char path[CHECKPOINT_FILE_MAX];
    snprintf(path, sizeof(path), "%s/%s", found, name);
    return safetensors_open(path, file_p, error);
}

static enum status load_model_file(struct worker *worker, const char *found, struct error *error)
{
    struct safetensors *file;
    enum status status = open_file(found, CHECKPOINT_MODEL, &file, error);
    if (status == STATUS_OK) {
        status = load_weights(worker, file, error);
        safetensors_close(file);
    }
    return status;
}

static enum status load_state_files(struct worker *worker, const struct resume *resume, struct error *error)
{
    uint32_t files = resume->state.optimizer_files;
    uint64_t first = 0;
    enum status status = STATUS_OK;
    if (files == 0) {
        return error_set(error, STATUS_INVALID,
                         "%s: is of another optimizer: it has no %s; checkpoint.weights begins with its weights alone",
                         resume->found, optimizer_state_name(&worker->optimizer, 0));
    }
    for (uint32_t i = 0; i < files && status == STATUS_OK; i++) {
        struct safetensors *file;
        char name[CHECKPOINT_NAME_MAX];
        checkpoint_optimizer_name(i, files, name);
        status = open_file(resume->found, name, &file, error);
        if (status == STATUS_OK) {
            status = load_state_file(worker, file, i + 1 == files, &first, error);
            safetensors_close(file);
        }
    }
    return status;
}

// On as many ranks, with the same batch.
static void resume_plan(struct worker *worker, const struct checkpoint_state *state)
{
    uint64_t grains = 0;
    for (uint32_t i = 0; i < state->ranks; i++) {
        grains += state->plan[i].samples;
    }
    if (state->ranks == worker->comm->size &&
        grains == job_grains(worker->config, worker->config->train.global_batch_size)) {
        sched_coordinator_resume(worker->coordinator, state->plan);
    }
}

static enum status go_on(struct worker *worker, const struct resume *resume, struct error *error)
{
    size_t states = optimizer_state_count(&worker->optimizer);
    uint64_t elements = worker->model->weights + states * worker->state.shard.elements;
    worker_begin_progress(worker, "reading the checkpoint", PROGRESS_BYTES, elements * sizeof(float));
    enum status status = load_model_file(worker, resume->found, error);
    if (status == STATUS_OK && states > 0) {
        status = load_state_files(worker, resume, error);
    }
    if (status == STATUS_OK) {
        status = worker_check(worker, error);
    }
    if (status == STATUS_OK) {
        worker->first_step = resume->state.step;
        worker->first_position = resume->state.samples;
        fixed_sums_resume(&worker->fixed, resume->state.sum_exponent);
        resume_plan(worker, &resume->state);
    }
    progress_end(&worker->progress);
    return status;
}

static enum status begin_anew(struct worker *worker, const struct resume *resume, struct error *error)
{
    worker_begin_progress(worker, "reading weights", PROGRESS_BYTES, worker->model->weights * sizeof(float));
    enum status status = load_model_file(worker, resume->weights, error);
    progress_end(&worker->progress);
    return status == STATUS_OK ? worker_check(worker, error) : status;
}

enum status resume_load(struct worker *worker, const struct resume *resume, struct error *error)
{
    if (resume->found[0] != '\0') {
        return go_on(worker, resume, error);
    }
    return resume->weights[0] != '\0' ? begin_anew(worker, resume, error) : STATUS_OK;
}
