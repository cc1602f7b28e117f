// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "mem/error.h"
#include "mem/printable.h"

static void expect(const char *text, const char *expected)
{
    char to[64];
    assert_ptr_equal(printable(text, to, sizeof(to)), to);
    assert_string_equal(to, expected);
    strcpy(to, text);
    assert_string_equal(printable(to, to, sizeof(to)), expected);
}

static void test_what_stays(void **state)
{
    (void)state;
    expect("", "");
    expect("runs/job 17", "runs/job 17");
    expect("L\xc3\xa4ufe \xe2\x96\x81 \xf0\x9f\x98\x80", "L\xc3\xa4ufe \xe2\x96\x81 \xf0\x9f\x98\x80");
    expect("\xc2\xa0", "\xc2\xa0"); // the first that is no control character
}

static void test_control_characters(void **state)
{
    (void)state;
    expect("a\033[31mb\n\tc\x7f", "a?[31mb??c?");
    expect("a\xc2\x9b"
           "2Jb\xc2\x80",
           "a??2Jb??");
}

static void test_room(void **state)
{
    (void)state;
    char to[4];
    assert_string_equal(printable("abcdef", to, sizeof(to)), "abc");
    assert_string_equal(printable("\x01\x02\x03\x04", to, sizeof(to)), "???");
}

static void test_errors(void **state)
{
    (void)state;
    struct error error;
    assert_int_equal(error_set(&error, STATUS_INVALID, "%s: is wrong", "a\nb\033c"), STATUS_INVALID);
    assert_string_equal(error.text, "a?b?c: is wrong");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_stays),
        cmocka_unit_test(test_control_characters),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
