// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "worker/run/line_file.h"

// A file may grow to so many bytes.
static void set_room(rlim_t bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static char path[] = "/tmp/test_line_file_XXXXXX";

static int make_path(void **state)
{
    (void)state;
    int file = mkstemp(path);
    signal(SIGXFSZ, SIG_IGN);
    return file < 0 || write(file, "old\n", 4) != 4 || close(file) != 0;
}

static int remove_path(void **state)
{
    (void)state;
    return unlink(path);
}

static void assert_content(const char *expected)
{
    char content[256];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    content[fread(content, 1, sizeof(content) - 1, file)] = '\0';
    fclose(file);
    assert_string_equal(content, expected);
}

static void assert_says(bool says, const char *text, const char *expected)
{
    assert_true(says);
    assert_memory_equal(text, path, strlen(path));
    assert_string_equal(text + strlen(path), expected);
}

static void lines_that_do_not_fit_are_counted(void **state)
{
    (void)state;
    char text[LINE_FILE_WARNING_MAX];
    struct line_file *file = line_file_open(path, false);
    assert_non_null(file);
    line_file_write(file, strdup("first"));
    assert_false(line_file_news(file, text));
    assert_false(line_file_losses(file, text));
    set_room(14);
    line_file_write(file, strdup("torn after four")); // of its bytes
    assert_says(line_file_news(file, text), text,
                ": cannot write: File too large; the run goes on, and lines are missing there");
    line_file_write(file, strdup("nor this one"));
    assert_false(line_file_news(file, text));
    assert_content("old\nfirst\n");
    line_file_write(file, strdup("fit"));
    assert_says(line_file_news(file, text), text, ": can be written again, without 2 lines");
    set_room(RLIM_INFINITY);
    line_file_write(file, strdup("last"));
    assert_false(line_file_news(file, text));
    assert_says(line_file_losses(file, text), text, ": 2 lines could not be written: File too large");
    line_file_close(file);
    assert_content("old\nfirst\nfit\nlast\n");
}

static void a_line_without_memory_is_lost(void **state)
{
    (void)state;
    char text[LINE_FILE_WARNING_MAX];
    struct line_file *file = line_file_open(path, true);
    assert_non_null(file);
    line_file_write(file, NULL);
    assert_says(line_file_losses(file, text), text, ": 1 line could not be written: Cannot allocate memory");
    line_file_write(file, strdup("line"));
    line_file_close(file);
    assert_content("line\n");
}

static void bytes_are_written_as_they_are(void **state)
{
    (void)state;
    char text[LINE_FILE_WARNING_MAX], content[16];
    struct line_file *file = line_file_open(path, true);
    assert_non_null(file);
    line_file_write_bytes(file, "a\0b", 3);
    line_file_write_bytes(file, NULL, 0);
    set_room(4);
    line_file_write_bytes(file, "torn", 4);
    set_room(RLIM_INFINITY);
    line_file_write_bytes(file, "\n\0", 2);
    assert_says(line_file_losses(file, text), text, ": 2 lines could not be written: File too large");
    line_file_close(file);
    FILE *written = fopen(path, "r");
    assert_non_null(written);
    assert_int_equal(fread(content, 1, sizeof(content), written), 5);
    fclose(written);
    assert_memory_equal(content, "a\0b\n\0", 5);
}

static void what_cannot_be_opened_says_why(void **state)
{
    (void)state;
    assert_null(line_file_open("/nowhere/lines", false));
    assert_int_equal(errno, ENOENT);
    line_file_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_that_do_not_fit_are_counted),
        cmocka_unit_test(a_line_without_memory_is_lost),
        cmocka_unit_test(bytes_are_written_as_they_are),
        cmocka_unit_test(what_cannot_be_opened_says_why),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
