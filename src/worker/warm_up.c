// SPDX-License-Identifier: Apache-2.0
#include "worker/warm_up.h"

#include "mem/uint64.h"
#include "worker/samples.h"
#include "worker/step.h"

// On a block of zeros. STATUS_OUT_OF_MEMORY where none is to be had.
static enum status run_list(struct worker *worker, enum list_purpose purpose, uint64_t micro_batch, struct error *error)
{
    const struct device_ops *ops = worker->device->ops;
    const struct list *list = price_list(worker->prices, purpose, model_shape_max(worker->model, micro_batch));
    if (list == NULL) {
        return error_out_of_host_memory(error);
    }
    uint64_t bytes = price_list_bytes(worker->prices, list);
    device_address block;
    enum status status = mem_pool_alloc(worker->pool, bytes, worker->stream, "micro-step", &block);
    if (status != STATUS_OK) {
        return status == STATUS_OUT_OF_MEMORY ? status : error_set(error, status, "out of host memory");
    }
    struct list_memory memory = worker->memory;
    memory.inputs = block;
    memory.locals = block + list->inputs_bytes;
    ops->fill_zero(worker->device, worker->stream, block, bytes);
    list_run(list, 0, list->op_count, worker->kernels, &memory);
    mem_pool_free(worker->pool, block, worker->stream);
    return STATUS_OK;
}

// What an equal share's largest micro-step would be.
static uint64_t expected_micro_batch(struct worker *worker, enum list_purpose purpose)
{
    const struct config *config = worker->config;
    uint64_t samples = config->train.global_batch_size, most = config->train.micro_batch_size;
    if (purpose == LIST_EVALUATE) {
        samples = worker->validation == NULL ? 0 : worker->validation->samples;
        most = 0;
    }
    uint64_t share = (samples + worker->comm->size - 1) / worker->comm->size;
    most = most == 0 ? share : uint64_min(share, most);
    return price_largest_fit(worker->prices, purpose, model_shape_max(worker->model, 1),
                             mem_pool_headroom(worker->pool), UINT64_MAX, most);
}

// A micro-step of a part of what is expected, or of as many samples as there is memory for now.
static enum status run_part(struct worker *worker, enum list_purpose purpose, uint64_t parts, struct error *error)
{
    uint64_t expected = expected_micro_batch(worker, purpose), micro_batch = (expected + parts - 1) / parts;
    enum status status = STATUS_OUT_OF_MEMORY;
    for (; micro_batch > 0 && status == STATUS_OUT_OF_MEMORY; micro_batch /= 2) {
        status = run_list(worker, purpose, micro_batch, error);
    }
    return status == STATUS_OUT_OF_MEMORY ? STATUS_OK : status;
}

// The end of a step comes first: while gradients are zero it leaves weights and states zero. A quarter of what is
// expected comes before all of it, which leaves little room for code; then products of many samples can do with the
// code of fewer.
enum status warm_up_kernels(struct worker *worker, struct error *error)
{
    static const struct {
        enum list_purpose purpose;
        uint64_t parts;
    } runs[] = {{LIST_EVALUATE, 4}, {LIST_TRAIN, 4}, {LIST_EVALUATE, 1}, {LIST_TRAIN, 1}};
    const struct device_ops *ops = worker->device->ops;
    if (!device_is_apart(ops)) {
        return STATUS_OK;
    }
    optimizer_copy(worker->model, worker->kernels, &worker->optimizer_memory);
    step_update(worker, 0);
    for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
        enum status status = run_part(worker, runs[i].purpose, runs[i].parts, error);
        if (status != STATUS_OK) {
            return status;
        }
    }
    ops->stream_synchronize(worker->device, worker->stream);
    mem_pool_trim(worker->pool, 0);
    return ops->check(worker->device, error);
}

enum status warm_up_reduce(struct worker *worker, struct error *error)
{
    if (!device_is_apart(worker->device->ops)) {
        return STATUS_OK;
    }
    samples_reduce(worker);
    step_share_weights(worker);
    worker->device->ops->stream_synchronize(worker->device, worker->stream);
    return worker_check(worker, error);
}
