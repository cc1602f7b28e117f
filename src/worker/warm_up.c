// SPDX-License-Identifier: Apache-2.0
#include "worker/warm_up.h"

#include "worker/samples.h"
#include "worker/step.h"

static enum status run_list(struct worker *worker, enum list_purpose purpose, struct error *error)
{
    const struct device_ops *ops = worker->device->ops;
    const struct list *list = price_list(worker->prices, purpose, 1);
    if (list == NULL) {
        return error_set(error, STATUS_ERROR, "out of host memory");
    }
    uint64_t bytes = price_list_bytes(worker->prices, list);
    device_address block;
    enum status status = mem_pool_alloc(worker->pool, bytes, worker->stream, "micro-step", &block);
    if (status == STATUS_OUT_OF_MEMORY) {
        return STATUS_OK;
    }
    if (status != STATUS_OK) {
        return error_set(error, status, "out of host memory");
    }
    struct list_memory memory = worker->memory;
    memory.inputs = block;
    memory.locals = block + list->inputs_bytes;
    ops->fill_zero(worker->device, worker->stream, block, bytes);
    list_run(list, 0, list->op_count, worker->kernels, &memory);
    mem_pool_free(worker->pool, block, worker->stream);
    return STATUS_OK;
}

static void zero(struct worker *worker, device_address address, uint64_t bytes)
{
    if (address != 0) {
        worker->device->ops->fill_zero(worker->device, worker->stream, address, bytes);
    }
}

static void zero_resting_memory(struct worker *worker)
{
    const struct optimizer_memory *optimizer = &worker->optimizer_memory;
    uint64_t bytes = worker->model->elements * sizeof(float);
    zero(worker, optimizer->parameters, bytes);
    zero(worker, optimizer->copy, model_copy_bytes(worker->model));
    zero(worker, optimizer->gradients, bytes);
    for (size_t i = 0; i < optimizer_state_count(&worker->optimizer); i++) {
        zero(worker, optimizer->states[i], bytes);
    }
    zero(worker, worker->values, sizeof(struct step_values));
}

enum status warm_up_kernels(struct worker *worker, struct error *error)
{
    const struct device_ops *ops = worker->device->ops;
    if (!device_is_apart(ops)) {
        return STATUS_OK;
    }
    enum status status = run_list(worker, LIST_EVALUATE, error);
    if (status == STATUS_OK) {
        status = run_list(worker, LIST_TRAIN, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
    step_update(worker, 0);
    zero_resting_memory(worker);
    ops->stream_synchronize(worker->device, worker->stream);
    mem_pool_empty_cache(worker->pool);
    return ops->check(worker->device, error);
}

enum status warm_up_reduce(struct worker *worker, struct error *error)
{
    if (!device_is_apart(worker->device->ops)) {
        return STATUS_OK;
    }
    samples_reduce(worker, 0); // all buckets
    worker->device->ops->stream_synchronize(worker->device, worker->stream);
    return worker_check(worker, error);
}
