// SPDX-License-Identifier: Apache-2.0
#include "worker/run/history.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/regular_file.h"
#include "worker/run/run_folder.h"

struct history {
    char path[RUN_FOLDER_MAX + 16];
    FILE *file;
    char *text; // of the line
    size_t room;
    uint64_t number;
    json_t *object; // of the line, which what is answered points into
    struct record_ranks ranks;
    size_t ranks_room;
};

static enum status open_file(struct history *history, struct error *error)
{
    int descriptor;
    uint64_t bytes;
    enum status status = regular_file_open(history->path, &descriptor, &bytes, error);
    if (status != STATUS_OK) {
        return status;
    }
    history->number = 0;
    history->file = fdopen(descriptor, "r");
    if (history->file == NULL) {
        close(descriptor);
        return error_out_of_host_memory(error);
    }
    return STATUS_OK;
}

struct history *history_create(const char *name)
{
    struct history *history = calloc(1, sizeof(*history));
    if (history != NULL) {
        snprintf(history->path, sizeof(history->path), "%s", name);
    }
    return history;
}

enum status history_open(const char *folder, struct history **history_p, struct error *error)
{
    uint32_t ranks;
    char path[RUN_FOLDER_MAX + 16];
    enum status status = run_folder_ranks(folder, &ranks, error);
    if (status != STATUS_OK) {
        return status;
    }
    snprintf(path, sizeof(path), "%s/metrics.jsonl", folder);
    struct history *history = history_create(path);
    if (history == NULL) {
        return error_out_of_host_memory(error);
    }
    status = open_file(history, error);
    if (status != STATUS_OK) {
        history_close(history);
        return status;
    }
    *history_p = history;
    return STATUS_OK;
}

void history_close(struct history *history)
{
    if (history == NULL) {
        return;
    }
    if (history->file != NULL) {
        fclose(history->file);
    }
    json_decref(history->object);
    free(history->ranks.rank);
    free(history->text);
    free(history);
}

// Whether another file has the name.
static bool is_replaced(const struct history *history)
{
    struct stat here, named;
    return fstat(fileno(history->file), &here) == 0 && stat(history->path, &named) == 0 &&
           (here.st_ino != named.st_ino || here.st_dev != named.st_dev);
}

// A whole line, without its newline. False where there is none.
static bool read_line(struct history *history, size_t *length_p)
{
    long begin = ftell(history->file);
    clearerr(history->file);
    ssize_t length = getline(&history->text, &history->room, history->file);
    if (length <= 0 || history->text[length - 1] != '\n') {
        fseek(history->file, begin, SEEK_SET);
        return false;
    }
    *length_p = (size_t)length - 1;
    return true;
}

static bool read_field(const json_t *object, const struct record_field *field, void *record)
{
    void *place = (char *)record + field->offset;
    const json_t *value = json_object_get(object, field->name);
    if (value == NULL && field->later) {
        memset(place, 0, field->type == RECORD_REAL ? sizeof(double) : sizeof(uint64_t));
        return true;
    }
    switch (field->type) {
    case RECORD_COUNT:
        *(uint64_t *)place = (uint64_t)json_integer_value(value);
        return json_is_integer(value);
    case RECORD_REAL:
        *(double *)place = json_is_null(value) ? NAN : json_number_value(value);
        return json_is_null(value) || json_is_number(value);
    case RECORD_NAME:
        break;
    }
    if (!json_is_string(value) || json_string_length(value) >= RECORD_NAME_MAX) {
        return false;
    }
    memcpy(place, json_string_value(value), json_string_length(value) + 1);
    return true;
}

static bool read_fields(const json_t *object, const struct record_field *field, void *record)
{
    while (field->name != NULL && read_field(object, field, record)) {
        field++;
    }
    return field->name == NULL;
}

static bool make_room(struct history *history, size_t ranks)
{
    if (ranks <= history->ranks_room) {
        return true;
    }
    struct record_rank *rank = realloc(history->ranks.rank, ranks * sizeof(*rank));
    if (rank == NULL) {
        return false;
    }
    history->ranks.rank = rank;
    history->ranks_room = ranks;
    return true;
}

static bool read_ranks(struct history *history, struct record_ranks *ranks_p)
{
    const json_t *array = json_object_get(history->object, "ranks");
    size_t count = json_array_size(array), i = 0;
    if (count == 0 || !make_room(history, count)) {
        return false;
    }
    while (i < count && read_fields(json_array_get(array, i), record_rank_fields, &history->ranks.rank[i])) {
        i++;
    }
    history->ranks.count = count;
    *ranks_p = history->ranks;
    return i == count;
}

static bool read_step(struct history *history, struct history_line *line)
{
    line->kind = HISTORY_STEP;
    return read_fields(history->object, record_step_fields, &line->step) && read_ranks(history, &line->step.ranks);
}

static bool read_evaluation(struct history *history, struct history_line *line)
{
    struct record_evaluation *evaluation = &line->evaluation;
    json_int_t step, samples;
    line->kind = HISTORY_EVALUATION;
    if (json_unpack(history->object, "{s:I, s:F, s:F, s:I}", "step", &step, "loss", &evaluation->loss, "accuracy",
                    &evaluation->accuracy, "samples", &samples) != 0) {
        return false;
    }
    evaluation->step = (uint64_t)step;
    evaluation->samples = (uint64_t)samples;
    return read_ranks(history, &evaluation->ranks);
}

static bool read_checkpoint(struct history *history, struct history_line *line)
{
    struct record_checkpoint *checkpoint = &line->checkpoint;
    json_int_t step, bytes;
    int written;
    const char *error = "";
    line->kind = HISTORY_CHECKPOINT;
    if (json_unpack(history->object, "{s:I, s:b, s:I, s:F, s:F, s?s}", "step", &step, "written", &written, "bytes",
                    &bytes, "pause_ms", &checkpoint->pause_ms, "write_ms", &checkpoint->write_ms, "error",
                    &error) != 0) {
        return false;
    }
    checkpoint->step = (uint64_t)step;
    checkpoint->bytes = (uint64_t)bytes;
    checkpoint->written = written;
    snprintf(checkpoint->error, sizeof(checkpoint->error), "%s", error);
    return true;
}

static bool read_resume(struct history *history, struct history_line *line)
{
    json_int_t step, ranks;
    line->kind = HISTORY_RESUME;
    if (json_unpack(history->object, "{s:I, s:I, s:s}", "step", &step, "ranks", &ranks, "from", &line->resume.from) !=
        0) {
        return false;
    }
    line->resume.step = (uint64_t)step;
    line->resume.ranks = (uint64_t)ranks;
    return true;
}

static bool read_shortage(json_t *object, struct record_shortage *shortage)
{
    json_int_t rank;
    int recompute;
    if (json_unpack(object, "{s:I, s:s, s:b, s:s}", "rank", &rank, "cause", &shortage->cause, "recompute", &recompute,
                    "advice", &shortage->advice) != 0) {
        return false;
    }
    shortage->rank = (uint64_t)rank;
    shortage->recompute = recompute;
    return true;
}

static bool read_end(struct history *history, struct history_line *line)
{
    json_int_t step;
    int status;
    json_t *shortage = NULL;
    line->kind = HISTORY_END;
    if (json_unpack(history->object, "{s:I, s:F, s:i, s?s, s?o}", "step", &step, "seconds", &line->end.seconds,
                    "status", &status, "weights", &line->end.weights, "shortage", &shortage) != 0) {
        return false;
    }
    line->end.step = (uint64_t)step;
    line->end.status = (enum status)status;
    return shortage == NULL || read_shortage(shortage, &line->end.shortage);
}

static const struct {
    const char *name;
    bool (*read)(struct history *history, struct history_line *line);
} events[] = {{"eval", read_evaluation}, {"checkpoint", read_checkpoint}, {"resume", read_resume}, {"end", read_end}};

static bool read_object(struct history *history, struct history_line *line)
{
    const json_t *event = json_object_get(history->object, "event");
    if (event == NULL) {
        return read_step(history, line);
    }
    if (!json_is_string(event)) {
        return false;
    }
    for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
        if (strcmp(json_string_value(event), events[i].name) == 0) {
            return events[i].read(history, line);
        }
    }
    line->kind = HISTORY_OTHER;
    return true;
}

enum status history_read(struct history *history, const char *text, size_t length, struct history_line *line_p,
                         struct error *error)
{
    history->number++;
    json_decref(history->object);
    history->object = json_loadb(text, length, 0, NULL);
    if (!read_object(history, line_p)) {
        return error_set(error, STATUS_INVALID, "%s:%" PRIu64 ": is no line of a run's metrics", history->path,
                         history->number);
    }
    return STATUS_OK;
}

enum status history_next(struct history *history, struct history_line *line_p, struct error *error)
{
    size_t length;
    *line_p = (struct history_line){.kind = HISTORY_NOTHING};
    bool found = read_line(history, &length);
    if (!found && is_replaced(history)) {
        fclose(history->file);
        history->file = NULL;
        enum status status = open_file(history, error);
        if (status != STATUS_OK) {
            return status;
        }
        found = read_line(history, &length);
    }
    return found ? history_read(history, history->text, length, line_p, error) : STATUS_OK;
}
