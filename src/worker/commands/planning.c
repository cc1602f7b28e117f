// SPDX-License-Identifier: Apache-2.0
#include "worker/commands/planning.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "mem/uint64.h"
#include "worker/advice.h"
#include "worker/run/run_folder.h"

// ---- What there is ----

static bool is_cpu(const struct planning *planning)
{
    return planning->ops == device_find("cpu");
}

// A GPU's figures are known without one, and where CUDA was not built in.
static struct planned_device describe_device(const struct planning *planning)
{
    if (!is_cpu(planning)) {
        return (struct planned_device){
            .granularity_bytes = DEVICE_CUDA_GRANULARITY,
            .workspace_bytes = KERNELS_CUDA_WORKSPACE_BYTES,
            .slots = WORKER_SLOTS_MAX,
        };
    }
    return (struct planned_device){
        .granularity_bytes = planning->ops->granularity_bytes,
        .workspace_bytes = job_kernels(planning->config, planning->ops)->workspace_bytes,
        .slots = job_slots(planning->ops),
    };
}

// The fleet's devices take the place of the configuration's.
static enum status choose_devices(struct planning *planning, struct config *config, struct error *error)
{
    enum status status = STATUS_OK;
    if (planning->fleet->has_gpus) {
        status = config_check_gpus(config, error);
    } else {
        planning->ops = place_kind(config, &planning->instead);
    }
    if (planning->fleet->count > 0) {
        config->device.capacities_count = 0;
    }
    planning->device = describe_device(planning);
    return status;
}

const char *planning_kind(const struct planning *planning)
{
    return is_cpu(planning) ? "cpu" : "cuda";
}

static enum status read_costs(struct planning *planning, const char *path, struct error *error)
{
    char file[RUN_FOLDER_MAX + 32];
    struct stat about;
    bool is_folder = stat(path, &about) == 0 && S_ISDIR(about.st_mode);
    snprintf(file, sizeof(file), "%s%s", path, is_folder ? "/costs/rank_0.json" : "");
    enum status status = costs_read(file, &planning->costs, &planning->measured, error);
    const char *kind = planning->measured.kind;
    if (status != STATUS_OK || kind[0] == '\0' || strcmp(kind, planning_kind(planning)) == 0) {
        return status;
    }
    return error_set(error, STATUS_INVALID,
                     "--costs %s: they were measured with device.kind %s (%s), and the plan is for %s; take those of a "
                     "run there, or leave them out",
                     path, kind, planning->measured.name, planning_kind(planning));
}

// As many as there are capacities, unless the user says.
static uint64_t rank_count(const struct planning *planning)
{
    const struct config *config = planning->config;
    uint64_t devices = config->device.capacities_count > 0 ? config->device.capacities_count : 1;
    return planning->fleet->ranks > 0 ? planning->fleet->ranks : devices * config->device.ranks_per_device;
}

// ---- Limits ----

// What this machine's device has free, once it is open.
static enum status machine_capacity(struct planning *planning, uint64_t *capacity_p, struct error *error)
{
    struct device *device;
    struct device_info info;
    enum status status = planning->ops->create(&(struct device_config){.sharers = 1}, &device, error);
    if (status != STATUS_OK) {
        struct error why = *error;
        return error_set(error, status, "%s; with --device or device.capacity a plan needs no device", why.text);
    }
    device->ops->info(device, &info);
    device_ask_usage(device, &planning->usage);
    *capacity_p = info.free_bytes;
    device->ops->destroy(device);
    return STATUS_OK;
}

static uint64_t capacity_of(const struct planning *planning, uint64_t rank)
{
    return planning->fleet->count > 0 ? fleet_find(planning->fleet, rank)->capacity_bytes
                                      : job_capacity(planning->config, rank);
}

// Ranks that share a device count on equal parts of it. The machine's CPU is one device; of GPUs each rank has its own.
static uint64_t rank_limit(const struct planning *planning, uint64_t rank, uint64_t machine)
{
    uint64_t capacity = capacity_of(planning, rank), sharers = planning->config->device.ranks_per_device;
    if (capacity == 0) {
        capacity = machine;
        sharers = is_cpu(planning) ? planning->ranks : 1;
    }
    uint64_t granularity = planning->device.granularity_bytes;
    return capacity / sharers / granularity * granularity;
}

static enum status set_limits(struct planning *planning, struct error *error)
{
    uint64_t machine = 0;
    if (capacity_of(planning, 0) == 0) {
        enum status status = machine_capacity(planning, &machine, error);
        if (status != STATUS_OK) {
            return status;
        }
    }
    for (uint64_t i = 0; i < planning->ranks; i++) {
        planning->rank[i].limit_bytes = rank_limit(planning, i, machine);
    }
    return STATUS_OK;
}

// ---- Reports of ranks ----

static uint64_t headroom_beside(const struct planning *planning, uint64_t rank, uint64_t held_bytes)
{
    return mem_pool_headroom_beside(held_bytes, planning->rank[rank].limit_bytes, planning->device.granularity_bytes);
}

// All of the optimizer's state for every rank, or its shard.
static bool cut_state(struct planning *planning)
{
    uint64_t elements = planning->model->elements, ranks = planning->ranks;
    uint64_t *headroom_bytes = calloc(ranks, sizeof(*headroom_bytes));
    struct shard *shards = calloc(ranks, sizeof(*shards));
    bool made = headroom_bytes != NULL && shards != NULL;
    for (uint64_t i = 0; made && i < ranks; i++) {
        headroom_bytes[i] = headroom_beside(planning, i, job_resting_bytes(&planning->resting));
    }
    if (made) {
        shards_cut(elements, headroom_bytes, (uint32_t)ranks, shards);
    }
    for (uint64_t i = 0; made && i < ranks; i++) {
        struct planned_rank *rank = &planning->rank[i];
        rank->shard = planning->config->train.shard_optimizer ? shards[i] : (struct shard){.elements = elements};
        rank->state = optimizer_state_size(rank->shard.elements, &planning->optimizer);
        bool larger = rank->shard.elements > planning->rank[planning->largest_shard].shard.elements;
        planning->largest_shard = larger ? i : planning->largest_shard;
    }
    free(shards);
    free(headroom_bytes);
    return made;
}

uint64_t planning_resting_bytes(const struct planning *planning, uint64_t rank, bool away)
{
    return job_resting_bytes(&planning->resting) + planning->rank[rank].state.device_bytes[away];
}

static enum status report_rank(struct planning *planning, uint64_t number, struct error *error)
{
    struct planned_rank *rank = &planning->rank[number];
    struct sched_report *report = &planning->reports[number];
    struct offers *offers = &rank->offers;
    enum status status = offers_init(offers, planning->config, planning->model, &rank->state, planning->prices, error);
    if (status != STATUS_OK) {
        return status;
    }
    if (planning->costs != NULL) {
        offers_compare(offers, planning->costs);
    }
    uint64_t resting = planning_resting_bytes(planning, number, false);
    uint64_t here = headroom_beside(planning, number, resting);
    uint64_t away = headroom_beside(planning, number, planning_resting_bytes(planning, number, true));
    offers->state.away = resting > rank->limit_bytes && offers->state.may_leave;
    offers->state.gain_bytes = away - here;
    report->headroom_bytes = offers->state.away ? away : here;
    offers_fill(offers, planning->model->target_elements, report->headroom_bytes, report);
    return STATUS_OK;
}

static enum status report_ranks(struct planning *planning, struct error *error)
{
    enum status status = set_limits(planning, error);
    if (status == STATUS_OK && !cut_state(planning)) {
        return error_out_of_host_memory(error);
    }
    for (uint64_t i = 0; i < planning->ranks && status == STATUS_OK; i++) {
        status = report_rank(planning, i, error);
    }
    return status;
}

// ---- The first plan ----

// What would make it fit.
static const char *advise(const struct planning *planning, char text[ADVICE_MAX])
{
    const char *more_levers = advice_more_levers(planning->config);
    snprintf(text, ADVICE_MAX, "%s%s%s%s, or make the model smaller", more_levers != NULL ? more_levers : "",
             more_levers != NULL ? ", " : "",
             planning_offers(planning)->lacks_host ? "raise train.offload_bytes, " : "",
             planning->fleet->count > 0 ? "take larger devices" : "raise device.capacity");
    return text;
}

// The first rank that cannot hold what it holds between steps, with which a run ends at its start; planning->ranks:
// none.
static uint64_t find_small_rank(const struct planning *planning)
{
    uint64_t rank = 0;
    while (rank < planning->ranks && planning_resting_bytes(planning, rank, planning->rank[rank].offers.state.away) <=
                                         planning->rank[rank].limit_bytes) {
        rank++;
    }
    return rank;
}

static void judge(struct planning *planning)
{
    char advice[ADVICE_MAX];
    uint64_t small = find_small_rank(planning);
    if (small < planning->ranks) {
        bool away = planning->rank[small].offers.state.away;
        planning->plan = NULL;
        error_set(&planning->misfit, STATUS_OUT_OF_MEMORY,
                  "does not fit: rank %" PRIu64 " holds %" PRIu64 " bytes between steps and its limit is %" PRIu64
                  " bytes: %s",
                  small, planning_resting_bytes(planning, small, away), planning->rank[small].limit_bytes,
                  advise(planning, advice));
    } else if (planning->plan == NULL) {
        error_set(&planning->misfit, STATUS_OUT_OF_MEMORY, "does not fit: no rank can hold a single sample: %s",
                  advise(planning, advice));
    }
}

// Where an equal part of a device has no room for a sample, the first of its ranks counts on all that the others leave.
static enum status share_unequally(struct planning *planning, struct error *error)
{
    uint64_t granularity = planning->device.granularity_bytes, sharers = planning->config->device.ranks_per_device;
    enum status status = STATUS_OK;
    for (uint64_t i = 0; status == STATUS_OK && i < planning->ranks; i++) {
        struct planned_rank *first = &planning->rank[i / sharers * sharers], *rank = &planning->rank[i];
        uint64_t resting = planning_resting_bytes(planning, i, rank->offers.state.away);
        uint64_t kept = uint64_min(rank->limit_bytes, uint64_round_up(resting, granularity));
        if (rank != first) {
            first->limit_bytes += rank->limit_bytes - kept;
            rank->limit_bytes = kept;
            status = report_rank(planning, i, error);
        }
    }
    for (uint64_t i = 0; status == STATUS_OK && i < planning->ranks; i += sharers) {
        status = report_rank(planning, i, error);
    }
    return status;
}

// Ranks of one speed are assumed: speeds are learned only while training.
static enum status cut_batch(struct planning *planning, struct error *error)
{
    const struct config *config = planning->config;
    planning->coordinator = sched_coordinator_create(
        planning->ranks, job_grains(config, config->train.global_batch_size), config->train.micro_batch_size);
    if (planning->coordinator == NULL) {
        return error_out_of_host_memory(error);
    }
    planning->plan = sched_coordinator_plan(planning->coordinator, planning->reports, NULL);
    if (planning->plan == NULL && config->device.ranks_per_device > 1) {
        enum status status = share_unequally(planning, error);
        if (status != STATUS_OK) {
            return status;
        }
        planning->plan = sched_coordinator_plan(planning->coordinator, planning->reports, NULL);
    }
    judge(planning);
    return STATUS_OK;
}

static enum status make_model(struct planning *planning, struct error *error)
{
    const struct config *config = planning->config;
    struct model_config model = job_model_config(config);
    enum status status = model_create(&model, &planning->model, error);
    if (status != STATUS_OK) {
        return status;
    }
    planning->optimizer = job_optimizer_config(config, config->train.steps);
    planning->resting = job_resting(config, planning->model, planning->device.workspace_bytes);
    planning->prices = price_book_create(planning->model, planning->device.slots);
    planning->rank = calloc(planning->ranks, sizeof(*planning->rank));
    planning->reports = calloc(planning->ranks, sizeof(*planning->reports));
    bool made = planning->prices != NULL && planning->rank != NULL && planning->reports != NULL;
    return made ? STATUS_OK : error_out_of_host_memory(error);
}

enum status planning_create(struct config *config, const struct fleet *fleet, const char *costs_path,
                            struct planning *planning, struct error *error)
{
    *planning = (struct planning){.config = config, .fleet = fleet};
    enum status status = choose_devices(planning, config, error);
    planning->ranks = rank_count(planning);
    if (status == STATUS_OK && costs_path != NULL) {
        status = read_costs(planning, costs_path, error);
    }
    if (status == STATUS_OK) {
        status = config_check_ranks(config, planning->ranks, error);
    }
    if (status == STATUS_OK) {
        status = make_model(planning, error);
    }
    if (status == STATUS_OK) {
        status = report_ranks(planning, error);
    }
    return status == STATUS_OK ? cut_batch(planning, error) : status;
}

void planning_destroy(struct planning *planning)
{
    sched_coordinator_destroy(planning->coordinator);
    free(planning->reports);
    free(planning->rank);
    costs_destroy(planning->costs);
    price_book_destroy(planning->prices);
    model_destroy(planning->model);
}
