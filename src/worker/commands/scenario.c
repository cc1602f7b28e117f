// SPDX-License-Identifier: Apache-2.0
#include "worker/commands/scenario.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "worker/config/yaml.h"

#define COUNT_OF(array)  (sizeof(array) / sizeof((array)[0]))
#define ONE(field)       .offset = offsetof(struct sched_scenario, field)
#define RANGE(low, high) .min = (low), .max = (high)
#define LIST(field)                                                                                                    \
    .offset = offsetof(struct sched_scenario, field), .list_max = SCHED_LEVERS_MAX,                                    \
    .count_offset = offsetof(struct sched_scenario, field##_count)

// Sums of times fit 64 bits.
#define JOB_NS_MAX 9e18

static const char *const section_names[] = {"job", "memory", "speed", "levers", "changes", NULL};

static const struct config_key keys[] = {
    {"job.seed", CONFIG_TYPE_COUNT, ONE(seed), RANGE("0", "18446744073709551615"), .fallback = "1",
     .help = "of all that is made up"},
    {"job.steps", CONFIG_TYPE_COUNT, ONE(steps), RANGE("1", "1000000"), .fallback = "1000", .help = "of the job"},
    {"job.ranks", CONFIG_TYPE_COUNT, ONE(ranks), RANGE("1", "65536"), .fallback = "16", .help = "of the job"},
    {"job.global_batch_size", CONFIG_TYPE_COUNT, ONE(global_batch), RANGE("1", "4294967295"), .fallback = "1024",
     .help = "samples per step over all ranks"},

    {"memory.capacity_min", CONFIG_TYPE_BYTES, ONE(capacity_min_bytes), RANGE("0", "1024TiB"), .fallback = "8GiB",
     .help = "of a rank's device, at least"},
    {"memory.capacity_max", CONFIG_TYPE_BYTES, ONE(capacity_max_bytes), RANGE("0", "1024TiB"), .fallback = "80GiB",
     .help = "of a rank's device, at most"},
    {"memory.fixed", CONFIG_TYPE_BYTES, ONE(fixed_bytes), RANGE("0", "1024TiB"), .fallback = "4GiB",
     .help = "that a rank takes before its first sample"},
    {"memory.sample", CONFIG_TYPE_BYTES, ONE(sample_bytes), RANGE("1", "1024TiB"), .fallback = "1GiB",
     .help = "that a sample of a micro-batch takes under the least levers"},

    {"speed.sample_ns", CONFIG_TYPE_COUNT, ONE(sample_ns), RANGE("1", "1000000000"), .fallback = "10000000",
     .help = "nanoseconds that a sample takes on the fastest rank under the least levers"},
    {"speed.overhead_ns", CONFIG_TYPE_COUNT, ONE(overhead_ns), RANGE("0", "1000000000"), .fallback = "20000000",
     .help = "nanoseconds that a micro-step takes beside its samples, likewise"},
    {"speed.slowest", CONFIG_TYPE_REAL, ONE(slowest), RANGE("1", "100"), .fallback = "4",
     .help = "times of the slowest rank; the fastest's are 1"},
    {"speed.noise", CONFIG_TYPE_REAL, ONE(noise), RANGE("0", "0.5"), .fallback = "0.03",
     .help = "part by which measured times are wrong, at most"},
    {"speed.retry_ns", CONFIG_TYPE_COUNT, ONE(retry_ns), RANGE("0", "1000000000"), .fallback = "20000000",
     .help = "nanoseconds from a refusal of memory to the next try"},
    {"speed.new_plan_ns", CONFIG_TYPE_COUNT, ONE(new_plan_ns), RANGE("0", "1000000000"), .fallback = "1000000",
     .help = "nanoseconds that a step takes longer whose plan is new"},

    {"levers.times", CONFIG_TYPE_REAL, LIST(lever_times), RANGE("1", "10"), .fallback = "[1, 1.08, 1.33]",
     .help = "of a micro-step under each set of levers; the least levers' is 1"},
    {"levers.samples", CONFIG_TYPE_REAL, LIST(lever_samples), RANGE("1", "1000"), .fallback = "[1, 1.4, 3.3]",
     .help = "that fit the same memory under each set of levers, likewise"},
    {"levers.error", CONFIG_TYPE_REAL, ONE(lever_error), RANGE("0", "0.5"), .fallback = "0",
     .help = "part by which ranks are wrong about levers.times, at most; the least levers' they know"},

    {"changes.neighbours", CONFIG_TYPE_COUNT, ONE(neighbours), RANGE("0", "65536"), .fallback = "0",
     .help = "others that come to a rank's device and go again, on ranks drawn for the whole job"},
    {"changes.neighbour_share_min", CONFIG_TYPE_REAL, ONE(neighbour_share_min), RANGE("0", "1"), .fallback = "0",
     .help = "part of the capacity that a neighbour takes, at least"},
    {"changes.neighbour_share", CONFIG_TYPE_REAL, ONE(neighbour_share), RANGE("0", "1"), .fallback = "0.5",
     .help = "part of the capacity that a neighbour takes, at most"},
    {"changes.slowdowns", CONFIG_TYPE_COUNT, ONE(slowdowns), RANGE("0", "65536"), .fallback = "0",
     .help = "how often a rank is drawn that becomes slower and recovers, again and again"},
    {"changes.slowdown", CONFIG_TYPE_REAL, ONE(slowdown), RANGE("1", "100"), .fallback = "1.5",
     .help = "times of a rank that has become slower"},
    {"changes.phase_min", CONFIG_TYPE_COUNT, ONE(phase_min), RANGE("1", "1000000"), .fallback = "50",
     .help = "steps between coming and going, at least"},
    {"changes.phase_max", CONFIG_TYPE_COUNT, ONE(phase_max), RANGE("1", "1000000"), .fallback = "400",
     .help = "steps between coming and going, at most"},
    {"changes.refusal_every", CONFIG_TYPE_COUNT, ONE(refusal_every), RANGE("0", "1000000"), .fallback = "0",
     .help = "steps, on average, between two in which a rank is refused memory that it was promised; 0: none"},
};
_Static_assert(COUNT_OF(keys) <= CONFIG_KEYS_MAX, "those who keep something for each key have room for all");

const struct config_schema scenario_schema = {section_names, keys, COUNT_OF(keys)};

// Refuses the value of a key that does not go with the others.
static enum status refuse(const struct config_place *places, const char *path, const char *why, struct error *error)
{
    size_t i = 0;
    while (strcmp(keys[i].path, path) != 0) {
        i++;
    }
    return config_refuse(error, &places[i], path, "%s", why);
}

// At most, with every sample on the slowest rank.
static double job_ns(const struct sched_scenario *scenario)
{
    double factor = scenario->slowest * scenario->slowdown * 10;
    double micro_step_ns = (double)scenario->sample_ns + (double)scenario->overhead_ns + (double)scenario->retry_ns;
    return (double)scenario->steps * (double)scenario->global_batch * micro_step_ns * factor;
}

static enum status check(const struct sched_scenario *scenario, const struct config_place *places, struct error *error)
{
    if (scenario->global_batch < scenario->ranks) {
        return refuse(places, "job.global_batch_size", "is less than job.ranks; each rank needs at least one sample",
                      error);
    }
    if (scenario->capacity_max_bytes < scenario->capacity_min_bytes) {
        return refuse(places, "memory.capacity_max", "is less than memory.capacity_min; allowed: at least that", error);
    }
    if (scenario->neighbour_share < scenario->neighbour_share_min) {
        return refuse(places, "changes.neighbour_share",
                      "is less than changes.neighbour_share_min; allowed: at least that", error);
    }
    if (scenario->phase_max < scenario->phase_min) {
        return refuse(places, "changes.phase_max", "is less than changes.phase_min; allowed: at least that", error);
    }
    if (scenario->lever_times_count == 0 || scenario->lever_times[0] != 1) {
        return refuse(places, "levers.times", "does not begin with 1; allowed: one or more, the first 1", error);
    }
    if (scenario->lever_samples_count > 0 && scenario->lever_samples[0] != 1) {
        return refuse(places, "levers.samples", "does not begin with 1; allowed: one or more, the first 1", error);
    }
    if (scenario->lever_samples_count != scenario->lever_times_count) {
        return refuse(places, "levers.samples", "is not as long as levers.times; allowed: one for each set", error);
    }
    if (job_ns(scenario) > JOB_NS_MAX) {
        return refuse(places, "job.steps", "takes more than 292 years; allowed: less steps, samples or time", error);
    }
    return STATUS_OK;
}

enum status scenario_read(struct sched_scenario *scenario, const char *path, char *const *overrides, size_t count,
                          struct error *error)
{
    char *text = NULL;
    struct config_place places[COUNT_OF(keys)] = {0};
    struct config_reader reader = {&scenario_schema, scenario, places, error};
    enum status status = config_yaml_read(path, &text, error);
    if (status == STATUS_OK) {
        status = config_yaml_defaults(&reader);
    }
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        places[i] = (struct config_place){.file = path};
    }
    if (status == STATUS_OK) {
        status = config_yaml_file(&reader, path, text);
    }
    for (size_t i = 0; status == STATUS_OK && i < count; i++) {
        status = config_yaml_override(&reader, overrides[i]);
    }
    free(text);
    return status == STATUS_OK ? check(scenario, places, error) : status;
}
