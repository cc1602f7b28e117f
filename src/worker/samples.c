// SPDX-License-Identifier: Apache-2.0
#include "worker/samples.h"

#include <inttypes.h>

#include "mem/clock.h"
#include "mem/range.h"
#include "mem/uint64.h"
#include "model/ops.h"
#include "worker/memory_files.h"
#include "worker/random.h"

uint64_t position_hash(uint64_t position)
{
    return random_draw(0, position);
}

// Kernels work on tiles of so many rows or more, so less would gain nothing; and few lengths are few lists to build and
// to keep.
#define LENGTH_MULTIPLE 16

// The shape of a micro-step of these samples: as long as the longest of them.
static struct model_shape shape_of(const struct worker *worker, const struct sample_range *range, uint64_t first,
                                   uint64_t count)
{
    uint64_t length = uint64_round_up(loader_longest(range->loader, first, count), LENGTH_MULTIPLE);
    return (struct model_shape){.samples = count, .length = uint64_min(length, worker->model->target_elements)};
}

// That of the largest micro-step.
static struct model_shape largest_shape(const struct worker *worker, const struct sample_range *range)
{
    struct model_shape largest = {0};
    for (uint64_t done = 0; done < range->count; done += range->micro_batch) {
        uint64_t count = uint64_min(range->micro_batch, range->count - done);
        struct model_shape shape = shape_of(worker, range, range->first + done, count);
        if (shape.samples * shape.length > largest.samples * largest.length) {
            largest = shape;
        }
    }
    return largest;
}

// The buffer that a share's micro-steps use one after the other, until one needs more: slots of inputs, which stay
// where they are whatever list comes next, because the copy of one micro-step's runs beside the kernels of another;
// then what operations write.
struct buffer {
    device_address address; // 0: none is held
    uint64_t bytes, slot_bytes;
    size_t slots, slot; // slot: for the next micro-step
};

static void free_buffer(struct worker *worker, struct buffer *buffer)
{
    mem_pool_free(worker->pool, buffer->address, worker->stream);
    *buffer = (struct buffer){0};
}

static bool buffer_holds(const struct buffer *buffer, const struct list *list)
{
    return buffer->address != 0 && list->inputs_bytes <= buffer->slot_bytes &&
           list->locals_bytes <= buffer->bytes - buffer->slots * buffer->slot_bytes;
}

// Makes sure that the buffer holds the list. Whatever used its memory before is done before samples are copied there.
static enum status hold_buffer(struct worker *worker, const struct list *list, struct buffer *buffer,
                               struct error *error)
{
    if (buffer_holds(buffer, list)) {
        return STATUS_OK;
    }
    free_buffer(worker, buffer);
    uint64_t bytes = price_list_bytes(worker->prices, list);
    enum status status = mem_pool_alloc(worker->pool, bytes, worker->stream, "micro-step", &buffer->address);
    if (status != STATUS_OK) {
        return status == STATUS_OUT_OF_MEMORY ? status : error_set(error, status, "out of host memory");
    }
    buffer->bytes = bytes;
    buffer->slot_bytes = list->inputs_bytes;
    buffer->slots = worker_slots(worker->device->ops);
    for (size_t slot = 0; slot < buffer->slots; slot++) {
        worker->device->ops->event_record(worker->device, worker->slot_used[slot], worker->stream);
    }
    return STATUS_OK;
}

// On the copy stream, beside the kernels of the micro-step before.
static enum status fill_slot(struct worker *worker, const struct sample_range *range, uint64_t first,
                             struct model_shape shape, const struct list *list, const struct list_memory *memory,
                             size_t slot, struct error *error)
{
    const struct device_ops *ops = worker->device->ops;
    ops->event_wait(worker->device, worker->copy_stream, worker->slot_used[slot]);
    enum status status =
        loader_next(range->loader, worker->copy_stream, first, shape.samples, shape.length,
                    list_address(list, memory, list->inputs), list_address(list, memory, list->targets), error);
    ops->event_record(worker->device, worker->slot_filled[slot], worker->copy_stream);
    ops->event_wait(worker->device, worker->stream, worker->slot_filled[slot]);
    return status;
}

static void run_operations(struct worker *worker, const struct list *list, size_t first, size_t end,
                           const struct list_memory *memory)
{
    if (worker->profile != NULL) {
        profile_run(worker->profile, list, first, end, worker->kernels, memory);
    } else {
        list_run(list, first, end, worker->kernels, memory);
    }
}

static void start_bucket(struct worker *worker, const struct bucket *bucket)
{
    device_address values = worker->memory.gradients + bucket->first_element * sizeof(float);
    worker->reducer->ops->start(worker->reducer, worker->stream, values, bucket->elements, REDUCE_FLOAT32);
}

// The last micro-step of a share, which makes its gradients whole one bucket after the other.
static void run_last(struct worker *worker, const struct list *list, const struct list_memory *memory)
{
    size_t done = 0;
    for (size_t i = 0; i < worker->early_bucket_count; i++) {
        run_operations(worker, list, done, worker->buckets[i].ready, memory);
        done = worker->buckets[i].ready;
        start_bucket(worker, &worker->buckets[i]);
    }
    run_operations(worker, list, done, list->op_count, memory);
}

static enum status micro_step(struct worker *worker, const struct sample_range *range, uint64_t first, uint64_t count,
                              struct buffer *buffer, struct error *error)
{
    struct model_shape shape = shape_of(worker, range, first, count);
    const struct list *list = price_list(worker->prices, range->purpose, shape);
    if (list == NULL) {
        return error_set(error, STATUS_ERROR, "out of host memory");
    }
    bool trains = range->purpose == LIST_TRAIN;
    struct list_memory memory = worker->memory;
    enum status status = hold_buffer(worker, list, buffer, error);
    if (status != STATUS_OK) {
        return status;
    }
    memory.inputs = buffer->address + buffer->slot * buffer->slot_bytes;
    memory.locals = buffer->address + buffer->slots * buffer->slot_bytes;
    status = fill_slot(worker, range, first, shape, list, &memory, buffer->slot, error);
    if (status != STATUS_OK) {
        return status;
    }
    if (trains) {
        stopwatch_start(worker->stopwatch, worker->stream);
    }
    if (trains && first + count == range->first + range->count) {
        run_last(worker, list, &memory);
    } else {
        run_operations(worker, list, 0, list->op_count, &memory);
    }
    if (trains) {
        stopwatch_stop(worker->stopwatch, worker->stream, count);
    }
    worker->device->ops->event_record(worker->device, worker->slot_used[buffer->slot], worker->stream);
    buffer->slot = (buffer->slot + 1) % buffer->slots;
    return STATUS_OK;
}

static void log_out_of_memory(struct worker *worker, uint64_t first, uint64_t count)
{
    char text[1024];
    mem_out_of_memory_format(mem_pool_out_of_memory(worker->pool), worker->device->ops, text, sizeof(text));
    if (mem_pool_out_of_memory(worker->pool)->cause != MEM_CAUSE_INJECTED) {
        memory_files_out_of_memory(worker, false);
    }
    worker_log(worker, "micro-step of samples %" PRIu64 "..%" PRIu64 " dropped: %s", first, first + count - 1, text);
}

static enum status give_up(struct worker *worker, enum list_purpose purpose, struct error *error)
{
    char text[768], advice[WORKER_ADVICE_MAX];
    const struct mem_out_of_memory *report = mem_pool_out_of_memory(worker->pool);
    memory_files_out_of_memory(worker, true);
    mem_out_of_memory_format(report, worker->device->ops, text, sizeof(text));
    return error_set(error, STATUS_OUT_OF_MEMORY, "cannot hold a single sample: %s %s", text,
                     worker_advice(worker, report->cause, purpose == LIST_TRAIN, advice));
}

static uint64_t predict_peak(struct worker *worker, const struct sample_range *range)
{
    if (range->count == 0) {
        return worker->resting_bytes;
    }
    return worker_peak_bytes(worker->resting_bytes, worker->prices, range->purpose, largest_shape(worker, range));
}

static void begin(struct worker *worker, const struct sample_range *range)
{
    uint64_t steps = (range->count + range->micro_batch - 1) / range->micro_batch;
    worker->message = (struct step_message){
        .micro_batch = range->micro_batch,
        .accumulation_steps = steps,
        .limit_bytes = worker->message.limit_bytes,
        .predicted_peak_bytes = predict_peak(worker, range),
    };
    mem_pool_reset_peaks(worker->pool);
    worker->device->ops->fill_zero(worker->device, worker->stream, worker->values, sizeof(struct step_values));
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
static enum status run_micro_steps(struct worker *worker, const struct sample_range *range, struct buffer *buffer,
                                   struct error *error)
{
    struct step_message *message = &worker->message;
    uint64_t micro_batch = range->micro_batch;
    bool trimmed = false;
    while (message->samples < range->count) {
        uint64_t first = range->first + message->samples, left = range->count - message->samples;
        uint64_t count = micro_batch < left ? micro_batch : left;
        range_begin("micro-step");
        enum status status = micro_step(worker, range, first, count, buffer, error);
        range_end();
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
        if (mem_pool_relieve(worker->pool)) {
            continue;
        }
        if (count > 1) {
            micro_batch = count / 2;
        } else if (!trimmed) {
            mem_pool_trim(worker->pool, 0);
            trimmed = true;
        } else {
            return give_up(worker, range->purpose, error);
        }
    }
    return STATUS_OK;
}

static enum status measure(struct worker *worker, struct error *error)
{
    struct step_message *message = &worker->message;
    struct mem_pool_stats stats;
    mem_pool_stats(worker->pool, &stats);
    message->allocated_peak_bytes = stats.allocated_bytes.peak;
    message->reserved_peak_bytes = stats.reserved_bytes.peak;
    char leaks[512];
    if (mem_pool_leaks(worker->pool, leaks, sizeof(leaks)) > 0) {
        return error_set(error, STATUS_ERROR, "blocks are live after a step: %s: this is a bug", leaks);
    }
    if (stats.allocated_bytes.current != worker->resting_bytes) {
        return error_set(error, STATUS_ERROR,
                         "%" PRIu64 " bytes are allocated after a step, not %" PRIu64 ": this is a bug",
                         stats.allocated_bytes.current, worker->resting_bytes);
    }
    return STATUS_OK;
}

enum status samples_run(struct worker *worker, const struct sample_range *range, struct error *error)
{
    uint64_t waited_ns = loader_wait_ns(range->loader);
    struct buffer buffer = {0};
    begin(worker, range);
    enum status status = run_micro_steps(worker, range, &buffer, error);
    free_buffer(worker, &buffer);
    if (status != STATUS_OK) {
        return status;
    }
    worker->message.data_wait_ns = loader_wait_ns(range->loader) - waited_ns;
    return measure(worker, error);
}

void samples_reduce(struct worker *worker, size_t first_bucket)
{
    const struct reduce_ops *ops = worker->reducer->ops;
    for (size_t i = first_bucket; i < worker->bucket_count; i++) {
        start_bucket(worker, &worker->buckets[i]);
    }
    ops->start(worker->reducer, worker->stream, worker->memory.tally, sizeof(struct kernel_tally) / sizeof(double),
               REDUCE_FLOAT64);
    ops->finish(worker->reducer, worker->stream);
}
