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
    struct offers offers;
    struct costs *costs;       // NULL: not known
    uint64_t resting_bytes[2]; // with the optimizer's state here and away
    struct device_usage usage; // of this machine's device, where it was asked; else zeros
    uint64_t *limits;          // of each rank
    struct sched_report *reports;
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

static enum status report_ranks(struct planning *planning, struct error *error)
{
    uint64_t machine = 0;
    if (planning->config->device.capacities_count == 0) {
        enum status status = machine_capacity(planning, &machine, error);
        if (status != STATUS_OK) {
            return status;
        }
    }
    for (uint64_t i = 0; i < planning->ranks; i++) {
        uint64_t limit = rank_limit(planning, i, machine);
        uint64_t granularity = planning->device->granularity_bytes;
        uint64_t here = mem_pool_headroom_beside(planning->resting_bytes[false], limit, granularity);
        uint64_t away = mem_pool_headroom_beside(planning->resting_bytes[true], limit, granularity);
        bool leaves = planning->resting_bytes[false] > limit && planning->offers.state.may_leave;
        planning->limits[i] = limit;
        planning->offers.state.away = leaves;
        planning->offers.state.gain_bytes = away - here;
        planning->reports[i].headroom_bytes = leaves ? away : here;
        offers_fill(&planning->offers, planning->model->target_elements, planning->reports[i].headroom_bytes,
                    &planning->reports[i]);
    }
    return STATUS_OK;
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
    for (int away = 0; away < 2; away++) {
        planning->resting_bytes[away] = worker_resting_bytes(config, planning->model, &planning->optimizer,
                                                             worker_kernels(config, planning->device), away);
    }
    planning->prices = price_book_create(planning->model, worker_slots(planning->device));
    planning->limits = calloc(planning->ranks, sizeof(*planning->limits));
    planning->reports = calloc(planning->ranks, sizeof(*planning->reports));
    if (planning->prices == NULL || planning->limits == NULL || planning->reports == NULL) {
        return error_out_of_host_memory(error);
    }
    status = offers_init(&planning->offers, config, planning->model, &planning->optimizer, planning->prices, error);
    if (status == STATUS_OK && planning->costs != NULL) {
        offers_compare(&planning->offers, planning->costs);
    }
    return status == STATUS_OK ? report_ranks(planning, error) : status;
}

static void release(struct planning *planning)
{
    free(planning->reports);
    free(planning->limits);
    costs_destroy(planning->costs);
    price_book_destroy(planning->prices);
    model_destroy(planning->model);
}

static struct model_shape shape_of(const struct planning *planning, uint64_t micro_batch, uint64_t levers)
{
    return offers_shape(micro_batch, planning->model->target_elements, levers);
}

static uint64_t peak_bytes(const struct planning *planning, uint64_t micro_batch, uint64_t levers)
{
    return worker_peak_bytes(planning->resting_bytes[offers_away(levers)], planning->prices, LIST_TRAIN,
                             shape_of(planning, micro_batch, levers));
}

static void print_resting(const struct planning *planning)
{
    char bytes[MEM_SIZE_TEXT_MAX];
    uint64_t workspace = worker_kernels(planning->config, planning->device)->workspace_bytes;
    uint64_t buffer = mem_pool_block_bytes(planning->model->elements * sizeof(float));
    uint64_t state = optimizer_state_device_bytes(planning->model, &planning->optimizer, false);
    uint64_t away = optimizer_state_device_bytes(planning->model, &planning->optimizer, true);
    printf("%" PRIu64 " weights\n\nheld on every rank\n", planning->model->weights);
    printf("  %-16s %14s\n", "weights", mem_size_text(buffer, bytes));
    if (model_copy_bytes(planning->model) > 0) {
        printf("  %-16s %14s\n", "bf16 copy", mem_size_text(model_copy_bytes(planning->model), bytes));
    }
    printf("  %-16s %14s\n", "gradients", mem_size_text(buffer, bytes));
    printf("  %-16s %14s\n", "optimizer state", mem_size_text(state, bytes));
    if (planning->config->train.reproducible) {
        uint64_t sums = mem_pool_block_bytes(fixed_sums_gradient_bytes(planning->model->elements));
        printf("  %-16s %14s\n", "integer sums", mem_size_text(sums, bytes));
    }
    if (workspace > 0) {
        printf("  %-16s %14s\n", "workspace", mem_size_text(workspace, bytes));
    }
    printf("  %-16s %14s\n", "together", mem_size_text(planning->resting_bytes[false], bytes));
    if (planning->offers.state.may_leave) {
        printf("where the optimizer state is away\n  %-16s %14s\n", "of it", mem_size_text(away, bytes));
        printf("  %-16s %14s\n", "together", mem_size_text(planning->resting_bytes[true], bytes));
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
        sets += planning->offers.work[k] > 0;
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
    uint64_t grain = planning->offers.grain, largest = grain, slack_bytes = 0, host_bytes = 0;
    char bytes[MEM_SIZE_TEXT_MAX];
    for (uint64_t i = 0; i < planning->ranks; i++) {
        largest = uint64_max(largest, planning->reports[i].offers[levers].micro_batch_max * grain);
    }
    if (has_choice(planning)) {
        printf("\nlevers %s", offers_levers_name(levers));
    }
    printf("\n%-12s %14s %20s%s\n", "micro-batch", "peak", "bytes", planning->costs != NULL ? "        ms" : "");
    for (uint64_t micro_batch = grain, next; micro_batch <= largest; micro_batch = next) {
        uint64_t peak = peak_bytes(planning, micro_batch, levers);
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
        if (planning->offers.work[k] > 0) {
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
    uint64_t grain = planning->offers.grain;
    char limit[MEM_SIZE_TEXT_MAX], headroom[MEM_SIZE_TEXT_MAX], peak[MEM_SIZE_TEXT_MAX];
    const struct sched_report *report = &planning->reports[rank];
    printf("%-6" PRIu64 " %14s %14s %9" PRIu64, rank, mem_size_text(planning->limits[rank], limit),
           mem_size_text(report->headroom_bytes, headroom), largest_of(report) * grain);
    if (share != NULL && share->samples == 0) {
        printf(" %9d", 0);
    } else if (share != NULL) {
        uint64_t peak_of_share = peak_bytes(planning, share->micro_batch * grain, share->levers);
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
                                    planning->offers.lacks_host ? "raise train.offload_bytes, " : "");
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
