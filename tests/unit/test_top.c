// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "worker/top/top.h"

#define RANKS 40
#define ROWS  100

static struct record_rank ranks[RANKS];

static void note_step(struct top *top, uint64_t step)
{
    const struct history_line line = {
        .kind = HISTORY_STEP,
        .step = {.step = step, .loss = 0.5, .step_ms = 100, .tokens_per_s = 1234, .ranks = {ranks, RANKS}},
    };
    assert_true(top_note(top, &line));
}

static int set_up(void **state)
{
    static struct top top;
    top_init(&top, "a run", 100);
    for (size_t i = 0; i < RANKS; i++) {
        ranks[i] = (struct record_rank){.share = 10 + i,
                                        .micro_batch = 5,
                                        .accumulation_steps = 2,
                                        .levers = "none",
                                        .limit_bytes = 24 << 20,
                                        .headroom_bytes = 12 << 20,
                                        .allocated_peak_bytes = 18 << 20,
                                        .others_bytes = 3 << 20};
    }
    *state = &top;
    return 0;
}

static int tear_down(void **state)
{
    top_finish(*state);
    return 0;
}

static bool shows(const struct top *top, const char *text)
{
    struct top_row rows[ROWS];
    bool found = false;
    top_draw(top, 0, 160, ROWS, rows);
    for (size_t i = 0; i < ROWS; i++) {
        found = found || strstr(rows[i].text, text) != NULL;
    }
    return found;
}

static void test_what_it_shows(void **state)
{
    struct top *top = *state;
    assert_true(shows(top, "no step yet"));
    note_step(top, 9);
    assert_true(shows(top, "headroom top  step 10/100  loss 0.5000  1234 tokens/s  100.0 ms/step  a run"));
    assert_true(shows(top, "left 0:09  "));
    assert_true(shows(
        top,
        "[##################...ooo]   12.00 MiB       10      5 x 2     none            0   18.00 MiB   24.00 MiB"));
}

// On a narrow screen what comes first is whole, and what has no room is left out.
static void test_a_narrow_screen(void **state)
{
    static struct top_row rows[ROWS];
    struct top *top = *state;
    top_init(top, "/a/folder/with/a/name/that/is/longer/than/what/is/left/of/eighty/columns/beside/figures", 1000000);
    ranks[0].oom_retries = 3;
    note_step(top, 123455);
    top_draw(top, 0, 80, ROWS, rows);
    assert_string_equal(rows[0].text,
                        "headroom top  step 123456/1000000  loss 0.5000  1234 tokens/s  100.0 ms/step  /a");
    assert_string_equal(rows[1].text,
                        "left 1d 0h  retries 3  handed back 0  waiting for data 0.0 ms  all-reduce 0.0 ms");
    assert_string_equal(rows[3].text,
                        "rank  peak #  others o        headroom    share    micro-batch levers    retries");
    assert_string_equal(rows[4].text,
                        "0     [#############...oo]   12.00 MiB       10      5 x 2     none            3");
    top_draw(top, 0, 40, ROWS, rows);
    assert_string_equal(rows[4].text, "0     [######.o]   12.00 MiB       10");
}

static void test_a_large_loss(void **state)
{
    struct top *top = *state;
    const struct history_line step = {.kind = HISTORY_STEP, .step = {.loss = 310384031e9, .ranks = {ranks, RANKS}}};
    const struct history_line evaluation = {.kind = HISTORY_EVALUATION, .evaluation = {.loss = 1e30}};
    assert_true(top_note(top, &step) && top_note(top, &evaluation));
    assert_true(shows(top, "  loss 3.10384e+17  "));
    assert_true(shows(top, ": validation loss 1e+30, "));
}

static void test_steps_that_are_not_known(void **state)
{
    struct top *top = *state;
    top_init(top, "a run", 0);
    note_step(top, 39);
    assert_true(shows(top, "headroom top  step 40  loss "));
    assert_true(shows(top, "left ?  retries"));
}

static void test_times_that_are_none(void **state)
{
    static const double times_ms[] = {1e308, INFINITY, NAN, -1};
    struct top *top = *state;
    for (size_t i = 0; i < sizeof(times_ms) / sizeof(times_ms[0]); i++) {
        const struct history_line line = {.kind = HISTORY_STEP,
                                          .step = {.step_ms = times_ms[i], .ranks = {ranks, RANKS}}};
        top_init(top, "a run", 100);
        assert_true(top_note(top, &line));
        assert_true(shows(top, "left ?  retries"));
        top_finish(top);
    }
    top_init(top, "a run", 100);
}

static void test_trouble(void **state)
{
    struct top *top = *state;
    top->trouble = "host: Connection refused";
    assert_true(shows(top, "host: Connection refused"));
    top_note(top, &(struct history_line){.kind = HISTORY_END, .end = {.step = 3}});
    assert_false(shows(top, "host: Connection refused")); // whoever has ended need not answer
}

static void test_ranks_that_are_not_shown(void **state)
{
    static struct top_row rows[ROWS];
    struct top *top = *state;
    note_step(top, 0);
    assert_int_equal(top_draw(top, 5, 160, 20, rows), 10);
    assert_string_equal(rows[2].text, "ranks 5 to 14 of 40; arrows and page keys move");
    assert_int_equal(top_draw(top, 0, 160, top_height(top), rows), RANKS);
    assert_string_equal(rows[2].text, "");
}

static void test_events(void **state)
{
    struct top *top = *state;
    note_step(top, 0);
    ranks[3].limit_bytes = 20 << 20;
    ranks[4].share = 0;
    ranks[5].oom_retries = 2;
    ranks[5].handed_back = 7;
    note_step(top, 1);
    assert_true(shows(top, "step 1: rank 3 may hold 20.00 MiB"));
    assert_true(shows(top, "step 1: rank 4 rests"));
    assert_true(shows(top, "step 1: rank 5: allocations refused: 2, samples handed back: 7"));
    assert_true(shows(top, "retries 2  handed back 7"));
    ranks[4].share = 1;
    note_step(top, 2);
    assert_true(shows(top, "step 2: rank 4 is back"));
    top_note(top, &(struct history_line){.kind = HISTORY_EVALUATION, .evaluation = {.step = 3, .loss = 0.25}});
    top_note(top, &(struct history_line){.kind = HISTORY_CHECKPOINT, .checkpoint = {.step = 3, .error = "no room"}});
    top_note(top, &(struct history_line){.kind = HISTORY_RESUME, .resume = {.step = 3, .ranks = 2}});
    top_note(top, &(struct history_line){.kind = HISTORY_END, .end = {.step = 3, .status = STATUS_OUT_OF_MEMORY}});
    assert_true(shows(top, "after 3 steps: validation loss 0.2500, accuracy 0.00 %"));
    assert_true(shows(top, "after 3 steps: no checkpoint: no room"));
    assert_true(shows(top, "goes on after 3 steps on 2 ranks"));
    assert_true(shows(top, "ended after 3 steps with exit code 3"));
}

static void test_what_would_move_the_cursor(void **state)
{
    struct top *top = *state;
    top_init(top, "a\033[2Jrun", 100);
    snprintf(ranks[0].levers, sizeof(ranks[0].levers), "%s", "\033c");
    note_step(top, 0);
    top_note(top, &(struct history_line){.kind = HISTORY_CHECKPOINT, .checkpoint = {.step = 1, .error = "no\nroom"}});
    assert_true(shows(top, "  100.0 ms/step  a?[2Jrun"));
    assert_true(shows(top, " ?c "));
    assert_true(shows(top, "after 1 steps: no checkpoint: no?room"));
}

// Its file is written anew and read from the first step on.
static void test_a_run_that_goes_on(void **state)
{
    struct top *top = *state;
    ranks[0].oom_retries = 2;
    for (int times = 0; times < 2; times++) {
        for (uint64_t step = 0; step < 3; step++) {
            note_step(top, step);
        }
    }
    assert_int_equal(top->retries, 6);
    assert_int_equal(top->event_count, 3);
}

// On every size of a screen each row is within it, ranks are in order, and the newest event is the last.
static void test_any_screen(void **state)
{
    static struct top_row rows[ROWS];
    struct top *top = *state;
    for (uint64_t i = 0; i < 100; i++) {
        ranks[0].oom_retries = 1;
        note_step(top, i);
    }
    for (size_t height = 1; height <= 80; height++) {
        for (size_t width = 1; width <= TOP_COLUMNS_MAX; width += 15) {
            memset(rows, 'x', sizeof(rows));
            size_t shown = top_draw(top, 30, width, height, rows);
            assert_in_range(shown, 1, 10);
            assert_int_equal(rows[height].text[0], 'x');
            for (size_t i = 0; i < height; i++) {
                assert_in_range(strnlen(rows[i].text, width + 1), 0, width);
            }
            for (size_t i = 0; width > 10 && height >= 4 + shown && i < shown; i++) {
                char number[24];
                snprintf(number, sizeof(number), "%zu ", 30 + i);
                assert_memory_equal(rows[4 + i].text, number, strlen(number));
            }
        }
    }
    top_draw(top, 0, 160, 60, rows);
    assert_string_equal(rows[59].text, "step 99: rank 0: allocations refused: 1, samples handed back: 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_it_shows, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_narrow_screen, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_large_loss, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_steps_that_are_not_known, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_times_that_are_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_trouble, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_ranks_that_are_not_shown, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_events, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_would_move_the_cursor, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_run_that_goes_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_any_screen, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
