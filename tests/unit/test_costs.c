// SPDX-License-Identifier: Apache-2.0
//
// What operations cost, from timings that are made up.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/model.h"
#include "worker/costs.h"

static const struct model_config gpt = {
    .kind = MODEL_GPT, .gpt = {.vocab_size = 65, .seq_len = 16, .blocks = 3, .heads = 4, .channels = 32}};

static void make_list(enum model_levers levers, size_t samples, struct list *list)
{
    struct model *model;
    assert_int_equal(model_create(&gpt, &model, NULL), STATUS_OK);
    struct model_shape shape = model_shape_max(model, samples);
    shape.levers = levers;
    assert_true(model_list(model, shape, LIST_TRAIN, list));
    model_destroy(model);
}

// A made-up device: each kind of operation and tensor has a price of its own, which its name says.
static double true_ns(const struct list_work *work)
{
    double price = 1;
    for (const char *name = work->operation; *name != '\0'; name++) {
        price += (unsigned char)*name % 7;
    }
    for (const char *name = work->tensor; *name != '\0'; name++) {
        price += (unsigned char)*name % 3;
    }
    return 10 * price * (double)(work->flops > 0 ? work->flops : 8 * work->bytes);
}

static double true_list_ns(const struct list *list)
{
    double ns = 0;
    for (size_t i = 0; i < list->op_count; i++) {
        struct list_work work = list_work(list, i);
        ns += true_ns(&work);
    }
    return ns;
}

static void observe(struct costs *costs, const struct list *list, double slowness)
{
    struct op_timing *timings = calloc(list->op_count, sizeof(*timings));
    assert_non_null(timings);
    for (size_t i = 0; i < list->op_count; i++) {
        timings[i].work = list_work(list, i);
        timings[i].time_ns = (uint64_t)(slowness * true_ns(&timings[i].work));
    }
    costs_observe(costs, timings, list->op_count);
    free(timings);
}

static void assert_close(double value, double expected, double tolerance)
{
    if (!(value >= expected * (1 - tolerance) && value <= expected * (1 + tolerance))) {
        fail_msg("%g is not within %g of %g", value, tolerance, expected);
    }
}

static void nothing_is_known_before_the_first(void **state)
{
    (void)state;
    struct list list;
    struct costs *costs = costs_create();
    make_list(MODEL_LEVERS_NONE, 1, &list);
    assert_true(costs_list_ns(costs, &list) == 0);
    list_finish(&list);
    costs_destroy(costs);
}

// Also of a micro-batch that was never run.
static void a_list_costs_what_its_operations_do(void **state)
{
    (void)state;
    struct list list;
    struct costs *costs = costs_create();
    make_list(MODEL_LEVERS_NONE, 2, &list);
    observe(costs, &list, 1);
    assert_close(costs_list_ns(costs, &list), true_list_ns(&list), 1e-6);
    list_finish(&list);
    make_list(MODEL_LEVERS_NONE, 7, &list);
    assert_close(costs_list_ns(costs, &list), true_list_ns(&list), 0.01); // weights do not grow
    list_finish(&list);
    costs_destroy(costs);
}

// What full recomputation does twice was measured once.
static void levers_that_were_never_pulled_are_compared(void **state)
{
    (void)state;
    struct list head, full;
    struct costs *costs = costs_create();
    make_list(MODEL_LEVERS_HEAD, 4, &head);
    make_list(MODEL_LEVERS_FULL, 4, &full);
    observe(costs, &head, 1);
    double ratio = costs_list_ns(costs, &full) / costs_list_ns(costs, &head);
    assert_close(ratio, true_list_ns(&full) / true_list_ns(&head), 0.05);
    assert_true(ratio > 1.1);
    list_finish(&full);
    list_finish(&head);
    costs_destroy(costs);
}

// Two lists are measured on a device that became three times as slow between them: their relation is the true one, and
// both are expected to be slow now.
static void a_slower_device_changes_no_relation(void **state)
{
    (void)state;
    struct list none, full;
    struct costs *costs = costs_create();
    make_list(MODEL_LEVERS_NONE, 4, &none);
    make_list(MODEL_LEVERS_FULL, 4, &full);
    for (size_t i = 0; i < 20; i++) {
        observe(costs, &none, 1);
    }
    for (size_t i = 0; i < 20; i++) {
        observe(costs, &full, 3);
    }
    assert_close(costs_list_ns(costs, &full), 3 * true_list_ns(&full), 0.01);
    assert_close(costs_list_ns(costs, &none), 3 * true_list_ns(&none), 0.01);
    list_finish(&full);
    list_finish(&none);
    costs_destroy(costs);
}

static void they_outlast_the_run(void **state)
{
    (void)state;
    char folder[] = "/tmp/test_costs.XXXXXX", part[48], path[64];
    struct list list;
    struct costs *costs = costs_create(), *again;
    const struct costs_device device = {.kind = "cuda", .name = "a \"GPU\"\033[2J"};
    struct costs_device measured;
    struct error error;
    assert_non_null(mkdtemp(folder));
    snprintf(part, sizeof(part), "%s/costs", folder);
    snprintf(path, sizeof(path), "%s/rank_3.json", part);
    assert_int_equal(mkdir(part, 0777), 0);
    make_list(MODEL_LEVERS_NONE, 3, &list);
    observe(costs, &list, 1);
    observe(costs, &list, 2);
    assert_int_equal(costs_write(costs, &device, folder, 3, &error), STATUS_OK);
    assert_int_equal(costs_read(path, &again, &measured, &error), STATUS_OK);
    assert_string_equal(measured.kind, "cuda");
    assert_string_equal(measured.name, "a \"GPU\"?[2J");
    assert_close(costs_list_ns(again, &list), costs_list_ns(costs, &list), 1e-4);
    costs_destroy(again);
    costs_destroy(costs);
    list_finish(&list);
    unlink(path);
    rmdir(part);
    rmdir(folder);
}

// It is no object, and names no device.
static void an_older_file_is_read(void **state)
{
    (void)state;
    char path[] = "/tmp/test_costs.XXXXXX";
    struct costs *costs;
    struct costs_device measured = {.kind = "cpu", .name = "CPU"};
    FILE *file = fdopen(mkstemp(path), "w");
    assert_non_null(file);
    fputs("[{\"operation\": \"add\", \"tensor\": \"x\", \"unit\": \"byte\", \"ns_per_unit\": 1}]", file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(costs_read(path, &costs, &measured, NULL), STATUS_OK);
    assert_string_equal(measured.kind, "");
    assert_string_equal(measured.name, "");
    costs_destroy(costs);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_known_before_the_first),
        cmocka_unit_test(a_list_costs_what_its_operations_do),
        cmocka_unit_test(levers_that_were_never_pulled_are_compared),
        cmocka_unit_test(a_slower_device_changes_no_relation),
        cmocka_unit_test(they_outlast_the_run),
        cmocka_unit_test(an_older_file_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
