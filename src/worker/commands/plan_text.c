// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdio.h>

#include "mem/uint64.h"
#include "worker/commands/plan_print.h"
#include "worker/fixed_sums.h"

#define ROW_NAME_MAX 48

static void print_size(const char *name, uint64_t bytes)
{
    char size[MEM_SIZE_TEXT_MAX];
    if (bytes > 0) {
        printf("  %-16s %14s\n", name, mem_size_text(bytes, size));
    }
}

static void print_resting(const struct planning *planning)
{
    const struct config *config = planning->config;
    uint64_t largest = planning->largest_shard, buffer = planning->resting.gradients; // the weights' is as large
    uint64_t sums = config->train.reproducible ? fixed_sums_gradient_bytes(planning->model->elements) : 0;
    const struct optimizer_state_size *state = &planning->rank[largest].state;
    printf("%" PRIu64 " weights\n\nheld on %s\n", planning->model->weights,
           config->train.shard_optimizer ? "the rank with the largest shard of the optimizer state" : "every rank");
    print_size("weights", buffer);
    print_size("bf16 copy", model_copy_bytes(planning->model));
    print_size("gradients", buffer);
    print_size("optimizer state", state->device_bytes[false]);
    print_size("integer sums", sums);
    print_size("workspace", planning->resting.workspace);
    print_size("together", planning_resting_bytes(planning, largest, false));
    if (planning_offers(planning)->state.may_leave) {
        puts("where the optimizer state is away");
        print_size("of it", state->device_bytes[true]);
        print_size("together", planning_resting_bytes(planning, largest, true));
    }
    if (planning->usage.library_bytes > 0) {
        char bytes[MEM_SIZE_TEXT_MAX];
        printf(
            "beside that, of this machine's device\n  %-16s %14s, and what kernels, cuBLASLt and NCCL take in a run\n",
            "CUDA's context", mem_size_text(planning->usage.library_bytes, bytes));
    }
}

static void print_micro_step(const struct planned_micro_step *step)
{
    char bytes[MEM_SIZE_TEXT_MAX];
    printf("%-12" PRIu64 " %14s %20" PRIu64, step->micro_batch, mem_size_text(step->peak_bytes, bytes),
           step->peak_bytes);
    if (step->ms > 0) {
        printf(" %9.2f", step->ms);
    }
    putchar('\n');
}

static void print_micro_steps(const struct planning *planning, uint64_t levers)
{
    uint64_t slack_bytes = 0, host_bytes = 0;
    char bytes[MEM_SIZE_TEXT_MAX];
    if (planning_has_choice(planning)) {
        printf("\nlevers %s", offers_levers_name(levers));
    }
    printf("\n%-12s %14s %20s%s\n", "micro-batch", "peak", "bytes", planning->costs != NULL ? "        ms" : "");
    for (uint64_t n = planning_next(planning, 0, levers); n > 0; n = planning_next(planning, n, levers)) {
        struct planned_micro_step step = planning_micro_step(planning, n, levers);
        print_micro_step(&step);
        slack_bytes = uint64_max(slack_bytes, step.slack_bytes);
        host_bytes = step.host_bytes;
    }
    printf("layouts at most %" PRIu64 " bytes above their lower bound\n", slack_bytes);
    if (host_bytes > 0) {
        printf("up to %s in host memory\n", mem_size_text(host_bytes, bytes));
    }
}

static void print_all_micro_steps(const struct planning *planning)
{
    for (size_t k = 0; k < OFFERS_SETS; k++) {
        if (planning_offers(planning)->work[k] > 0) {
            print_micro_steps(planning, k);
        }
    }
}

// "8-15", or "8" alone.
static const char *row_name(const struct planned_row *row, char name[ROW_NAME_MAX])
{
    int used = snprintf(name, ROW_NAME_MAX, "%" PRIu64, row->first);
    if (row->last > row->first) {
        snprintf(name + used, ROW_NAME_MAX - (size_t)used, "-%" PRIu64, row->last);
    }
    return name;
}

static void print_share(const struct planning *planning, const struct planned_row *row)
{
    char name[ROW_NAME_MAX], limit[MEM_SIZE_TEXT_MAX], headroom[MEM_SIZE_TEXT_MAX], peak[MEM_SIZE_TEXT_MAX];
    printf("%-10s", row_name(row, name));
    if (row->device != NULL) {
        printf(" %-14s", row->device);
    }
    printf(" %14s %14s %9" PRIu64, mem_size_text(row->limit_bytes, limit), mem_size_text(row->headroom_bytes, headroom),
           row->largest_micro_batch);
    if (planning->plan != NULL) {
        printf(" %9" PRIu64, row->share);
    }
    if (row->share > 0) {
        printf(" %12" PRIu64 " %13" PRIu64 " %14s", row->micro_batch, row->accumulation_steps,
               mem_size_text(row->peak_bytes, peak));
    }
    if (row->share > 0 && planning_has_choice(planning)) {
        printf(" %10s", offers_levers_name(row->levers));
    }
    putchar('\n');
}

static void print_shares(const struct planning *planning)
{
    printf("\nglobal batch %" PRIu64 "\n%-10s", planning->config->train.global_batch_size, "ranks");
    if (planning->fleet->count > 0) {
        printf(" %-14s", "device");
    }
    printf(" %14s %14s %9s %9s %12s %13s %14s%s\n", "limit", "headroom", "largest", "share", "micro-batch",
           "accumulation", "peak", planning_has_choice(planning) ? "     levers" : "");
    for (uint64_t first = 0; first < planning->ranks;) {
        struct planned_row row = planning_row(planning, first);
        print_share(planning, &row);
        first = row.last + 1;
    }
}

static void print_parts(const struct planning *planning)
{
    char name[ROW_NAME_MAX], bytes[MEM_SIZE_TEXT_MAX];
    printf("\npeak by category\n%-10s", "ranks");
    for (size_t i = 0; i < PLANNING_PARTS; i++) {
        printf(" %13s", planning_part_names[i]);
    }
    putchar('\n');
    for (uint64_t first = 0; first < planning->ranks;) {
        struct planned_row row = planning_row(planning, first);
        printf("%-10s", row_name(&row, name));
        for (size_t i = 0; i < PLANNING_PARTS; i++) {
            printf(" %13s", mem_size_text(row.part_bytes[i], bytes));
        }
        putchar('\n');
        first = row.last + 1;
    }
}

static void print_speed(const struct planning *planning)
{
    struct planned_speed speed = planning_speed(planning);
    bool tokens = planning->config->model.kind == CONFIG_MODEL_GPT;
    const char *measured = planning->measured.name[0] != '\0' ? planning->measured.name : "device";
    if (speed.step_ms > 0) {
        printf("\nat most %.0f %s/s: micro-steps alone take %.2f ms a step where every rank is as fast as the %s "
               "that was measured\n",
               tokens ? speed.tokens_per_s : speed.samples_per_s, tokens ? "tokens" : "samples", speed.step_ms,
               measured);
    }
}

// The rank that comes closest to its limit.
static struct planned_row find_fullest(const struct planning *planning)
{
    struct planned_row fullest = planning_row(planning, 0);
    for (uint64_t first = fullest.last + 1; first < planning->ranks;) {
        struct planned_row row = planning_row(planning, first);
        if (row.limit_bytes - row.peak_bytes < fullest.limit_bytes - fullest.peak_bytes) {
            fullest = row;
        }
        first = row.last + 1;
    }
    return fullest;
}

static uint64_t count_resting(const struct planning *planning)
{
    uint64_t resting = 0;
    for (uint64_t i = 0; i < planning->ranks; i++) {
        resting += planning->plan[i].samples == 0;
    }
    return resting;
}

static void print_fit(const struct planning *planning)
{
    char peak[MEM_SIZE_TEXT_MAX], limit[MEM_SIZE_TEXT_MAX];
    struct planned_row row = find_fullest(planning);
    struct planned_shortfall shortfall = planning_shortfall(planning);
    uint64_t resting = count_resting(planning);
    printf("\nfits: ");
    if (resting > 0) {
        printf("%" PRIu64 " of %" PRIu64 " ranks cannot hold a sample and rest; ", resting, planning->ranks);
    }
    if (shortfall.asked > 0) {
        printf("rank %" PRIu64 " does %" PRIu64 " samples at once of the %" PRIu64 " asked for; ", shortfall.rank,
               shortfall.micro_batch, shortfall.asked);
    }
    printf("rank %" PRIu64 " comes closest to its limit, with %s of %s\n", row.first,
           mem_size_text(row.peak_bytes, peak), mem_size_text(row.limit_bytes, limit));
}

// What the machine has decided, and not who asks.
static void print_kind(const struct planning *planning)
{
    bool is_auto = planning->config->device.kind == CONFIG_DEVICE_AUTO;
    if (planning->instead.text[0] != '\0') {
        printf("device.kind auto: for the CPU, because %s\n\n", planning->instead.text);
    } else if (is_auto && planning->fleet->count > 0 && !planning->fleet->has_gpus) {
        printf("device.kind auto: for GPUs, as this machine has some\n\n");
    }
}

void plan_print_text(const struct planning *planning)
{
    print_kind(planning);
    print_resting(planning);
    print_all_micro_steps(planning);
    print_shares(planning);
    if (planning->misfit.status == STATUS_OK) {
        print_parts(planning);
        print_speed(planning);
        print_fit(planning);
    }
}
