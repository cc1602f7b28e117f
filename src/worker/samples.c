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
    enum status status = mem_pool_alloc(worker->pool, list->block_bytes, worker->stream, "micro-step", &memory.block);
    if (status != STATUS_OK) {
        return status == STATUS_OUT_OF_MEMORY ? status : error_set(error, status, "out of host memory");
    }
    status = loader_next(range->loader, worker->device, worker->stream, first, count,
                         list_address(list, &memory, list->inputs), list_address(list, &memory, list->targets), error);
    if (status != STATUS_OK) {
        mem_pool_free(worker->pool, memory.block, worker->stream);
        return status;
    }
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

static void begin(struct worker *worker, const struct sample_range *range)
{
    uint64_t steps = (range->count + range->micro_batch - 1) / range->micro_batch;
    worker->message = (struct step_message){
        .micro_batch = range->micro_batch,
        .accumulation_steps = steps,
        .limit_bytes = worker->message.limit_bytes,
        .predicted_peak_bytes = // its first micro-step is its largest
        worker_peak_bytes(worker->resting_bytes, worker->prices, range->purpose, range->micro_batch),
    };
    mem_pool_reset_peaks(worker->pool);
    worker->device->ops->fill_zero(worker->device, worker->stream, worker->memory.tally, sizeof(struct kernel_tally));
}

static void note_done(struct worker *worker, const struct sample_range *range, uint64_t first, uint64_t count)
{
    if (worker->config->run.log_micro_steps) {
        worker_log(worker, "%s samples %" PRIu64 "..%" PRIu64, range->purpose == LIST_TRAIN ? "trained" : "evaluated",
                   first, first + count - 1);
    }
    for (uint64_t i = 0; i < count; i++) {
        worker->message.position_hash += position_hash(first + i);
    }
    worker->message.samples += count;
}

// Every micro-step of the range, in halves where memory is refused.
static enum status run_micro_steps(struct worker *worker, const struct sample_range *range, struct error *error)
{
    struct step_message *message = &worker->message;
    uint64_t micro_batch = range->micro_batch;
    bool trimmed = false;
    while (message->samples < range->count) {
        uint64_t first = range->first + message->samples, left = range->count - message->samples;
        uint64_t count = micro_batch < left ? micro_batch : left;
        enum status status = micro_step(worker, range, first, count, error);
        if (status == STATUS_OK) {
            note_done(worker, range, first, count);
            trimmed = false;
            continue;
        }
        if (status != STATUS_OUT_OF_MEMORY) {
            return status;
        }
        log_out_of_memory(worker, first, count);
        message->oom_retries++;
        if (count > 1) {
            micro_batch = count / 2;
        } else if (!trimmed) {
            mem_pool_empty_cache(worker->pool);
            trimmed = true;
        } else {
            return give_up(worker, error);
        }
    }
    return STATUS_OK;
}

static enum status measure(struct worker *worker, struct error *error)
{
    struct step_message *message = &worker->message;
    struct mem_pool_stats stats;
    mem_pool_stats(worker->pool, &stats);
    message->allocated_peak_bytes = stats.allocated_peak_bytes;
    message->reserved_peak_bytes = stats.reserved_peak_bytes;
    worker->device->ops->copy_to_host(worker->device, worker->stream, &message->tally, worker->memory.tally,
                                      sizeof(message->tally));
    worker->device->ops->stream_synchronize(worker->device, worker->stream);
    if (stats.allocated_bytes != worker->resting_bytes) {
        return error_set(error, STATUS_ERROR,
                         "%" PRIu64 " bytes are allocated after a step, not %" PRIu64 ": this is a bug",
                         stats.allocated_bytes, worker->resting_bytes);
    }
    return STATUS_OK;
}

enum status samples_run(struct worker *worker, const struct sample_range *range, struct error *error)
{
    uint64_t waited_ns = loader_wait_ns(range->loader);
    begin(worker, range);
    enum status status = run_micro_steps(worker, range, error);
    if (status != STATUS_OK) {
        return status;
    }
    worker->message.data_wait_ns = loader_wait_ns(range->loader) - waited_ns;
    return measure(worker, error);
}
