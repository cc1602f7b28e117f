// SPDX-License-Identifier: Apache-2.0
//
// The coordinator in the simulator: a thousand made-up jobs, with what others do beside it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "random_bits.h"
#include "sched/simulation.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
#define SEEDS 60 // what takes half a minute would take several
#else
#define SEEDS 1000
#endif
#define OCTAVES         12 // of ranks: 1 to 4,096
#define POLICIES        5
#define STATIONARY_MARK 0.97
#define CHANGING_MARK   0.95
#define STALLING_MARK   0.4

static uint64_t draw(uint64_t *state, uint64_t low, uint64_t high)
{
    return low + random_bits(state) % (high - low + 1);
}

// Uniform in the logarithm, the smaller of two: jobs with thousands of ranks are few.
static uint64_t draw_ranks(uint64_t *state)
{
    uint64_t a = draw(state, 0, OCTAVES - 1), b = draw(state, 0, OCTAVES - 1), octave = a < b ? a : b;
    return (UINT64_C(1) << octave) + draw(state, 0, UINT64_C(1) << octave);
}

// Capacities for samples 1:10, speeds 1:4, overheads from none to 8 samples' time; a new plan costs 3.
static struct sched_scenario stationary(uint64_t seed)
{
    static const uint64_t overheads_ns[] = {0, 100000, 500000, 2000000, 8000000};
    uint64_t state = seed, ranks = draw_ranks(&state), least_samples = draw(&state, 1, 32);
    uint64_t overhead_ns = overheads_ns[draw(&state, 0, 4)];
    return (struct sched_scenario){
        .seed = seed,
        .steps = 400,
        .ranks = ranks,
        .global_batch = ranks * draw(&state, 4, 64) + draw(&state, 0, ranks - 1),
        .capacity_min_bytes = (8 + least_samples) << 20,
        .capacity_max_bytes = (8 + 10 * least_samples) << 20,
        .fixed_bytes = 8 << 20,
        .sample_bytes = 1 << 20,
        .sample_ns = 1000000,
        .overhead_ns = overhead_ns,
        .slowest = 4,
        .lever_times = {1, 1.08, 1.33},
        .lever_times_count = 3,
        .lever_samples = {1, 1.4, 3.3},
        .lever_samples_count = 3,
        .noise = 0.03,
        .retry_ns = overhead_ns + 100000,
        .new_plan_ns = 3000000,
        .slowdown = 1.5,
        .phase_min = 50,
        .phase_max = 400,
    };
}

// Up to 8 neighbours that take up to everything; in half of the jobs one rank becomes slower now and then, in half of
// them ranks are refused what they were promised.
static struct sched_scenario changing(uint64_t seed)
{
    struct sched_scenario scenario = stationary(seed);
    uint64_t state = ~seed;
    scenario.neighbours = draw(&state, 1, scenario.ranks < 8 ? scenario.ranks : 8);
    scenario.neighbour_share = 0.2 * (double)draw(&state, 1, 5);
    scenario.slowdowns = draw(&state, 0, 1);
    scenario.refusal_every = 100 * draw(&state, 0, 1);
    return scenario;
}

// Ranks are wrong about how much longer levers take.
static struct sched_scenario misjudged(uint64_t seed)
{
    struct sched_scenario scenario = changing(seed);
    scenario.lever_error = 0.05;
    return scenario;
}

// One rank becomes twenty times as slow as it was.
static struct sched_scenario stalling(uint64_t seed)
{
    struct sched_scenario scenario = stationary(seed);
    scenario.slowdowns = 1;
    scenario.slowdown = 20;
    return scenario;
}

static struct sched_outcome run(const struct sched_scenario *scenario, size_t policy)
{
    struct sched_outcome outcome;
    assert_true(sched_simulate(scenario, sched_policies[policy], NULL, &outcome));
    return outcome;
}

static struct sched_outcome run_oracle(const struct sched_scenario *scenario)
{
    struct sched_outcome outcome;
    assert_true(sched_simulate_oracle(scenario, &outcome));
    return outcome;
}

// Of the oracle's throughput.
static double part_of(const struct sched_outcome *outcome, const struct sched_outcome *oracle)
{
    if (oracle->samples == 0) {
        return 1;
    }
    double per_ns = (double)outcome->samples / (double)outcome->time_ns;
    return per_ns / ((double)oracle->samples / (double)oracle->time_ns);
}

struct tally {
    double sum, least;
    uint64_t lost;
};

static void note(struct tally *tally, double part, uint64_t lost)
{
    tally->sum += part;
    tally->least = part < tally->least ? part : tally->least;
    tally->lost += lost;
}

static void print(const struct tally *tallies, int seeds)
{
    for (size_t i = 0; i < POLICIES; i++) {
        printf("%-32s mean %6.2f %%, least %6.2f %% of the oracle, %llu steps lost\n", sched_policies[i]->name,
               100 * tallies[i].sum / seeds, 100 * tallies[i].least, (unsigned long long)tallies[i].lost);
    }
}

// Every policy's part of the oracle's throughput; the coordinator's must reach the mark, and lose no step that can be
// done.
static void run_seeds(struct sched_scenario (*scenario_of)(uint64_t), uint64_t first, double mark)
{
    struct tally tallies[POLICIES];
    int seeds = SEEDS / 2;
    uint64_t hopeless = 0;
    for (size_t i = 0; i < POLICIES; i++) {
        tallies[i] = (struct tally){.least = 1};
    }
    for (uint64_t seed = first; seed < first + (uint64_t)seeds; seed++) {
        struct sched_scenario scenario = scenario_of(seed);
        struct sched_outcome oracle = run_oracle(&scenario);
        hopeless += oracle.steps_lost;
        for (size_t i = 0; i < POLICIES; i++) {
            struct sched_outcome outcome = run(&scenario, i);
            double part = part_of(&outcome, &oracle);
            note(&tallies[i], part, outcome.steps_lost);
            assert_true(part <= 1 || oracle.steps_lost > 0); // who did half of such a step may have done the easier one
            if (i == 0 && outcome.steps_lost > oracle.steps_lost) {
                fail_msg("seed %llu: %llu steps lost, of which %llu could not be done", (unsigned long long)seed,
                         (unsigned long long)outcome.steps_lost, (unsigned long long)oracle.steps_lost);
            }
            if (i == 0 && part < mark) {
                fail_msg("seed %llu: %.2f %% of the oracle's throughput", (unsigned long long)seed, 100 * part);
            }
        }
    }
    printf("%d seeds, %llu steps could not be done:\n", seeds, (unsigned long long)hopeless);
    print(tallies, seeds);
    for (size_t i = 1; i < POLICIES; i++) {
        assert_true(tallies[i].sum < tallies[0].sum);
    }
}

static void stationary_jobs_come_near_the_best_static_plan(void **context)
{
    (void)context;
    run_seeds(stationary, 0, STATIONARY_MARK);
}

static void changing_jobs_come_near_the_clairvoyant_oracle(void **context)
{
    (void)context;
    run_seeds(changing, SEEDS / 2, CHANGING_MARK);
}

static void misjudged_levers_cost_little(void **context)
{
    (void)context;
    run_seeds(misjudged, SEEDS / 2, CHANGING_MARK);
}

static void a_rank_that_stalls_is_not_waited_for(void **context)
{
    (void)context;
    run_seeds(stalling, SEEDS / 2, STALLING_MARK);
}

static void the_same_seed_gives_the_same_outcome(void **context)
{
    (void)context;
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct sched_scenario scenario = changing(seed);
        scenario.steps = 50;
        for (size_t i = 0; i < POLICIES; i++) {
            struct sched_outcome first = run(&scenario, i), second = run(&scenario, i);
            assert_memory_equal(&first, &second, sizeof(first));
        }
        struct sched_outcome first = run(&scenario, 0);
        scenario.seed++;
        struct sched_outcome other = run(&scenario, 0);
        assert_memory_not_equal(&first, &other, sizeof(first));
    }
}

// What was done of each step's samples.
struct accounts {
    uint64_t samples; // of a step
    uint8_t *times;   // [steps * samples]
};

static void account(void *context, uint64_t step, size_t rank, uint64_t first, uint64_t count)
{
    (void)rank;
    struct accounts *accounts = context;
    assert_true(first + count <= accounts->samples);
    for (uint64_t i = first; i < first + count; i++) {
        accounts->times[step * accounts->samples + i]++;
    }
}

// Memory that comes and goes on every rank, and a refusal in every second step: steps end in several rounds.
static struct sched_scenario turbulent(uint64_t seed)
{
    struct sched_scenario scenario = stationary(seed);
    scenario.ranks = 1 + scenario.ranks % 32;
    scenario.global_batch = 16 * scenario.ranks;
    scenario.steps = 100;
    scenario.neighbours = scenario.ranks;
    scenario.neighbour_share = 1;
    scenario.refusal_every = 2;
    scenario.phase_min = 1;
    scenario.phase_max = 10;
    return scenario;
}

static void every_sample_is_done_exactly_once(void **context)
{
    (void)context;
    uint64_t handed_back = 0, recut = 0;
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct sched_scenario scenario = turbulent(seed);
        struct accounts accounts = {.samples = scenario.global_batch};
        struct sched_outcome outcome, oracle = run_oracle(&scenario);
        uint64_t lost = 0;
        accounts.times = calloc(scenario.steps * accounts.samples, 1);
        assert_non_null(accounts.times);
        struct sched_observer observer = {.done = account, .context = &accounts};
        assert_true(sched_simulate(&scenario, sched_policies[0], &observer, &outcome));
        for (uint64_t step = 0; step < scenario.steps; step++) {
            uint64_t done = 0;
            for (uint64_t i = 0; i < accounts.samples; i++) {
                uint8_t times = accounts.times[step * accounts.samples + i];
                assert_in_range(times, 0, 1);
                done += times;
            }
            lost += done < accounts.samples;
        }
        free(accounts.times);
        assert_int_equal(lost, outcome.steps_lost);
        assert_true(lost <= oracle.steps_lost);
        assert_int_equal(outcome.samples, (scenario.steps - lost) * accounts.samples);
        handed_back += outcome.samples_handed_back;
        recut += outcome.steps_recut;
    }
    assert_true(handed_back > 1000 && recut > 1000);
}

// Two ranks; a neighbour takes all of one's memory now and then, in the middle of its share.
static void a_rank_without_memory_hands_back_and_others_lose_the_step(void **context)
{
    (void)context;
    struct sched_scenario scenario = turbulent(0);
    scenario.ranks = 2;
    scenario.global_batch = 32;
    scenario.neighbours = 1;
    scenario.neighbour_share = 1;
    scenario.refusal_every = 0;
    uint64_t lost[POLICIES] = {0}, handed_back = 0;
    for (scenario.seed = 0; scenario.seed < 20; scenario.seed++) {
        for (size_t i = 0; i < POLICIES; i++) {
            struct sched_outcome outcome = run(&scenario, i);
            lost[i] += outcome.steps_lost;
            handed_back += outcome.samples_handed_back;
        }
    }
    assert_int_equal(lost[0], 0);
    assert_true(handed_back > 0);
    for (size_t i = 1; i < POLICIES; i++) {
        assert_true(lost[i] > 0);
    }
}

// One rank, no noise: what a step takes is known.
static void a_step_takes_what_its_micro_steps_take(void **context)
{
    (void)context;
    struct sched_scenario scenario = stationary(0);
    scenario.ranks = 1;
    scenario.steps = 10;
    scenario.global_batch = 100;
    scenario.capacity_min_bytes = scenario.capacity_max_bytes = (8 + 25) << 20;
    scenario.overhead_ns = 5000000;
    scenario.slowest = 1;
    scenario.noise = 0;
    scenario.lever_times_count = scenario.lever_samples_count = 1;
    scenario.new_plan_ns = 1000;
    uint64_t step_ns = 4 * 5000000 + 100 * 1000000;
    struct sched_outcome outcome = run_oracle(&scenario);
    assert_int_equal(outcome.time_ns, 10 * step_ns);
    outcome = run(&scenario, 0); // the second step tries a micro-batch of 7, and 15 of them
    assert_int_equal(outcome.time_ns, 10 * step_ns + 11 * 5000000 + outcome.plan_changes * 1000);
    assert_int_equal(outcome.plan_changes, 3);
    outcome = run(&scenario, POLICIES - 1);
    assert_int_equal(outcome.time_ns, 10 * step_ns + outcome.plan_changes * 1000);
}

#define PHASE  UINT64_C(40) // steps that the neighbour stays, and is away
#define LEARN  10           // steps in which ranks find out how fast they are
#define SETTLE 3
#define BACK   10
#define SAME   1.03 // step times that differ by noise alone

// A neighbour takes half of one device, which leaves the smallest a single sample.
static struct sched_scenario halved(uint64_t seed)
{
    struct sched_scenario scenario = stationary(seed);
    scenario.ranks = 1 + seed % 4;
    scenario.global_batch = 32 * scenario.ranks;
    scenario.steps = 3 * PHASE;
    scenario.overhead_ns = 8000000;
    scenario.capacity_min_bytes = 10 << 20;
    scenario.capacity_max_bytes = 72 << 20;
    scenario.fixed_bytes = 4 << 20;
    scenario.neighbours = 1;
    scenario.neighbour_share_min = scenario.neighbour_share = 0.5;
    scenario.phase_min = scenario.phase_max = PHASE;
    scenario.new_plan_ns = 0;
    return scenario;
}

// The step in which the neighbour comes.
static uint64_t first_change(const struct sched_scenario *scenario)
{
    struct sched_world world;
    assert_true(sched_world_init(&world, scenario));
    do {
        sched_world_advance(&world);
    } while (!world.changed);
    uint64_t step = world.step;
    sched_world_finish(&world);
    return step;
}

static void note_step(void *context, uint64_t step, uint64_t time_ns)
{
    uint64_t *steps_ns = context;
    steps_ns[step] = time_ns;
}

static double largest(const uint64_t *values, uint64_t first, uint64_t end)
{
    uint64_t most = 0;
    for (uint64_t i = first; i < end; i++) {
        most = values[i] > most ? values[i] : most;
    }
    return (double)most;
}

static double smallest(const uint64_t *values, uint64_t first, uint64_t end)
{
    uint64_t least = UINT64_MAX;
    for (uint64_t i = first; i < end; i++) {
        least = values[i] < least ? values[i] : least;
    }
    return (double)least;
}

struct visit {
    bool slows;    // the job down
    double spread; // the longest of the steps between settling and the neighbour's going, the shortest being 1
    uint64_t back; // steps after that until all are as short as they were
};

static struct visit watch_visit(const struct sched_scenario *scenario, uint64_t come)
{
    uint64_t steps_ns[3 * PHASE], gone = come + PHASE, next = gone + PHASE;
    struct sched_observer observer = {.ended = note_step, .context = steps_ns};
    struct sched_outcome outcome;
    assert_true(sched_simulate(scenario, sched_policies[0], &observer, &outcome));
    assert_int_equal(outcome.steps_lost, 0);
    double least = smallest(steps_ns, come + SETTLE, gone), before = (double)steps_ns[come - 1];
    struct visit visit = {.slows = least > before * SAME, .spread = largest(steps_ns, come + SETTLE, gone) / least};
    while (largest(steps_ns, gone + visit.back, next) > before * SAME) {
        visit.back++;
    }
    return visit;
}

static void a_neighbour_s_coming_and_going_is_over_in_a_few_steps(void **context)
{
    (void)context;
    uint64_t jobs = 0, slower = 0, back_after[BACK + 1] = {0};
    double spread = 1;
    for (uint64_t seed = 0; seed < 500; seed++) {
        struct sched_scenario scenario = halved(seed);
        uint64_t come = first_change(&scenario);
        if (come < LEARN) {
            continue;
        }
        struct visit visit = watch_visit(&scenario, come);
        if (visit.spread > SAME || visit.back > BACK) {
            fail_msg("seed %llu: step times differ by %.1f %%, and those of before are back after %llu steps",
                     (unsigned long long)seed, 100 * (visit.spread - 1), (unsigned long long)visit.back);
        }
        jobs++;
        slower += visit.slows;
        spread = visit.spread > spread ? visit.spread : spread;
        back_after[visit.back]++;
    }
    printf(
        "a neighbour takes half of a device in %llu jobs and slows down %llu; from %d steps on their times differ by "
        "at most %.1f %%\n",
        (unsigned long long)jobs, (unsigned long long)slower, SETTLE, 100 * (spread - 1));
    for (uint64_t back = 0; back <= BACK; back++) {
        printf("%llu are as fast as before %llu steps after it\n", (unsigned long long)back_after[back],
               (unsigned long long)back);
    }
    assert_true(slower > jobs / 4 && back_after[0] < jobs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_takes_what_its_micro_steps_take),
        cmocka_unit_test(a_rank_without_memory_hands_back_and_others_lose_the_step),
        cmocka_unit_test(every_sample_is_done_exactly_once),
        cmocka_unit_test(a_neighbour_s_coming_and_going_is_over_in_a_few_steps),
        cmocka_unit_test(the_same_seed_gives_the_same_outcome),
        cmocka_unit_test(stationary_jobs_come_near_the_best_static_plan),
        cmocka_unit_test(changing_jobs_come_near_the_clairvoyant_oracle),
        cmocka_unit_test(misjudged_levers_cost_little),
        cmocka_unit_test(a_rank_that_stalls_is_not_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
