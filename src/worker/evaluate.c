// SPDX-License-Identifier: Apache-2.0
#include "worker/evaluate.h"

#include <inttypes.h>
#include <math.h>

#include "worker/samples.h"

// Positions of the validation set that are this rank's.
static void choose_part(const struct worker *worker, struct sample_range *range)
{
    uint64_t samples = worker->validation->samples, rank = worker->comm->rank, ranks = worker->comm->size;
    range->first = samples * rank / ranks;
    range->count = samples * (rank + 1) / ranks - range->first;
}

static enum status run_part(struct worker *worker, struct error *error)
{
    const struct config *config = worker->config;
    struct loader_config loader_config = {
        .set = worker->validation,
        .threads = (uint32_t)config->data.threads,
        .prefetch_bytes = config->data.prefetch_bytes,
        .device = worker->device,
        .staging = worker->staging,
    };
    struct sample_range range = {.purpose = LIST_EVALUATE};
    choose_part(worker, &range);
    uint64_t headroom_bytes = mem_pool_headroom(worker->pool);
    range.micro_batch = price_largest_fit(worker->prices, LIST_EVALUATE, headroom_bytes, range.count);
    if (range.micro_batch == 0) {
        range.micro_batch = 1; // the allocation decides, and its failure tells why
    }
    enum status status = loader_create(&loader_config, &range.loader, error);
    if (status != STATUS_OK) {
        return status;
    }
    if (range.count > 0) {
        loader_expect(range.loader, range.first, range.count, 0);
    }
    status = samples_run(worker, &range, error);
    worker->message.report.headroom_bytes = headroom_bytes;
    loader_destroy(range.loader);
    return status;
}

// The tally over all ranks.
static enum status read_tally(struct worker *worker, struct kernel_tally *tally_p, struct error *error)
{
    const struct device_ops *ops = worker->device->ops;
    samples_reduce(worker, worker->bucket_count); // no gradients
    ops->copy_to_host(worker->device, worker->stream, tally_p, worker->memory.tally, sizeof(*tally_p));
    ops->stream_synchronize(worker->device, worker->stream);
    return worker_check(worker, error);
}

enum status evaluate(struct worker *worker, struct evaluation *evaluation_p, struct error *error)
{
    struct comm *comm = worker->comm;
    enum status status = run_part(worker, error);
    if (status != STATUS_OK) {
        return status;
    }
    struct kernel_tally sum;
    comm->ops->gather_start(comm, &worker->message, worker->messages, sizeof(worker->message));
    status = read_tally(worker, &sum, error);
    comm->ops->gather_wait(comm);
    if (status != STATUS_OK) {
        return status;
    }
    *evaluation_p = (struct evaluation){
        .loss = sum.loss / sum.count,
        .accuracy = sum.correct / sum.count,
        .samples = worker->validation->samples,
    };
    if (!isfinite(evaluation_p->loss)) {
        return error_set(error, STATUS_DIVERGED, "validation loss %g: " WORKER_DIVERGED,
                         fabs(evaluation_p->loss)); // no sign on a nan
    }
    return STATUS_OK;
}
