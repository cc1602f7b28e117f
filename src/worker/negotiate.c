// SPDX-License-Identifier: Apache-2.0
#include "worker/negotiate.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "mem/device_cpu.h"
#include "mem/uint64.h"
#include "worker/advice.h"
#include "worker/data/loader.h"
#include "worker/run/memory_files.h"
#include "worker/samples.h"
#include "worker/signals.h"

// Neighbours from the config stand for other programs on this rank's device.
static void set_neighbours(struct worker *worker, uint64_t step)
{
    const struct config *config = worker->config;
    uint64_t bytes = 0;
    for (size_t i = 0; i < config->device.neighbours_count; i++) {
        const struct config_neighbour *neighbour = &config->device.neighbours[i];
        if (neighbour->rank == worker->comm->rank && neighbour->from_step <= step && step < neighbour->to_step) {
            bytes += neighbour->bytes;
        }
    }
    if (config->device.neighbours_count > 0) {
        device_cpu_set_neighbour(worker->device, bytes);
    }
}

// Notes what someone outside lets this rank hold from step `next_step` on.
static void follow_limit(struct worker *worker, uint64_t next_step)
{
    struct limit_file *limit = &worker->limit;
    enum limit_news news = limit_file_follow(limit);
    if (news == LIMIT_UNCLEAR) {
        worker_log(worker, "step %" PRIu64 ": %s: %s; the limit stays as it was", next_step, limit->path,
                   limit->complaint);
    } else if (news == LIMIT_CHANGED && limit->bytes == 0) {
        worker_log(worker, "step %" PRIu64 ": no limit from outside any more", next_step);
    } else if (news == LIMIT_CHANGED) {
        worker_log(worker, "step %" PRIu64 ": limited to %" PRIu64 " bytes by %s", next_step, limit->bytes,
                   limit->path);
    }
}

// What others leave of the device, or what someone outside allows, is this rank's limit: where that fell, cached memory
// goes back.
static void yield_memory(struct worker *worker)
{
    struct device_info info;
    struct mem_pool_stats stats;
    worker->device->ops->info(worker->device, &info);
    mem_pool_stats(worker->pool, &stats);
    uint64_t left_bytes = info.capacity_bytes - uint64_min(info.capacity_bytes, info.others_bytes);
    uint64_t most_bytes = worker->limit.bytes == 0 ? UINT64_MAX : worker->limit.bytes;
    mem_pool_set_soft_limit(worker->pool, uint64_min(left_bytes, most_bytes));
    left_bytes = uint64_min(left_bytes, stats.limit_bytes);
    worker->message.limit_bytes = uint64_min(stats.limit_bytes, most_bytes);
    worker->withheld_bytes = left_bytes - uint64_min(left_bytes, uint64_max(most_bytes, worker->resting_bytes));
    worker->message.others_bytes = info.others_bytes - uint64_min(info.others_bytes, worker->usage.library_bytes);
}

static void read_stopwatch(struct worker *worker)
{
    struct lap lap;
    while (stopwatch_read(worker->stopwatch, &lap)) {
        offers_observe(&worker->offers, lap.levers, lap.samples, lap.time_ns);
        unrestricted_observe(&worker->unrestricted, lap.levers, lap.samples, lap.time_ns);
    }
}

// What operations cost, where some were timed.
static void read_op_timer(struct worker *worker)
{
    const struct op_timing *timings;
    if (worker->profile == NULL && op_timer_ready(worker->op_timer)) {
        size_t count = op_timer_read(worker->op_timer, &timings);
        costs_observe(worker->costs, timings, count);
        offers_compare(&worker->offers, worker->costs);
        unrestricted_compare(&worker->unrestricted, worker->costs);
    }
}

// What the rank can hold in a block of at most `bytes`, and how fast it trains.
static void offer_training(struct worker *worker, uint64_t bytes)
{
    struct sched_report report;
    sched_unpack(&worker->message.report, &report);
    worker->offers.state.gain_bytes = optimizer_state_gain(worker);
    offers_fill(&worker->offers, worker->model->target_elements, bytes, &report);
    worker->message.report = sched_pack(&report);
}

// A rank that reads more slowly than it trains is as slow as it reads: waiting is none of what is measured, since it is
// over for what was read ahead.
static void slow_down_to_reads(struct worker *worker)
{
    struct sched_report report;
    uint64_t read_ns = loader_sample_ns(worker->loader) * worker->grain;
    sched_unpack(&worker->message.report, &report);
    for (size_t k = 0; report.measured && k < SCHED_LEVERS_MAX; k++) {
        uint64_t *sample_ns = &report.offers[k].sample_ns;
        *sample_ns = *sample_ns > 0 ? uint64_max(*sample_ns, read_ns) : 0; // 0: the rank has no such set
    }
    worker->message.report = sched_pack(&report);
}

static void offer(struct worker *worker, uint64_t bytes)
{
    offer_training(worker, bytes);
    slow_down_to_reads(worker);
}

// What would be this rank's headroom without others on its device and without a limit from outside holds a sample.
static bool fits_alone(const struct worker *worker)
{
    const struct step_message *message = &worker->message;
    uint64_t bytes = message->report.headroom_bytes + message->others_bytes + worker->withheld_bytes;
    return offers_least_bytes(&worker->offers) <= bytes;
}

// In percent, of the share that the rank has now.
static uint8_t recompute_gain(const struct worker *worker)
{
    struct sched_report report;
    sched_unpack(&worker->message.report, &report);
    double gain =
        unrestricted_gain(&worker->unrestricted, &report, &worker->plan[worker->comm->rank], worker->state.away,
                          worker->model->target_elements, worker->message.report.headroom_bytes);
    return (uint8_t)(100 * gain);
}

void negotiate_report(struct worker *worker, uint64_t next_step)
{
    struct sched_packed_report *report = &worker->message.report;
    worker->offers.state.stays = false;
    read_stopwatch(worker);
    read_op_timer(worker);
    set_neighbours(worker, next_step);
    follow_limit(worker, next_step);
    yield_memory(worker);
    report->headroom_bytes = mem_pool_headroom(worker->pool);
    offer_training(worker, worker->spent ? 0 : report->headroom_bytes);
    worker->message.recompute_gain = recompute_gain(worker);
    slow_down_to_reads(worker);
    report->refused = worker->message.oom_retries > 0;
    report->plan_hash = worker->plan_hash;
    worker->message.stops |= signal_came(SIGUSR1);
    worker->message.squeezed = worker->withheld_bytes > 0 && fits_alone(worker);
}

// Which of the ranks, none of which can hold a sample, is to say why: the lowest that a limit from outside keeps from
// it, else that was refused memory, else the lowest.
static uint32_t choose_spokesman(const struct worker *worker)
{
    uint32_t squeezed = UINT32_MAX, refused = UINT32_MAX;
    for (uint32_t i = worker->comm->size; i-- > 0;) {
        const struct step_message *message = &worker->messages[i];
        squeezed = message->squeezed ? i : squeezed;
        refused = message->report.refused || message->unreserved ? i : refused;
    }
    uint32_t rank = squeezed < UINT32_MAX ? squeezed : refused;
    return rank < UINT32_MAX ? rank : 0;
}

// Nothing was refused: the plan knows that there is no room.
static void note_shortage(struct worker *worker)
{
    char grain[ADVICE_GRAIN_NAME_MAX], kept[96] = "";
    const struct step_message *message = &worker->message;
    struct shortage *shortage = &worker->shortage;
    bool promised = message->others_bytes + worker->withheld_bytes > 0 && fits_alone(worker);
    shortage->cause = promised ? MEM_CAUSE_EXTERNAL : MEM_CAUSE_CAPACITY;
    if (message->kept_bytes > 0) {
        snprintf(kept, sizeof(kept), ", %" PRIu64 " are blocks of earlier steps (headroom doctor names them)",
                 message->kept_bytes);
    }
    error_set(&shortage->error, STATUS_OUT_OF_MEMORY,
              "cannot hold %s: such a micro-step needs %" PRIu64 " bytes and the headroom is %" PRIu64
              " bytes. Of the limit of %" PRIu64 " bytes%s it holds %" PRIu64 " itself%s, and %" PRIu64
              " are held by others on its device. %s",
              advice_grain_name(worker, grain), offers_least_bytes(&worker->offers), message->report.headroom_bytes,
              message->limit_bytes, worker->withheld_bytes > 0 ? " that headroom limit set" : "", worker->resting_bytes,
              kept, message->others_bytes, advice_out_of_memory(worker, shortage->cause, true, shortage->advice));
}

enum status negotiate_no_plan(struct worker *worker, struct error *error)
{
    worker->spokesman = choose_spokesman(worker);
    memory_files_out_of_memory(worker, true);
    if (worker->shortage.error.status == STATUS_OK) {
        note_shortage(worker);
    }
    *error = worker->shortage.error;
    return error->status;
}

const struct sched_share *negotiate_deal(struct worker *worker, uint64_t samples)
{
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        sched_unpack(&worker->messages[i].report, &worker->reports[i]);
    }
    return sched_coordinator_settle(worker->coordinator, worker->reports, samples);
}

static enum status decide(struct worker *worker, bool again, bool *changed_p, struct error *error)
{
    const struct step_message *messages = worker->messages;
    struct sched_decision decision =
        sched_coordinator_decide(worker->coordinator, &messages->report, sizeof(*messages), again);
    if (decision.odd_rank > 0) {
        return error_set(error, STATUS_ERROR, "rank %zu ran another plan than rank 0: this is a bug",
                         decision.odd_rank);
    }
    if (decision.plan == NULL) {
        return negotiate_no_plan(worker, error);
    }
    *changed_p |= decision.changed;
    worker->plan_ns = decision.plan_ns;
    worker->plan_hash = decision.plan_hash;
    memcpy(worker->plan, decision.plan, worker->comm->size * sizeof(*decision.plan));
    return STATUS_OK;
}

void negotiate_exchange_start(struct worker *worker)
{
    worker_note(worker, "a report", true);
    worker->comm->ops->gather_start(worker->comm, &worker->message, worker->messages, sizeof(worker->message));
}

void negotiate_exchange(struct worker *worker)
{
    negotiate_exchange_start(worker);
    worker->comm->ops->gather_wait(worker->comm);
    worker_note(worker, "a plan", false);
}

void negotiate_trim(struct worker *worker, uint64_t next_step)
{
    worker->spent = false;
    offers_ask_host_again(&worker->offers);
    mem_pool_trim(worker->pool, 0);
    negotiate_exchange(worker); // all have done so
    negotiate_report(worker, next_step);
    worker->message.report.headroom_bytes = mem_pool_headroom_alone(worker->pool);
    offer(worker, worker->message.report.headroom_bytes);
    negotiate_exchange(worker);
}

// Whether the optimizer's state, and what lists offload, are where the share wants them; else the rank does not offer
// that any more.
static bool place_state(struct worker *worker, const struct sched_share *share)
{
    bool placed;
    if (offers_away(share->levers)) {
        placed = samples_send_state_away(worker);
    } else {
        placed = optimizer_state_move(worker, false);
        worker->offers.state.stays = !placed;
    }
    return placed &&
           samples_hold_host(worker, price_host_bytes(worker->prices, LIST_TRAIN, worker_shape(worker, share)));
}

// The memory of this rank's share is reserved, or the rank offers less than what was refused. What the host refused
// says nothing of the device's memory.
static void reserve(struct worker *worker)
{
    const struct sched_share *share = &worker->plan[worker->comm->rank];
    struct step_message *message = &worker->message;
    bool placed = share->samples == 0 || place_state(worker, share);
    message->report.plan_hash = worker->plan_hash;
    message->unreserved = !placed || !samples_reserve(worker, share);
    message->report.refused = message->unreserved && (placed || worker->offers.state.stays);
    if (!placed) {
        offer(worker, mem_pool_headroom(worker->pool));
    } else if (message->unreserved) {
        offer(worker, samples_smaller_bytes(worker, worker_shape(worker, share)));
    }
}

static bool any_unreserved(const struct worker *worker)
{
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        if (worker->messages[i].unreserved) {
            return true;
        }
    }
    return false;
}

// Where a shortage amid a step has sent the optimizer's state away and the plan has it here, it comes back if there is
// memory. If not, the plan runs as well.
static void return_state(struct worker *worker)
{
    const struct sched_share *share = &worker->plan[worker->comm->rank];
    if (share->samples > 0 && !offers_away(share->levers) &&
        mem_pool_headroom(worker->pool) >= optimizer_state_gain(worker)) {
        optimizer_state_move(worker, false);
    }
}

enum status negotiate_plan(struct worker *worker, uint64_t next_step, bool *changed_p, struct error *error)
{
    bool trimmed = false;
    *changed_p = false;
    for (bool again = false;; again = true) {
        enum status status = decide(worker, again, changed_p, error);
        if (status == STATUS_OUT_OF_MEMORY && !trimmed) {
            trimmed = true;
            negotiate_trim(worker, next_step);
            status = decide(worker, again, changed_p, error);
        }
        if (status != STATUS_OK) {
            return status;
        }
        if (!*changed_p) {
            return_state(worker);
            return STATUS_OK;
        }
        reserve(worker);
        negotiate_exchange(worker);
        if (!any_unreserved(worker)) {
            return STATUS_OK;
        }
    }
}
