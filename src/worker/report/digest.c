// SPDX-License-Identifier: Apache-2.0
#include "worker/report/digest.h"

#include <stdio.h>
#include <string.h>

#include "mem/uint64.h"
#include "worker/offers.h"
#include "worker/run/history.h"

#define STEP_COLUMNS     1024
#define LANE_COLUMNS_MAX UINT64_C(512)
#define LANE_COLUMNS_MIN UINT64_C(32)
#define LANE_CELLS       UINT64_C(64000) // of all ranks together

const struct digest_lane digest_lanes[] = {
    {"headroom_bytes", false},
    {"allocated_peak_bytes", false},
    {"reserved_peak_bytes", false},
    {"limit_bytes", false},
    {"share", false},
    {"micro_batch", false},
    {"levers", false},
    {"oom_retries", true},
    {"handed_back", true},
    {"others_bytes", false},
    {"kept_bytes", false},
    {"kept_gradients_bytes", false},
    {"fragmented_bytes", false},
    {"data_wait_ms", false},
    {"recompute_gain", false},
    {NULL, false},
};

static size_t count_fields(const struct record_field *field)
{
    size_t count = 0;
    while (field[count].name != NULL) {
        count++;
    }
    return count;
}

static bool begin(struct digest *digest)
{
    *digest = (struct digest){0};
    return columns_init(&digest->steps, count_fields(record_step_fields), STEP_COLUMNS) &&
           columns_init(&digest->evaluations, DIGEST_EVALUATION_SERIES, STEP_COLUMNS) &&
           columns_init(&digest->lanes, DIGEST_LANES, LANE_COLUMNS_MAX);
}

void digest_finish(struct digest *digest)
{
    columns_finish(&digest->steps);
    columns_finish(&digest->evaluations);
    columns_finish(&digest->lanes);
}

static uint64_t levers_number(const char *name)
{
    uint64_t number = 0;
    while (number < OFFERS_SETS && strcmp(name, offers_levers_name(number)) != 0) {
        number++;
    }
    return number;
}

static double value_of(const struct record_field *field, const void *record)
{
    switch (field->type) {
    case RECORD_COUNT:
        return (double)record_count(field, record);
    case RECORD_REAL:
        return record_real(field, record);
    case RECORD_NAME:
        break;
    }
    return (double)levers_number(record_name(field, record));
}

static void add_rank(struct digest *digest, uint64_t step, size_t rank, const struct record_rank *record)
{
    for (size_t lane = 0; lane < DIGEST_LANES; lane++) {
        const struct record_field *field = record_find(record_rank_fields, digest_lanes[lane].field);
        columns_add(&digest->lanes, rank * DIGEST_LANES + lane, step, value_of(field, record));
    }
}

// The more ranks, the fewer columns each has.
static bool make_room(struct digest *digest, size_t ranks)
{
    if (ranks <= digest->ranks) {
        return true;
    }
    size_t capacity = uint64_min(LANE_COLUMNS_MAX, uint64_max(LANE_COLUMNS_MIN, LANE_CELLS / ranks));
    digest->ranks = ranks;
    return columns_resize(&digest->lanes, ranks * DIGEST_LANES, capacity);
}

static void keep_newest(struct digest *digest, const struct record_step *step)
{
    digest->step_count++;
    digest->newest = *step;
    digest->newest_ranks = step->ranks.count;
    digest->newest.ranks = (struct record_ranks){0};
    digest->largest_rank = 0;
    for (size_t rank = 0; rank < step->ranks.count; rank++) {
        if (step->ranks.rank[rank].micro_batch > step->ranks.rank[digest->largest_rank].micro_batch) {
            digest->largest_rank = (uint32_t)rank;
        }
    }
    digest->largest = step->ranks.rank[digest->largest_rank];
    digest->largest_levers = levers_number(digest->largest.levers);
}

static bool add_step(struct digest *digest, const struct record_step *step)
{
    if (!make_room(digest, step->ranks.count)) {
        return false;
    }
    for (size_t i = 0; i < digest->steps.series; i++) {
        columns_add(&digest->steps, i, step->step, value_of(&record_step_fields[i], step));
    }
    for (size_t rank = 0; rank < step->ranks.count; rank++) {
        add_rank(digest, step->step, rank, &step->ranks.rank[rank]);
    }
    keep_newest(digest, step);
    return true;
}

static void add_evaluation(struct digest *digest, const struct record_evaluation *evaluation)
{
    columns_add(&digest->evaluations, DIGEST_EVALUATION_LOSS, evaluation->step, evaluation->loss);
    columns_add(&digest->evaluations, DIGEST_EVALUATION_ACCURACY, evaluation->step, evaluation->accuracy);
}

static struct digest_event *add_event(struct digest *digest, const char *kind, uint64_t step)
{
    if (digest->event_count == DIGEST_EVENTS_MAX) {
        memmove(&digest->events[0], &digest->events[1], sizeof(digest->events) - sizeof(digest->events[0]));
        digest->event_count--;
    }
    struct digest_event *event = &digest->events[digest->event_count++];
    *event = (struct digest_event){.kind = kind, .step = step};
    return event;
}

static void add_checkpoint(struct digest *digest, const struct record_checkpoint *checkpoint)
{
    digest->checkpoint_pause_ms += checkpoint->pause_ms;
    if (checkpoint->written) {
        digest->checkpoints++;
        digest->checkpoint_bytes += checkpoint->bytes;
        return;
    }
    struct digest_event *event = add_event(digest, "checkpoint", checkpoint->step);
    snprintf(event->text, sizeof(event->text), "%s", checkpoint->error);
}

static void add_resume(struct digest *digest, const struct record_resume *resume)
{
    struct digest_event *event = add_event(digest, "resume", resume->step);
    event->ranks = resume->ranks;
    snprintf(event->text, sizeof(event->text), "%s", resume->from);
    digest->ended = false;
    digest->resumed = true;
}

static void add_end(struct digest *digest, const struct record_end *end)
{
    struct digest_event *event = add_event(digest, "end", end->step);
    event->seconds = end->seconds;
    event->status = end->status;
    digest->ended = true;
}

static bool add(struct digest *digest, const struct history_line *line)
{
    switch (line->kind) {
    case HISTORY_STEP:
        return add_step(digest, &line->step);
    case HISTORY_EVALUATION:
        add_evaluation(digest, &line->evaluation);
        return true;
    case HISTORY_CHECKPOINT:
        add_checkpoint(digest, &line->checkpoint);
        return true;
    case HISTORY_RESUME:
        add_resume(digest, &line->resume);
        return true;
    case HISTORY_END:
        add_end(digest, &line->end);
        return true;
    case HISTORY_NOTHING:
    case HISTORY_OTHER:
        break;
    }
    return true;
}

// Steps only rise in a file: one that was read before is in a file that a run which goes on has written anew.
static bool begins_anew(const struct digest *digest, const struct history_line *line)
{
    return line->kind == HISTORY_STEP && digest->step_count > 0 && line->step.step <= digest->newest.step;
}

static bool take(struct digest *digest, const struct history_line *line)
{
    if (begins_anew(digest, line)) {
        digest_finish(digest);
        if (!begin(digest)) {
            return false;
        }
    }
    return add(digest, line);
}

enum status digest_read(struct digest *digest, const char *folder, struct error *error)
{
    struct history *history;
    struct history_line line = {.kind = HISTORY_OTHER};
    if (!begin(digest)) {
        return error_out_of_host_memory(error);
    }
    enum status status = history_open(folder, &history, error);
    if (status != STATUS_OK) {
        return status;
    }
    while (status == STATUS_OK && line.kind != HISTORY_NOTHING) {
        status = history_next(history, &line, error);
        if (status == STATUS_OK && !take(digest, &line)) {
            status = error_out_of_host_memory(error);
        }
    }
    history_close(history);
    return status;
}
