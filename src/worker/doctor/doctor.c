// SPDX-License-Identifier: Apache-2.0
#include "worker/doctor/doctor.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/pool.h"
#include "mem/uint64.h"

#define PART_OF_STEPS 4

const struct doctor_cause_text doctor_causes[DOCTOR_CAUSES] = {
    [DOCTOR_GRADIENTS] = {"gradients not cleared", "gradients of earlier steps", true, 0},
    [DOCTOR_KEPT] = {"tensors kept too long", "other blocks that stay after their step", true, 0},
    [DOCTOR_BATCH] = {"batch too large", "of the micro-batch asked for do not fit", false, 0},
    [DOCTOR_DATA] = {"slow data loading", "of a step's time are spent waiting for it", false, 0.1},
    [DOCTOR_INTERMEDIATES] = {"intermediates saved on the device", "of a rank's time recomputing would save", false,
                              0.1},
    [DOCTOR_FRAGMENTATION] = {"fragmentation", "of the limit are free only in pieces", false, 0.1},
};

// What speaks for a cause on a rank.
struct sign {
    uint64_t first, last, steps;
    double sum, most; // of the figures above what is allowed
    double sum_of_all;
};

struct rank {
    struct sign signs[DOCTOR_CAUSES];
    char tag[DOCTOR_TAG_MAX]; // of what stays the most bytes; "": none was told
    uint64_t tag_bytes;
};

struct doctor {
    const struct config *config;
    struct rank *rank; // one after the other
    size_t ranks;
    uint64_t steps;     // all that were shown
    bool others;        // hold some of a device, in the newest
    bool out_of_memory; // it has ended so, after so many steps
    uint64_t ended_after;
    double recompute_gain; // then
};

struct doctor *doctor_create(const struct config *config)
{
    struct doctor *doctor = calloc(1, sizeof(*doctor));
    if (doctor != NULL) {
        doctor->config = config;
    }
    return doctor;
}

void doctor_destroy(struct doctor *doctor)
{
    if (doctor != NULL) {
        free(doctor->rank);
        free(doctor);
    }
}

void doctor_begin(struct doctor *doctor)
{
    free(doctor->rank);
    *doctor = (struct doctor){.config = doctor->config};
}

static bool make_room(struct doctor *doctor, size_t ranks)
{
    if (ranks <= doctor->ranks) {
        return true;
    }
    struct rank *rank = realloc(doctor->rank, ranks * sizeof(*rank));
    if (rank == NULL) {
        return false;
    }
    memset(rank + doctor->ranks, 0, (ranks - doctor->ranks) * sizeof(*rank));
    doctor->rank = rank;
    doctor->ranks = ranks;
    return true;
}

static double part(uint64_t bytes, uint64_t of)
{
    return of == 0 ? 0 : (double)bytes / (double)of;
}

// Of the micro-batch that was asked for, what does not fit.
static double too_large(const struct config *config, const struct record_rank *rank)
{
    uint64_t asked = uint64_min(config->train.micro_batch_size, rank->share);
    return asked <= rank->micro_batch ? 0 : 1 - part(rank->micro_batch, asked);
}

// More memory would be of use to the rank.
static bool is_short(const struct record_rank *rank)
{
    return rank->share == 0 || rank->accumulation_steps > 1 || rank->oom_retries > 0;
}

// Blocks that stay lie between others, and leave less for the micro-batch: they are the cause then, and recomputing is
// where it would make room.
static double figure_of(const struct config *config, enum doctor_cause cause, const struct record_step *step,
                        const struct record_rank *rank)
{
    bool keeps = rank->kept_bytes > 0;
    bool gains = rank->recompute_gain > doctor_causes[DOCTOR_INTERMEDIATES].allowed;
    switch (cause) {
    case DOCTOR_GRADIENTS:
        return (double)rank->kept_gradients_bytes;
    case DOCTOR_KEPT:
        return (double)(rank->kept_bytes - uint64_min(rank->kept_bytes, rank->kept_gradients_bytes));
    case DOCTOR_BATCH:
        return keeps || gains ? 0 : too_large(config, rank);
    case DOCTOR_DATA:
        return step->step_ms > 0 ? rank->data_wait_ms / step->step_ms : 0;
    case DOCTOR_INTERMEDIATES:
        return keeps ? 0 : rank->recompute_gain;
    case DOCTOR_FRAGMENTATION:
        return keeps || !is_short(rank) ? 0 : part(rank->fragmented_bytes, rank->limit_bytes);
    case DOCTOR_CAUSES:
        break;
    }
    return 0;
}

static void note(struct sign *sign, double figure, double allowed, uint64_t step)
{
    sign->sum_of_all += figure;
    if (figure > allowed) {
        sign->first = sign->steps == 0 ? step : sign->first;
        sign->last = step;
        sign->steps++;
        sign->sum += figure;
        sign->most = fmax(sign->most, figure);
    }
}

bool doctor_step(struct doctor *doctor, const struct record_step *step)
{
    if (!make_room(doctor, step->ranks.count)) {
        return false;
    }
    doctor->steps++;
    doctor->others = false;
    for (size_t i = 0; i < step->ranks.count; i++) {
        doctor->others |= step->ranks.rank[i].others_bytes > 0;
        for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
            if (doctor_causes[k].is_bytes || doctor->steps > DOCTOR_STEPS_AT_FIRST) {
                double figure = figure_of(doctor->config, k, step, &step->ranks.rank[i]);
                note(&doctor->rank[i].signs[k], figure, doctor_causes[k].allowed, step->step);
            }
        }
    }
    return true;
}

uint64_t doctor_steps(const struct doctor *doctor)
{
    return doctor->steps - uint64_min(doctor->steps, DOCTOR_STEPS_AT_FIRST);
}

void doctor_tag(struct doctor *doctor, uint32_t rank, const char *tag, uint64_t bytes)
{
    if (rank < doctor->ranks && bytes > doctor->rank[rank].tag_bytes && strcmp(tag, "gradients") != 0) {
        doctor->rank[rank].tag_bytes = bytes;
        snprintf(doctor->rank[rank].tag, sizeof(doctor->rank[rank].tag), "%s", tag);
    }
}

void doctor_end(struct doctor *doctor, const struct record_end *end)
{
    doctor->out_of_memory = end->status == STATUS_OUT_OF_MEMORY;
    doctor->ended_after = end->step;
    doctor->recompute_gain = end->recompute_gain;
}

// ---- What to change ----

static void fix_batch(const struct config *config, bool not_one, char *text, size_t size)
{
    if (not_one) {
        snprintf(text, size,
                 "not a single sample fits (headroom plan says what it takes): raise device.capacity, or lower %s",
                 config->model.kind == CONFIG_MODEL_GPT ? "model.seq_len" : "model.layers");
    } else {
        snprintf(text, size, "set train.micro_batch_size: auto, which takes what fits; it is %" PRIu64,
                 config->train.micro_batch_size);
    }
}

static void write_fix(const struct doctor *doctor, enum doctor_cause cause, struct doctor_finding *finding)
{
    const struct config *config = doctor->config;
    char *text = finding->fix;
    size_t size = sizeof(finding->fix);
    switch (cause) {
    case DOCTOR_GRADIENTS:
    case DOCTOR_KEPT:
        snprintf(text, size, "%s",
                 config->fault.keep != CONFIG_KEEP_NOTHING ? "set fault.keep: nothing"
                                                           : "this is a bug of Headroom: please report it");
        break;
    case DOCTOR_BATCH:
        fix_batch(config, finding->figure == 1, text, size);
        break;
    case DOCTOR_DATA:
        snprintf(text, size,
                 "raise data.threads, which is %" PRIu64
                 ", then data.prefetch_bytes, or have the data on a faster disk",
                 config->data.threads);
        break;
    case DOCTOR_INTERMEDIATES:
        snprintf(text, size, "set train.recompute: %s, which computes them again where memory is short",
                 config_all_levers(config) == CONFIG_RECOMPUTE_OFFLOAD ? "offload" : "auto");
        break;
    case DOCTOR_FRAGMENTATION:
        snprintf(text, size, "%s",
                 config->device.segments == CONFIG_PLAIN ? "set device.segments: expandable"
                 : config->fault.fragment_bytes > 0      ? "set fault.fragment_bytes: 0"
                                                         : "start the run again with checkpoint.resume: auto");
        break;
    case DOCTOR_CAUSES:
        break;
    }
}

// ---- Findings ----

// The rank whose steps speak most for the cause. There is one.
static uint32_t worst_rank(const struct doctor *doctor, enum doctor_cause cause)
{
    uint32_t worst = 0;
    for (uint32_t i = 1; i < doctor->ranks; i++) {
        const struct sign *a = &doctor->rank[worst].signs[cause], *b = &doctor->rank[i].signs[cause];
        worst = b->sum > a->sum || (b->sum == a->sum && b->sum_of_all > a->sum_of_all) ? i : worst;
    }
    return worst;
}

static struct doctor_finding look(const struct doctor *doctor, enum doctor_cause cause)
{
    if (doctor->ranks == 0) {
        return (struct doctor_finding){0};
    }
    bool is_bytes = doctor_causes[cause].is_bytes;
    uint32_t rank = worst_rank(doctor, cause);
    uint64_t steps = doctor_steps(doctor);
    const struct sign *sign = &doctor->rank[rank].signs[cause];
    bool speaks = sign->steps > 0;
    double mean = (speaks ? sign->sum : sign->sum_of_all) / fmax(1, (double)(speaks ? sign->steps : steps));
    struct doctor_finding finding = {
        .found = is_bytes ? speaks : sign->steps >= DOCTOR_STEPS && sign->steps * PART_OF_STEPS >= steps,
        .figure = is_bytes ? sign->most : mean,
        .rank = rank,
        .first = sign->first,
        .last = sign->last,
        .steps = sign->steps,
    };
    if (cause == DOCTOR_KEPT) {
        snprintf(finding.tag, sizeof(finding.tag), "%s", doctor->rank[rank].tag);
    }
    return finding;
}

// Of a process that has ended for want of memory, which nothing else explains: not a single sample fits.
static void blame_one_sample(const struct doctor *doctor, struct doctor_finding findings[DOCTOR_CAUSES])
{
    enum doctor_cause cause = doctor->recompute_gain > 0 ? DOCTOR_INTERMEDIATES : DOCTOR_BATCH;
    findings[cause] = (struct doctor_finding){
        .found = true, .figure = 1, .first = doctor->ended_after, .last = doctor->ended_after, .steps = 1};
}

void doctor_find(const struct doctor *doctor, struct doctor_finding findings[DOCTOR_CAUSES])
{
    bool found = false;
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        findings[k] = look(doctor, k);
        found |= findings[k].found;
    }
    if (doctor->out_of_memory && !doctor->others && !found) {
        blame_one_sample(doctor, findings);
    }
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        if (findings[k].found) {
            write_fix(doctor, k, &findings[k]);
        }
    }
}

const char *doctor_figure_text(enum doctor_cause cause, double figure, char *text)
{
    if (doctor_causes[cause].is_bytes) {
        return mem_size_text((uint64_t)figure, text);
    }
    snprintf(text, DOCTOR_FIGURE_MAX, "%.1f %%", 100 * figure);
    return text;
}

const char *doctor_where_text(const struct doctor_finding *finding, char *text)
{
    bool tagged = finding->tag[0] != '\0';
    snprintf(text, DOCTOR_WHERE_MAX, "rank %" PRIu32 ", %" PRIu64 " step%s from %" PRIu64 " to %" PRIu64 "%s%s%s",
             finding->rank, finding->steps, finding->steps == 1 ? "" : "s", finding->first, finding->last,
             tagged ? ", blocks of '" : "", finding->tag, tagged ? "'" : "");
    return text;
}
