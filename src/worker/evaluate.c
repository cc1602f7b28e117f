// SPDX-License-Identifier: Apache-2.0
#include "worker/evaluate.h"

#include <stdlib.h>

#include "worker/samples.h"

static enum status run_part(struct worker *worker, uint64_t first, uint64_t count, struct error *error)
{
    const struct config *config = worker->config;
    struct loader_config loader_config = {
        .set = worker->validation,
        .threads = (uint32_t)config->data.threads,
        .prefetch_bytes = config->data.prefetch_bytes,
    };
    struct sample_range range = {.purpose = LIST_EVALUATE, .first = first, .count = count};
    struct sample_outcome outcome;
    range.micro_batch = price_largest_fit(worker->prices, LIST_EVALUATE, mem_pool_headroom(worker->pool), count);
    if (range.micro_batch == 0) {
        range.micro_batch = 1; // the allocation decides, and its failure tells why
    }
    enum status status = loader_create(&loader_config, &range.loader, error);
    if (status != STATUS_OK) {
        return status;
    }
    loader_expect(range.loader, first, count, 0);
    status = samples_run(worker, &range, &outcome, error);
    loader_destroy(range.loader);
    return status;
}

static enum status add_up(struct worker *worker, struct evaluation *evaluation, struct error *error)
{
    struct comm *comm = worker->comm;
    struct kernel_tally mine, *all = malloc(comm->size * sizeof(*all)), sum = {0};
    if (all == NULL) {
        return error_set(error, STATUS_ERROR, "out of host memory");
    }
    worker->device->ops->copy_to_host(worker->device, worker->stream, &mine, worker->memory.tally, sizeof(mine));
    worker->device->ops->stream_synchronize(worker->device, worker->stream);
    comm->ops->gather_start(comm, &mine, all, sizeof(mine));
    comm->ops->gather_wait(comm);
    for (uint32_t i = 0; i < comm->size; i++) {
        sum.loss += all[i].loss;
        sum.count += all[i].count;
        sum.correct += all[i].correct;
    }
    free(all);
    evaluation->loss = sum.loss / sum.count;
    evaluation->accuracy = sum.correct / sum.count;
    return STATUS_OK;
}

enum status evaluate(struct worker *worker, struct evaluation *evaluation_p, struct error *error)
{
    uint64_t samples = worker->validation->samples;
    uint64_t first = samples * worker->comm->rank / worker->comm->size;
    uint64_t end = samples * (worker->comm->rank + 1) / worker->comm->size;
    *evaluation_p = (struct evaluation){.samples = samples};
    worker->device->ops->fill_zero(worker->device, worker->stream, worker->memory.tally, sizeof(struct kernel_tally));
    enum status status = end > first ? run_part(worker, first, end - first, error) : STATUS_OK;
    return status == STATUS_OK ? add_up(worker, evaluation_p, error) : status;
}
