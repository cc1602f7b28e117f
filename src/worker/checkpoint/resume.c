// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/resume.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "mem/uint64.h"
#include "worker/checkpoint/safetensors.h"
#include "worker/fixed_sums.h"

#define PIECE (UINT64_C(1) << 18) // elements

static enum status out_of_memory(struct error *error)
{
    return error_set(error, STATUS_ERROR, "out of host memory");
}

// Finding it ---------------------------------------------------------------------------------------------------------

static enum status find(const struct worker *worker, const char *run, char found[CHECKPOINT_PATH_MAX],
                        struct checkpoint_state *state, struct error *error)
{
    const char *resume = worker->config->checkpoint.resume;
    found[0] = '\0';
    if (resume == NULL) {
        return STATUS_OK;
    }
    if (strcmp(resume, "auto") != 0) {
        return checkpoint_find(resume, stderr, found, state, error);
    }
    return checkpoint_exists(run) ? checkpoint_find(run, stderr, found, state, error) : STATUS_OK;
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

enum status resume_find(struct worker *worker, const char *run, char found[CHECKPOINT_PATH_MAX],
                        struct checkpoint_state *state, struct error *error)
{
    struct comm *comm = worker->comm;
    enum status status = STATUS_OK;
    memset(found, 0, CHECKPOINT_PATH_MAX);
    *state = (struct checkpoint_state){0};
    if (comm->rank == 0) {
        status = find(worker, run, found, state, error);
    }
    comm->ops->broadcast(comm, &status, sizeof(status));
    comm->ops->broadcast(comm, found, CHECKPOINT_PATH_MAX);
    if (status == STATUS_OK && found[0] != '\0') {
        tell_state(comm, state);
    }
    return status;
}

// Loading it ---------------------------------------------------------------------------------------------------------

static enum status differs(const struct safetensors *file, const char *tensor, const char *found, const char *expected,
                           struct error *error)
{
    return error_set(error, STATUS_INVALID, "%s: is of another model: %s is %s, the configuration's is %s",
                     safetensors_path(file), tensor, found, expected);
}

#define SHAPE_TEXT_MAX (SAFETENSORS_DIMENSIONS_MAX * 22 + 3)

static void print_shape(size_t dimensions, const uint64_t *shape, char text[SHAPE_TEXT_MAX])
{
    size_t used = (size_t)snprintf(text, SHAPE_TEXT_MAX, "[");
    for (size_t i = 0; i < dimensions; i++) {
        used += (size_t)snprintf(text + used, SHAPE_TEXT_MAX - used, "%s%" PRIu64, i == 0 ? "" : ", ", shape[i]);
    }
    snprintf(text + used, SHAPE_TEXT_MAX - used, "]");
}

static bool has_shape(const struct safetensors_tensor *tensor, const struct parameter *parameter)
{
    if (parameter->rows == 1) {
        return tensor->dimensions == 1 && tensor->shape[0] == parameter->columns;
    }
    return tensor->dimensions == 2 && tensor->shape[0] == parameter->rows_used &&
           tensor->shape[1] == parameter->columns;
}

// The first parameter that the file has not, or otherwise.
static enum status check_weights(const struct safetensors *file, const struct model *model, struct error *error)
{
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *parameter = &model->parameters[i];
        const struct safetensors_tensor *tensor = safetensors_find(file, parameter->name);
        char found[SHAPE_TEXT_MAX], expected[SHAPE_TEXT_MAX];
        print_shape(parameter->rows == 1 ? 1 : 2,
                    (uint64_t[]){parameter->rows == 1 ? parameter->columns : parameter->rows_used, parameter->columns},
                    expected);
        if (tensor == NULL) {
            return differs(file, parameter->name, "not there", expected, error);
        }
        print_shape(tensor->dimensions, tensor->shape, found);
        if (!has_shape(tensor, parameter)) {
            return differs(file, parameter->name, found, expected, error);
        }
        if (tensor->type == SAFETENSORS_OTHER) {
            return differs(file, parameter->name, "of a type that is no real number", "F32, F16 or BF16", error);
        }
    }
    if (safetensors_count(file) > model->parameter_count) {
        return error_set(error, STATUS_INVALID, "%s: is of another model: it has %zu tensors, the configuration's %zu",
                         safetensors_path(file), safetensors_count(file), model->parameter_count);
    }
    return STATUS_OK;
}

// Puts `count` elements of the tensor at `to(context, first, count, values)`, piece by piece.
typedef void put(struct worker *worker, size_t number, uint64_t first, uint64_t count, const float *values);

static enum status load_tensor(struct worker *worker, const struct safetensors *file,
                               const struct safetensors_tensor *tensor, put *put, size_t number, struct error *error)
{
    float *piece = malloc(PIECE * sizeof(*piece));
    enum status status = piece == NULL ? out_of_memory(error) : STATUS_OK;
    for (uint64_t first = 0; first < tensor->elements && status == STATUS_OK; first += PIECE) {
        uint64_t count = uint64_min(PIECE, tensor->elements - first);
        status = safetensors_read(file, tensor, first, count, piece, error);
        if (status == STATUS_OK) {
            put(worker, number, first, count, piece);
        }
    }
    free(piece);
    return status;
}

static void put_weights(struct worker *worker, size_t number, uint64_t first, uint64_t count, const float *values)
{
    uint64_t place = worker->model->parameters[number].offset + first;
    worker->device->ops->copy_to_device(worker->device, worker->stream,
                                        worker->optimizer_memory.parameters + place * sizeof(*values), values,
                                        count * sizeof(*values));
    worker->device->ops->stream_synchronize(worker->device, worker->stream);
}

static void put_state(struct worker *worker, size_t number, uint64_t first, uint64_t count, const float *values)
{
    optimizer_state_write(worker, number, first, count, values);
}

static enum status load_weights(struct worker *worker, const struct safetensors *file, struct error *error)
{
    const struct model *model = worker->model;
    enum status status = check_weights(file, model, error);
    for (size_t i = 0; i < model->parameter_count && status == STATUS_OK; i++) {
        const struct safetensors_tensor *tensor = safetensors_find(file, model->parameters[i].name);
        status = load_tensor(worker, file, tensor, put_weights, i, error);
    }
    if (status == STATUS_OK) {
        optimizer_copy(model, worker->kernels, &worker->optimizer_memory);
    }
    return status == STATUS_OK ? worker_check(worker, error) : status;
}

enum status resume_load_weights(struct worker *worker, const char *path, struct error *error)
{
    struct safetensors *file;
    enum status status = safetensors_open(path, &file, error);
    if (status != STATUS_OK) {
        return status;
    }
    status = load_weights(worker, file, error);
    safetensors_close(file);
    return status;
}

static enum status load_states(struct worker *worker, const struct safetensors *file, struct error *error)
{
    size_t count = optimizer_state_count(&worker->optimizer);
    enum status status = STATUS_OK;
    for (size_t i = 0; i < count && status == STATUS_OK; i++) {
        const char *name = optimizer_state_name(&worker->optimizer, i);
        const struct safetensors_tensor *tensor = safetensors_find(file, name);
        if (tensor == NULL || tensor->type != SAFETENSORS_F32 || tensor->elements != worker->model->elements) {
            return error_set(error, STATUS_INVALID,
                             "%s: is of another optimizer, or model: it has no %s of %" PRIu64 " values",
                             safetensors_path(file), name, worker->model->elements);
        }
        status = load_tensor(worker, file, tensor, put_state, i, error);
    }
    return status;
}

static enum status load_optimizer(struct worker *worker, const char *found, struct error *error)
{
    char path[CHECKPOINT_PATH_MAX + 32];
    struct safetensors *file;
    if (optimizer_state_count(&worker->optimizer) == 0) {
        return STATUS_OK;
    }
    snprintf(path, sizeof(path), "%s/optimizer.safetensors", found);
    enum status status = safetensors_open(path, &file, error);
    if (status != STATUS_OK) {
        return status;
    }
    status = load_states(worker, file, error);
    safetensors_close(file);
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
        grains == worker_grains(worker->config, worker->config->train.global_batch_size)) {
        sched_coordinator_resume(worker->coordinator, state->plan);
    }
}

enum status resume_load(struct worker *worker, const char *found, const struct checkpoint_state *state,
                        struct error *error)
{
    char path[CHECKPOINT_PATH_MAX + 32];
    snprintf(path, sizeof(path), "%s/model.safetensors", found);
    enum status status = resume_load_weights(worker, path, error);
    if (status == STATUS_OK) {
        status = load_optimizer(worker, found, error);
    }
    if (status == STATUS_OK) {
        worker->first_step = state->step;
        worker->first_position = state->samples;
        fixed_sums_resume(&worker->fixed, state->sum_exponent);
        resume_plan(worker, state);
    }
    return status;
}
