// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "worker/duration.h"

static void test_texts(void **state)
{
    (void)state;
    static const struct {
        double seconds;
        const char *text;
    } expected[] = {
        {0, "0:00"},         {9.99, "0:09"},   {3599, "59:59"},    {3600, "1:00:00"},          {3723, "1:02:03"},
        {86399, "23:59:59"}, {86400, "1d 0h"}, {407000, "4d 17h"}, {9e14, "10416666666d 16h"}, {-1, "?"},
        {1e308, "?"},        {INFINITY, "?"},  {NAN, "?"},
    };
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        char text[DURATION_TEXT_MAX];
        assert_string_equal(duration_text(expected[i].seconds, text), expected[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
