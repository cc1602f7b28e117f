// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/commands/plan_print.h"
#include "worker/json_text.h"

static json_t *count(uint64_t number)
{
    return json_integer((json_int_t)number);
}

// null where it is not known.
static json_t *real(double number)
{
    return number > 0 ? json_real(number) : json_null();
}

static json_t *text_or_null(const char *text)
{
    return text != NULL && text[0] != '\0' ? json_text(text) : json_null();
}

// Frees the array and answers NULL where it is not whole.
static json_t *if_whole(json_t *array, bool whole)
{
    if (!whole) {
        json_decref(array);
    }
    return whole ? array : NULL;
}

static json_t *micro_step_object(const struct planning *planning, uint64_t micro_batch, uint64_t levers)
{
    struct planned_micro_step step = planning_micro_step(planning, micro_batch, levers);
    return json_pack("{s:s, s:o, s:o, s:o, s:o}", "levers", offers_levers_name(levers), "micro_batch",
                     count(micro_batch), "predicted_peak_bytes", count(step.peak_bytes), "host_bytes",
                     count(step.host_bytes), "ms", real(step.ms));
}

static json_t *micro_steps(const struct planning *planning)
{
    json_t *array = json_array();
    bool whole = array != NULL;
    for (size_t k = 0; k < OFFERS_SETS; k++) {
        uint64_t first = planning_offers(planning)->work[k] > 0 ? planning_next(planning, 0, k) : 0;
        for (uint64_t n = first; whole && n > 0; n = planning_next(planning, n, k)) {
            whole = json_array_append_new(array, micro_step_object(planning, n, k)) == 0;
        }
    }
    return if_whole(array, whole);
}

static json_t *row_object(const struct planned_row *row)
{
    json_t *object = json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:o}", "first", count(row->first), "last", count(row->last),
        "device", text_or_null(row->device), "limit_bytes", count(row->limit_bytes), "headroom_bytes",
        count(row->headroom_bytes), "largest_micro_batch", count(row->largest_micro_batch), "share", count(row->share),
        "micro_batch", count(row->micro_batch), "accumulation_steps", count(row->accumulation_steps), "levers",
        offers_levers_name(row->levers), "predicted_peak_bytes", count(row->peak_bytes));
    for (size_t i = 0; i < PLANNING_PARTS; i++) {
        char name[32];
        snprintf(name, sizeof(name), "%s_bytes", planning_part_names[i]);
        json_object_set_new(object, name, count(row->part_bytes[i]));
    }
    return object;
}

// null where every rank does as many samples at once as it is asked for.
static json_t *shortfall_object(const struct planning *planning)
{
    struct planned_shortfall shortfall = planning_shortfall(planning);
    if (shortfall.asked == 0) {
        return json_null();
    }
    return json_pack("{s:o, s:o, s:o}", "rank", count(shortfall.rank), "micro_batch", count(shortfall.micro_batch),
                     "asked", count(shortfall.asked));
}

static json_t *rows(const struct planning *planning)
{
    json_t *array = json_array();
    bool whole = array != NULL;
    for (uint64_t first = 0; whole && first < planning->ranks;) {
        struct planned_row row = planning_row(planning, first);
        whole = json_array_append_new(array, row_object(&row)) == 0;
        first = row.last + 1;
    }
    return if_whole(array, whole);
}

enum status plan_print_json(const struct planning *planning, struct error *error)
{
    struct planned_speed speed = planning_speed(planning);
    json_t *object =
        json_pack("{s:b, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "fits",
                  planning->misfit.status == STATUS_OK, "why", text_or_null(planning->misfit.text), "shortfall",
                  shortfall_object(planning), "device_kind", planning_kind(planning), "why_cpu",
                  text_or_null(planning->instead.text), "weights", count(planning->model->weights), "global_batch_size",
                  count(planning->config->train.global_batch_size), "costs_of", text_or_null(planning->measured.name),
                  "step_ms", real(speed.step_ms), "samples_per_s", real(speed.samples_per_s), "tokens_per_s",
                  real(speed.tokens_per_s), "micro_steps", micro_steps(planning), "ranks", rows(planning));
    char *text = object == NULL ? NULL : json_dumps(object, JSON_INDENT(1));
    json_decref(object);
    if (text == NULL) {
        return error_out_of_host_memory(error);
    }
    puts(text);
    free(text);
    return STATUS_OK;
}
