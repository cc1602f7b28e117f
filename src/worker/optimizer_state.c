// SPDX-License-Identifier: Apache-2.0
#include "worker/optimizer_state.h"

#include <inttypes.h>
#include <string.h>

#include "mem/uint64.h"
#include "worker/worker.h"

// So many pieces that the slots take little, and so few that each is worth a copy.
#define PIECES 64

static uint64_t piece_elements(uint64_t elements)
{
    return uint64_round_up((elements + PIECES - 1) / PIECES, SHARD_MULTIPLE);
}

static uint64_t block_bytes(uint64_t bytes)
{
    return bytes == 0 ? 0 : mem_pool_block_bytes(bytes);
}

struct optimizer_state_size optimizer_state_size(uint64_t elements, const struct optimizer_config *optimizer)
{
    uint64_t element_bytes = optimizer_state_count(optimizer) * sizeof(float);
    uint64_t bytes = elements * element_bytes;
    uint64_t slots_bytes = OPTIMIZER_STATE_SLOTS * piece_elements(elements) * element_bytes;
    return (struct optimizer_state_size){bytes, {[false] = block_bytes(bytes), [true] = block_bytes(slots_bytes)}};
}

static uint64_t device_bytes(const struct worker *worker, bool away)
{
    return worker->state.size.device_bytes[away];
}

static bool hold_staged(struct worker *worker)
{
    struct optimizer_state *state = &worker->state;
    device_address staged;
    if (state->staged != 0) {
        return true;
    }
    if (mem_pool_hold(worker->staging, state->size.bytes, NULL, "optimizer state", &staged) != STATUS_OK) {
        return false;
    }
    state->staged = staged;
    state->host = mem_pool_host_pointer(worker->staging, staged);
    return true;
}

void optimizer_state_drop_host(struct worker *worker)
{
    if (!worker->state.away && worker->state.staged != 0) {
        mem_pool_free(worker->staging, worker->state.staged, NULL);
        mem_pool_trim(worker->staging, 0);
        worker->state.staged = 0;
        worker->state.host = NULL;
    }
}

static void note_place(struct worker *worker, bool away)
{
    uint64_t stride = worker->state.shard.elements * sizeof(float);
    for (size_t i = 0; i < optimizer_state_count(&worker->optimizer); i++) {
        worker->optimizer_memory.states[i] = away ? 0 : worker->state.block + i * stride;
    }
    worker->state.away = worker->offers.state.away = away;
}

static bool make_events(struct worker *worker)
{
    const struct device_ops *ops = worker->device->ops;
    struct optimizer_state *state = &worker->state;
    bool made = ops->event_create(worker->device, &state->computed) == STATUS_OK;
    for (size_t slot = 0; made && slot < OPTIMIZER_STATE_SLOTS; slot++) {
        made = ops->event_create(worker->device, &state->filled[slot]) == STATUS_OK &&
               ops->event_create(worker->device, &state->emptied[slot]) == STATUS_OK;
    }
    return made;
}

static enum status hold_block(struct worker *worker, bool away)
{
    enum status status = mem_pool_hold(worker->pool, device_bytes(worker, away), worker->stream, "optimizer state",
                                       &worker->state.block);
    worker->resting_bytes += status == STATUS_OK ? device_bytes(worker, away) : 0;
    return status;
}

enum status optimizer_state_hold(struct worker *worker)
{
    uint64_t bytes = worker->state.size.bytes;
    worker->offers.state.may_leave &= !worker->device->plain; // where only whole segments go back
    if (bytes == 0) {
        return STATUS_OK;
    }
    bool away = false;
    enum status status = make_events(worker) ? hold_block(worker, away) : STATUS_ERROR;
    if (status == STATUS_OUT_OF_MEMORY && worker->offers.state.may_leave && hold_staged(worker)) {
        away = true;
        status = hold_block(worker, away);
    }
    if (status != STATUS_OK) {
        return status;
    }
    if (away) {
        memset(worker->state.host, 0, bytes);
    } else {
        worker->device->ops->fill_zero(worker->device, worker->stream, worker->state.block, bytes);
    }
    note_place(worker, away);
    return STATUS_OK;
}

void optimizer_state_finish(struct worker *worker)
{
    const struct device_ops *ops = worker->device->ops;
    struct optimizer_state *state = &worker->state;
    mem_pool_free(worker->staging, state->staged, NULL);
    ops->event_destroy(worker->device, state->computed);
    for (size_t slot = 0; slot < OPTIMIZER_STATE_SLOTS; slot++) {
        ops->event_destroy(worker->device, state->filled[slot]);
        ops->event_destroy(worker->device, state->emptied[slot]);
    }
}

// Its block becomes one for all of it, or for the slots.
static bool resize_block(struct worker *worker, bool away)
{
    enum status status =
        mem_pool_resize(worker->pool, &worker->state.block, device_bytes(worker, away), worker->stream);
    if (status == STATUS_OK) {
        worker->resting_bytes += device_bytes(worker, away) - device_bytes(worker, !away);
        note_place(worker, away);
    }
    return status == STATUS_OK;
}

static bool leave(struct worker *worker)
{
    uint64_t bytes = worker->state.size.bytes;
    if (!hold_staged(worker)) {
        return false;
    }
    worker->device->ops->copy_to_host(worker->device, worker->stream, worker->state.host, worker->state.block, bytes);
    worker->device->ops->stream_synchronize(worker->device, worker->stream);
    if (!resize_block(worker, true)) {
        return false;
    }
    mem_pool_trim(worker->pool, 0);
    worker_log(worker, "the optimizer's state, %" PRIu64 " bytes, goes to host memory", bytes);
    return true;
}

static void wait_for_steps(struct worker *worker)
{
    const struct device_ops *ops = worker->device->ops;
    ops->stream_synchronize(worker->device, worker->stream);
    ops->stream_synchronize(worker->device, worker->transfers.list.stream); // the last pieces have gone back
}

static bool come_back(struct worker *worker)
{
    const struct device_ops *ops = worker->device->ops;
    uint64_t bytes = worker->state.size.bytes;
    wait_for_steps(worker);
    if (!resize_block(worker, false)) {
        worker_log(worker, "the optimizer's state, %" PRIu64 " bytes, stays in host memory: the device refuses it",
                   bytes);
        return false;
    }
    ops->copy_to_device(worker->device, worker->stream, worker->state.block, worker->state.host, bytes);
    ops->stream_synchronize(worker->device, worker->stream);
    worker_log(worker, "the optimizer's state, %" PRIu64 " bytes, comes back to the device", bytes);
    return true;
}

bool optimizer_state_move(struct worker *worker, bool away)
{
    if (away == worker->state.away) {
        return true;
    }
    return away ? leave(worker) : come_back(worker);
}

uint64_t optimizer_state_gain(const struct worker *worker)
{
    struct mem_pool_stats stats;
    mem_pool_stats(worker->pool, &stats);
    uint64_t granularity = worker->device->ops->granularity_bytes;
    uint64_t limit = uint64_min(stats.limit_bytes, stats.soft_limit_bytes) / granularity * granularity;
    uint64_t others = worker->resting_bytes - device_bytes(worker, worker->state.away);
    return mem_pool_headroom_beside(others + device_bytes(worker, true), limit, granularity) -
           mem_pool_headroom_beside(others + device_bytes(worker, false), limit, granularity);
}

static char *in_host(const struct worker *worker, size_t number, uint64_t first)
{
    return worker->state.host + (number * worker->state.shard.elements + first) * sizeof(float);
}

void optimizer_state_read(struct worker *worker, size_t number, uint64_t first, uint64_t count, float *values)
{
    uint64_t bytes = count * sizeof(*values);
    if (worker->state.away) {
        wait_for_steps(worker);
        memcpy(values, in_host(worker, number, first), bytes);
        return;
    }
    device_address from = worker->optimizer_memory.states[number] + first * sizeof(*values);
    worker->device->ops->copy_to_host(worker->device, worker->stream, values, from, bytes);
    worker->device->ops->stream_synchronize(worker->device, worker->stream);
}

void optimizer_state_write(struct worker *worker, size_t number, uint64_t first, uint64_t count, const float *values)
{
    uint64_t bytes = count * sizeof(*values);
    wait_for_steps(worker);
    if (worker->state.away) {
        memcpy(in_host(worker, number, first), values, bytes);
        return;
    }
    device_address to = worker->optimizer_memory.states[number] + first * sizeof(*values);
    worker->device->ops->copy_to_device(worker->device, worker->stream, to, values, bytes);
    worker->device->ops->stream_synchronize(worker->device, worker->stream);
}

// Elements [first, first + count) of the shard, of each state, in one of the slots.
struct piece {
    size_t slot;
    uint64_t first, count;
};

static struct piece piece_of(const struct worker *worker, uint64_t number)
{
    uint64_t all = worker->state.shard.elements, elements = piece_elements(all), first = number * elements;
    uint64_t count = uint64_min(elements, all - first);
    return (struct piece){.slot = number % OPTIMIZER_STATE_SLOTS, .first = first, .count = count};
}

static device_address slot_of(const struct worker *worker, const struct piece *piece, size_t i)
{
    size_t states = optimizer_state_count(&worker->optimizer);
    uint64_t elements = piece_elements(worker->state.shard.elements);
    return worker->state.block + (piece->slot * states + i) * elements * sizeof(float);
}

static void bring(struct worker *worker, uint64_t number)
{
    const struct device_ops *ops = worker->device->ops;
    const struct piece next = piece_of(worker, number), *piece = &next;
    ops->event_wait(worker->device, worker->copy_stream, worker->state.emptied[piece->slot]);
    for (size_t i = 0; i < optimizer_state_count(&worker->optimizer); i++) {
        ops->copy_to_device(worker->device, worker->copy_stream, slot_of(worker, piece, i),
                            in_host(worker, i, piece->first), piece->count * sizeof(float));
    }
    ops->event_record(worker->device, worker->state.filled[piece->slot], worker->copy_stream);
}

static void take_back(struct worker *worker, const struct piece *piece)
{
    const struct device_ops *ops = worker->device->ops;
    struct stream *stream = worker->transfers.list.stream;
    ops->event_record(worker->device, worker->state.computed, worker->stream);
    ops->event_wait(worker->device, stream, worker->state.computed);
    for (size_t i = 0; i < optimizer_state_count(&worker->optimizer); i++) {
        ops->copy_to_host(worker->device, stream, in_host(worker, i, piece->first), slot_of(worker, piece, i),
                          piece->count * sizeof(float));
    }
    ops->event_record(worker->device, worker->state.emptied[piece->slot], stream);
}

static void update(struct worker *worker, uint64_t number, uint64_t step)
{
    struct optimizer_memory memory = worker->optimizer_memory;
    const struct piece present = piece_of(worker, number), *piece = &present;
    for (size_t i = 0; i < optimizer_state_count(&worker->optimizer); i++) {
        memory.states[i] = slot_of(worker, piece, i);
    }
    worker->device->ops->event_wait(worker->device, worker->stream, worker->state.filled[piece->slot]);
    optimizer_step(&worker->optimizer, worker->model, worker->kernels, &memory, step,
                   worker->state.shard.first + piece->first, piece->count);
    take_back(worker, piece);
}

void optimizer_state_step(struct worker *worker, uint64_t step)
{
    const struct shard *shard = &worker->state.shard;
    if (shard->elements == 0) {
        return;
    }
    if (!worker->state.away) {
        optimizer_step(&worker->optimizer, worker->model, worker->kernels, &worker->optimizer_memory, step,
                       shard->first, shard->elements);
        return;
    }
    uint64_t pieces = (shard->elements - 1) / piece_elements(shard->elements) + 1;
    bring(worker, 0);
    for (uint64_t i = 0; i < pieces; i++) {
        if (i + 1 < pieces) {
            bring(worker, i + 1);
        }
        update(worker, i, step);
    }
}
