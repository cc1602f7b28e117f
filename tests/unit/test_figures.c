// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "worker/figures.h"

static struct figures make(size_t columns)
{
    struct figures line = figures_begin(columns);
    figures_add(&line, "step %d", 12);
    figures_add(&line, "  ▁▂%s", "█");
    figures_add(&line, "  loss %.2f", 0.5);
    figures_add(&line, "  z");
    return line;
}

// A figure is there as a whole or not at all, and nothing comes behind one that is left out.
static void test_what_there_is_room_for(void **state)
{
    (void)state;
    assert_string_equal(make(0).text, "");
    assert_string_equal(make(6).text, "");
    assert_string_equal(make(7).text, "step 12");
    assert_string_equal(make(11).text, "step 12");
    assert_string_equal(make(12).text, "step 12  ▁▂█");
    assert_string_equal(make(22).text, "step 12  ▁▂█");
    assert_string_equal(make(23).text, "step 12  ▁▂█  loss 0.50");
    assert_string_equal(make(SIZE_MAX).text, "step 12  ▁▂█  loss 0.50  z");
    assert_int_equal(make(30).room, 4);
}

static void test_more_than_a_line_holds(void **state)
{
    (void)state;
    char text[FIGURES_MAX + 1] = "";
    struct figures line = figures_begin(SIZE_MAX);
    memset(text, 'x', FIGURES_MAX);
    figures_add(&line, "first");
    figures_add(&line, "%s", text);
    figures_add(&line, "last");
    assert_string_equal(line.text, "first");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_there_is_room_for),
        cmocka_unit_test(test_more_than_a_line_holds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
