// SPDX-License-Identifier: Apache-2.0
//
// Down-sampling against values that are all kept, and a page against what went into it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "random_bits.h"
#include "worker/report/page.h"

#define STEPS 10000

static double values[STEPS]; // NAN: the step has none

static void make_values(uint64_t seed)
{
    uint64_t state = seed;
    for (size_t i = 0; i < STEPS; i++) {
        uint64_t bits = random_bits(&state);
        values[i] = bits % 7 == 0 ? NAN : (double)(bits >> 40) - 4e6;
    }
}

static struct column naive_column(uint64_t first, uint64_t end)
{
    struct column column = {0, INFINITY, -INFINITY, 0};
    for (uint64_t i = first; i < end && i < STEPS; i++) {
        if (!isnan(values[i])) {
            column.count++;
            column.min = fmin(column.min, values[i]);
            column.max = fmax(column.max, values[i]);
            column.sum += values[i];
        }
    }
    return column;
}

// Sums are of integers, so they are exact in any order.
static void assert_column(const struct column *column, struct column expected)
{
    assert_int_equal(column->count, expected.count);
    if (expected.count > 0) {
        assert_true(column->min == expected.min && column->max == expected.max && column->sum == expected.sum);
    }
}

static void assert_series(const struct columns *columns, size_t series)
{
    assert_true(columns->used <= columns->capacity);
    assert_int_equal(naive_column(columns->used * columns->stride, STEPS).count, 0);
    for (size_t i = 0; i < columns->used; i++) {
        assert_column(&columns_of(columns, series)[i], naive_column(i * columns->stride, (i + 1) * columns->stride));
    }
    struct column total = columns_total(columns, series);
    assert_column(&total, naive_column(0, STEPS));
}

static void test_columns_equal_naive(void **state)
{
    (void)state;
    for (size_t capacity = 1; capacity <= 2 * STEPS; capacity += 1 + capacity / 3) {
        struct columns columns;
        make_values(capacity);
        assert_true(columns_init(&columns, 2, capacity));
        for (uint64_t i = 0; i < STEPS; i++) {
            columns_add(&columns, i % 2, i, NAN);
            columns_add(&columns, 1, i, values[i]);
        }
        assert_series(&columns, 1);
        assert_int_equal(columns_total(&columns, 0).count, 0);
        columns_finish(&columns);
    }
}

static void test_stride_is_as_small_as_can_be(void **state)
{
    (void)state;
    struct columns columns;
    assert_true(columns_init(&columns, 1, 100));
    columns_add(&columns, 0, 99, 1);
    assert_int_equal(columns.stride, 1);
    columns_add(&columns, 0, 100, 1);
    assert_int_equal(columns.stride, 2);
    columns_add(&columns, 0, 200, 1);
    assert_int_equal(columns.stride, 4);
    columns_finish(&columns);
}

static void test_one_value_of_many_is_not_lost(void **state)
{
    (void)state;
    struct columns columns;
    assert_true(columns_init(&columns, 1, 32));
    for (uint64_t i = 0; i < 100000; i++) {
        columns_add(&columns, 0, i, i == 54321 ? 1 : 0);
    }
    size_t place = (size_t)(54321 / columns.stride);
    assert_true(columns_of(&columns, 0)[place].max == 1 && columns_of(&columns, 0)[place].sum == 1);
    assert_true(columns_total(&columns, 0).sum == 1);
    columns_finish(&columns);
}

static void test_more_series_and_fewer_columns(void **state)
{
    (void)state;
    struct columns columns;
    make_values(1);
    assert_true(columns_init(&columns, 1, 512));
    for (uint64_t i = 0; i < STEPS / 2; i++) {
        columns_add(&columns, 0, i, values[i]);
    }
    assert_true(columns_resize(&columns, 5, 64));
    for (uint64_t i = STEPS / 2; i < STEPS; i++) {
        columns_add(&columns, 0, i, values[i]);
        columns_add(&columns, 4, i, 3);
    }
    assert_series(&columns, 0);
    assert_int_equal(columns_total(&columns, 4).count, STEPS / 2);
    assert_int_equal(columns_total(&columns, 3).count, 0);
    columns_finish(&columns);
}

static void make_empty(struct digest *digest)
{
    size_t fields = 0;
    while (record_step_fields[fields].name != NULL) {
        fields++;
    }
    *digest = (struct digest){0};
    assert_true(columns_init(&digest->steps, fields, 4) &&
                columns_init(&digest->evaluations, DIGEST_EVALUATION_SERIES, 4) &&
                columns_init(&digest->lanes, DIGEST_LANES, 4));
}

static char *read_page(const char *path)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    char *text = calloc(1, 1 << 20);
    assert_true(fread(text, 1, (1 << 20) - 1, file) > 0);
    fclose(file);
    return text;
}

static void test_texts_stay_within_the_data(void **state)
{
    (void)state;
    char folder[] = "/tmp/test_report.XXXXXX", path[64];
    static struct digest digest;
    static const struct page_finding finding = {"cause </script>", "1 <b>", "2 & 3", "rank \"4\"", "<!-- fix"};
    struct page page = {.name = "</script><script>alert(1)</script>",
                        .environment = "not UTF-8: \xff",
                        .configuration = "",
                        .digest = &digest,
                        .memory_why = "",
                        .findings = &finding,
                        .finding_count = 1,
                        .findings_note = ""};
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/page.html", folder);
    make_empty(&digest);
    assert_int_equal(page_write(path, &page, NULL), STATUS_OK);
    char *text = read_page(path);
    char *data = strstr(text, "type=\"application/json\">");
    assert_non_null(data);
    data = strchr(data, '>') + 1;
    char *end = strchr(data, '<');
    assert_memory_equal(end, "</script>", 9);
    json_t *object = json_loadb(data, (size_t)(end - data), 0, NULL);
    const char *name, *environment, *cause, *fix;
    assert_int_equal(json_unpack(object, "{s:{s:s, s:s}, s:[{s:s, s:s}]}", "run", "name", &name, "environment",
                                 &environment, "findings", "cause", &cause, "fix", &fix),
                     0);
    assert_string_equal(name, page.name);
    assert_string_equal(environment, "not UTF-8: ?");
    assert_string_equal(cause, finding.cause);
    assert_string_equal(fix, finding.fix);
    json_decref(object);
    free(text);
    digest_finish(&digest);
    unlink(path);
    rmdir(folder);
}

static void test_a_page_that_cannot_be_written(void **state)
{
    (void)state;
    static struct digest digest;
    struct page page = {
        .name = "", .environment = "", .configuration = "", .digest = &digest, .memory_why = "", .findings_note = ""};
    struct error error = {0};
    make_empty(&digest);
    assert_int_equal(page_write("/nowhere/page.html", &page, &error), STATUS_ERROR);
    assert_string_equal(error.text, "/nowhere/page.html: cannot write: No such file or directory");
    digest_finish(&digest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_columns_equal_naive),           cmocka_unit_test(test_stride_is_as_small_as_can_be),
        cmocka_unit_test(test_one_value_of_many_is_not_lost), cmocka_unit_test(test_more_series_and_fewer_columns),
        cmocka_unit_test(test_texts_stay_within_the_data),    cmocka_unit_test(test_a_page_that_cannot_be_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
