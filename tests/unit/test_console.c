// SPDX-License-Identifier: Apache-2.0
//
// What the console tells of steps and plans that are made up here.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "assert_matches.h"
#include "worker/run/console.h"

#define RANKS 4
#define MIB   (UINT64_C(1) << 20)

struct fixture {
    struct config config;
    struct comm comm;
    struct data_set train;
    struct worker worker;
    struct sched_share plan[RANKS];
    struct step_message messages[RANKS];
    struct console *console;
    FILE *file;
    char *text;
    size_t bytes;
    uint64_t step; // the next one
};

static void begin_console(struct fixture *fixture, bool terminal)
{
    fixture->file = open_memstream(&fixture->text, &fixture->bytes);
    assert_non_null(fixture->file);
    fixture->console = console_create(fixture->file, terminal, &fixture->worker);
    assert_non_null(fixture->console);
}

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    fixture->config.run.log_every = 1000;
    fixture->config.train.global_batch_size = 40;
    fixture->comm.size = RANKS;
    fixture->worker = (struct worker){
        .config = &fixture->config, .comm = &fixture->comm, .train = &fixture->train, .steps = 100, .grain = 1};
    for (uint64_t i = 0; i < RANKS; i++) {
        fixture->plan[i] =
            (struct sched_share){.first = 10 * i, .samples = 10, .micro_batch = 5, .accumulation_steps = 2};
        fixture->messages[i] = (struct step_message){.samples = 10, .micro_batch = 5, .limit_bytes = 64 * MIB};
    }
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    console_destroy(fixture->console);
    fclose(fixture->file);
    free(fixture->text);
    free(fixture);
    return 0;
}

// Answers what the console has written about a step, after which this plan is the next.
static const char *do_step(struct fixture *fixture)
{
    const struct step_result result = {.step = fixture->step++,
                                       .loss = 0.5,
                                       .samples = 40,
                                       .step_ns = 1000000,
                                       .messages = fixture->messages,
                                       .next_plan = fixture->plan};
    size_t before = fixture->bytes;
    console_step(fixture->console, &result, -1);
    return fixture->text + before;
}

static void rest(struct fixture *fixture, uint32_t rank)
{
    fixture->plan[rank] = (struct sched_share){0};
    fixture->messages[rank].samples = fixture->messages[rank].micro_batch = 0;
}

#define PLAN "plan (samples = micro-batch x steps): "

// The first, and then what is of another kind.
static void test_plans(void **state)
{
    struct fixture *fixture = *state;
    begin_console(fixture, false);
    fixture->plan[3].levers = MODEL_LEVERS_HALF;
    assert_string_equal(do_step(fixture),
                        "after 1 step: " PLAN "ranks 0-2 10 = 5 x 2, rank 3 10 = 5 x 2 (levers half)\n");
    fixture->plan[0].samples = 12;
    fixture->plan[1].micro_batch = 4;
    assert_string_equal(do_step(fixture), "");
    fixture->plan[1].levers = MODEL_LEVERS_FULL;
    rest(fixture, 2);
    assert_string_equal(do_step(fixture), "after 3 steps: " PLAN "rank 1 10 = 4 x 2 (levers full), rank 2 rests\n");
    fixture->plan[2].levers = MODEL_LEVERS_FULL; // means nothing while it rests
    assert_string_equal(do_step(fixture), "");
    fixture->plan[2] = fixture->plan[1];
    fixture->plan[3].levers = MODEL_LEVERS_NONE;
    assert_string_equal(do_step(fixture),
                        "after 5 steps: " PLAN "rank 2 10 = 4 x 2 (levers full), rank 3 10 = 5 x 2 (levers none)\n");
}

// The last grain may be smaller.
static void test_a_plan_in_grains(void **state)
{
    struct fixture *fixture = *state;
    begin_console(fixture, false);
    fixture->config.train.reproducible = true;
    fixture->config.train.grain_size = fixture->worker.grain = 2;
    fixture->config.train.global_batch_size = 79;
    assert_string_equal(do_step(fixture), "after 1 step: " PLAN "ranks 0-2 20 = 10 x 2, rank 3 19 = 10 x 2\n");
}

// However often they change, not before so many seconds have gone.
static void test_plans_by_seconds(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.run.log_seconds = 1000000;
    begin_console(fixture, false);
    rest(fixture, 2);
    do_step(fixture);
    fixture->plan[2] = fixture->plan[1];
    assert_string_equal(do_step(fixture), "");
}

// There is none after the last step.
static void test_the_last_step_has_no_plan(void **state)
{
    struct fixture *fixture = *state;
    begin_console(fixture, false);
    fixture->step = 99;
    assert_null(strstr(do_step(fixture), "plan"));
}

static void test_a_rank_that_rests_at_first(void **state)
{
    struct fixture *fixture = *state;
    begin_console(fixture, false);
    fixture->messages[0].samples = fixture->messages[0].micro_batch = 0;
    do_step(fixture);
    fixture->messages[0].samples = fixture->messages[0].micro_batch = 7;
    do_step(fixture);
    console_end(fixture->console, "runs/a", &(struct record_end){.step = 2});
    assert_matches(fixture->text, "\n0 +64\\.00 MiB +0 bytes +0 bytes +0\\.\\.7 +0\\.\\.7 +0\n");
    assert_matches(fixture->text, "\n1 +64\\.00 MiB +0 bytes +0 bytes +10 +5 +0\n");
}

static void test_a_run_without_a_step(void **state)
{
    struct fixture *fixture = *state;
    begin_console(fixture, false);
    console_end(fixture->console, "runs/a", &(struct record_end){0});
    fflush(fixture->file);
    assert_string_equal(fixture->text, "0.0 seconds\nrun folder: runs/a\n");
}

// A rank's step and what others hold, of its limit.
static void test_bars(void **state)
{
    struct fixture *fixture = *state;
    begin_console(fixture, true);
    fixture->messages[0].allocated_peak_bytes = 1 * MIB;
    fixture->messages[0].others_bytes = 63 * MIB;
    fixture->messages[1].allocated_peak_bytes = 32 * MIB;
    fixture->messages[2].others_bytes = 9 * MIB;
    assert_matches(do_step(fixture), "^step 1/100  left [0-9:]+  loss 0\\.5000  40000 samples/s  memory (8521|█▅▂▁)");
}

static void test_a_validation(void **state)
{
    struct fixture *fixture = *state;
    fixture->worker.messages = fixture->messages;
    begin_console(fixture, false);
    console_evaluation(fixture->console, 1, &(struct evaluation){.loss = 0.25, .accuracy = 0.5});
    assert_string_equal(fixture->text, "after 1 step: validation loss 0.2500, accuracy 50.00 %\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_plans, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_plan_in_grains, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_plans_by_seconds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_last_step_has_no_plan, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_rank_that_rests_at_first, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_run_without_a_step, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bars, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_validation, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
