// SPDX-License-Identifier: Apache-2.0
#include "worker/profile.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "worker/step.h"

// All operations of one kind.
struct kind {
    const char *name;
    uint64_t count, time_ns, flops;
};

enum { KINDS_MAX = 64 };

struct profile {
    struct kind kinds[KINDS_MAX];
    size_t kind_count;
    uint64_t steps, step_ns, comm_ns, update_ns, data_wait_ns, coordination_ns, retries;
};

struct profile *profile_create(void)
{
    return calloc(1, sizeof(struct profile));
}

void profile_destroy(struct profile *profile)
{
    free(profile);
}

static struct kind *kind_of(struct profile *profile, const char *name)
{
    size_t i = 0;
    while (i < profile->kind_count && strcmp(profile->kinds[i].name, name) != 0) {
        i++;
    }
    if (i == profile->kind_count && i < KINDS_MAX - 1) {
        profile->kinds[profile->kind_count++].name = name;
    }
    return &profile->kinds[i];
}

static void add_timings(struct profile *profile, const struct op_timing *timings, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct kind *kind = kind_of(profile, timings[i].work.operation);
        kind->count++;
        kind->flops += timings[i].work.flops;
        kind->time_ns += timings[i].time_ns;
    }
}

void profile_step(struct profile *profile, const struct worker *worker, const struct step_result *result)
{
    const struct step_message *message = &result->messages[worker->comm->rank];
    const struct op_timing *timings;
    size_t count = op_timer_read(worker->op_timer, &timings);
    if (result->step >= PROFILE_WARM_UP) {
        add_timings(profile, timings, count);
        profile->steps++;
        profile->step_ns += result->step_ns;
        profile->comm_ns += result->comm_ns;
        profile->update_ns += result->update_ns;
        profile->coordination_ns += result->coordination_ns;
        profile->data_wait_ns += message->data_wait_us * UINT64_C(1000);
        profile->retries += message->oom_retries;
    }
}

static int longest_first(const void *a, const void *b)
{
    const struct kind *x = a, *y = b;
    return (x->time_ns < y->time_ns) - (x->time_ns > y->time_ns);
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0 : 100 * (double)part / (double)whole;
}

// Milliseconds of a step, and its share.
static void print_part(const struct profile *profile, FILE *file, const char *name, uint64_t ns)
{
    fprintf(file, "%-22s %8s %10.3f %7.1f %%\n", name, "", (double)ns / 1e6 / (double)profile->steps,
            percent(ns, profile->step_ns));
}

static uint64_t print_kinds(const struct profile *profile, FILE *file)
{
    struct kind kinds[KINDS_MAX];
    uint64_t sum_ns = 0;
    memcpy(kinds, profile->kinds, sizeof(kinds));
    qsort(kinds, profile->kind_count, sizeof(kinds[0]), longest_first);
    for (size_t i = 0; i < profile->kind_count; i++) {
        const struct kind *kind = &kinds[i];
        fprintf(file, "%-22s %8" PRIu64 " %10.3f %7.1f %%", kind->name, kind->count / profile->steps,
                (double)kind->time_ns / 1e6 / (double)profile->steps, percent(kind->time_ns, profile->step_ns));
        if (kind->flops > 0 && kind->time_ns > 0) {
            fprintf(file, " %10.2f GFLOP/s", (double)kind->flops / (double)kind->time_ns);
        }
        fputc('\n', file);
        sum_ns += kind->time_ns;
    }
    return sum_ns;
}

static void print_hints(const struct profile *profile, const struct worker *worker, FILE *file, uint64_t busy_ns)
{
    const struct {
        bool holds;
        const char *line;
    } hints[] = {
        {percent(profile->data_wait_ns, profile->step_ns) > 5,
         "micro-steps wait for samples: raise data.threads or data.prefetch_bytes"},
        {percent(profile->comm_ns, profile->step_ns) > 10 && !worker->reducer->ops->overlaps,
         "the all-reduce by mpi waits for the slowest rank: give each rank a GPU, or raise train.global_batch_size"},
        {percent(profile->comm_ns, profile->step_ns) > 10 && worker->reducer->ops->overlaps,
         "the all-reduce is not hidden: lower comm.bucket_bytes, or raise train.global_batch_size"},
        {percent(profile->coordination_ns, profile->step_ns) > 2,
         "ranks wait for each other's reports: look for a rank that shares its cores or its device"},
        {profile->retries > 0, "micro-steps were refused memory: the rank's log names the cause"},
        {percent(busy_ns, profile->step_ns) < 70 && percent(profile->comm_ns, profile->step_ns) < 10,
         "the device waits between operations: let micro-batches grow (train.micro_batch_size: auto, more memory)"},
        {worker->config->train.precision == CONFIG_FP32 && device_is_apart(worker->place.ops),
         "train.precision: bf16 halves the bytes of activations and uses the matrix units"},
    };
    fputs("\nhints\n", file);
    for (size_t i = 0; i < sizeof(hints) / sizeof(hints[0]); i++) {
        if (hints[i].holds) {
            fprintf(file, "  %s\n", hints[i].line);
        }
    }
    fputs("  for a timeline of steps, micro-steps and operations: nsys profile --trace=cuda,nvtx headroom train ...\n",
          file);
}

void profile_print(const struct profile *profile, const struct worker *worker, FILE *file)
{
    if (profile->steps == 0) {
        fprintf(file, "no step was timed: the first %d are not\n", PROFILE_WARM_UP);
        return;
    }
    fprintf(file, "\nrank %" PRIu32 ", mean of %" PRIu64 " steps of %.3f ms\n%-22s %8s %10s %9s\n", worker->comm->rank,
            profile->steps, (double)profile->step_ns / 1e6 / (double)profile->steps, "operation", "a step", "ms",
            "of a step");
    uint64_t ops_ns = print_kinds(profile, file);
    print_part(profile, file, "all-reduce, not hidden", profile->comm_ns);
    print_part(profile, file, "clipping, optimizer", profile->update_ns);
    print_part(profile, file, "waiting for samples", profile->data_wait_ns);
    print_part(profile, file, "coordination", profile->coordination_ns);
    print_hints(profile, worker, file, ops_ns + profile->update_ns);
}
