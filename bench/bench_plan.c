// SPDX-License-Identifier: Apache-2.0
//
// How long it takes a rank to decide upon the next step, from the reports as they came to the plan with its predicted
// time and its hash, and the planner's part of that: medians over many steps. In a steady job all figures of time vary
// by up to 3 %, and plans mostly stay; in an unsteady one no report is like the one before it. Fails where a decision
// for 16,384 ranks takes over 5 ms.
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "sched/coordinator.h"

#define STEPS         101
#define LIMIT_RANKS   16384
#define LIMIT_NS      5000000
#define BATCH_OF_RANK 256
#define MESSAGE_BYTES 256 // what a rank sends, its report first

struct message {
    struct sched_packed_report report;
    char rest[MESSAGE_BYTES - sizeof(struct sched_packed_report)];
};

struct job {
    size_t ranks;
    uint64_t random;
    struct sched_report *reports;
    struct message *messages;
    struct sched_share *shares;
    struct sched_coordinator *coordinator;
};

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static uint64_t random_below(uint64_t *state, uint64_t bound)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*state >> 33) % bound;
}

static void require(bool good)
{
    if (!good) {
        abort();
    }
}

// Ranks up to 8 times apart in speed, memory for 1 to 64 samples, overheads of 0 to 4 samples; each further set of
// levers saves a half of the memory and takes a sixth longer.
static void make_reports(struct job *job)
{
    for (size_t i = 0; i < job->ranks; i++) {
        struct sched_report *report = &job->reports[i];
        uint64_t sample_ns = 1000000 + random_below(&job->random, 7000000);
        uint64_t overhead_ns = random_below(&job->random, 4 * sample_ns);
        uint32_t micro_batch_max = (uint32_t)(1 + random_below(&job->random, 64));
        *report = (struct sched_report){.measured = true, .noise = 3};
        for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
            report->offers[k] = (struct sched_offer){overhead_ns, sample_ns, micro_batch_max, 0};
            sample_ns += sample_ns / 6;
            micro_batch_max *= 2;
        }
    }
}

static void send_reports(struct job *job, uint32_t plan_hash)
{
    for (size_t i = 0; i < job->ranks; i++) {
        struct sched_report report = job->reports[i];
        uint64_t per_mille = 970 + random_below(&job->random, 61);
        for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
            report.offers[k].overhead_ns = report.offers[k].overhead_ns * per_mille / 1000;
            report.offers[k].sample_ns = report.offers[k].sample_ns * per_mille / 1000;
        }
        report.plan_hash = plan_hash;
        job->messages[i].report = sched_pack(&report);
    }
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

static uint64_t median(uint64_t times_ns[STEPS])
{
    qsort(times_ns, STEPS, sizeof(times_ns[0]), compare_u64);
    return times_ns[STEPS / 2];
}

static uint64_t median_decision_ns(struct job *job, bool steady)
{
    uint64_t times_ns[STEPS];
    uint32_t plan_hash = 0;
    make_reports(job);
    for (size_t i = 0; i < STEPS; i++) {
        if (!steady) {
            make_reports(job);
        }
        send_reports(job, plan_hash);
        uint64_t start_ns = now_ns();
        struct sched_decision decision =
            sched_coordinator_decide(job->coordinator, &job->messages->report, sizeof(*job->messages), false);
        times_ns[i] = now_ns() - start_ns;
        require(decision.plan != NULL);
        plan_hash = decision.plan_hash;
    }
    return median(times_ns);
}

static uint64_t median_plan_ns(struct job *job)
{
    uint64_t times_ns[STEPS];
    for (size_t i = 0; i < STEPS; i++) {
        make_reports(job);
        uint64_t start_ns = now_ns();
        require(sched_plan(job->reports, job->ranks, job->ranks * BATCH_OF_RANK, job->shares));
        times_ns[i] = now_ns() - start_ns;
    }
    return median(times_ns);
}

// Answers the slower decision.
static uint64_t measure(size_t ranks)
{
    struct job job = {.ranks = ranks,
                      .random = ranks,
                      .reports = calloc(ranks, sizeof(*job.reports)),
                      .messages = calloc(ranks, sizeof(*job.messages)),
                      .shares = calloc(ranks, sizeof(*job.shares)),
                      .coordinator = sched_coordinator_create(ranks, ranks * BATCH_OF_RANK, 0)};
    require(job.reports && job.messages && job.shares && job.coordinator);
    uint64_t steady_ns = median_decision_ns(&job, true), unsteady_ns = median_decision_ns(&job, false);
    printf("%5zu ranks: %6.3f ms in a steady job, %6.3f ms in an unsteady one, %6.3f ms of it the planner\n", ranks,
           (double)steady_ns / 1e6, (double)unsteady_ns / 1e6, (double)median_plan_ns(&job) / 1e6);
    sched_coordinator_destroy(job.coordinator);
    free(job.shares);
    free(job.messages);
    free(job.reports);
    return steady_ns > unsteady_ns ? steady_ns : unsteady_ns;
}

int main(void)
{
    static const size_t ranks[] = {64, 1024, 10000, LIMIT_RANKS};
    for (size_t i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++) {
        if (measure(ranks[i]) > LIMIT_NS && ranks[i] == LIMIT_RANKS) {
            fprintf(stderr, "bench_plan: more than %.0f ms for %d ranks\n", LIMIT_NS / 1e6, LIMIT_RANKS);
            return EXIT_FAILURE;
        }
    }
    return EXIT_SUCCESS;
}
