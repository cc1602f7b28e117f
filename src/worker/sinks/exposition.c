// SPDX-License-Identifier: Apache-2.0
#include "worker/sinks/exposition.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MILLISECOND 1e-3

struct exposition {
    char *run;                           // as a label's value is written
    struct record_step latest, total;    // the latter sums of counts since the process began
    struct record_evaluation evaluation; // the latest; without ranks
    bool stepped, evaluated;
};

struct metric {
    const char *name, *help;
    const char *field;
    double unit; // of a real, in that of the metric; 0: it is the same
    bool total;
};

static const struct metric step_metrics[] = {
    {"headroom_step", "Number of the latest step, counted from 0", "step", 0, false},
    {"headroom_epoch", "Epoch of its first sample, counted from 0", "epoch", 0, false},
    {"headroom_loss", "Mean loss over the global batch in nats: per sample, for a gpt per token", "loss", 0, false},
    {"headroom_samples_total", "Samples done", "samples", 0, true},
    {"headroom_tokens_total", "Targets that counted; for an mlp the samples", "tokens", 0, true},
    {"headroom_learning_rate", "Learning rate of the step", "lr", 0, false},
    {"headroom_gradient_norm", "Length of the mean gradient, before clipping", "grad_norm", 0, false},
    {"headroom_step_seconds", "The step on rank 0's device", "step_ms", MILLISECOND, false},
    {"headroom_predicted_step_seconds", "What the step was predicted to take", "predicted_ms", MILLISECOND, false},
    {"headroom_samples_per_second", "Samples over the step's time", "samples_per_s", 0, false},
    {"headroom_tokens_per_second", "Tokens over the step's time", "tokens_per_s", 0, false},
    {"headroom_data_wait_seconds", "The longest that any rank waited for its loader", "data_wait_ms", MILLISECOND,
     false},
    {"headroom_communication_seconds", "Of the all-reduce what follows rank 0's last micro-step", "comm_ms",
     MILLISECOND, false},
    {"headroom_coordination_seconds", "Measuring headroom, waiting for reports, planning", "coordination_ms",
     MILLISECOND, false},
};

static const struct metric rank_metrics[] = {
    {"headroom_rank_share_samples", "Samples that the rank did in the step", "share", 0, false},
    {"headroom_rank_micro_batch_samples", "Samples in one forward and backward pass", "micro_batch", 0, false},
    {"headroom_rank_accumulation_steps", "Micro-steps in the step", "accumulation_steps", 0, false},
    {"headroom_rank_levers", "Always 1; the label says which levers the rank pulls", "levers", 0, false},
    {"headroom_rank_limit_bytes", "The most that the rank's allocator may hold", "limit_bytes", 0, false},
    {"headroom_rank_headroom_bytes", "What one request could still get", "headroom_bytes", 0, false},
    {"headroom_rank_allocated_peak_bytes", "Largest sum of live blocks in the step", "allocated_peak_bytes", 0, false},
    {"headroom_rank_reserved_peak_bytes", "Most that was held from the device", "reserved_peak_bytes", 0, false},
    {"headroom_rank_predicted_peak_bytes", "What the plan said of the allocated peak", "predicted_peak_bytes", 0,
     false},
    {"headroom_rank_others_bytes", "Of the rank's device, what other processes hold", "others_bytes", 0, false},
    {"headroom_rank_kept_bytes", "Of the step's blocks, what stays after it", "kept_bytes", 0, false},
    {"headroom_rank_kept_gradients_bytes", "Of that, gradients", "kept_gradients_bytes", 0, false},
    {"headroom_rank_fragmented_bytes", "Held and free, but between live blocks", "fragmented_bytes", 0, false},
    {"headroom_rank_data_wait_seconds", "That the rank waited for its loader", "data_wait_ms", MILLISECOND, false},
    {"headroom_rank_recompute_gain_ratio", "Of the rank's time, what levers would save that it may not pull",
     "recompute_gain", 0, false},
    {"headroom_rank_oom_retries_total", "Allocations that were refused", "oom_retries", 0, true},
    {"headroom_rank_handed_back_samples_total", "Samples that were dealt out again", "handed_back", 0, true},
};

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

// With what the format wants escaped.
static char *label_value(const char *text)
{
    char *value = malloc(2 * strlen(text) + 1), *end = value;
    for (; value != NULL && *text != '\0'; text++) {
        if (strchr("\\\"\n", *text) != NULL) {
            *end++ = '\\';
        }
        *end++ = *text == '\n' ? 'n' : *text;
    }
    if (value != NULL) {
        *end = '\0';
    }
    return value;
}

static bool make_ranks(struct record_ranks *ranks, size_t count)
{
    *ranks = (struct record_ranks){calloc(count, sizeof(*ranks->rank)), count};
    return ranks->rank != NULL;
}

struct exposition *exposition_create(const char *run, size_t ranks)
{
    struct exposition *exposition = calloc(1, sizeof(*exposition));
    if (exposition == NULL) {
        return NULL;
    }
    exposition->run = label_value(run);
    bool made = make_ranks(&exposition->latest.ranks, ranks) && make_ranks(&exposition->total.ranks, ranks);
    if (!made || exposition->run == NULL) {
        exposition_destroy(exposition);
        return NULL;
    }
    return exposition;
}

void exposition_destroy(struct exposition *exposition)
{
    if (exposition != NULL) {
        free(exposition->latest.ranks.rank);
        free(exposition->total.ranks.rank);
        free(exposition->run);
        free(exposition);
    }
}

static void add_counts(const struct record_field *field, void *total, const void *record)
{
    for (; field->name != NULL; field++) {
        if (field->type == RECORD_COUNT) {
            *(uint64_t *)((char *)total + field->offset) += record_count(field, record);
        }
    }
}

void exposition_step(struct exposition *exposition, const struct record_step *step)
{
    const struct record_ranks ranks = exposition->latest.ranks;
    exposition->stepped = true;
    exposition->latest = *step;
    exposition->latest.ranks = ranks;
    memcpy(ranks.rank, step->ranks.rank, ranks.count * sizeof(*ranks.rank));
    add_counts(record_step_fields, &exposition->total, step);
    for (size_t i = 0; i < ranks.count; i++) {
        add_counts(record_rank_fields, &exposition->total.ranks.rank[i], &step->ranks.rank[i]);
    }
}

void exposition_evaluation(struct exposition *exposition, const struct record_evaluation *evaluation)
{
    exposition->evaluated = true;
    exposition->evaluation = *evaluation;
    exposition->evaluation.ranks = (struct record_ranks){0};
}

static void put_head(FILE *to, const char *name, const char *help, bool total)
{
    fprintf(to, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, total ? "counter" : "gauge");
}

// Behind the labels of the line.
static void put_value(FILE *to, const struct metric *metric, const struct record_field *field, const void *record)
{
    if (field->type == RECORD_NAME) {
        fprintf(to, ",levers=\"%s\"} 1\n", record_name(field, record));
    } else if (field->type == RECORD_COUNT) {
        fprintf(to, "} %" PRIu64 "\n", record_count(field, record));
    } else {
        fprintf(to, "} %.9g\n", record_real(field, record) * (metric->unit > 0 ? metric->unit : 1));
    }
}

static void put_step(FILE *to, const struct exposition *exposition, const struct metric *metric)
{
    const struct record_step *record = metric->total ? &exposition->total : &exposition->latest;
    const struct record_field *field = record_find(record_step_fields, metric->field);
    if (field->type == RECORD_REAL && isnan(record_real(field, record))) {
        return;
    }
    put_head(to, metric->name, metric->help, metric->total);
    fprintf(to, "%s{run=\"%s\"", metric->name, exposition->run);
    put_value(to, metric, field, record);
}

static void put_ranks(FILE *to, const struct exposition *exposition, const struct metric *metric)
{
    const struct record_ranks *ranks = metric->total ? &exposition->total.ranks : &exposition->latest.ranks;
    const struct record_field *field = record_find(record_rank_fields, metric->field);
    put_head(to, metric->name, metric->help, metric->total);
    for (size_t i = 0; i < ranks->count; i++) {
        fprintf(to, "%s{run=\"%s\",rank=\"%zu\"", metric->name, exposition->run, i);
        put_value(to, metric, field, &ranks->rank[i]);
    }
}

static void put_evaluation(FILE *to, const struct exposition *exposition)
{
    const struct {
        const char *name, *help;
        double value;
    } metrics[] = {
        {"headroom_validation_steps", "Steps done before the latest validation", (double)exposition->evaluation.step},
        {"headroom_validation_loss", "Mean loss of the latest validation", exposition->evaluation.loss},
        {"headroom_validation_accuracy_ratio", "Part of its targets that were met", exposition->evaluation.accuracy},
    };
    for (size_t i = 0; i < COUNT_OF(metrics); i++) {
        put_head(to, metrics[i].name, metrics[i].help, false);
        fprintf(to, "%s{run=\"%s\"} %.9g\n", metrics[i].name, exposition->run, metrics[i].value);
    }
}

void exposition_put(FILE *to, const struct exposition *exposition)
{
    for (size_t i = 0; exposition->stepped && i < COUNT_OF(step_metrics); i++) {
        put_step(to, exposition, &step_metrics[i]);
    }
    for (size_t i = 0; exposition->stepped && i < COUNT_OF(rank_metrics); i++) {
        put_ranks(to, exposition, &rank_metrics[i]);
    }
    if (exposition->evaluated) {
        put_evaluation(to, exposition);
    }
}

char *exposition_text(const struct exposition *exposition, size_t *bytes_p)
{
    char *text = NULL;
    FILE *to = open_memstream(&text, bytes_p);
    if (to == NULL) {
        return NULL;
    }
    exposition_put(to, exposition);
    bool whole = ferror(to) == 0;
    if (fclose(to) != 0 || !whole) {
        free(text);
        return NULL;
    }
    return text;
}
