// SPDX-License-Identifier: Apache-2.0
//
// Text held against an extended regular expression. After <cmocka.h>.
#ifndef HEADROOM_TESTS_ASSERT_MATCHES_H
#define HEADROOM_TESTS_ASSERT_MATCHES_H

#include <regex.h>
#include <stddef.h>

static inline void assert_matches(const char *text, const char *pattern)
{
    regex_t compiled;
    assert_int_equal(regcomp(&compiled, pattern, REG_EXTENDED), 0);
    if (regexec(&compiled, text, 0, NULL, 0) != 0) {
        fail_msg("'%s' does not match '%s'", text, pattern);
    }
    regfree(&compiled);
}

#endif
