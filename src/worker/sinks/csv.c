// SPDX-License-Identifier: Apache-2.0
//
// metrics.csv: a table of steps, for spreadsheets and data frames. What the run did before is taken from metrics.jsonl,
// so the two tell the same.
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "mem/whole_file.h"
#include "worker/regular_file.h"
#include "worker/run/history.h"
#include "worker/run/run_folder.h"
#include "worker/sinks/sink.h"

struct csv {
    struct line_file *file;
    size_t ranks; // that have columns: the most that the run ever had
};

static void put_value(FILE *to, const struct record_field *field, const void *record)
{
    if (field->type == RECORD_COUNT) {
        fprintf(to, "%" PRIu64, record_count(field, record));
    } else if (field->type == RECORD_NAME) {
        fputs(record_name(field, record), to);
    } else if (!isnan(record_real(field, record))) {
        fprintf(to, "%.9g", record_real(field, record));
    }
}

static void put_header(FILE *to, size_t ranks)
{
    fputs(record_step_fields[0].name, to);
    for (const struct record_field *field = record_step_fields + 1; field->name != NULL; field++) {
        fprintf(to, ",%s", field->name);
    }
    for (size_t i = 0; i < ranks; i++) {
        for (const struct record_field *field = record_rank_fields; field->name != NULL; field++) {
            fprintf(to, ",rank_%zu_%s", i, field->name);
        }
    }
}

// A rank that the step was done without has empty columns.
static void put_row(FILE *to, const struct record_step *step, size_t ranks)
{
    put_value(to, record_step_fields, step);
    for (const struct record_field *field = record_step_fields + 1; field->name != NULL; field++) {
        fputc(',', to);
        put_value(to, field, step);
    }
    for (size_t i = 0; i < ranks; i++) {
        for (const struct record_field *field = record_rank_fields; field->name != NULL; field++) {
            fputc(',', to);
            if (i < step->ranks.count) {
                put_value(to, field, &step->ranks.rank[i]);
            }
        }
    }
}

// Shows each step that was done before.
static enum status read_steps(const char *folder, void (*see)(void *context, const struct record_step *step),
                              void *context, struct error *error)
{
    struct history *history;
    struct history_line line;
    enum status status = history_open(folder, &history, error);
    if (status != STATUS_OK) {
        return status;
    }
    do {
        status = history_next(history, &line, error);
        if (status == STATUS_OK && line.kind == HISTORY_STEP) {
            see(context, &line.step);
        }
    } while (status == STATUS_OK && line.kind != HISTORY_NOTHING);
    history_close(history);
    return status;
}

static void count_ranks(void *context, const struct record_step *step)
{
    struct csv *csv = context;
    csv->ranks = step->ranks.count > csv->ranks ? step->ranks.count : csv->ranks;
}

struct table {
    FILE *to;
    size_t ranks;
};

static void add_row(void *context, const struct record_step *step)
{
    const struct table *table = context;
    put_row(table->to, step, table->ranks);
    fputc('\n', table->to);
}

struct beginning {
    const char *folder;
    size_t ranks;
    struct error *error; // why what was done before cannot be read
};

static bool put_beginning(FILE *to, const void *contents)
{
    const struct beginning *beginning = contents;
    put_header(to, beginning->ranks);
    fputc('\n', to);
    return read_steps(beginning->folder, add_row, &(struct table){to, beginning->ranks}, beginning->error) == STATUS_OK;
}

static enum status begin(struct csv *csv, const struct sink_place *place, struct error *error)
{
    char path[RUN_FOLDER_MAX + 16];
    csv->ranks = place->ranks;
    enum status status = read_steps(place->folder, count_ranks, csv, error);
    if (status != STATUS_OK) {
        return status;
    }
    snprintf(path, sizeof(path), "%s/metrics.csv", place->folder);
    struct error why = {0};
    bool begun = whole_file_write(path, put_beginning, &(struct beginning){place->folder, csv->ranks, &why});
    csv->file = begun ? line_file_open(path, false) : NULL;
    if (why.status != STATUS_OK) {
        *error = why;
        return why.status;
    }
    return csv->file == NULL ? regular_file_refuse(path, "write", error) : STATUS_OK;
}

static enum status open_csv(const struct sink_place *place, void **sink_p, struct error *error)
{
    struct csv *csv = calloc(1, sizeof(*csv));
    if (csv == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = begin(csv, place, error);
    if (status != STATUS_OK) {
        free(csv);
        return status;
    }
    *sink_p = csv;
    return STATUS_OK;
}

static void close_csv(void *sink)
{
    struct csv *csv = sink;
    line_file_close(csv->file);
    free(csv);
}

static void write_step(void *sink, const struct record_step *step)
{
    const struct csv *csv = sink;
    char *text = NULL;
    size_t bytes;
    FILE *row = open_memstream(&text, &bytes);
    if (row != NULL) {
        put_row(row, step, csv->ranks);
        if (fclose(row) != 0) {
            free(text);
            text = NULL;
        }
    }
    line_file_write(csv->file, text);
}

static bool news(void *sink, char text[LINE_FILE_WARNING_MAX])
{
    return line_file_news(((struct csv *)sink)->file, text);
}

static bool losses(void *sink, char text[LINE_FILE_WARNING_MAX])
{
    return line_file_losses(((struct csv *)sink)->file, text);
}

static bool is_chosen(const struct config *config)
{
    return config->metrics.csv;
}

const struct sink_ops sink_csv = {
    .key = "metrics.csv",
    .is_chosen = is_chosen,
    .open = open_csv,
    .step = write_step,
    .close = close_csv,
    .news = news,
    .losses = losses,
};
