// SPDX-License-Identifier: Apache-2.0
//
// How long one plan takes: the median over many sets of unlike reports. Fails when 16,384 ranks take over 5 ms.
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "sched/plan.h"

#define PLANS         101
#define LIMIT_RANKS   16384
#define LIMIT_NS      5000000
#define BATCH_OF_RANK 256

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

// Ranks up to 8 times apart in speed, memory for 1 to 64 samples, overheads of 0 to 4 samples; each further set of
// levers saves a half of the memory and takes a sixth longer.
static void fill_reports(struct sched_report *reports, size_t ranks, uint64_t *state)
{
    for (size_t i = 0; i < ranks; i++) {
        uint64_t sample_ns = 1000000 + random_below(state, 7000000), overhead_ns = random_below(state, 4 * sample_ns);
        uint32_t micro_batch_max = (uint32_t)(1 + random_below(state, 64));
        for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
            reports[i].offers[k] = (struct sched_offer){overhead_ns, sample_ns, micro_batch_max, 0};
            sample_ns += sample_ns / 6;
            micro_batch_max *= 2;
        }
    }
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

static uint64_t median_plan_ns(size_t ranks)
{
    struct sched_report *reports = calloc(ranks, sizeof(*reports));
    struct sched_share *shares = calloc(ranks, sizeof(*shares));
    uint64_t times_ns[PLANS];
    uint64_t state = ranks;
    if (!reports || !shares) {
        abort();
    }
    for (size_t i = 0; i < PLANS; i++) {
        fill_reports(reports, ranks, &state);
        uint64_t start_ns = now_ns();
        if (!sched_plan(reports, ranks, ranks * BATCH_OF_RANK, shares)) {
            abort();
        }
        times_ns[i] = now_ns() - start_ns;
    }
    free(shares);
    free(reports);
    qsort(times_ns, PLANS, sizeof(times_ns[0]), compare_u64);
    return times_ns[PLANS / 2];
}

int main(void)
{
    static const size_t ranks[] = {64, 1024, 10000, LIMIT_RANKS};
    int status = EXIT_SUCCESS;
    for (size_t i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++) {
        uint64_t plan_ns = median_plan_ns(ranks[i]);
        printf("%5zu ranks: %8.3f ms\n", ranks[i], (double)plan_ns / 1e6);
        if (ranks[i] == LIMIT_RANKS && plan_ns > LIMIT_NS) {
            fprintf(stderr, "bench_plan: more than %.0f ms for %d ranks\n", LIMIT_NS / 1e6, LIMIT_RANKS);
            status = EXIT_FAILURE;
        }
    }
    return status;
}
