// SPDX-License-Identifier: Apache-2.0
#include "worker/samples.h"

#include <inttypes.h>

#include "worker/clock.h"
#include "worker/random.h"

uint64_t position_hash(uint64_t position)
{
    return random_draw(0, position);
}

static enum status micro_step(struct worker *worker, const struct sample_range *range, uint64_t first, uint64_t count,
                              struct error *error)
{
    const struct list *list = price_list(worker->prices, range->purpose, count);
    if (list == NULL) {
        return error_set(error, STATUS_ERROR, "out of host memory");
    }
    struct list_memory memory = worker->memory;
    if (mem_pool_alloc(worker->pool, list->block_bytes, worker->stream, "micro-step", &memory.block) != STATUS_OK) {
        return STATUS_OUT_OF_MEMORY;
    }
    loader_next(range->loader, worker->device, worker->stream, first, count, list_address(list, &memory, list->inputs),
                list_address(list, &memory, list->targets));
    uint64_t start_ns = clock_ns();
    list_run(list, worker->kernels, worker->stream, &memory);
    worker->device->ops->stream_synchronize(worker->device, worker->stream);
    if (range->purpose == LIST_TRAIN) {
        sched_speed_observe(&worker->speed, count, clock_ns() - start_ns);
    }
    mem_pool_free(worker->pool, memory.block, worker->stream);
    return STATUS_OK;
}

static void log_out_of_memory(struct worker *worker, uint64_t first, uint64_t count)
{
    char text[1024];
    mem_out_of_memory_format(mem_pool_out_of_memory(worker->pool), worker->device->ops, text, sizeof(text));
    worker_log(worker, "micro-step of samples %" PRIu64 "..%" PRIu64 " dropped: %s", first, first + count - 1, text);
}

static enum status give_up(struct worker *worker, struct error *error)
{
    char text[768];
    mem_out_of_memory_format(mem_pool_out_of_memory(worker->pool), worker->device->ops, text, sizeof(text));
    return error_set(error, STATUS_OUT_OF_MEMORY,
                     "cannot hold a single sample: %s Raise device.capacity, or make the model smaller.", text);
}

enum status samples_run(struct worker *worker, const struct sample_range *range, struct sample_outcome *outcome_p,
                        struct error *error)
{
    *outcome_p = (struct sample_outcome){0};
    uint64_t micro_batch = range->micro_batch;
    bool trimmed = false;
    while (outcome_p->samples < range->count) {
        uint64_t first = range->first + outcome_p->samples, left = range->count - outcome_p->samples;
        uint64_t count = micro_batch < left ? micro_batch : left;
        enum status status = micro_step(worker, range, first, count, error);
        if (status == STATUS_OUT_OF_MEMORY) {
            log_out_of_memory(worker, first, count);
            outcome_p->oom_retries++;
            if (count > 1) {
                micro_batch = count / 2;
            } else if (!trimmed) {
                mem_pool_empty_cache(worker->pool);
                trimmed = true;
            } else {
                return give_up(worker, error);
            }
            continue;
        }
        if (status != STATUS_OK) {
            return status;
        }
        trimmed = false;
        if (worker->config->run.log_micro_steps) {
            worker_log(worker, "%s samples %" PRIu64 "..%" PRIu64,
                       range->purpose == LIST_TRAIN ? "trained" : "evaluated", first, first + count - 1);
        }
        for (uint64_t i = 0; i < count; i++) {
            outcome_p->position_hash += position_hash(first + i);
        }
        outcome_p->samples += count;
        if (count > outcome_p->micro_batch_largest) {
            outcome_p->micro_batch_largest = count;
        }
    }
    return STATUS_OK;
}
