// SPDX-License-Identifier: Apache-2.0
#include "worker/warm_up.h"

#include "mem/uint64.h"
#include "worker/samples.h"
#include "worker/step.h"

static enum status run_list(struct worker *worker, enum list_purpose purpose, uint64_t micro_batch, struct error *error)
{
    const struct device_ops *ops = worker->device->ops;
    const struct list *list = price_list(worker->prices, purpose, micro_batch);
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

// The samples of a rank that has as many as the others.
static uint64_t equal_share(const struct worker *worker, enum list_purpose purpose)
{
    const struct config *config = worker->config;
    uint64_t samples = config->train.global_batch_size, most = config->train.micro_batch_size;
    if (purpose == LIST_EVALUATE) {
        samples = worker->validation == NULL ? 0 : worker->validation->samples;
        most = 0;
    }
    uint64_t share = (samples + worker->comm->size - 1) / worker->comm->size;
    return most == 0 ? share : uint64_min(share, most);
}

// An evaluation and a micro-step of an equal share, or of as many samples as fit in a part of the headroom.
static enum status run_lists(struct worker *worker, uint64_t parts, struct error *error)
{
    static const enum list_purpose purposes[] = {LIST_EVALUATE, LIST_TRAIN};
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < sizeof(purposes) / sizeof(purposes[0]); i++) {
        uint64_t bytes = mem_pool_headroom(worker->pool) / parts;
        uint64_t fits = price_largest_fit(worker->prices, purposes[i], bytes, equal_share(worker, purposes[i]));
        status = fits == 0 ? STATUS_OK : run_list(worker, purposes[i], fits, error);
    }
    return status;
}

// The step comes first: while gradients are zero it leaves weights and states zero. Half of the headroom comes before
// all of it, which leaves little room for code; then products of many samples can do with the code of fewer.
enum status warm_up_kernels(struct worker *worker, struct error *error)
{
    const struct device_ops *ops = worker->device->ops;
    if (!device_is_apart(ops)) {
        return STATUS_OK;
    }
    optimizer_copy(worker->model, worker->kernels, &worker->optimizer_memory);
    step_update(worker, 0);
    enum status status = run_lists(worker, 2, error);
    if (status == STATUS_OK) {
        status = run_lists(worker, 1, error);
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
