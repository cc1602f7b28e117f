// SPDX-License-Identifier: Apache-2.0
#include "worker/doctor/doctor.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/pool.h"
#include "mem/uint64.h"

#define STEPS_AT_FIRST 3
#define PART_OF_STEPS  4

const struct doctor_cause_text doctor_causes[DOCTOR_CAUSES] = {
    [DOCTOR_GRADIENTS] = {"gradients not cleared", "gradients of earlier steps", true, 0},
    [DOCTOR_KEPT] = {"tensors kept too long", "blocks that stay after their step", true, 0},
    [DOCTOR_BATCH] = {"batch too large", "of the micro-batch asked for, does not fit", false, 0},
    [DOCTOR_DATA] = {"slow data loading", "of a step's time, waits for samples", false, 0.1},
    [DOCTOR_INTERMEDIATES] = {"intermediates saved on the device", "of the headroom, taken by them", false, 0.5},
    [DOCTOR_FRAGMENTATION] = {"fragmentation", "of the limit, free only in pieces", false, 0.1},
};

// What speaks for a cause on a rank.
struct sign {
    uint64_t first, last, steps;
    double sum, most; // of the figures above what is allowed
    double sum_of_all;
};

struct kept {
    char tag[RECORD_NAME_MAX * 2]; // of the most bytes; "": none was told
    uint64_t bytes;
};

struct doctor {
    const struct config *config;
    struct sign *signs; // DOCTOR_CAUSES for each rank
    struct kept *kept;  // for each rank
    size_t ranks;
    uint64_t steps;      // that count
    uint64_t at_first;   // of this process, that do not
    bool out_of_memory;  // the last process has ended so
    uint64_t steps_done; // by it
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
        free(doctor->kept);
        free(doctor->signs);
        free(doctor);
    }
}

void doctor_begin(struct doctor *doctor)
{
    doctor->at_first = 0;
    doctor->out_of_memory = false;
}

static bool make_room(struct doctor *doctor, size_t ranks)
{
    if (ranks <= doctor->ranks) {
        return true;
    }
    struct sign *signs = realloc(doctor->signs, ranks * DOCTOR_CAUSES * sizeof(*signs));
    doctor->signs = signs != NULL ? signs : doctor->signs;
    struct kept *kept = realloc(doctor->kept, ranks * sizeof(*kept));
    doctor->kept = kept != NULL ? kept : doctor->kept;
    if (signs == NULL || kept == NULL) {
        return false;
    }
    memset(signs + doctor->ranks * DOCTOR_CAUSES, 0, (ranks - doctor->ranks) * DOCTOR_CAUSES * sizeof(*signs));
    memset(kept + doctor->ranks, 0, (ranks - doctor->ranks) * sizeof(*kept));
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

// What micro-steps take of the headroom, where it has the rank accumulate although recomputing would need less.
static double intermediates(const struct config *config, const struct record_rank *rank)
{
    uint64_t resting_bytes = rank->limit_bytes - uint64_min(rank->limit_bytes, rank->headroom_bytes);
    enum config_recompute recompute = config->train.recompute;
    bool restricted = config->model.kind == CONFIG_MODEL_GPT && config->train.micro_batch_size == 0 &&
                      (recompute == CONFIG_RECOMPUTE_NONE || recompute == CONFIG_RECOMPUTE_SELECTIVE);
    if (!restricted || rank->accumulation_steps < 2 || rank->kept_bytes > 0) {
        return 0;
    }
    return part(rank->allocated_peak_bytes - uint64_min(rank->allocated_peak_bytes, resting_bytes),
                rank->headroom_bytes);
}

static double figure_of(const struct config *config, enum doctor_cause cause, const struct record_step *step,
                        const struct record_rank *rank)
{
    switch (cause) {
    case DOCTOR_KEPT:
        return (double)rank->kept_bytes;
    case DOCTOR_BATCH:
        return too_large(config, rank);
    case DOCTOR_DATA:
        return step->step_ms > 0 ? rank->data_wait_ms / step->step_ms : 0;
    case DOCTOR_INTERMEDIATES:
        return intermediates(config, rank);
    case DOCTOR_FRAGMENTATION: // blocks that stay make pieces, too
        return rank->kept_bytes > 0 ? 0 : part(rank->fragmented_bytes, rank->limit_bytes);
    case DOCTOR_GRADIENTS: // told by the tags of what stays
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
    if (doctor->at_first < STEPS_AT_FIRST) {
        doctor->at_first++;
        return true;
    }
    doctor->steps++;
    for (size_t i = 0; i < step->ranks.count; i++) {
        for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
            double figure = figure_of(doctor->config, k, step, &step->ranks.rank[i]);
            note(&doctor->signs[i * DOCTOR_CAUSES + (size_t)k], figure, doctor_causes[k].allowed, step->step);
        }
    }
    return true;
}

void doctor_tag(struct doctor *doctor, uint32_t rank, const char *tag, uint64_t bytes)
{
    if (rank < doctor->ranks && bytes > doctor->kept[rank].bytes) {
        doctor->kept[rank].bytes = bytes;
        snprintf(doctor->kept[rank].tag, sizeof(doctor->kept[rank].tag), "%s", tag);
    }
}

void doctor_end(struct doctor *doctor, const struct record_end *end)
{
    doctor->out_of_memory = end->status == STATUS_OUT_OF_MEMORY;
    doctor->steps_done = end->step;
}

// The rank whose steps speak most for the cause. Gradients that stay are blocks of that tag.
static const struct sign *worst_sign(const struct doctor *doctor, enum doctor_cause cause, uint32_t *rank_p)
{
    const struct sign *worst = NULL;
    bool is_kept = cause == DOCTOR_GRADIENTS || cause == DOCTOR_KEPT;
    for (uint32_t i = 0; i < doctor->ranks; i++) {
        bool gradients = strcmp(doctor->kept[i].tag, "gradients") == 0;
        const struct sign *sign = &doctor->signs[i * DOCTOR_CAUSES + (is_kept ? DOCTOR_KEPT : cause)];
        bool counts = !is_kept || gradients == (cause == DOCTOR_GRADIENTS);
        bool more = worst == NULL || sign->sum > worst->sum ||
                    (sign->sum == worst->sum && sign->sum_of_all > worst->sum_of_all);
        if (counts && more) {
            worst = sign;
            *rank_p = i;
        }
    }
    return worst;
}

static bool is_found(const struct doctor *doctor, enum doctor_cause cause, const struct sign *sign)
{
    if (doctor_causes[cause].is_bytes) {
        return sign->steps >= 2;
    }
    return sign->steps >= DOCTOR_STEPS && sign->steps * PART_OF_STEPS >= doctor->steps;
}

static struct doctor_finding look(const struct doctor *doctor, enum doctor_cause cause)
{
    struct doctor_finding finding = {0};
    const struct sign *sign = worst_sign(doctor, cause, &finding.rank);
    if (sign == NULL || doctor->steps == 0) {
        return finding;
    }
    finding.found = is_found(doctor, cause, sign);
    finding.first = sign->first;
    finding.last = sign->last;
    finding.steps = sign->steps;
    double mean = finding.found ? sign->sum / (double)sign->steps : sign->sum_of_all / (double)doctor->steps;
    finding.figure = doctor_causes[cause].is_bytes ? sign->most : mean;
    if (doctor_causes[cause].is_bytes) {
        snprintf(finding.tag, sizeof(finding.tag), "%s", doctor->kept[finding.rank].tag);
    }
    return finding;
}

// The run has ended for want of memory, and nothing else explains it: one sample is too large.
static bool is_unexplained(const struct doctor *doctor)
{
    for (enum doctor_cause k = 0; doctor->out_of_memory && k < DOCTOR_CAUSES; k++) {
        if (look(doctor, k).found) {
            return false;
        }
    }
    return doctor->out_of_memory;
}

struct doctor_finding doctor_find(const struct doctor *doctor, enum doctor_cause cause)
{
    struct doctor_finding finding = look(doctor, cause);
    if (cause == DOCTOR_BATCH && is_unexplained(doctor)) {
        finding = (struct doctor_finding){
            .found = true, .figure = 1, .first = doctor->steps_done, .last = doctor->steps_done, .steps = 1};
    }
    return finding;
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

static const char *fix_batch(const struct doctor *doctor, char *text)
{
    const struct config *config = doctor->config;
    if (is_unexplained(doctor)) {
        snprintf(text, DOCTOR_FIX_MAX,
                 "not a single sample fits (headroom plan says what it takes): raise device.capacity, %slower %s",
                 config->train.recompute != CONFIG_RECOMPUTE_AUTO ? "set train.recompute: auto, or " : "or ",
                 config->model.kind == CONFIG_MODEL_GPT ? "model.seq_len" : "model.layers");
    } else {
        snprintf(text, DOCTOR_FIX_MAX, "set train.micro_batch_size: auto, which takes what fits; it is %" PRIu64,
                 config->train.micro_batch_size);
    }
    return text;
}

const char *doctor_fix(const struct doctor *doctor, enum doctor_cause cause, char *text)
{
    const struct config *config = doctor->config;
    bool plain = config->device.segments == CONFIG_PLAIN;
    switch (cause) {
    case DOCTOR_GRADIENTS:
    case DOCTOR_KEPT:
        snprintf(text, DOCTOR_FIX_MAX, "%s",
                 config->fault.keep != CONFIG_KEEP_NOTHING ? "set fault.keep: nothing"
                                                           : "this is a bug of Headroom: please report it");
        return text;
    case DOCTOR_BATCH:
        return fix_batch(doctor, text);
    case DOCTOR_DATA:
        snprintf(text, DOCTOR_FIX_MAX,
                 "raise data.threads, which is %" PRIu64
                 ", then data.prefetch_bytes, or have the data on a faster disk",
                 config->data.threads);
        return text;
    case DOCTOR_INTERMEDIATES:
        snprintf(text, DOCTOR_FIX_MAX, "set train.recompute: auto, which computes them again where that is faster");
        return text;
    case DOCTOR_FRAGMENTATION:
        snprintf(text, DOCTOR_FIX_MAX, "%s",
                 plain                              ? "set device.segments: expandable"
                 : config->fault.fragment_bytes > 0 ? "set fault.fragment_bytes: 0"
                                                    : "start the run again with checkpoint.resume: auto");
        return text;
    case DOCTOR_CAUSES:
        break;
    }
    return "";
}
