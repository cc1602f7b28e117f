// SPDX-License-Identifier: Apache-2.0
#include "sched/simulation.h"

#include <stdlib.h>
#include <string.h>

#include "sched/arithmetic.h"
#include "sched/random.h"
#include "sched/speed.h"
#include "sched/undone.h"

#define RELATIVE_NS UINT64_C(1000000) // times that are known only relative to one another
#define NOISE_SEED  UINT64_C(0x6e6f697365)
#define ERROR_SEED  UINT64_C(0x6c657665727300)

struct simulation {
    const struct sched_scenario *scenario;
    const struct sched_policy *policy;
    const struct sched_observer *observer;
    void *state; // the policy's
    struct sched_world world;
    uint64_t noise;                    // random state
    double believed[SCHED_LEVERS_MAX]; // times of a micro-step, of which speeds know the least levers'
    struct sched_report *reports;
    struct sched_speed *speeds; // under the least levers
    bool *refused;              // in this step
    bool recut;                 // in this step, on some rank
    struct sched_undone undone; // of this step
    bool out_of_memory;
    uint64_t *left; // by each rank in this round
    bool *gave_up;  // samples in this step
    struct sched_outcome outcome;
};

static void set_believed(struct simulation *simulation)
{
    const struct sched_scenario *scenario = simulation->scenario;
    uint64_t random = scenario->seed ^ ERROR_SEED;
    simulation->believed[0] = 1;
    for (size_t k = 1; k < scenario->lever_times_count; k++) {
        double wrong = scenario->lever_error * (2 * sched_random_real(&random) - 1);
        simulation->believed[k] = scenario->lever_times[k] * (1 + wrong);
    }
}

static bool init(struct simulation *simulation)
{
    size_t ranks = simulation->scenario->ranks;
    simulation->state = simulation->policy->create(simulation->scenario);
    simulation->noise = simulation->scenario->seed ^ NOISE_SEED;
    set_believed(simulation);
    simulation->reports = calloc(ranks, sizeof(*simulation->reports));
    simulation->speeds = calloc(ranks, sizeof(*simulation->speeds));
    simulation->refused = calloc(ranks, sizeof(*simulation->refused));
    simulation->left = calloc(ranks, sizeof(*simulation->left));
    simulation->gave_up = calloc(ranks, sizeof(*simulation->gave_up));
    bool made = simulation->state && simulation->reports && simulation->speeds && simulation->refused &&
                simulation->left && simulation->gave_up;
    return sched_world_init(&simulation->world, simulation->scenario) && made;
}

static void finish(struct simulation *simulation)
{
    sched_world_finish(&simulation->world);
    sched_undone_finish(&simulation->undone);
    free(simulation->gave_up);
    free(simulation->left);
    free(simulation->refused);
    free(simulation->speeds);
    free(simulation->reports);
    simulation->policy->destroy(simulation->state);
}

static void set_held(struct sched_report *report, const struct sched_report *truth)
{
    report->headroom_bytes = truth->headroom_bytes;
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        report->offers[k].micro_batch_max = truth->offers[k].micro_batch_max;
    }
}

// The times that the rank has learned.
static void set_times(const struct simulation *simulation, size_t rank, struct sched_report *report)
{
    uint64_t overhead_ns, sample_ns;
    sched_speed_get(&simulation->speeds[rank], &overhead_ns, &sample_ns);
    report->measured = sample_ns > 0;
    report->noise = sched_speed_noise(&simulation->speeds[rank]);
    for (size_t k = 0; k < simulation->scenario->lever_times_count; k++) {
        double factor = simulation->believed[k];
        report->offers[k].overhead_ns = sched_scaled(overhead_ns, factor);
        report->offers[k].sample_ns = sched_scaled(report->measured ? sample_ns : RELATIVE_NS, factor);
    }
}

// What the rank says before a step.
static void report(struct simulation *simulation, size_t rank)
{
    struct sched_report *report = &simulation->reports[rank];
    sched_speed_begin_step(&simulation->speeds[rank]);
    *report = simulation->world.begin[rank];
    if (simulation->policy->measures) {
        set_times(simulation, rank, report);
    }
    report->refused = simulation->refused[rank];
    simulation->refused[rank] = false;
}

static void measure(struct simulation *simulation, size_t rank, uint64_t samples, uint64_t levers, uint64_t time_ns)
{
    double wrong = simulation->scenario->noise * (2 * sched_random_real(&simulation->noise) - 1);
    double factor = (1 + wrong) / simulation->believed[levers];
    sched_speed_observe(&simulation->speeds[rank], samples, sched_scaled(time_ns, factor));
}

static void note_done(const struct simulation *simulation, size_t rank, const struct sched_share *share)
{
    const struct sched_observer *observer = simulation->observer;
    uint64_t place = 0;
    struct sched_range range;
    while (observer && observer->done && sched_undone_next(&simulation->undone, share, &place, &range)) {
        observer->done(observer->context, simulation->world.step, rank, range.first, range.samples);
    }
}

static uint64_t offer_ns(const struct sched_offer *offer, uint64_t samples)
{
    return offer->overhead_ns + samples * offer->sample_ns;
}

// Cuts what is left anew. False when the rank gives up.
static bool recut(struct simulation *simulation, size_t rank, const struct sched_report *truth,
                  struct sched_share *left, uint64_t *time_ns)
{
    struct sched_report report = simulation->reports[rank];
    set_held(&report, truth);
    *time_ns += simulation->scenario->retry_ns;
    if (!simulation->policy->reserves) {
        *time_ns += offer_ns(&truth->offers[left->levers], left->micro_batch);
    }
    simulation->refused[rank] = true;
    simulation->recut = true;
    return simulation->policy->cut(simulation->state, &report, left);
}

// Carries out a rank's share, of which memory is as the step begins until `moment` samples are done. Answers how long
// it takes.
static uint64_t run_share(struct simulation *simulation, size_t rank, const struct sched_share *share, uint64_t moment)
{
    struct sched_share left = *share;
    uint64_t time_ns = 0;
    while (left.samples > 0) {
        uint64_t done = share->samples - left.samples;
        const struct sched_report *truth = &(done < moment ? simulation->world.begin : simulation->world.end)[rank];
        const struct sched_offer *offer = &truth->offers[left.levers];
        uint64_t samples = left.micro_batch < left.samples ? left.micro_batch : left.samples;
        if (samples > 0 && samples <= offer->micro_batch_max) {
            uint64_t micro_step_ns = offer_ns(offer, samples);
            if (simulation->policy->measures) {
                measure(simulation, rank, samples, left.levers, micro_step_ns);
            }
            time_ns += micro_step_ns;
            left.samples -= samples;
        } else if (!recut(simulation, rank, truth, &left, &time_ns)) {
            break;
        }
    }
    simulation->left[rank] = left.samples;
    note_done(simulation, rank, &(struct sched_share){.first = share->first, .samples = share->samples - left.samples});
    return time_ns;
}

static uint64_t run_planned_share(struct simulation *simulation, size_t rank, const struct sched_share *share)
{
    uint64_t moment = share->samples * simulation->world.when[rank] / SCHED_WORLD_PARTS;
    return run_share(simulation, rank, share, moment);
}

static void take_back(struct simulation *simulation, const struct sched_share *shares)
{
    simulation->out_of_memory |=
        !sched_undone_leave(&simulation->undone, shares, simulation->left, simulation->scenario->ranks);
}

static uint64_t run_plan(struct simulation *simulation, const struct sched_share *shares)
{
    uint64_t slowest_ns = 0;
    sched_undone_finish(&simulation->undone);
    simulation->out_of_memory |= !sched_undone_init(&simulation->undone, simulation->scenario->global_batch);
    for (size_t i = 0; i < simulation->scenario->ranks; i++) {
        uint64_t time_ns = run_planned_share(simulation, i, &shares[i]);
        slowest_ns = sched_max(slowest_ns, time_ns);
    }
    take_back(simulation, shares);
    return slowest_ns;
}

// One round of what was given up.
static uint64_t run_settlement(struct simulation *simulation, const struct sched_share *shares)
{
    uint64_t slowest_ns = 0;
    for (size_t i = 0; i < simulation->scenario->ranks; i++) {
        simulation->outcome.samples_handed_back += shares[i].samples;
        uint64_t time_ns = run_share(simulation, i, &shares[i], 0);
        slowest_ns = sched_max(slowest_ns, time_ns);
    }
    take_back(simulation, shares);
    return slowest_ns;
}

static const struct sched_share *settle(struct simulation *simulation)
{
    uint64_t samples = 0;
    for (size_t i = 0; i < simulation->scenario->ranks; i++) {
        samples += simulation->left[i];
        simulation->gave_up[i] |= simulation->left[i] > 0;
        set_held(&simulation->reports[i], &simulation->world.end[i]);
        if (simulation->gave_up[i]) {
            memset(simulation->reports[i].offers, 0, sizeof(simulation->reports[i].offers));
        }
    }
    return simulation->policy->settle(simulation->state, simulation->reports, samples);
}

static bool is_left(const struct simulation *simulation)
{
    return sched_undone_samples(&simulation->undone) > 0;
}

// Answers whether all samples were done.
static bool run_step(struct simulation *simulation)
{
    struct sched_outcome *outcome = &simulation->outcome;
    bool changed = false;
    for (size_t i = 0; i < simulation->scenario->ranks; i++) {
        simulation->gave_up[i] = false;
        report(simulation, i);
    }
    const struct sched_share *shares = simulation->policy->plan(simulation->state, simulation->reports, &changed);
    if (!shares) {
        return false;
    }
    outcome->plan_changes += changed;
    outcome->time_ns += changed ? simulation->scenario->new_plan_ns : 0;
    outcome->time_ns += run_plan(simulation, shares);
    while (!simulation->out_of_memory && is_left(simulation) && simulation->policy->settle) {
        shares = settle(simulation);
        if (!shares) {
            break;
        }
        outcome->time_ns += run_settlement(simulation, shares);
    }
    return !is_left(simulation);
}

static void run(struct simulation *simulation)
{
    struct sched_outcome *outcome = &simulation->outcome;
    for (uint64_t step = 0; step < simulation->scenario->steps; step++) {
        if (step > 0) {
            sched_world_advance(&simulation->world);
        }
        uint64_t before_ns = outcome->time_ns;
        simulation->recut = false;
        bool done = run_step(simulation);
        if (simulation->observer && simulation->observer->ended) {
            simulation->observer->ended(simulation->observer->context, step, outcome->time_ns - before_ns);
        }
        outcome->samples += done ? simulation->scenario->global_batch : 0;
        outcome->steps_lost += !done;
        outcome->steps_recut += simulation->recut;
    }
}

bool sched_simulate(const struct sched_scenario *scenario, const struct sched_policy *policy,
                    const struct sched_observer *observer, struct sched_outcome *outcome_p)
{
    struct simulation simulation = {.scenario = scenario, .policy = policy, .observer = observer};
    bool made = init(&simulation);
    if (made) {
        run(&simulation);
        *outcome_p = simulation.outcome;
    }
    finish(&simulation);
    return made && !simulation.out_of_memory;
}

static bool some_rank_is_able(const struct sched_report *reports, size_t ranks)
{
    for (size_t i = 0; i < ranks; i++) {
        if (sched_share_cut(&reports[i], &(struct sched_share){.samples = 1})) {
            return true;
        }
    }
    return false;
}

// Those that do a single sample, for more than half of the time that the step takes.
static void leave_out_slow(struct sched_report *reports, const struct sched_share *shares, size_t ranks,
                           uint64_t step_ns)
{
    for (size_t i = 0; i < ranks; i++) {
        if (shares[i].samples == 1 && sched_share_ns(&reports[i], &shares[i]) > step_ns / 2) {
            reports[i] = (struct sched_report){0};
        }
    }
}

// How long this step takes at best; 0: it cannot be done. A rank is left out where that halves the time, as
// sched/stragglers.h has it.
static uint64_t best_ns(const struct sched_world *world, struct sched_report *reports, struct sched_share *shares)
{
    size_t ranks = world->scenario->ranks;
    if (!some_rank_is_able(world->begin, ranks) || !some_rank_is_able(world->end, ranks)) {
        return 0;
    }
    sched_world_most(world, reports);
    sched_plan(reports, ranks, world->scenario->global_batch, shares);
    uint64_t step_ns = sched_plan_ns(reports, shares, ranks);
    leave_out_slow(reports, shares, ranks, step_ns);
    if (!sched_plan(reports, ranks, world->scenario->global_batch, shares)) {
        return step_ns;
    }
    uint64_t without_ns = sched_plan_ns(reports, shares, ranks);
    return without_ns < step_ns / 2 ? without_ns : step_ns;
}

static void run_oracle(struct sched_world *world, struct sched_report *reports, struct sched_share *shares,
                       struct sched_outcome *outcome)
{
    uint64_t step_ns = best_ns(world, reports, shares);
    *outcome = (struct sched_outcome){0};
    for (uint64_t step = 0; step < world->scenario->steps; step++) {
        if (step > 0) {
            sched_world_advance(world);
            step_ns = world->changed ? best_ns(world, reports, shares) : step_ns;
        }
        outcome->time_ns += step_ns;
        outcome->steps_lost += step_ns == 0;
        outcome->samples += step_ns > 0 ? world->scenario->global_batch : 0;
    }
}

bool sched_simulate_oracle(const struct sched_scenario *scenario, struct sched_outcome *outcome_p)
{
    struct sched_world world;
    struct sched_report *reports = calloc(scenario->ranks, sizeof(*reports));
    struct sched_share *shares = calloc(scenario->ranks, sizeof(*shares));
    bool made = sched_world_init(&world, scenario) && reports && shares;
    if (made) {
        run_oracle(&world, reports, shares, outcome_p);
    }
    sched_world_finish(&world);
    free(shares);
    free(reports);
    return made;
}
