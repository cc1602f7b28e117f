// SPDX-License-Identifier: Apache-2.0
#include "worker/faults.h"

#include <inttypes.h>
#include <unistd.h>

#define PIECES 8 // that memory is in

static bool is_here(const struct worker *worker)
{
    uint64_t rank = worker->config->fault.rank;
    return rank == CONFIG_ALL_RANKS || rank == worker->comm->rank;
}

void faults_refuse(struct worker *worker)
{
    const struct config *config = worker->config;
    size_t index = config->fault.fail_allocation_first_count > 1 ? worker->comm->rank : 0;
    uint64_t every = config->fault.fail_allocation_every, first = config->fault.fail_allocation_first[index];
    uint64_t count = config->fault.fail_allocation_count;
    const struct mem_faults faults = {
        .every = every, .first = first == 0 ? every : first, .count = count == 0 ? UINT64_MAX : count};
    if (is_here(worker)) {
        mem_pool_inject_failures(config->fault.memory == CONFIG_MEMORY_HOST ? worker->staging : worker->pool, faults);
    }
}

enum status faults_fragment(struct worker *worker, struct error *error)
{
    uint64_t bytes = is_here(worker) ? worker->config->fault.fragment_bytes / PIECES : 0;
    device_address pieces[PIECES], between;
    for (int i = 0; i < PIECES && bytes > 0; i++) {
        enum status status = mem_pool_hold(worker->pool, bytes, worker->stream, "fragment", &pieces[i]);
        if (status == STATUS_OK) {
            status = mem_pool_hold(worker->pool, 1, worker->stream, "fragment", &between);
        }
        if (status != STATUS_OK) {
            return error_set(error, status, "no memory for fault.fragment_bytes");
        }
    }
    for (int i = 0; i < PIECES && bytes > 0; i++) {
        mem_pool_free(worker->pool, pieces[i], worker->stream);
    }
    return STATUS_OK;
}

void faults_stall(const struct worker *worker, uint64_t step)
{
    while (step == worker->config->fault.stall_step && is_here(worker)) {
        pause();
    }
}

uint64_t faults_read_ms(const struct worker *worker)
{
    return is_here(worker) ? worker->config->fault.read_ms : 0;
}

bool faults_keep_blocks(const struct worker *worker)
{
    return worker->config->fault.keep != CONFIG_KEEP_NOTHING && is_here(worker);
}

static void keep(struct worker *worker, uint64_t elements, const char *tag)
{
    device_address kept;
    if (mem_pool_alloc(worker->pool, elements * sizeof(float), worker->stream, tag, &kept) != STATUS_OK) {
        worker_log(worker, "step %" PRIu64 ": no memory for fault.keep", worker->present_step);
    }
}

void faults_keep(struct worker *worker)
{
    const struct sched_share *share = &worker->plan[worker->comm->rank];
    if (!faults_keep_blocks(worker)) {
        return;
    }
    if (worker->config->fault.keep == CONFIG_KEEP_GRADIENTS) {
        keep(worker, worker->model->elements, "gradients");
    } else if (share->samples > 0) {
        const struct list *list = price_list(worker->prices, LIST_TRAIN, worker_shape(worker, share));
        if (list != NULL) {
            keep(worker, list->tensors[list->logits].elements, list->tensors[list->logits].name);
        }
    }
}
