// SPDX-License-Identifier: Apache-2.0
#include "worker/samples.h"

#include <inttypes.h>
#include <stddef.h>

#include "mem/clock.h"
#include "mem/range.h"
#include "mem/uint64.h"
#include "model/ops.h"
#include "worker/advice.h"
#include "worker/faults.h"
#include "worker/fixed_sums.h"
#include "worker/job.h"
#include "worker/random.h"
#include "worker/run/memory_files.h"

uint64_t position_hash(uint64_t position)
{
    return random_draw(0, position);
}

// Neighbouring positions that are done alike.
struct sample_range {
    enum list_purpose purpose;
    struct loader *loader;
    uint64_t first, count;        // positions; count is at least 1
    uint64_t micro_batch, levers; // to begin with; micro_batch is at least 1
    bool closes;
};

// Kernels work on tiles of so many rows or more, so less would gain nothing; and few lengths are few lists to build and
// to keep.
#define LENGTH_MULTIPLE 16

// The shape of a micro-step of these samples: as long as the longest of them.
static struct model_shape shape_of(const struct worker *worker, const struct sample_range *range, uint64_t first,
                                   uint64_t count)
{
    uint64_t length = uint64_round_up(loader_longest(range->loader, first, count), LENGTH_MULTIPLE);
    return offers_shape(count, uint64_min(length, worker->model->target_elements), range->levers);
}

// That of the next micro-step.
static struct model_shape next_shape(const struct worker *worker, const struct sample_range *range)
{
    return shape_of(worker, range, range->first, uint64_min(range->micro_batch, range->count));
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
    buffer->slots = job_slots(worker->device->ops);
    for (size_t slot = 0; slot < buffer->slots; slot++) {
        worker->device->ops->event_record(worker->device, worker->slot_used[slot], worker->stream);
    }
    return STATUS_OK;
}

static void note_host_shortage(struct worker *worker, const char *what, uint64_t bytes)
{
    worker->shortage = (struct shortage){.cause = MEM_CAUSE_CAPACITY};
    error_set(&worker->shortage.error, STATUS_OUT_OF_MEMORY,
              "the host has no %" PRIu64 " bytes for %s. Lower train.offload_bytes.", bytes, what);
    worker_log(worker, "%s It does without.", worker->shortage.error.text);
}

bool samples_hold_host(struct worker *worker, uint64_t bytes)
{
    if (bytes > offers_host_beside_state(&worker->offers)) {
        optimizer_state_drop_host(worker);
    }
    if (transfers_hold(&worker->transfers, bytes)) {
        return true;
    }
    note_host_shortage(worker, "what is offloaded", bytes);
    worker->offers.lists_host_bytes = worker->transfers.bytes;
    return false;
}

bool samples_send_state_away(struct worker *worker)
{
    if (!worker->state.away && worker->transfers.bytes > offers_host_beside_state(&worker->offers)) {
        transfers_drop(&worker->transfers);
    }
    if (optimizer_state_move(worker, true)) {
        return true;
    }
    worker->offers.state.refused = true;
    note_host_shortage(worker, "the optimizer's state", worker->state.size.bytes);
    return false;
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
    if (worker->times_operations) {
        op_timer_run(worker->op_timer, list, first, end, worker->kernels, memory);
    } else {
        list_run(list, first, end, worker->kernels, memory);
    }
}

static void start_bucket(struct worker *worker)
{
    const struct bucket *bucket = &worker->buckets[worker->buckets_started++];
    enum reduce_type type = worker->config->train.reproducible ? REDUCE_INT64 : REDUCE_FLOAT32;
    device_address values = type == REDUCE_INT64 ? worker->fixed.gradients : worker->memory.gradients;
    worker_note(worker, "the all-reduce", true);
    worker->reducer->ops->start(worker->reducer, worker->stream,
                                values + bucket->first_element * reduce_type_bytes(type), bucket->elements, type);
    worker_note(worker, "a micro-step", false);
}

// The rank's last micro-step, which makes its gradients whole one bucket after the other. When they are depends on the
// list: on its levers, and on into how many parts they split its head. Those that are whole only at its end can wait.
static void run_last(struct worker *worker, const struct list *list, const struct list_memory *memory)
{
    size_t done = 0, *ready = worker->bucket_ready;
    bool early = worker->early_buckets && buckets_ready(worker->buckets, worker->bucket_count, list, ready);
    while (early && worker->buckets_started < worker->bucket_count && ready[worker->buckets_started] < list->op_count) {
        run_operations(worker, list, done, ready[worker->buckets_started], memory);
        done = ready[worker->buckets_started];
        start_bucket(worker);
    }
    run_operations(worker, list, done, list->op_count, memory);
}

static enum status micro_step(struct worker *worker, const struct sample_range *range, struct buffer *buffer,
                              struct error *error)
{
    struct model_shape shape = next_shape(worker, range);
    uint64_t count = shape.samples;
    worker_note(worker, range->purpose == LIST_TRAIN ? "a micro-step" : "a validation", false);
    const struct list *list = price_list(worker->prices, range->purpose, shape);
    if (list == NULL) {
        return error_out_of_host_memory(error);
    }
    bool trains = range->purpose == LIST_TRAIN;
    struct list_memory memory = worker->memory;
    enum status status = hold_buffer(worker, list, buffer, error);
    if (status != STATUS_OK) {
        return status;
    }
    memory.inputs = buffer->address + buffer->slot * buffer->slot_bytes;
    memory.locals = buffer->address + buffer->slots * buffer->slot_bytes;
    status = fill_slot(worker, range, range->first, shape, list, &memory, buffer->slot, error);
    if (status != STATUS_OK) {
        return status;
    }
    if (trains) { // waiting for samples is not the device's time
        stopwatch_start(worker->stopwatch, worker->stream);
    }
    if (range->closes && count == range->count) {
        run_last(worker, list, &memory);
    } else {
        run_operations(worker, list, 0, list->op_count, &memory);
    }
    if (worker->config->train.reproducible) {
        fixed_sums_add(worker, trains);
    }
    if (trains) {
        stopwatch_stop(worker->stopwatch, worker->stream, count, range->levers);
    }
    worker->times_operations &= worker->profile != NULL;
    worker->device->ops->event_record(worker->device, worker->slot_used[buffer->slot], worker->stream);
    buffer->slot = buffer->slot + 1 < buffer->slots ? buffer->slot + 1 : 0;
    return STATUS_OK;
}

static void format_refusal(const struct worker *worker, char *text, size_t size)
{
    mem_out_of_memory_format(mem_pool_out_of_memory(worker->pool), worker->device->ops, text, size);
}

static void log_out_of_memory(struct worker *worker, uint64_t first, uint64_t count)
{
    char text[1024];
    format_refusal(worker, text, sizeof(text));
    if (mem_pool_out_of_memory(worker->pool)->cause != MEM_CAUSE_INJECTED) {
        memory_files_out_of_memory(worker, false);
    }
    worker_log(worker, "micro-step of samples %" PRIu64 "..%" PRIu64 " dropped: %s", first, first + count - 1, text);
}

// The pool's last refusal was for good.
static void note_shortage(struct worker *worker, enum list_purpose purpose)
{
    char text[768], grain[ADVICE_GRAIN_NAME_MAX];
    struct shortage *shortage = &worker->shortage;
    shortage->cause = mem_pool_out_of_memory(worker->pool)->cause;
    format_refusal(worker, text, sizeof(text));
    error_set(&shortage->error, STATUS_OUT_OF_MEMORY, "cannot hold %s: %s %s", advice_grain_name(worker, grain), text,
              advice_out_of_memory(worker, shortage->cause, purpose == LIST_TRAIN, shortage->advice));
}

static uint64_t predict_peak(struct worker *worker, const struct sample_range *range)
{
    return job_peak_bytes(worker->resting_bytes, worker->prices, range->purpose, largest_shape(worker, range));
}

void samples_clear_tally(struct worker *worker)
{
    worker->device->ops->fill_zero(worker->device, worker->stream, worker->values, sizeof(struct step_values));
    if (worker->config->train.reproducible) {
        fixed_sums_clear_tally(worker);
    }
}

void samples_begin(struct worker *worker)
{
    worker->message = (struct step_message){
        .report = worker->message.report,
        .limit_bytes = worker->message.limit_bytes,
        .others_bytes = worker->message.others_bytes,
        .stops = worker->message.stops,
        .predicted_peak_bytes = worker->resting_bytes,
    };
    worker->message.report.refused = false;
    worker->shortage = (struct shortage){0};
    worker->buckets_started = 0;
    mem_pool_reset_peaks(worker->pool);
    samples_clear_tally(worker);
}

static void note_done(struct worker *worker, const struct sample_range *range, uint64_t count)
{
    if (worker->config->run.log_micro_steps) {
        worker_log(worker, "%s samples %" PRIu64 "..%" PRIu64, range->purpose == LIST_TRAIN ? "trained" : "evaluated",
                   range->first, range->first + count - 1);
    }
    for (uint64_t i = 0; i < count; i++) {
        worker->message.position_hash += position_hash(range->first + i);
    }
    worker->message.samples += count;
}

uint64_t samples_smaller_bytes(struct worker *worker, struct model_shape shape)
{
    if (shape.samples <= worker->grain) {
        return price_block_bytes(worker->prices, LIST_TRAIN, shape) - 1;
    }
    shape.samples /= 2;
    return price_block_bytes(worker->prices, LIST_TRAIN, shape);
}

// The fastest way to go on in a block of at most `bytes`; false: there is none. The optimizer's state does not come
// back amid a step. Where it leaves now it does after it, which takes about as long again as a step with it away.
static bool cut_to(struct worker *worker, struct sample_range *range, uint64_t bytes)
{
    struct sched_report report;
    struct sched_share share = {.samples = job_grains(worker->config, range->count)};
    worker->offers.state.stays = true;
    offers_fill(&worker->offers, next_shape(worker, range).length, bytes, &report);
    worker->offers.state.stays = false;
    for (size_t k = 0; k < OFFERS_SETS; k++) {
        report.offers[k].step_ns *= worker->offers.state.away ? 1 : 2;
    }
    if (!sched_share_cut(&report, &share)) {
        return false;
    }
    range->micro_batch = share.micro_batch * worker->grain;
    range->levers = share.levers;
    return true;
}

// How to go on below the micro-step that was refused; false: there is no way. In halves, or in training in whatever
// way takes no more memory than a half and is fastest.
static bool cut_smaller(struct worker *worker, struct sample_range *range)
{
    uint64_t count = uint64_min(range->micro_batch, range->count);
    if (range->purpose == LIST_EVALUATE) {
        range->micro_batch = uint64_max(count / 2, worker->grain);
        return count > worker->grain;
    }
    return cut_to(worker, range, samples_smaller_bytes(worker, next_shape(worker, range)));
}

// Whether the optimizer's state, and host memory for what the next list offloads, are where the range's levers want
// them.
static bool is_placed(struct worker *worker, const struct sample_range *range)
{
    if (offers_away(range->levers) && !samples_send_state_away(worker)) {
        return false;
    }
    const struct list *list = price_list(worker->prices, range->purpose, next_shape(worker, range));
    if (list != NULL && worker->state.away && list->host_bytes > offers_host_beside_state(&worker->offers)) {
        return false;
    }
    return list == NULL || samples_hold_host(worker, list->host_bytes);
}

// Where they can not be, goes on in another way; false: there is none.
static bool place(struct worker *worker, struct sample_range *range, struct buffer *buffer)
{
    while (!is_placed(worker, range)) {
        free_buffer(worker, buffer);
        if (!cut_to(worker, range, mem_pool_headroom(worker->pool))) {
            return false;
        }
    }
    return true;
}

// False: it was done before.
static bool trim_once(struct worker *worker, bool *trimmed_p)
{
    if (*trimmed_p) {
        return false;
    }
    mem_pool_trim(worker->pool, 0);
    *trimmed_p = true;
    return true;
}

// What to do about a refusal; false: nothing more can be done.
static bool make_do(struct worker *worker, struct sample_range *range, bool *trimmed_p)
{
    return mem_pool_relieve(worker->pool) || cut_smaller(worker, range) || trim_once(worker, trimmed_p);
}

// Every micro-step of the range, which becomes what is left of it.
static enum status run_micro_steps(struct worker *worker, struct sample_range *range, struct buffer *buffer,
                                   struct error *error)
{
    bool trimmed = false;
    while (range->count > 0 && place(worker, range, buffer)) {
        uint64_t count = uint64_min(range->micro_batch, range->count);
        range_begin("micro-step");
        enum status status = micro_step(worker, range, buffer, error);
        range_end();
        if (status == STATUS_OK) {
            note_done(worker, range, count);
            progress_add(&worker->progress, count);
            range->first += count;
            range->count -= count;
            trimmed = false;
            continue;
        }
        if (status != STATUS_OUT_OF_MEMORY) {
            return status;
        }
        log_out_of_memory(worker, range->first, count);
        worker->message.oom_retries++;
        if (!make_do(worker, range, &trimmed)) {
            note_shortage(worker, range->purpose);
            return STATUS_OK;
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
    message->fragmented_bytes = mem_pool_fragmented(worker->pool);
    message->kept_bytes = stats.allocated_bytes.current - worker->resting_bytes;
    if (faults_keep_blocks(worker)) {
        message->kept_gradients_bytes = mem_pool_kept_bytes(worker->pool, "gradients");
        return STATUS_OK;
    }
    char leaks[512];
    if (mem_pool_leaks(worker->pool, leaks, sizeof(leaks)) > 0) {
        return error_set(error, STATUS_ERROR, "blocks are live after a step: %s: this is a bug", leaks);
    }
    if (message->kept_bytes != 0) {
        return error_set(error, STATUS_ERROR,
                         "%" PRIu64 " bytes are allocated after a step, not %" PRIu64 ": this is a bug",
                         stats.allocated_bytes.current, worker->resting_bytes);
    }
    return STATUS_OK;
}

static enum status run_range(struct worker *worker, const struct sample_range *range, struct error *error)
{
    uint64_t waited_ns = loader_wait_ns(range->loader);
    uint64_t stride = range->closes ? worker->config->train.global_batch_size : 0; // what was handed back comes once
    struct buffer buffer = {0};
    struct sample_range left = *range;
    struct step_message *message = &worker->message;
    loader_expect(range->loader, range->first, range->count, stride);
    message->predicted_peak_bytes = uint64_max(message->predicted_peak_bytes, predict_peak(worker, range));
    enum status status = run_micro_steps(worker, &left, &buffer, error);
    free_buffer(worker, &buffer);
    if (status != STATUS_OK) {
        return status;
    }
    message->left += (uint32_t)job_grains(worker->config, left.count);
    message->data_wait_us += (uint32_t)((loader_wait_ns(range->loader) - waited_ns) / 1000);
    return STATUS_OK;
}

// Of a range of grains; the batch's last grain may be smaller.
static uint64_t samples_of_range(const struct worker *worker, const struct sample_share *share,
                                 const struct sched_range *range)
{
    return uint64_min(range->samples * worker->grain, share->batch_samples - range->first * worker->grain);
}

static uint64_t samples_of_share(const struct worker *worker, const struct sample_share *share)
{
    uint64_t place = 0, samples = 0;
    struct sched_range range;
    while (sched_undone_next(&worker->undone, share->share, &place, &range)) {
        samples += samples_of_range(worker, share, &range);
    }
    return samples;
}

enum status samples_run(struct worker *worker, const struct sample_share *share, struct error *error)
{
    struct step_message *message = &worker->message;
    uint64_t place = 0, due = message->samples + samples_of_share(worker, share);
    enum status status = STATUS_OK;
    struct sched_range range;
    message->left = 0;
    while (status == STATUS_OK && message->left == 0 &&
           sched_undone_next(&worker->undone, share->share, &place, &range)) {
        const struct sample_range samples = {
            .purpose = share->purpose,
            .loader = share->loader,
            .first = share->batch + range.first * worker->grain,
            .count = samples_of_range(worker, share, &range),
            .micro_batch = share->share->micro_batch * worker->grain,
            .levers = share->share->levers,
            .closes = share->closes,
        };
        status = run_range(worker, &samples, error);
    }
    message->left += (uint32_t)(share->share->samples - place);
    message->handed_back += (uint32_t)(due - message->samples);
    if (share->purpose == LIST_TRAIN && share->closes) {
        faults_keep(worker);
    }
    return status == STATUS_OK ? measure(worker, error) : status;
}

enum status samples_leave(struct worker *worker, const struct sample_share *share, struct error *error)
{
    worker->message.left = (uint32_t)share->share->samples;
    worker->message.handed_back += (uint32_t)samples_of_share(worker, share);
    return measure(worker, error);
}

enum status samples_take_back(struct worker *worker, const struct sched_share *shares, uint64_t *samples_p,
                              struct error *error)
{
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        worker->left[i] = worker->messages[i].left;
    }
    if (!sched_undone_leave(&worker->undone, shares, worker->left, worker->comm->size)) {
        return error_out_of_host_memory(error);
    }
    *samples_p = sched_undone_samples(&worker->undone);
    return STATUS_OK;
}

static void log_unreserved(struct worker *worker, const struct sched_share *share)
{
    char text[1024];
    format_refusal(worker, text, sizeof(text));
    worker_log(worker, "micro-steps of %" PRIu64 " samples got no memory ahead: %s", share->micro_batch * worker->grain,
               text);
}

bool samples_reserve(struct worker *worker, const struct sched_share *share)
{
    if (share->samples == 0) {
        return true;
    }
    uint64_t bytes = price_block_bytes(worker->prices, LIST_TRAIN, worker_shape(worker, share));
    bool trimmed = false;
    for (;;) {
        device_address block;
        enum status status = mem_pool_alloc(worker->pool, bytes, worker->stream, "micro-step", &block);
        if (status == STATUS_OK) {
            mem_pool_free(worker->pool, block, worker->stream);
            return true;
        }
        log_unreserved(worker, share);
        if (status != STATUS_OUT_OF_MEMORY || !(mem_pool_relieve(worker->pool) || trim_once(worker, &trimmed))) {
            note_shortage(worker, LIST_TRAIN);
            return false;
        }
    }
}

void samples_reduce_tally(struct worker *worker)
{
    worker_note(worker, "the all-reduce", true);
    const struct reduce_ops *ops = worker->reducer->ops;
    if (worker->config->train.reproducible) {
        ops->start(worker->reducer, worker->stream, worker->fixed.values,
                   offsetof(struct fixed_values, largest) / sizeof(int64_t), REDUCE_INT64);
    } else {
        ops->start(worker->reducer, worker->stream, worker->memory.tally, sizeof(struct kernel_tally) / sizeof(double),
                   REDUCE_FLOAT64);
    }
    ops->finish(worker->reducer, worker->stream);
}

void samples_reduce(struct worker *worker)
{
    while (worker->buckets_started < worker->bucket_count) {
        start_bucket(worker);
    }
    samples_reduce_tally(worker);
}
