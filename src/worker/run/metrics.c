// SPDX-License-Identifier: Apache-2.0
#include "worker/run/metrics.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mem/whole_file.h"
#include "worker/json_text.h"
#include "worker/regular_file.h"
#include "worker/run/run_folder.h"

// Whether a line tells of what is done before step `first_step`, at which the run goes on; of one that begins there is
// nothing. One that was written in part does not.
static bool is_before(const char *line, size_t length, uint64_t first_step)
{
    json_t *object = json_loadb(line, length, 0, NULL);
    const json_t *step = json_object_get(object, "step");
    uint64_t number = (uint64_t)json_integer_value(step);
    bool counts = json_object_get(object, "event") != NULL; // an event's is a number of steps done
    bool before = first_step > 0 && json_is_integer(step) && number + !counts <= first_step;
    json_decref(object);
    return before;
}

struct earlier {
    FILE *file;
    uint64_t first_step;
};

// The lines that tell of what is done before the step.
static bool put_lines(FILE *to, const void *contents)
{
    const struct earlier *earlier = contents;
    char *line = NULL;
    size_t room = 0;
    for (ssize_t length; (length = getline(&line, &room, earlier->file)) > 0;) {
        if (line[length - 1] == '\n' && is_before(line, (size_t)length, earlier->first_step)) {
            fputs(line, to);
        }
    }
    free(line);
    return feof(earlier->file) != 0;
}

// Where a run goes on, what an earlier process has written of steps that are done again goes.
static bool drop_later_lines(const char *path, uint64_t first_step)
{
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return errno == ENOENT;
    }
    bool written = whole_file_write(path, put_lines, &(struct earlier){file, first_step});
    fclose(file);
    return written;
}

enum status metrics_open(const char *folder, uint64_t first_step, struct line_file **metrics_p, struct error *error)
{
    char path[RUN_FOLDER_MAX + 16];
    snprintf(path, sizeof(path), "%s/metrics.jsonl", folder);
    struct line_file *metrics = drop_later_lines(path, first_step) ? line_file_open(path, false) : NULL;
    if (metrics == NULL) {
        return regular_file_refuse(path, "write", error);
    }
    *metrics_p = metrics;
    return STATUS_OK;
}

// Writes and frees the object.
static void write_line(struct line_file *metrics, json_t *object)
{
    line_file_write(metrics, object == NULL ? NULL : json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)));
    json_decref(object);
}

static json_t *field_value(const struct record_field *field, const void *record)
{
    if (field->type == RECORD_COUNT) {
        return json_integer((json_int_t)record_count(field, record));
    }
    if (field->type == RECORD_NAME) {
        return json_string(record_name(field, record));
    }
    double value = record_real(field, record);
    return isnan(value) ? json_null() : json_real(value);
}

// Adds the fields; frees the object and answers NULL where the host's memory runs out.
static json_t *with_fields(json_t *object, const struct record_field *field, const void *record)
{
    for (; object != NULL && field->name != NULL; field++) {
        if (json_object_set_new(object, field->name, field_value(field, record)) != 0) {
            json_decref(object);
            object = NULL;
        }
    }
    return object;
}

// NULL where the host's memory runs out.
static json_t *rank_objects(const struct record_ranks *ranks)
{
    json_t *array = json_array();
    for (size_t i = 0; array != NULL && i < ranks->count; i++) {
        json_t *object = with_fields(json_pack("{sI}", "rank", (json_int_t)i), record_rank_fields, &ranks->rank[i]);
        if (json_array_append_new(array, object) != 0) {
            json_decref(array);
            array = NULL;
        }
    }
    return array;
}

void metrics_step(struct line_file *metrics, const struct record_step *step)
{
    json_t *object = with_fields(json_object(), record_step_fields, step);
    if (object != NULL && json_object_set_new(object, "ranks", rank_objects(&step->ranks)) != 0) {
        json_decref(object);
        object = NULL;
    }
    write_line(metrics, object);
}

void metrics_evaluation(struct line_file *metrics, const struct record_evaluation *evaluation)
{
    write_line(metrics, json_pack("{ss sI sf sf sI so}", "event", "eval", "step", (json_int_t)evaluation->step, "loss",
                                  evaluation->loss, "accuracy", evaluation->accuracy, "samples",
                                  (json_int_t)evaluation->samples, "ranks", rank_objects(&evaluation->ranks)));
}

void metrics_resume(struct line_file *metrics, const struct record_resume *resume)
{
    write_line(metrics, json_pack("{ss sI sI so}", "event", "resume", "step", (json_int_t)resume->step, "ranks",
                                  (json_int_t)resume->ranks, "from", json_text(resume->from)));
}

void metrics_checkpoint(struct line_file *metrics, const struct record_checkpoint *checkpoint)
{
    json_t *object = json_pack("{ss sI sb sI sf sf}", "event", "checkpoint", "step", (json_int_t)checkpoint->step,
                               "written", (int)checkpoint->written, "bytes", (json_int_t)checkpoint->bytes, "pause_ms",
                               checkpoint->pause_ms, "write_ms", checkpoint->write_ms);
    if (object != NULL && !checkpoint->written) {
        json_object_set_new(object, "error", json_text(checkpoint->error));
    }
    write_line(metrics, object);
}

void metrics_end(struct line_file *metrics, const struct record_end *end)
{
    json_t *object = json_pack("{ss sI sf si}", "event", "end", "step", (json_int_t)end->step, "seconds", end->seconds,
                               "status", (int)end->status);
    if (object != NULL && end->weights != NULL) {
        json_object_set_new(object, "weights", json_string(end->weights));
    }
    const struct record_shortage *shortage = &end->shortage;
    if (object != NULL && shortage->cause != NULL) {
        json_object_set_new(object, "shortage",
                            json_pack("{sI ss sb ss}", "rank", (json_int_t)shortage->rank, "cause", shortage->cause,
                                      "recompute", (int)shortage->recompute, "advice", shortage->advice));
    }
    write_line(metrics, object);
}
