// SPDX-License-Identifier: Apache-2.0
//
// headroom plan: what the configuration takes, before anything runs; and headroom --print-config.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "mem/uint64.h"
#include "worker/comm/launcher.h"
#include "worker/commands/commands.h"
#include "worker/fixed_sums.h"
#include "worker/worker.h"

// Everything that the plan is made of.
struct planning {
    const struct config *config;
    const struct device_ops *device;
    uint64_t ranks;
    struct model *model;
    struct optimizer_config optimizer;
    struct price_book *prices;
    struct costs *costs;       // NULL: not known
    uint64_t resting_bytes;    // without the optimizer's state
    struct device_usage usage; // of this machine's device, where it was asked; else zeros
    struct planned_rank *rank;
    struct sched_report *reports; // one per rank
    uint64_t largest_shard;       // the rank that has it
};

struct planned_rank {
    uint64_t limit_bytes;
    struct shard shard; // of the optimizer's state
    struct optimizer_state_size state;
    struct offers offers;
};

// As many ranks as there are capacities, unless the user says.
static uint64_t rank_count(const struct config *config, uint64_t asked)
{
    if (asked > 0) {
        return asked;
    }
    uint64_t devices = config->device.capacities_count > 0 ? config->device.capacities_count : 1;
    return devices * config->device.ranks_per_device;
}

// What this machine's device has free, once it is open.
static enum status machine_capacity(struct planning *planning, uint64_t *capacity_p, struct error *error)
{
    struct device *device;
    struct device_info info;
    enum status status = planning->device->create(&(struct device_config){.sharers = 1}, &device, error);
    if (status != STATUS_OK) {
        struct error why = *error;
        return error_set(error, status, "%s; with device.capacity a plan needs no device", why.text);
    }
    device->ops->info(device, &info);
    device_ask_usage(device, &planning->usage);
    *capacity_p = info.free_bytes;
    device->ops->destroy(device);
    return STATUS_OK;
}

// Ranks that share a device count on equal parts of it. The machine's CPU is one device; of GPUs each rank has its own.
static uint64_t rank_limit(const struct planning *planning, uint64_t rank, uint64_t machine)
{
    const struct config *config = planning->config;
    uint64_t capacity = worker_capacity(config, rank), sharers = config->device.ranks_per_device;
    if (capacity == 0) {
        capacity = machine;
        sharers = planning->device == device_find("cpu") ? planning->ranks : 1;
    }
    uint64_t granularity = planning->device->granularity_bytes;
    return capacity / sharers / granularity * granularity;
}

static enum status set_limits(struct planning *planning, struct error *error)
{
    uint64_t machine = 0;
    if (planning->config->device.capacities_count == 0) {
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

// All of the optimizer's state for every rank, or its shard.
static bool cut_state(struct planning *planning)
{
    uint64_t elements = planning->model->elements, ranks = planning->ranks;
    uint64_t *headroom_bytes = calloc(ranks, sizeof(*headroom_bytes));
    struct shard *shards = calloc(ranks, sizeof(*shards));
    bool made = headroom_bytes != NULL && shards != NULL;
    for (uint64_t i = 0; made && i < ranks; i++) {
        headroom_bytes[i] = mem_pool_headroom_beside(planning->resting_bytes, planning->rank[i].limit_bytes,
                                                     planning->device->granularity_bytes);
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

static uint64_t resting_bytes(const struct planning *planning, uint64_t rank, bool away)
{
    return planning->resting_bytes + planning->rank[rank].state.device_bytes[away];
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
    uint64_t limit = rank->limit_bytes, granularity = planning->device->granularity_bytes;
    uint64_t here = mem_pool_headroom_beside(resting_bytes(planning, number, false), limit, granularity);
    uint64_t away = mem_pool_headroom_beside(resting_bytes(planning, number, true), limit, granularity);
    offers->state.away = resting_bytes(planning, number, false) > limit && offers->state.may_leave;
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

static enum status prepare(struct planning *planning, struct error *error)
{
    const struct config *config = planning->config;
    struct model_config model = worker_model_config(config);
    enum status status = config_check_ranks(config, planning->ranks, error);
    if (status == STATUS_OK) {
        status = model_create(&model, &planning->model, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
    planning->optimizer = worker_optimizer_config(config, config->train.steps);
    planning->resting_bytes = worker_resting_bytes(config, planning->model, worker_kernels(config, planning->device));
    planning->prices = price_book_create(planning->model, worker_slots(planning->device));
    planning->rank = calloc(planning->ranks, sizeof(*planning->rank));
    planning->reports = calloc(planning->ranks, sizeof(*planning->reports));
    if (planning->prices == NULL || planning->rank == NULL || planning->reports == NULL) {
        return error_out_of_host_memory(error);
    }
    return report_ranks(planning, error);
}

// What ranks have in common is told of the one with the largest shard.
static const struct offers *offers_of(const struct planning *planning)
{
    return &planning->rank[planning->largest_shard].offers;
}

static void release(struct planning *planning)
{
    free(planning->reports);
    free(planning->rank);
    costs_destroy(planning->costs);
    price_book_destroy(planning->prices);
    model_destroy(planning->model);
}

static struct model_shape shape_of(const struct planning *planning, uint64_t micro_batch, uint64_t levers)
{
    return offers_shape(micro_batch, planning->model->target_elements, levers);
}

static uint64_t peak_bytes(const struct planning *planning, uint64_t rank, uint64_t micro_batch, uint64_t levers)
{
    return worker_peak_bytes(resting_bytes(planning, rank, offers_away(levers)), planning->prices, LIST_TRAIN,
                             shape_of(planning, micro_batch, levers));
}

static void print_resting(const struct planning *planning)
{
    char bytes[MEM_SIZE_TEXT_MAX];
    uint64_t workspace = worker_kernels(planning->config, planning->device)->workspace_bytes;
    uint64_t buffer = mem_pool_block_bytes(planning->model->elements * sizeof(float));
    uint64_t largest = planning->largest_shard;
    const struct optimizer_state_size *state = &planning->rank[largest].state;
    printf("%" PRIu64 " weights\n\nheld on %s\n", planning->model->weights,
           planning->config->train.shard_optimizer ? "the rank with the largest shard of the optimizer state"
                                                   : "every rank");
    printf("  %-16s %14s\n", "weights", mem_size_text(buffer, bytes));
    if (model_copy_bytes(planning->model) > 0) {
        printf("  %-16s %14s\n", "bf16 copy", mem_size_text(model_copy_bytes(planning->model), bytes));
    }
    printf("  %-16s %14s\n", "gradients", mem_size_text(buffer, bytes));
    printf("  %-16s %14s\n", "optimizer state", mem_size_text(state->device_bytes[false], bytes));
    if (planning->config->train.reproducible) {
        uint64_t sums = mem_pool_block_bytes(fixed_sums_gradient_bytes(planning->model->elements));
        printf("  %-16s %14s\n", "integer sums", mem_size_text(sums, bytes));
    }
    if (workspace > 0) {
        printf("  %-16s %14s\n", "workspace", mem_size_text(workspace, bytes));
    }
    printf("  %-16s %14s\n", "together", mem_size_text(resting_bytes(planning, largest, false), bytes));
    if (offers_of(planning)->state.may_leave) {
        printf("where the optimizer state is away\n  %-16s %14s\n", "of it",
               mem_size_text(state->device_bytes[true], bytes));
        printf("  %-16s %14s\n", "together", mem_size_text(resting_bytes(planning, largest, true), bytes));
    }
    if (planning->usage.library_bytes > 0) {
        printf(
            "beside that, of this machine's device\n  %-16s %14s, and what kernels, cuBLASLt and NCCL take in a run\n",
            "CUDA's context", mem_size_text(planning->usage.library_bytes, bytes));
    }
}

static bool has_choice(const struct planning *planning)
{
    size_t sets = 0;
    for (size_t k = 0; k < OFFERS_SETS; k++) {
        sets += offers_of(planning)->work[k] > 0;
    }
    return sets > 1;
}

static void print_time(const struct planning *planning, struct model_shape shape)
{
    const struct list *list = planning->costs != NULL ? price_list(planning->prices, LIST_TRAIN, shape) : NULL;
    if (list != NULL) {
        printf(" %9.2f", costs_list_ns(planning->costs, list) / 1e6);
    }
}

// For 1, 2, 4 ... samples, and for the most that a rank can hold.
static void print_peaks(const struct planning *planning, uint64_t levers)
{
    uint64_t grain = worker_grain(planning->config), largest = grain, slack_bytes = 0, host_bytes = 0;
    char bytes[MEM_SIZE_TEXT_MAX];
    for (uint64_t i = 0; i < planning->ranks; i++) {
        largest = uint64_max(largest, planning->reports[i].offers[levers].micro_batch_max * grain);
    }
    if (has_choice(planning)) {
        printf("\nlevers %s", offers_levers_name(levers));
    }
    printf("\n%-12s %14s %20s%s\n", "micro-batch", "peak", "bytes", planning->costs != NULL ? "        ms" : "");
    for (uint64_t micro_batch = grain, next; micro_batch <= largest; micro_batch = next) {
        uint64_t peak = peak_bytes(planning, planning->largest_shard, micro_batch, levers);
        printf("%-12" PRIu64 " %14s %20" PRIu64, micro_batch, mem_size_text(peak, bytes), peak);
        print_time(planning, shape_of(planning, micro_batch, levers));
        putchar('\n');
        slack_bytes = uint64_max(
            slack_bytes, price_slack_bytes(planning->prices, LIST_TRAIN, shape_of(planning, micro_batch, levers)));
        host_bytes = price_host_bytes(planning->prices, LIST_TRAIN, shape_of(planning, micro_batch, levers));
        next = micro_batch < largest && 2 * micro_batch > largest ? largest : 2 * micro_batch;
    }
    printf("layouts at most %" PRIu64 " bytes above their lower bound\n", slack_bytes);
    if (host_bytes > 0) {
        printf("up to %s in host memory\n", mem_size_text(host_bytes, bytes));
    }
}

static void print_all_peaks(const struct planning *planning)
{
    for (size_t k = 0; k < OFFERS_SETS; k++) {
        if (offers_of(planning)->work[k] > 0) {
            print_peaks(planning, k);
        }
    }
}

// The largest micro-batch under any levers.
static uint32_t largest_of(const struct sched_report *report)
{
    uint32_t largest = 0;
    for (size_t k = 0; k < OFFERS_SETS; k++) {
        uint32_t fits = report->offers[k].micro_batch_max;
        largest = fits > largest ? fits : largest;
    }
    return largest;
}

static void print_rank(const struct planning *planning, uint64_t rank, const struct sched_share *share)
{
    uint64_t grain = worker_grain(planning->config);
    char limit[MEM_SIZE_TEXT_MAX], headroom[MEM_SIZE_TEXT_MAX], peak[MEM_SIZE_TEXT_MAX];
    const struct sched_report *report = &planning->reports[rank];
    printf("%-6" PRIu64 " %14s %14s %9" PRIu64, rank, mem_size_text(planning->rank[rank].limit_bytes, limit),
           mem_size_text(report->headroom_bytes, headroom), largest_of(report) * grain);
    if (share != NULL && share->samples == 0) {
        printf(" %9d", 0);
    } else if (share != NULL) {
        uint64_t peak_of_share = peak_bytes(planning, rank, share->micro_batch * grain, share->levers);
        printf(" %9" PRIu64 " %12" PRIu64 " %13" PRIu64 " %14s", worker_share_samples(planning->config, share),
               share->micro_batch * grain, share->accumulation_steps, mem_size_text(peak_of_share, peak));
        if (has_choice(planning)) {
            printf(" %10s", offers_levers_name(share->levers));
        }
    }
    putchar('\n');
}

// Ranks of one speed are assumed: speeds are learned only while training.
static enum status print_shares(const struct planning *planning, struct error *error)
{
    const struct config *config = planning->config;
    struct sched_coordinator *coordinator = sched_coordinator_create(
        planning->ranks, worker_grains(config, config->train.global_batch_size), config->train.micro_batch_size);
    if (coordinator == NULL) {
        return error_out_of_host_memory(error);
    }
    const struct sched_share *plan = sched_coordinator_plan(coordinator, planning->reports, NULL);
    printf("\nglobal batch %" PRIu64 "\n%-6s %14s %14s %9s %9s %12s %13s %14s%s\n", config->train.global_batch_size,
           "rank", "limit", "headroom", "largest", "share", "micro-batch", "accumulation", "peak",
           has_choice(planning) ? "     levers" : "");
    for (uint64_t i = 0; i < planning->ranks; i++) {
        print_rank(planning, i, plan == NULL ? NULL : &plan[i]);
    }
    sched_coordinator_destroy(coordinator);
    const char *more_levers = worker_more_levers(config);
    return plan != NULL ? STATUS_OK
                        : error_set(error, STATUS_OUT_OF_MEMORY,
                                    "no rank can hold a single sample: %s%s%sraise device.capacity, or make the model "
                                    "smaller",
                                    more_levers != NULL ? more_levers : "", more_levers != NULL ? ", " : "",
                                    offers_of(planning)->lacks_host ? "raise train.offload_bytes, " : "");
}

static enum status plan(const struct command_line *command, struct error *error)
{
    struct config config;
    enum status status = config_read(&config, command->config_path, command->overrides, command->override_count, error);
    if (status != STATUS_OK) {
        return status;
    }
    struct error instead = {0};
    struct planning planning = {
        .config = &config,
        .device = place_kind(&config, &instead),
        .ranks = rank_count(&config, command->ranks),
    };
    if (command->costs_path != NULL) {
        status = costs_read(command->costs_path, &planning.costs, error);
    }
    if (status == STATUS_OK) {
        status = prepare(&planning, error);
    }
    if (status == STATUS_OK) {
        if (instead.text[0] != '\0') {
            printf("device.kind auto: for the CPU, because %s\n\n", instead.text);
        }
        print_resting(&planning);
        print_all_peaks(&planning);
        status = print_shares(&planning, error);
    }
    release(&planning);
    config_finish(&config);
    return status;
}

static enum status print_config(const struct command_line *command, struct error *error)
{
    struct config config;
    enum status status = config_read(&config, command->config_path, command->overrides, command->override_count, error);
    if (status != STATUS_OK) {
        return status;
    }
    char *text = config_print(&config);
    config_finish(&config);
    if (text == NULL) {
        return error_out_of_host_memory(error);
    }
    fputs(text, stdout);
    free(text);
    return STATUS_OK;
}

int command_plan(const struct command_line *command)
{
    struct error error = {0};
    if (launcher_started_several()) {
        error_set(&error, STATUS_INVALID, "plan runs without a launcher; for N ranks say --ranks N");
        return command_misused(&error);
    }
    return command_finish(plan(command, &error), &error);
}

int command_print_config(const struct command_line *command)
{
    struct error error = {0};
    return command_finish(print_config(command, &error), &error);
}
