// SPDX-License-Identifier: Apache-2.0
//
// The coordinator's shares beside the best fixed ones: mpirun -np N bench_shares CONFIG.yaml [PERCENT...]. Trains as
// the config says, and cuts the global batch in turn in every way that gives each rank some of 16 equal parts. What was
// fastest then takes turns with the coordinator's own steps: half of the rounds decide which is the best, so that the
// other half can say how fast it is. Fails where the coordinator's steps take over 1.05 times as long.
//
// PERCENT, one for each rank, is what it has of a core, to itself: then ranks can be more than cores, and apart in
// speed, without one's speed depending on what others do. The kernel sees to that (SCHED_DEADLINE); it takes
// CAP_SYS_NICE.
#include <errno.h>
#include <inttypes.h>
#include <linux/sched.h>
#include <linux/sched/types.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "worker/step.h"

#define PARTS      16
#define WARM_UP    40 // steps in which the coordinator learns
#define TRIES      2  // steps under each way to cut
#define FINALISTS  8
#define ROUNDS     80
#define LIMIT      1.05
#define RANKS_MAX  16
#define STEPS_MOST 1000000
#define PERIOD_NS  250000

struct candidate {
    uint32_t parts[RANKS_MAX];
    uint64_t best_ns;       // of the tries
    uint64_t times[ROUNDS]; // as a finalist
};

struct bench {
    struct comm *comm;
    struct config config;
    struct worker worker;
    uint64_t step;
    struct candidate *candidates;
    size_t count;
};

static void __attribute__((noreturn)) give_up(const struct bench *bench, const struct error *error)
{
    fprintf(stderr, "bench_shares: %s\n", error->text);
    if (bench->comm != NULL) {
        bench->comm->ops->abort(bench->comm, EXIT_FAILURE);
    }
    exit(EXIT_FAILURE);
}

static void require(const struct bench *bench, enum status status, const struct error *error)
{
    if (status != STATUS_OK) {
        give_up(bench, error);
    }
}

// Of this thread, which is the one that computes.
static void hold_to(const struct bench *bench, const char *percent_text)
{
    struct sched_attr attr = {
        .size = sizeof(attr),
        .sched_policy = SCHED_DEADLINE,
        .sched_flags = SCHED_FLAG_RESET_ON_FORK,
        .sched_runtime = PERIOD_NS / 100 * strtoul(percent_text, NULL, 10),
        .sched_period = PERIOD_NS,
        .sched_deadline = PERIOD_NS,
    };
    if (syscall(SYS_sched_setattr, 0, &attr, 0) != 0) {
        struct error error;
        error_set(&error, STATUS_ERROR, "a rank cannot be held to %s %% of a core: %s", percent_text, strerror(errno));
        give_up(bench, &error);
    }
}

// Each rank's share as `parts` says, cut as the planner would.
static void cut(struct bench *bench, const struct candidate *candidate)
{
    struct worker *worker = &bench->worker;
    uint64_t first = 0, batch = bench->config.train.global_batch_size;
    uint32_t parts = 0;
    for (uint32_t i = 0; i < bench->comm->size; i++) {
        parts += candidate->parts[i];
        uint64_t end = batch * parts / PARTS;
        worker->plan[i] = (struct sched_share){.first = first, .samples = end - first};
        sched_unpack(&worker->messages[i].report, &worker->reports[i]);
        if (!sched_share_cut(&worker->reports[i], &worker->plan[i])) {
            give_up(bench, &(struct error){.text = "a rank cannot hold a sample: give it more memory"});
        }
        first = end;
    }
}

// One step under `candidate`, or under the coordinator's plan. Answers rank 0's time, on every rank. The coordinator
// learns from its own steps alone, as it would if there were no others.
static uint64_t step(struct bench *bench, const struct candidate *candidate)
{
    struct error error = {0};
    const struct step_result *result = NULL;
    struct sched_speed speed = bench->worker.offers.speed, rest = bench->worker.rest;
    if (candidate != NULL) {
        cut(bench, candidate);
    }
    require(bench, step_start(&bench->worker, bench->step++, &error), &error);
    require(bench, step_plan_next(&bench->worker, &error), &error);
    require(bench, step_finish(&bench->worker, &result, &error), &error);
    if (candidate != NULL) {
        bench->worker.offers.speed = speed;
        bench->worker.rest = rest;
    }
    uint64_t step_ns = result->step_ns;
    bench->comm->ops->broadcast(bench->comm, &step_ns, sizeof(step_ns));
    return step_ns;
}

// All ways to give `left` parts to the ranks from `rank` on.
static void add_candidates(struct bench *bench, struct candidate *made, uint32_t rank, uint32_t left)
{
    uint32_t others = bench->comm->size - rank - 1;
    if (others == 0) {
        made->parts[rank] = left;
        bench->candidates = realloc(bench->candidates, (bench->count + 1) * sizeof(*made));
        bench->candidates[bench->count++] = *made;
        return;
    }
    for (uint32_t parts = 1; parts + others <= left; parts++) {
        made->parts[rank] = parts;
        add_candidates(bench, made, rank + 1, left - parts);
    }
}

static int fastest_first(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    return (x->best_ns > y->best_ns) - (x->best_ns < y->best_ns);
}

static int order_times(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

// Of half of the rounds.
static double median_ms(uint64_t *times)
{
    qsort(times, ROUNDS / 2, sizeof(*times), order_times);
    return (double)times[ROUNDS / 4] / 1e6;
}

static void search(struct bench *bench)
{
    add_candidates(bench, &(struct candidate){.best_ns = UINT64_MAX}, 0, PARTS);
    for (size_t i = 0; i < bench->count; i++) {
        struct candidate *candidate = &bench->candidates[i];
        for (int k = 0; k < TRIES; k++) {
            uint64_t step_ns = step(bench, candidate);
            candidate->best_ns = step_ns < candidate->best_ns ? step_ns : candidate->best_ns;
        }
    }
    qsort(bench->candidates, bench->count, sizeof(*bench->candidates), fastest_first);
}

// Answers the coordinator's time over that of the best candidate.
static double compare(struct bench *bench)
{
    static struct candidate own;
    size_t finalists = bench->count < FINALISTS ? bench->count : FINALISTS, best = 0;
    double best_ms = 0;
    for (size_t round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < finalists; i++) {
            bench->candidates[i].times[round] = step(bench, &bench->candidates[i]);
        }
        own.times[round] = step(bench, NULL);
    }
    for (size_t i = 0; i < finalists; i++) {
        double ms = median_ms(bench->candidates[i].times);
        best = i == 0 || ms < best_ms ? i : best;
        best_ms = i == best ? ms : best_ms;
    }
    best_ms = median_ms(bench->candidates[best].times + ROUNDS / 2);
    double own_ms = median_ms(own.times + ROUNDS / 2);
    if (bench->comm->rank == 0) {
        printf("%zu ways to cut, of which the best gives the ranks", bench->count);
        for (uint32_t i = 0; i < bench->comm->size; i++) {
            printf(" %" PRIu32, bench->candidates[best].parts[i]);
        }
        printf(" parts of %d: %.2f ms a step; the coordinator %.2f ms, %.3f times as long (at most %.2f); its plan:",
               PARTS, best_ms, own_ms, own_ms / best_ms, LIMIT);
        for (uint32_t i = 0; i < bench->comm->size; i++) {
            const struct sched_share *share = &bench->worker.plan[i];
            printf(" %" PRIu64 " = %" PRIu64 " x %" PRIu64, share->samples, share->micro_batch,
                   share->accumulation_steps);
        }
        putchar('\n');
    }
    return own_ms / best_ms;
}

int main(int argc, char **argv)
{
    static struct bench bench;
    struct error error = {0};
    if (argc < 2) {
        fprintf(stderr, "usage: mpirun -np N bench_shares CONFIG.yaml [PERCENT...]\n");
        return 2;
    }
    require(&bench, comm_mpi.create(&bench.comm, &error), &error);
    if (argc > 2 && (uint32_t)argc != 2 + bench.comm->size) {
        error_set(&error, STATUS_INVALID, "%d percentages for %" PRIu32 " ranks", argc - 2, bench.comm->size);
        give_up(&bench, &error);
    }
    require(&bench, config_read(&bench.config, argv[1], NULL, 0, &error), &error);
    bench.config.train.steps = STEPS_MOST;
    if (bench.comm->size > RANKS_MAX) {
        error_set(&error, STATUS_INVALID, "more than %d ranks", RANKS_MAX);
        give_up(&bench, &error);
    }
    require(&bench, worker_open(&bench.worker, &bench.config, LIST_TRAIN, bench.comm, &error), &error);
    require(&bench, worker_hold(&bench.worker, &error), &error);
    require(&bench, worker_connect(&bench.worker, &error), &error);
    if (argc > 2) {
        hold_to(&bench, argv[2 + bench.comm->rank]);
    }
    require(&bench, step_plan_first(&bench.worker, &error), &error);
    for (int i = 0; i < WARM_UP; i++) {
        step(&bench, NULL);
    }
    search(&bench);
    bool met = compare(&bench) <= LIMIT;
    free(bench.candidates);
    worker_finish(&bench.worker);
    config_finish(&bench.config);
    bench.comm->ops->destroy(bench.comm);
    return met ? EXIT_SUCCESS : EXIT_FAILURE;
}
