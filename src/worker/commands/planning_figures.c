// SPDX-License-Identifier: Apache-2.0
//
// What is told of a planning.
#include <math.h>
#include <string.h>

#include "mem/uint64.h"
#include "worker/commands/planning.h"

const char *const planning_part_names[PLANNING_PARTS] = {
    [PLANNING_WEIGHTS] = "weights",     [PLANNING_GRADIENTS] = "gradients",
    [PLANNING_OPTIMIZER] = "optimizer", [PLANNING_ACTIVATIONS] = "activations",
    [PLANNING_WORKSPACE] = "workspace", [PLANNING_COMMUNICATION] = "communication",
};

const struct offers *planning_offers(const struct planning *planning)
{
    return &planning->rank[planning->largest_shard].offers;
}

bool planning_has_choice(const struct planning *planning)
{
    size_t sets = 0;
    for (size_t k = 0; k < OFFERS_SETS; k++) {
        sets += planning_offers(planning)->work[k] > 0;
    }
    return sets > 1;
}

static struct model_shape shape_of(const struct planning *planning, uint64_t micro_batch, uint64_t levers)
{
    return offers_shape(micro_batch, planning->model->target_elements, levers);
}

// 0: not known.
static double list_ns(const struct planning *planning, struct model_shape shape)
{
    const struct list *list = planning->costs != NULL ? price_list(planning->prices, LIST_TRAIN, shape) : NULL;
    return list != NULL ? costs_list_ns(planning->costs, list) : 0;
}

struct planned_micro_step planning_micro_step(const struct planning *planning, uint64_t micro_batch, uint64_t levers)
{
    struct model_shape shape = shape_of(planning, micro_batch, levers);
    uint64_t resting = planning_resting_bytes(planning, planning->largest_shard, offers_away(levers));
    return (struct planned_micro_step){
        .micro_batch = micro_batch,
        .peak_bytes = job_peak_bytes(resting, planning->prices, LIST_TRAIN, shape),
        .slack_bytes = price_slack_bytes(planning->prices, LIST_TRAIN, shape),
        .host_bytes = price_host_bytes(planning->prices, LIST_TRAIN, shape),
        .ms = list_ns(planning, shape) / 1e6,
    };
}

uint64_t planning_next(const struct planning *planning, uint64_t micro_batch, uint64_t levers)
{
    uint64_t grain = job_grain(planning->config), largest = grain;
    for (uint64_t i = 0; i < planning->ranks; i++) {
        largest = uint64_max(largest, planning->reports[i].offers[levers].micro_batch_max * grain);
    }
    if (micro_batch == 0) {
        return grain;
    }
    return micro_batch == largest ? 0 : uint64_min(2 * micro_batch, largest);
}

static uint64_t largest_micro_batch(const struct planning *planning, uint64_t rank)
{
    uint64_t largest = 0;
    for (size_t k = 0; k < OFFERS_SETS; k++) {
        largest = uint64_max(largest, planning->reports[rank].offers[k].micro_batch_max);
    }
    return largest * job_grain(planning->config);
}

// The rank's peak, or what it holds between steps where it has no share.
static void fill_parts(const struct planning *planning, uint64_t rank, struct planned_row *row)
{
    const struct planned_rank *planned = &planning->rank[rank];
    bool away = row->share > 0 ? offers_away(row->levers) : planned->offers.state.away;
    uint64_t block = row->share == 0
                         ? 0
                         : mem_pool_block_bytes(price_block_bytes(planning->prices, LIST_TRAIN,
                                                                  shape_of(planning, row->micro_batch, row->levers)));
    const uint64_t parts[PLANNING_PARTS] = {
        [PLANNING_WEIGHTS] = planning->resting.weights,           [PLANNING_GRADIENTS] = planning->resting.gradients,
        [PLANNING_OPTIMIZER] = planned->state.device_bytes[away], [PLANNING_ACTIVATIONS] = block,
        [PLANNING_WORKSPACE] = planning->resting.workspace,       [PLANNING_COMMUNICATION] = planning->resting.sums,
    };
    for (size_t i = 0; i < PLANNING_PARTS; i++) {
        row->part_bytes[i] = parts[i];
        row->peak_bytes += parts[i];
    }
}

// Its `first` and `last` are 0.
static struct planned_row row_of(const struct planning *planning, uint64_t rank)
{
    struct planned_row row = {
        .device = planning->fleet->count > 0 ? fleet_find(planning->fleet, rank)->device : NULL,
        .limit_bytes = planning->rank[rank].limit_bytes,
        .headroom_bytes = planning->reports[rank].headroom_bytes,
        .largest_micro_batch = largest_micro_batch(planning, rank),
    };
    const struct sched_share *share = planning->plan != NULL ? &planning->plan[rank] : NULL;
    if (share != NULL && share->samples > 0) {
        row.share = job_share_samples(planning->config, share);
        row.micro_batch = share->micro_batch * job_grain(planning->config);
        row.accumulation_steps = share->accumulation_steps;
        row.levers = share->levers;
    }
    fill_parts(planning, rank, &row);
    return row;
}

// Whether a rank's row is the other's but for the rounding of shards.
static bool is_alike(const struct planning *planning, uint64_t rank, const struct planned_row *row, uint64_t other,
                     struct planned_row other_row)
{
    uint64_t mine = planning->rank[rank].shard.elements, others = planning->rank[other].shard.elements;
    if (row->device != NULL && strcmp(other_row.device, row->device) != 0) {
        return false;
    }
    other_row.device = row->device;
    other_row.headroom_bytes = row->headroom_bytes;
    other_row.part_bytes[PLANNING_OPTIMIZER] = row->part_bytes[PLANNING_OPTIMIZER];
    other_row.peak_bytes = row->peak_bytes;
    return uint64_max(mine, others) - uint64_min(mine, others) <= SHARD_MULTIPLE &&
           memcmp(&other_row, row, sizeof(*row)) == 0;
}

struct planned_row planning_row(const struct planning *planning, uint64_t first)
{
    struct planned_row row = row_of(planning, first);
    uint64_t last = first;
    while (last + 1 < planning->ranks) {
        struct planned_row next = row_of(planning, last + 1);
        if (!is_alike(planning, first, &row, last + 1, next)) {
            break;
        }
        row = next.peak_bytes > row.peak_bytes ? next : row;
        last++;
    }
    row.first = first;
    row.last = last;
    return row;
}

struct planned_shortfall planning_shortfall(const struct planning *planning)
{
    struct planned_shortfall worst = {0};
    for (uint64_t first = 0; planning->plan != NULL && first < planning->ranks;) {
        struct planned_row row = planning_row(planning, first);
        uint64_t asked = uint64_min(planning->config->train.micro_batch_size, row.share);
        bool worse = worst.asked == 0 || row.micro_batch * worst.asked < worst.micro_batch * asked;
        if (asked > row.micro_batch && worse) {
            worst = (struct planned_shortfall){.rank = first, .micro_batch = row.micro_batch, .asked = asked};
        }
        first = row.last + 1;
    }
    return worst;
}

static double share_ns(const struct planning *planning, const struct planned_row *row)
{
    uint64_t before = (row->accumulation_steps - 1) * row->micro_batch;
    return (double)(row->accumulation_steps - 1) *
               list_ns(planning, shape_of(planning, row->micro_batch, row->levers)) +
           list_ns(planning, shape_of(planning, row->share - before, row->levers));
}

struct planned_speed planning_speed(const struct planning *planning)
{
    double slowest_ns = 0;
    for (uint64_t first = 0; planning->plan != NULL && first < planning->ranks;) {
        struct planned_row row = planning_row(planning, first);
        slowest_ns = row.share > 0 ? fmax(slowest_ns, share_ns(planning, &row)) : slowest_ns;
        first = row.last + 1;
    }
    if (slowest_ns == 0) {
        return (struct planned_speed){0};
    }
    double samples_per_s = 1e9 * (double)planning->config->train.global_batch_size / slowest_ns;
    return (struct planned_speed){
        .step_ms = slowest_ns / 1e6,
        .samples_per_s = samples_per_s,
        .tokens_per_s = samples_per_s * (double)planning->model->target_elements,
    };
}
