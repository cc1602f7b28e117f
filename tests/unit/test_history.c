// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/run/history.h"
#include "worker/run/metrics.h"

#define RANKS          3
#define LINE_MAX_BYTES 8192

static char folder[64], path[96];

static void write_text(const char *name, const char *mode, const char *text)
{
    char file_path[128];
    snprintf(file_path, sizeof(file_path), "%s/%s", folder, name);
    FILE *file = fopen(file_path, mode);
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static int set_up(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/test_history.XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/metrics.jsonl", folder);
    write_text("env.txt", "w", "headroom 0.1.0\nhost here\nranks 3\nfolder there\ncommand headroom train\n");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", folder);
    return system(command);
}

static struct line_file *open_metrics(uint64_t first_step)
{
    struct line_file *metrics;
    assert_int_equal(metrics_open(folder, first_step, &metrics, NULL), STATUS_OK);
    return metrics;
}

static struct history *open_history(void)
{
    struct history *history;
    assert_int_equal(history_open(folder, &history, NULL), STATUS_OK);
    return history;
}

// Every field has a value of its own.
static struct record_step make_step(uint64_t step, struct record_rank ranks[RANKS])
{
    struct record_step record = {.ranks = {ranks, RANKS}};
    uint64_t value = 100 * step;
    for (const struct record_field *field = record_step_fields; field->name != NULL; field++) {
        void *place = (char *)&record + field->offset;
        if (field->type == RECORD_COUNT) {
            *(uint64_t *)place = ++value;
        } else {
            *(double *)place = (double)++value / 8;
        }
    }
    for (size_t i = 0; i < RANKS; i++) {
        for (const struct record_field *field = record_rank_fields; field->name != NULL; field++) {
            void *place = (char *)&ranks[i] + field->offset;
            if (field->type == RECORD_COUNT) {
                *(uint64_t *)place = ++value << 32;
            } else if (field->type == RECORD_REAL) {
                *(double *)place = (double)++value / 8;
            } else {
                snprintf(place, RECORD_NAME_MAX, "%zu", i);
            }
        }
    }
    record.step = step;
    return record;
}

static void assert_same_ranks(const struct record_ranks *a, const struct record_ranks *b)
{
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        for (const struct record_field *field = record_rank_fields; field->name != NULL; field++) {
            if (field->type == RECORD_COUNT) {
                assert_int_equal(record_count(field, &a->rank[i]), record_count(field, &b->rank[i]));
            } else if (field->type == RECORD_REAL) {
                assert_true(record_real(field, &a->rank[i]) == record_real(field, &b->rank[i]));
            } else {
                assert_string_equal(record_name(field, &a->rank[i]), record_name(field, &b->rank[i]));
            }
        }
    }
}

static void assert_next_step(struct history *history, const struct record_step *expected)
{
    struct history_line line;
    assert_int_equal(history_next(history, &line, NULL), STATUS_OK);
    assert_int_equal(line.kind, HISTORY_STEP);
    for (const struct record_field *field = record_step_fields; field->name != NULL; field++) {
        if (field->type == RECORD_COUNT) {
            assert_int_equal(record_count(field, &line.step), record_count(field, expected));
        } else if (isnan(record_real(field, expected))) {
            assert_true(isnan(record_real(field, &line.step)));
        } else {
            assert_true(record_real(field, &line.step) == record_real(field, expected));
        }
    }
    assert_same_ranks(&line.step.ranks, &expected->ranks);
}

static void assert_nothing(struct history *history)
{
    struct history_line line;
    assert_int_equal(history_next(history, &line, NULL), STATUS_OK);
    assert_int_equal(line.kind, HISTORY_NOTHING);
}

static struct history_line next_line(struct history *history, enum history_kind kind)
{
    struct history_line line;
    assert_int_equal(history_next(history, &line, NULL), STATUS_OK);
    assert_int_equal(line.kind, kind);
    return line;
}

static void test_all_that_is_written_is_read(void **state)
{
    (void)state;
    struct record_rank ranks[RANKS];
    struct record_step step = make_step(3, ranks);
    step.predicted_ms = NAN;
    struct line_file *metrics = open_metrics(0);
    metrics_resume(metrics, &(struct record_resume){3, 2, "a checkpoint"});
    metrics_step(metrics, &step);
    metrics_evaluation(metrics, &(struct record_evaluation){4, 0.5, 0.25, 10, {ranks, RANKS}});
    metrics_checkpoint(metrics, &(struct record_checkpoint){4, true, 1000, 2.5, 10.5, ""});
    metrics_checkpoint(metrics, &(struct record_checkpoint){4, false, 0, 2.5, 0, "no room"});
    metrics_end(metrics, &(struct record_end){4, 12.5, STATUS_STOPPED, "0123", {0}});
    metrics_end(metrics, &(struct record_end){4, 12.5, STATUS_OK, NULL, {0}});
    metrics_end(metrics, &(struct record_end){4, 12.5, STATUS_OUT_OF_MEMORY, NULL, {1, "capacity", true, "Do that."}});
    line_file_close(metrics);

    struct history *history = open_history();
    struct history_line line = next_line(history, HISTORY_RESUME);
    assert_int_equal(line.resume.step, 3);
    assert_int_equal(line.resume.ranks, 2);
    assert_string_equal(line.resume.from, "a checkpoint");
    assert_next_step(history, &step);
    line = next_line(history, HISTORY_EVALUATION);
    assert_int_equal(line.evaluation.step, 4);
    assert_true(line.evaluation.loss == 0.5);
    assert_true(line.evaluation.accuracy == 0.25);
    assert_int_equal(line.evaluation.samples, 10);
    assert_same_ranks(&line.evaluation.ranks, &step.ranks);
    line = next_line(history, HISTORY_CHECKPOINT);
    assert_true(line.checkpoint.written);
    assert_int_equal(line.checkpoint.bytes, 1000);
    assert_true(line.checkpoint.pause_ms == 2.5);
    assert_true(line.checkpoint.write_ms == 10.5);
    line = next_line(history, HISTORY_CHECKPOINT);
    assert_false(line.checkpoint.written);
    assert_string_equal(line.checkpoint.error, "no room");
    line = next_line(history, HISTORY_END);
    assert_int_equal(line.end.status, STATUS_STOPPED);
    assert_string_equal(line.end.weights, "0123");
    line = next_line(history, HISTORY_END);
    assert_int_equal(line.end.status, STATUS_OK);
    assert_true(line.end.seconds == 12.5);
    assert_null(line.end.weights);
    assert_null(line.end.shortage.cause);
    line = next_line(history, HISTORY_END);
    assert_int_equal(line.end.status, STATUS_OUT_OF_MEMORY);
    assert_int_equal(line.end.shortage.rank, 1);
    assert_string_equal(line.end.shortage.cause, "capacity");
    assert_true(line.end.shortage.recompute);
    assert_string_equal(line.end.shortage.advice, "Do that.");
    assert_nothing(history);
    history_close(history);
}

static void test_a_run_is_followed(void **state)
{
    (void)state;
    struct record_rank ranks[2][RANKS];
    struct record_step steps[2] = {make_step(0, ranks[0]), make_step(1, ranks[1])};
    struct line_file *metrics = open_metrics(0);
    struct history *history = open_history();
    assert_nothing(history);
    for (size_t i = 0; i < 2; i++) {
        metrics_step(metrics, &steps[i]);
        assert_next_step(history, &steps[i]);
        assert_nothing(history);
    }
    line_file_close(metrics);
    write_text("metrics.jsonl", "a", "{\"event\": \"new");
    assert_nothing(history);
    write_text("metrics.jsonl", "a", "s\"}\n");
    next_line(history, HISTORY_OTHER);

    metrics = open_metrics(1); // goes on after the first step: the file is written anew
    assert_next_step(history, &steps[0]);
    assert_nothing(history);
    metrics_step(metrics, &steps[1]);
    assert_next_step(history, &steps[1]);
    line_file_close(metrics);
    history_close(history);
}

static void test_other_lines_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",
                                        "no JSON",
                                        "[]",
                                        "{}",
                                        "{\"event\": 3}",
                                        "{\"event\": \"eval\", \"step\": 4}",
                                        "{\"event\": \"end\", \"step\": 4, \"seconds\": 1, \"status\": \"0\"}",
                                        "{\"event\": \"resume\", \"step\": 4, \"ranks\": 1, \"from\": null}",
                                        "{\"event\": \"checkpoint\", \"step\": 4, \"written\": 1}"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct history_line line;
        struct error error;
        char text[160], expected[192];
        snprintf(text, sizeof(text), "{\"event\": \"news\"}\n%s\n", wrong[i]);
        write_text("metrics.jsonl", "w", text);
        struct history *history = open_history();
        next_line(history, HISTORY_OTHER);
        assert_int_equal(history_next(history, &line, &error), STATUS_INVALID);
        snprintf(expected, sizeof(expected), "%s:2: is no line of a run's metrics", path);
        assert_string_equal(error.text, expected);
        history_close(history);
    }
}

// The line that the step has in metrics.
static void write_line(const struct record_step *step, char line[LINE_MAX_BYTES])
{
    struct line_file *metrics = open_metrics(0);
    metrics_step(metrics, step);
    line_file_close(metrics);
    FILE *file = fopen(path, "r");
    assert_non_null(fgets(line, LINE_MAX_BYTES, file));
    fclose(file);
}

// Whether the key, in a line of metrics, is one of a rank that was added later.
static bool is_later(const char *line, const char *key)
{
    char name[64];
    if (key < strstr(line, "\"ranks\"")) {
        return false;
    }
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(key, "\""), key);
    const struct record_field *field = record_find(record_rank_fields, name);
    return field != NULL && field->later;
}

// The quote that begins the text behind this one; NULL: it is the last.
static char *next_text(char *quote)
{
    return strchr(strchr(quote + 1, '"') + 1, '"');
}

// Runs of a version before them lack the keys that were added later.
static void test_an_older_run(void **state)
{
    (void)state;
    char line[LINE_MAX_BYTES];
    struct record_rank ranks[RANKS];
    struct record_step step = make_step(0, ranks);
    write_line(&step, line);
    for (char *key = strchr(line, '"'); key != NULL; key = next_text(key)) {
        key[1] = (char)(is_later(line, key + 1) ? key[1] ^ 1 : key[1]);
    }
    write_text("metrics.jsonl", "w", line);
    for (size_t i = 0; i < RANKS; i++) {
        ranks[i].others_bytes = ranks[i].kept_bytes = ranks[i].fragmented_bytes = 0;
        ranks[i].kept_gradients_bytes = 0;
        ranks[i].data_wait_ms = ranks[i].recompute_gain = 0;
    }
    struct history *history = open_history();
    assert_next_step(history, &step);
    history_close(history);
}

// Each field in turn is not what it should be.
static void test_a_step_has_all_fields(void **state)
{
    (void)state;
    char line[LINE_MAX_BYTES];
    struct record_rank ranks[RANKS];
    struct record_step step = make_step(0, ranks);
    write_line(&step, line);
    for (char *key = strchr(line, '"'); key != NULL; key = next_text(key)) {
        if (strncmp(key, "\"rank\"", 6) == 0 || key[-1] == ':' || is_later(line, key + 1)) { // nobody reads it; a value
            continue;
        }
        struct history_line read;
        key[1] ^= 1;
        write_text("metrics.jsonl", "w", line);
        struct history *history = open_history();
        assert_int_equal(history_next(history, &read, NULL), STATUS_INVALID);
        history_close(history);
        key[1] ^= 1;
    }
}

static void test_no_run(void **state)
{
    (void)state;
    struct history *history;
    struct error error;
    assert_int_equal(history_open("/nowhere", &history, &error), STATUS_INVALID);
    assert_int_equal(history_open(folder, &history, &error), STATUS_INVALID); // no metrics
    assert_non_null(strstr(error.text, "metrics.jsonl: cannot read: No such file"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_that_is_written_is_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_run_is_followed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_other_lines_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_an_older_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_step_has_all_fields, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_run, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
