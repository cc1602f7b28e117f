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
    uint64_t steps; // all that were shown
    bool ran_out;   // of memory, in the end, after so many steps
    uint64_t ended_after;
    struct doctor_shortage shortage; // then
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

// Levers that were pulled to make room; without a choice none are.
static bool pulls_levers(const struct config *config, const struct record_rank *rank)
{
    const char *first = config->train.reproducible ? "head" : "none";
    return config->train.recompute == CONFIG_RECOMPUTE_AUTO && strcmp(rank->levers, first) != 0;
}

// More memory would be of use to the rank.
static bool is_short(const struct config *config, const struct record_rank *rank)
{
    uint64_t most = config->train.micro_batch_size == 0 ? rank->share : config->train.micro_batch_size;
    return rank->share == 0 || rank->micro_batch < uint64_min(most, rank->share) || rank->oom_retries > 0 ||
           pulls_levers(config, rank);
}

static double figure_of(const struct config *config, enum doctor_cause cause, const struct record_step *step,
                        const struct record_rank *rank)
{
    switch (cause) {
    case DOCTOR_GRADIENTS:
        return (double)rank->kept_gradients_bytes;
    case DOCTOR_KEPT:
        return (double)(rank->kept_bytes - uint64_min(rank->kept_bytes, rank->kept_gradients_bytes));
    case DOCTOR_BATCH:
        return too_large(config, rank);
    case DOCTOR_DATA:
        return step->step_ms > 0 ? fmin(1, rank->data_wait_ms / step->step_ms) : 0; // the step is rank 0's
    case DOCTOR_INTERMEDIATES:
        return rank->recompute_gain;
    case DOCTOR_FRAGMENTATION:
        return is_short(config, rank) ? part(rank->fragmented_bytes, rank->limit_bytes) : 0;
    case DOCTOR_CAUSES:
        break;
    }
    return 0;
}

static bool is_above(enum doctor_cause cause, double figure)
{
    return figure > doctor_causes[cause].allowed;
}

// Where memory is short for one cause, others may follow from it: blocks that stay lie between others, pieces leave no
// room for intermediates, and these none for a micro-batch.
static void drop_what_follows(double figures[DOCTOR_CAUSES])
{
    static const enum doctor_cause order[] = {DOCTOR_FRAGMENTATION, DOCTOR_INTERMEDIATES, DOCTOR_BATCH};
    bool explained =
        is_above(DOCTOR_GRADIENTS, figures[DOCTOR_GRADIENTS]) || is_above(DOCTOR_KEPT, figures[DOCTOR_KEPT]);
    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        figures[order[i]] = explained ? 0 : figures[order[i]];
        explained |= is_above(order[i], figures[order[i]]);
    }
}

static void note(struct sign *sign, enum doctor_cause cause, double figure, uint64_t step)
{
    sign->sum_of_all += figure;
    if (is_above(cause, figure)) {
        sign->first = sign->steps == 0 ? step : sign->first;
        sign->last = step;
        sign->steps++;
        sign->sum += figure;
        sign->most = fmax(sign->most, figure);
    }
}

static void note_rank(struct doctor *doctor, size_t rank, const struct record_step *step)
{
    double figures[DOCTOR_CAUSES];
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        figures[k] = figure_of(doctor->config, k, step, &step->ranks.rank[rank]);
    }
    drop_what_follows(figures);
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        if (doctor_causes[k].is_bytes || doctor->steps > DOCTOR_STEPS_AT_FIRST) {
            note(&doctor->rank[rank].signs[k], k, figures[k], step->step);
        }
    }
}

bool doctor_step(struct doctor *doctor, const struct record_step *step)
{
    if (!make_room(doctor, step->ranks.count)) {
        return false;
    }
    doctor->steps++;
    for (size_t i = 0; i < step->ranks.count; i++) {
        note_rank(doctor, i, step);
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
    doctor->ran_out = end->status == STATUS_OUT_OF_MEMORY;
    doctor->ended_after = end->step;
    if (end->shortage.cause != NULL) {
        doctor->shortage.rank = (uint32_t)end->shortage.rank;
        doctor->shortage.recompute = end->shortage.recompute;
        snprintf(doctor->shortage.cause, sizeof(doctor->shortage.cause), "%s", end->shortage.cause);
        snprintf(doctor->shortage.advice, sizeof(doctor->shortage.advice), "%s", end->shortage.advice);
    }
}

const struct doctor_shortage *doctor_shortage(const struct doctor *doctor)
{
    return doctor->ran_out ? &doctor->shortage : NULL;
}

// ---- What to change ----

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
        snprintf(text, size, "set train.micro_batch_size: auto, which takes what fits; it is %" PRIu64,
                 config->train.micro_batch_size);
        break;
    case DOCTOR_DATA:
        snprintf(text, size,
                 "raise data.threads, which is %" PRIu64 ", and data.prefetch_bytes, which is %" PRIu64
                 ", or have the data on a faster disk",
                 config->data.threads, config->data.prefetch_bytes);
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

static bool is_found(const struct doctor *doctor, enum doctor_cause cause, const struct sign *sign)
{
    if (doctor_causes[cause].is_bytes) {
        return sign->steps > 0;
    }
    return sign->steps >= DOCTOR_STEPS && sign->steps * PART_OF_STEPS >= doctor_steps(doctor);
}

// Whether `a` speaks more for the cause.
static bool says_more(const struct doctor *doctor, enum doctor_cause cause, const struct sign *a, const struct sign *b)
{
    bool found[] = {is_found(doctor, cause, a), is_found(doctor, cause, b)};
    if (found[0] != found[1]) {
        return found[0];
    }
    return a->sum > b->sum || (a->sum == b->sum && a->sum_of_all > b->sum_of_all);
}

// There is one.
static uint32_t worst_rank(const struct doctor *doctor, enum doctor_cause cause)
{
    uint32_t worst = 0;
    for (uint32_t i = 1; i < doctor->ranks; i++) {
        bool more = says_more(doctor, cause, &doctor->rank[i].signs[cause], &doctor->rank[worst].signs[cause]);
        worst = more ? i : worst;
    }
    return worst;
}

static struct doctor_finding look(const struct doctor *doctor, enum doctor_cause cause)
{
    if (doctor->ranks == 0) {
        return (struct doctor_finding){0};
    }
    uint32_t rank = worst_rank(doctor, cause);
    const struct sign *sign = &doctor->rank[rank].signs[cause];
    bool speaks = sign->steps > 0;
    double sum = speaks ? sign->sum : sign->sum_of_all;
    double steps = (double)(speaks ? sign->steps : uint64_max(1, doctor_steps(doctor)));
    struct doctor_finding finding = {
        .found = is_found(doctor, cause, sign),
        .figure = doctor_causes[cause].is_bytes ? sign->most : sum / steps,
        .rank = rank,
        .first = sign->first,
        .last = sign->last,
        .steps = sign->steps,
    };
    if (cause == DOCTOR_KEPT && finding.found) {
        snprintf(finding.tag, sizeof(finding.tag), "%s", doctor->rank[rank].tag);
    }
    return finding;
}

static bool ended_by(const struct doctor *doctor, enum mem_cause cause)
{
    return doctor->ran_out && strcmp(doctor->shortage.cause, mem_cause_name(cause)) == 0;
}

// Why there was no room for a single sample in the end; DOCTOR_CAUSES: it is none of these.
static enum doctor_cause cause_of_end(const struct doctor *doctor)
{
    if (ended_by(doctor, MEM_CAUSE_FRAGMENTED) || ended_by(doctor, MEM_CAUSE_PENDING)) {
        return DOCTOR_FRAGMENTATION;
    }
    bool by_capacity = ended_by(doctor, MEM_CAUSE_CAPACITY), by_others = ended_by(doctor, MEM_CAUSE_EXTERNAL);
    if ((by_capacity || by_others) && doctor->shortage.recompute) {
        return DOCTOR_INTERMEDIATES;
    }
    return by_capacity ? DOCTOR_BATCH : DOCTOR_CAUSES;
}

static void find_end(const struct doctor *doctor, struct doctor_finding *finding)
{
    *finding = (struct doctor_finding){
        .found = true,
        .ended = true,
        .figure = 1,
        .rank = doctor->shortage.rank,
        .first = doctor->ended_after,
        .last = doctor->ended_after,
    };
    snprintf(finding->fix, sizeof(finding->fix), "%s", doctor->shortage.advice);
}

// Blocks that stay explain that memory ran out, too.
static bool something_stays(const struct doctor_finding findings[DOCTOR_CAUSES])
{
    return findings[DOCTOR_GRADIENTS].found || findings[DOCTOR_KEPT].found;
}

const struct doctor_shortage *doctor_unexplained(const struct doctor *doctor,
                                                 const struct doctor_finding findings[DOCTOR_CAUSES])
{
    return something_stays(findings) || cause_of_end(doctor) != DOCTOR_CAUSES ? NULL : doctor_shortage(doctor);
}

void doctor_find(const struct doctor *doctor, struct doctor_finding findings[DOCTOR_CAUSES])
{
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        findings[k] = look(doctor, k);
        if (findings[k].found) {
            write_fix(doctor, k, &findings[k]);
        }
    }
    enum doctor_cause end = cause_of_end(doctor);
    if (end != DOCTOR_CAUSES && !something_stays(findings)) {
        find_end(doctor, &findings[end]);
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

const char *doctor_allowed_text(enum doctor_cause cause, char *text)
{
    if (doctor_causes[cause].allowed > 0) {
        return doctor_figure_text(cause, doctor_causes[cause].allowed, text);
    }
    snprintf(text, DOCTOR_FIGURE_MAX, "none");
    return text;
}

const char *doctor_found_text(enum doctor_cause cause, const struct doctor_finding *finding, char *text)
{
    static const char *const ends[DOCTOR_CAUSES] = {
        [DOCTOR_BATCH] = "there is no room for the smallest micro-step",
        [DOCTOR_INTERMEDIATES] = "there is room for the smallest micro-step only where they are computed again",
        [DOCTOR_FRAGMENTATION] = "there is room for the smallest micro-step only in pieces",
    };
    char figure[DOCTOR_FIGURE_MAX];
    if (finding->ended) {
        snprintf(text, DOCTOR_FOUND_MAX, "%s", ends[cause]);
    } else {
        snprintf(text, DOCTOR_FOUND_MAX, "%s %s", doctor_figure_text(cause, finding->figure, figure),
                 doctor_causes[cause].figure);
    }
    return text;
}

const char *doctor_where_text(const struct doctor_finding *finding, char *text)
{
    bool tagged = finding->tag[0] != '\0';
    if (finding->ended) {
        snprintf(text, DOCTOR_WHERE_MAX, "rank %" PRIu32 ", at the run's end after %" PRIu64 " step%s", finding->rank,
                 finding->first, finding->first == 1 ? "" : "s");
        return text;
    }
    snprintf(text, DOCTOR_WHERE_MAX, "rank %" PRIu32 ", %" PRIu64 " step%s from %" PRIu64 " to %" PRIu64 "%s%s%s",
             finding->rank, finding->steps, finding->steps == 1 ? "" : "s", finding->first, finding->last,
             tagged ? ", blocks of '" : "", finding->tag, tagged ? "'" : "");
    return text;
}

const char *doctor_shortage_text(const struct doctor_shortage *shortage, char *text)
{
    snprintf(text, DOCTOR_FOUND_MAX, "memory ran out, cause: %s", shortage->cause);
    return text;
}

const char *doctor_too_few_text(const struct doctor *doctor, char *text)
{
    uint64_t steps = doctor_steps(doctor);
    if (steps >= DOCTOR_STEPS || doctor->ran_out) {
        return NULL;
    }
    snprintf(text, DOCTOR_TOO_FEW_MAX,
             "%" PRIu64 " step%s for figures in %%, without the first %d of a process: too few, it takes %d", steps,
             steps == 1 ? " counts" : "s count", DOCTOR_STEPS_AT_FIRST, DOCTOR_STEPS);
    return text;
}
