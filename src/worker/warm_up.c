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

// The step comes first: while gradients are zero it leaves weights and states zero.
enum status warm_up_kernels(struct worker *worker, struct error *error)
{
    const struct device_ops *ops = worker->device->ops;
    if (!device_is_apart(ops)) {
        return STATUS_OK;
    }
    step_update(worker, 0);
    enum status status = run_list(worker, LIST_EVALUATE, error);
    if (status == STATUS_OK) {
        status = run_list(worker, LIST_TRAIN, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
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
