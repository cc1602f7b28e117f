// SPDX-License-Identifier: Apache-2.0
#include "sched/world.h"

#include <stdlib.h>
#include <string.h>

#include "sched/arithmetic.h"
#include "sched/random.h"

static void set_times(const struct sched_world *world, size_t rank, struct sched_report *report)
{
    const struct sched_scenario *scenario = world->scenario;
    double slow = world->slow[rank] > 0 ? scenario->slowdown : 1;
    double slower = (double)world->sample_ns[rank] / (double)scenario->sample_ns; // than the fastest rank
    for (size_t k = 0; k < scenario->lever_times_count; k++) {
        double factor = slow * scenario->lever_times[k];
        report->offers[k].sample_ns = sched_scaled(world->sample_ns[rank], factor);
        report->offers[k].overhead_ns = sched_scaled(scenario->overhead_ns, slower * factor);
    }
}

static void set_memory(const struct sched_scenario *scenario, uint64_t bytes, struct sched_report *report)
{
    report->headroom_bytes = bytes > scenario->fixed_bytes ? bytes - scenario->fixed_bytes : 0;
    for (size_t k = 0; k < scenario->lever_times_count; k++) {
        uint64_t samples = sched_scaled(report->headroom_bytes, scenario->lever_samples[k]) / scenario->sample_bytes;
        report->offers[k].micro_batch_max = samples < UINT32_MAX ? (uint32_t)samples : UINT32_MAX;
    }
}

static uint64_t free_bytes(const struct sched_world *world, size_t rank)
{
    uint64_t capacity_bytes = world->capacity_bytes[rank], taken_bytes = world->taken_bytes[rank];
    return capacity_bytes > taken_bytes ? capacity_bytes - taken_bytes : 0;
}

static void draw_moment(struct sched_world *world, size_t rank)
{
    world->when[rank] = (uint32_t)sched_random_between(&world->random, 0, SCHED_WORLD_PARTS - 1);
    world->changed = true;
}

static void make_rank(struct sched_world *world, size_t rank)
{
    const struct sched_scenario *scenario = world->scenario;
    uint64_t slowest_ns = sched_scaled(scenario->sample_ns, scenario->slowest);
    world->capacity_bytes[rank] =
        sched_random_between(&world->random, scenario->capacity_min_bytes, scenario->capacity_max_bytes);
    world->sample_ns[rank] = sched_random_between(&world->random, scenario->sample_ns, slowest_ns);
    world->begin[rank].measured = true;
    set_times(world, rank, &world->begin[rank]);
    set_memory(scenario, world->capacity_bytes[rank], &world->begin[rank]);
    world->end[rank] = world->begin[rank];
}

static uint64_t draw_phase(struct sched_world *world)
{
    return sched_random_between(&world->random, world->scenario->phase_min, world->scenario->phase_max);
}

// The first phase is cut at a random place, so that not all visitors come at the same time.
static void make_visitors(struct sched_world *world, struct sched_visitor *visitors, uint64_t count)
{
    for (size_t i = 0; i < count; i++) {
        visitors[i].rank = (size_t)sched_random_between(&world->random, 0, world->scenario->ranks - 1);
        visitors[i].next = sched_random_between(&world->random, 1, draw_phase(world));
    }
}

bool sched_world_init(struct sched_world *world, const struct sched_scenario *scenario)
{
    *world = (struct sched_world){.scenario = scenario,
                                  .random = scenario->seed,
                                  .changed = true,
                                  .refused = SIZE_MAX,
                                  .begin = calloc(scenario->ranks, sizeof(*world->begin)),
                                  .end = calloc(scenario->ranks, sizeof(*world->end)),
                                  .when = calloc(scenario->ranks, sizeof(*world->when)),
                                  .capacity_bytes = calloc(scenario->ranks, sizeof(*world->capacity_bytes)),
                                  .taken_bytes = calloc(scenario->ranks, sizeof(*world->taken_bytes)),
                                  .slow = calloc(scenario->ranks, sizeof(*world->slow)),
                                  .sample_ns = calloc(scenario->ranks, sizeof(*world->sample_ns)),
                                  .neighbours = calloc(scenario->neighbours + 1, sizeof(*world->neighbours)),
                                  .slowdowns = calloc(scenario->slowdowns + 1, sizeof(*world->slowdowns))};
    if (!world->begin || !world->end || !world->when || !world->capacity_bytes || !world->taken_bytes || !world->slow ||
        !world->sample_ns || !world->neighbours || !world->slowdowns) {
        return false;
    }
    for (size_t i = 0; i < scenario->ranks; i++) {
        make_rank(world, i);
    }
    make_visitors(world, world->neighbours, scenario->neighbours);
    make_visitors(world, world->slowdowns, scenario->slowdowns);
    return true;
}

void sched_world_finish(struct sched_world *world)
{
    free(world->slowdowns);
    free(world->neighbours);
    free(world->sample_ns);
    free(world->slow);
    free(world->taken_bytes);
    free(world->capacity_bytes);
    free(world->when);
    free(world->end);
    free(world->begin);
}

static bool turns(struct sched_world *world, struct sched_visitor *visitor)
{
    if (world->step < visitor->next) {
        return false;
    }
    visitor->here = !visitor->here;
    visitor->next = world->step + draw_phase(world);
    return true;
}

static void turn_neighbour(struct sched_world *world, struct sched_visitor *neighbour)
{
    size_t rank = neighbour->rank;
    if (neighbour->here) {
        double least = world->scenario->neighbour_share_min, most = world->scenario->neighbour_share;
        double share = least + (most - least) * sched_random_real(&world->random);
        neighbour->bytes = sched_scaled(world->capacity_bytes[rank], share);
        world->taken_bytes[rank] += neighbour->bytes;
    } else {
        world->taken_bytes[rank] -= neighbour->bytes;
    }
    set_memory(world->scenario, free_bytes(world, rank), &world->end[rank]);
    draw_moment(world, rank);
}

static void turn_slowdown(struct sched_world *world, const struct sched_visitor *slowdown)
{
    size_t rank = slowdown->rank;
    if (slowdown->here) {
        world->slow[rank]++;
    } else {
        world->slow[rank]--;
    }
    set_times(world, rank, &world->begin[rank]);
    set_times(world, rank, &world->end[rank]);
    world->changed = true;
}

// What the last step ended with, this one begins with; a refusal is over.
static void settle_changes(struct sched_world *world)
{
    for (size_t i = 0; i < world->scenario->neighbours; i++) {
        size_t rank = world->neighbours[i].rank;
        world->changed |= world->begin[rank].headroom_bytes != world->end[rank].headroom_bytes;
        world->begin[rank] = world->end[rank];
    }
    if (world->refused != SIZE_MAX) {
        set_memory(world->scenario, free_bytes(world, world->refused), &world->end[world->refused]);
        world->begin[world->refused] = world->end[world->refused];
        world->refused = SIZE_MAX;
        world->changed = true;
    }
}

static void refuse(struct sched_world *world)
{
    uint64_t every = world->scenario->refusal_every;
    if (every == 0 || sched_random_between(&world->random, 1, every) != 1) {
        return;
    }
    size_t rank = (size_t)sched_random_between(&world->random, 0, world->scenario->ranks - 1);
    uint64_t left_bytes = sched_scaled(world->end[rank].headroom_bytes, sched_random_real(&world->random));
    set_memory(world->scenario, world->scenario->fixed_bytes + left_bytes, &world->end[rank]);
    draw_moment(world, rank);
    world->refused = rank;
}

void sched_world_advance(struct sched_world *world)
{
    world->step++;
    world->changed = false;
    settle_changes(world);
    for (size_t i = 0; i < world->scenario->neighbours; i++) {
        if (turns(world, &world->neighbours[i])) {
            turn_neighbour(world, &world->neighbours[i]);
        }
    }
    for (size_t i = 0; i < world->scenario->slowdowns; i++) {
        if (turns(world, &world->slowdowns[i])) {
            turn_slowdown(world, &world->slowdowns[i]);
        }
    }
    refuse(world);
}

void sched_world_most(const struct sched_world *world, struct sched_report *reports)
{
    for (size_t i = 0; i < world->scenario->ranks; i++) {
        reports[i] = world->begin[i];
        for (size_t k = 0; k < world->scenario->lever_times_count; k++) {
            uint32_t *samples = &reports[i].offers[k].micro_batch_max;
            *samples = (uint32_t)sched_max(*samples, world->end[i].offers[k].micro_batch_max);
        }
    }
}

static void note_least(const struct sched_world *world, struct sched_report *least_bytes)
{
    for (size_t i = 0; i < world->scenario->neighbours; i++) {
        size_t rank = world->neighbours[i].rank;
        uint64_t bytes = free_bytes(world, rank);
        if (bytes < least_bytes[rank].headroom_bytes + world->scenario->fixed_bytes) {
            set_memory(world->scenario, bytes, &least_bytes[rank]);
        }
    }
}

bool sched_world_least(const struct sched_scenario *scenario, struct sched_report *reports)
{
    struct sched_world world;
    bool made = sched_world_init(&world, scenario);
    if (made) {
        memcpy(reports, world.begin, scenario->ranks * sizeof(*reports));
        while (world.step + 1 < scenario->steps) {
            sched_world_advance(&world);
            note_least(&world, reports);
        }
    }
    sched_world_finish(&world);
    return made;
}
