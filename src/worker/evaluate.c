// SPDX-License-Identifier: Apache-2.0
#include "worker/evaluate.h"

#include <inttypes.h>
#include <math.h>

#include "mem/uint64.h"
#include "worker/fixed_sums.h"
#include "worker/job.h"
#include "worker/negotiate.h"
#include "worker/run/memory_files.h"
#include "worker/samples.h"

static enum status open_loader(struct worker *worker, struct loader **loader_p, struct error *error)
{
    const struct config *config = worker->config;
    const struct loader_config loader_config = {
        .set = worker->validation,
        .threads = (uint32_t)config->data.threads,
        .prefetch_bytes = config->data.prefetch_bytes,
        .shrinks = true,
        .device = worker->device,
        .staging = worker->staging,
    };
    enum status status = loader_create(&loader_config, loader_p, error);
    if (status == STATUS_OK && loader_bytes(*loader_p) < loader_staging_bytes(&loader_config)) {
        worker_log(worker, "the host has no %" PRIu64 " bytes to read ahead, %" PRIu64 " do",
                   loader_staging_bytes(&loader_config), loader_bytes(*loader_p));
    }
    return status;
}

// That a sample of training takes, by its newest report and plan; 0: not known.
static uint64_t sample_ns(const struct worker *worker, uint32_t rank)
{
    struct sched_report report;
    const struct sched_share *share = &worker->plan[rank];
    sched_unpack(&worker->messages[rank].report, &report);
    return report.measured && share->samples > 0 ? sched_share_ns(&report, share) / share->samples : 0;
}

// Every rank can do a sample, in proportion to the time that it takes in training. One of which that is not known is as
// fast as the mean of the others.
static void offer_all(struct worker *worker)
{
    uint64_t sum_ns = 0, known = 0;
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        uint64_t ns = sample_ns(worker, i);
        sum_ns += ns;
        known += ns > 0;
        worker->reports[i] = (struct sched_report){.offers = {{.sample_ns = ns, .micro_batch_max = 1}}};
    }
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        uint64_t *ns = &worker->reports[i].offers[0].sample_ns;
        *ns = *ns > 0 ? *ns : known > 0 ? sum_ns / known : 1;
    }
}

// Who left samples gets no more.
static void withdraw_offers(struct worker *worker)
{
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        if (worker->messages[i].left > 0) {
            worker->reports[i].offers[0].micro_batch_max = 0;
        }
    }
}

// Whether the rank can read samples. Where it cannot, others do.
static bool has_loader(struct worker *worker, struct loader **loader)
{
    struct error error;
    if (*loader == NULL && open_loader(worker, loader, &error) != STATUS_OK) {
        worker_log(worker, "%s", error.text);
        worker->shortage = (struct shortage){.cause = MEM_CAUSE_CAPACITY};
        error_set(&worker->shortage.error, STATUS_OUT_OF_MEMORY, "%s", error.text);
    }
    return *loader != NULL;
}

static enum status run_share(struct worker *worker, struct loader **loader, const struct sched_share *share,
                             struct error *error)
{
    struct sched_share mine = *share;
    struct sample_share samples = {
        .purpose = LIST_EVALUATE,
        .batch_samples = worker->validation->samples,
        .share = &mine,
    };
    if (!has_loader(worker, loader)) {
        return samples_leave(worker, &samples, error);
    }
    samples.loader = *loader;
    uint64_t headroom_bytes = mem_pool_headroom(worker->pool);
    uint64_t fits = price_largest_fit(worker->prices, LIST_EVALUATE, model_shape_max(worker->model, 1), headroom_bytes,
                                      UINT64_MAX, mine.samples);
    // The allocation decides whether one fits, and its failure tells why not.
    mine.micro_batch = worker->config->train.reproducible ? 1 : uint64_max(fits, 1);
    worker_begin_progress(worker, worker->comm->size > 1 ? "validation on rank 0" : "validation", PROGRESS_SAMPLES,
                          uint64_min(mine.samples * worker->grain, worker->validation->samples));
    enum status status = samples_run(worker, &samples, error);
    progress_end(&worker->progress);
    worker->message.report.headroom_bytes = headroom_bytes;
    worker->message.micro_batch = (uint32_t)(mine.micro_batch * worker->grain);
    worker->message.accumulation_steps += (uint32_t)((mine.samples + mine.micro_batch - 1) / mine.micro_batch);
    return status;
}

// Nobody can do what is left: before the job ends all give back what they cache, and may try again.
static void trim_all(struct worker *worker)
{
    mem_pool_trim(worker->pool, 0);
    negotiate_exchange(worker); // all have done so
    offer_all(worker);
}

// Until nothing is left.
static enum status run_all(struct worker *worker, struct loader **loader, struct error *error)
{
    uint64_t samples = sched_undone_samples(&worker->undone);
    enum status status = STATUS_OK;
    bool trimmed = false;
    offer_all(worker);
    samples_begin(worker);
    while (status == STATUS_OK && samples > 0) {
        const struct sched_share *shares = sched_coordinator_settle(worker->coordinator, worker->reports, samples);
        if (shares == NULL && !trimmed) {
            trimmed = true;
            trim_all(worker);
            continue;
        }
        if (shares == NULL) { // every rank has its shortage
            memory_files_out_of_memory(worker, true);
            worker->spokesman = 0;
            *error = worker->shortage.error;
            return error->status;
        }
        status = run_share(worker, loader, &shares[worker->comm->rank], error);
        if (status == STATUS_OK) {
            negotiate_exchange(worker);
            withdraw_offers(worker);
            status = samples_take_back(worker, shares, &samples, error);
        }
    }
    return status;
}

static enum status run(struct worker *worker, struct error *error)
{
    struct loader *loader = NULL;
    sched_undone_finish(&worker->undone);
    if (!sched_undone_init(&worker->undone, job_grains(worker->config, worker->validation->samples))) {
        return error_out_of_host_memory(error);
    }
    enum status status = run_all(worker, &loader, error);
    loader_destroy(loader);
    return status;
}

// The tally over all ranks.
static enum status read_tally(struct worker *worker, struct kernel_tally *tally_p, struct error *error)
{
    const struct device_ops *ops = worker->device->ops;
    samples_reduce_tally(worker);
    if (worker->config->train.reproducible) {
        fixed_sums_get_tally(worker);
    }
    ops->copy_to_host(worker->device, worker->stream, tally_p, worker->memory.tally, sizeof(*tally_p));
    ops->stream_synchronize(worker->device, worker->stream);
    return worker_check(worker, error);
}

enum status evaluate(struct worker *worker, struct evaluation *evaluation_p, struct error *error)
{
    struct kernel_tally sum;
    enum status status = run(worker, error);
    if (status == STATUS_OK) {
        status = read_tally(worker, &sum, error);
    }
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
