// SPDX-License-Identifier: Apache-2.0
#include "worker/report/page.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mem/whole_file.h"
#include "worker/json_text.h"
#include "worker/offers.h"
#include "worker/regular_file.h"
#include "worker/report/template.h"

#define EXACT_MAX 9007199254740992.0 // every integer up to here is a double

static json_t *number_value(double number)
{
    if (!isfinite(number)) {
        return json_null();
    }
    return number == floor(number) && fabs(number) < EXACT_MAX ? json_integer((json_int_t)number) : json_real(number);
}

enum statistic { STATISTIC_MIN, STATISTIC_MAX, STATISTIC_MEAN, STATISTIC_SUM };

static double statistic_of(const struct column *column, enum statistic statistic)
{
    switch (statistic) {
    case STATISTIC_MIN:
        return column->min;
    case STATISTIC_MAX:
        return column->max;
    case STATISTIC_MEAN:
        return column->sum / (double)column->count;
    case STATISTIC_SUM:
        break;
    }
    return column->sum;
}

static bool is_same_throughout(const struct column *column, size_t count, enum statistic statistic)
{
    size_t i = 0;
    while (i < count && column[i].count > 0 && statistic_of(&column[i], statistic) == statistic_of(column, statistic)) {
        i++;
    }
    return count > 0 && i == count;
}

// One number where it is the same in all columns, else an array; null where there is none.
static json_t *statistic_value(const struct column *column, size_t count, enum statistic statistic)
{
    if (is_same_throughout(column, count, statistic)) {
        return number_value(statistic_of(column, statistic));
    }
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        json_array_append_new(array,
                              column[i].count == 0 ? json_null() : number_value(statistic_of(&column[i], statistic)));
    }
    return array;
}

// Of columns of one step each the value is all that there is to tell.
static json_t *series_object(const struct columns *columns, size_t series, bool adds_up, bool with_mean)
{
    const struct column *column = columns_of(columns, series);
    json_t *object = json_object();
    if (adds_up || columns->stride == 1) {
        json_object_set_new(object, adds_up ? "sum" : "value", statistic_value(column, columns->used, STATISTIC_SUM));
        return object;
    }
    json_object_set_new(object, "min", statistic_value(column, columns->used, STATISTIC_MIN));
    json_object_set_new(object, "max", statistic_value(column, columns->used, STATISTIC_MAX));
    if (with_mean) {
        json_object_set_new(object, "mean", statistic_value(column, columns->used, STATISTIC_MEAN));
    }
    return object;
}

static json_t *columns_object(const struct columns *columns, json_t *series)
{
    return json_pack("{s:I, s:I, s:o}", "stride", (json_int_t)columns->stride, "count", (json_int_t)columns->used,
                     "series", series);
}

static json_t *steps_object(const struct columns *columns)
{
    json_t *series = json_object();
    for (size_t i = 0; i < columns->series; i++) {
        json_object_set_new(series, record_step_fields[i].name, series_object(columns, i, false, true));
    }
    return columns_object(columns, series);
}

static json_t *evaluations_object(const struct columns *columns)
{
    json_t *series = json_pack("{s:o, s:o}", "loss", series_object(columns, DIGEST_EVALUATION_LOSS, false, true),
                               "accuracy", series_object(columns, DIGEST_EVALUATION_ACCURACY, false, true));
    return columns_object(columns, series);
}

static json_t *lanes_object(const struct digest *digest)
{
    json_t *series = json_object();
    for (size_t lane = 0; lane < DIGEST_LANES; lane++) {
        json_t *ranks = json_array();
        for (size_t rank = 0; rank < digest->ranks; rank++) {
            json_array_append_new(
                ranks, series_object(&digest->lanes, rank * DIGEST_LANES + lane, digest_lanes[lane].adds_up, false));
        }
        json_object_set_new(series, digest_lanes[lane].field, ranks);
    }
    return columns_object(&digest->lanes, series);
}

static json_t *levers_array(void)
{
    json_t *array = json_array();
    for (uint64_t i = 0; i < OFFERS_SETS; i++) {
        json_array_append_new(array, json_string(offers_levers_name(i)));
    }
    return array;
}

static json_t *newest_object(const struct record_step *step)
{
    json_t *object = json_object();
    for (const struct record_field *field = record_step_fields; field->name != NULL; field++) {
        double value = field->type == RECORD_COUNT ? (double)record_count(field, step) : record_real(field, step);
        json_object_set_new(object, field->name, number_value(value));
    }
    return object;
}

static json_t *event_object(const struct digest_event *event)
{
    json_t *object = json_pack("{s:s, s:I}", "kind", event->kind, "step", (json_int_t)event->step);
    if (strcmp(event->kind, "end") == 0) {
        json_object_set_new(object, "seconds", number_value(event->seconds));
        json_object_set_new(object, "status", json_integer(event->status));
        return object;
    }
    json_object_set_new(object, "text", json_text(event->text));
    json_object_set_new(object, "ranks", json_integer((json_int_t)event->ranks));
    return object;
}

static json_t *events_array(const struct digest *digest)
{
    json_t *array = json_array();
    for (size_t i = 0; i < digest->event_count; i++) {
        json_array_append_new(array, event_object(&digest->events[i]));
    }
    return array;
}

static json_t *total_value(const struct columns *columns, const char *name)
{
    const struct record_field *field = record_find(record_step_fields, name);
    return number_value(columns_total(columns, (size_t)(field - record_step_fields)).sum);
}

static json_t *run_object(const struct page *page)
{
    const struct digest *digest = page->digest;
    return json_pack("{s:o, s:o, s:o, s:I, s:I, s:I, s:b, s:b, s:o, s:o, s:o, s:o, s:o}", "name", json_text(page->name),
                     "environment", json_text(page->environment), "configuration", json_text(page->configuration),
                     "steps", (json_int_t)digest->step_count, "ranks", (json_int_t)digest->ranks, "newest_ranks",
                     (json_int_t)digest->newest_ranks, "ended", digest->ended, "resumed", digest->resumed, "newest",
                     digest->step_count > 0 ? newest_object(&digest->newest) : json_null(), "step_ms",
                     total_value(&digest->steps, "step_ms"), "samples", total_value(&digest->steps, "samples"),
                     "tokens", total_value(&digest->steps, "tokens"), "events", events_array(digest));
}

static json_t *checkpoints_object(const struct digest *digest)
{
    return json_pack("{s:I, s:I, s:o}", "written", (json_int_t)digest->checkpoints, "bytes",
                     (json_int_t)digest->checkpoint_bytes, "pause_ms", number_value(digest->checkpoint_pause_ms));
}

static json_t *findings_array(const struct page *page)
{
    json_t *array = json_array();
    for (size_t i = 0; i < page->finding_count; i++) {
        const struct page_finding *finding = &page->findings[i];
        json_array_append_new(array,
                              json_pack("{s:o, s:o, s:o, s:o, s:o}", "cause", json_text(finding->cause), "figure",
                                        json_text(finding->figure), "threshold", json_text(finding->threshold), "where",
                                        json_text(finding->where), "fix", json_text(finding->fix)));
    }
    return array;
}

static json_t *page_object(const struct page *page)
{
    const struct digest *digest = page->digest;
    json_t *memory =
        page->memory != NULL ? json_incref(page->memory) : json_pack("{s:o}", "why", json_text(page->memory_why));
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "run", run_object(page), "findings",
                     findings_array(page), "findings_note", json_text(page->findings_note), "steps",
                     steps_object(&digest->steps), "evaluations", evaluations_object(&digest->evaluations),
                     "checkpoints", checkpoints_object(digest), "levers", levers_array(), "lanes", lanes_object(digest),
                     "memory", memory);
}

// '<' is nowhere but in strings, and there it could end the script that the JSON is in.
static int put_escaped(const char *text, size_t length, void *to)
{
    FILE *file = to;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '<') {
            fputs("\\u003c", file);
        } else {
            fputc(text[i], file);
        }
    }
    return ferror(file) ? -1 : 0;
}

static bool put_page(FILE *file, const void *contents)
{
    const char *data = strstr(report_template, REPORT_TEMPLATE_DATA);
    fwrite(report_template, 1, (size_t)(data - report_template), file);
    bool put = json_dump_callback(contents, put_escaped, file, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0;
    fputs(data + strlen(REPORT_TEMPLATE_DATA), file);
    return put;
}

enum status page_write(const char *path, const struct page *page, struct error *error)
{
    json_t *object = page_object(page);
    if (object == NULL) {
        return error_out_of_host_memory(error);
    }
    bool written = whole_file_write(path, put_page, object);
    json_decref(object);
    return written ? STATUS_OK : regular_file_refuse(path, "write", error);
}
