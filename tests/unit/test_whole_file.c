// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mem/whole_file.h"

static char folder[] = "/tmp/test_whole_file_XXXXXX";

static int enter_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) == NULL || chdir(folder) != 0;
}

static void assert_text(const char *path, const char *expected)
{
    char text[64] = "";
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fread(text, 1, sizeof(text) - 1, file), strlen(expected));
    fclose(file);
    assert_string_equal(text, expected);
}

static mode_t kind_of(const char *path)
{
    struct stat about;
    assert_int_equal(lstat(path, &about), 0);
    return about.st_mode & S_IFMT;
}

static void assert_refused(const char *path, int failure)
{
    mode_t kind = kind_of(path);
    assert_false(whole_file_write_text(path, "new"));
    assert_int_equal(errno, failure);
    assert_int_equal(kind_of(path), kind);
}

static void test_a_file_is_made_and_replaced(void **state)
{
    (void)state;
    assert_true(whole_file_is_free("plain"));
    assert_true(whole_file_write_text("plain", "first"));
    assert_true(whole_file_is_free("plain"));
    assert_true(whole_file_write_text("plain", "second"));
    assert_text("plain", "second");
    assert_int_equal(unlink("plain"), 0);
}

static void test_what_is_no_file_stays(void **state)
{
    (void)state;
    assert_int_equal(mkfifo("pipe", 0600), 0);
    assert_int_equal(mkdir("folder", 0700), 0);
    assert_int_equal(symlink("pipe", "link"), 0);
    assert_false(whole_file_is_free("pipe"));
    assert_false(whole_file_is_free("link"));
    assert_false(whole_file_is_free("folder"));
    assert_false(whole_file_is_free("/dev/null"));
    assert_refused("pipe", ENOTSUP);
    assert_refused("link", ENOTSUP);
    assert_refused("folder", EISDIR);
    assert_int_equal(kind_of("pipe"), S_IFIFO);
    assert_int_equal(unlink("link") | unlink("pipe") | rmdir("folder"), 0);
}

static void test_a_link_stays(void **state)
{
    (void)state;
    assert_int_equal(mkdir("folder", 0700), 0);
    assert_true(whole_file_write_text("folder/file", "first"));
    assert_int_equal(symlink("folder/file", "link"), 0);
    assert_true(whole_file_is_free("link"));
    assert_true(whole_file_write_text("link", "second"));
    assert_int_equal(kind_of("link"), S_IFLNK);
    assert_text("folder/file", "second");
    assert_int_equal(unlink("folder/file"), 0);
    assert_refused("link", ENOENT);
    assert_int_equal(unlink("link") | rmdir("folder"), 0);
}

static bool put_half(FILE *file, const void *contents)
{
    fputs(contents, file);
    errno = EIO;
    return false;
}

static void test_half_a_file_is_none(void **state)
{
    (void)state;
    assert_true(whole_file_write_text("plain", "first"));
    assert_false(whole_file_write("plain", put_half, "half"));
    assert_int_equal(errno, EIO);
    assert_text("plain", "first");
    assert_int_equal(unlink("plain"), 0);
}

// Another process writes the same file meanwhile.
static bool put_after_another(FILE *file, const void *contents)
{
    int outcome = -1;
    pid_t other = fork();
    if (other == 0) {
        _exit(whole_file_write_text("plain", "of another") ? 0 : 1);
    }
    waitpid(other, &outcome, 0);
    assert_int_equal(outcome, 0);
    assert_text("plain", "of another");
    return fputs(contents, file) >= 0;
}

static void test_two_writers(void **state)
{
    (void)state;
    assert_true(whole_file_write("plain", put_after_another, "of the last"));
    assert_text("plain", "of the last");
    assert_int_equal(unlink("plain"), 0);
}

static void test_what_was_left_under_the_other_name(void **state)
{
    (void)state;
    char part[64];
    mode_t mask = umask(027);
    snprintf(part, sizeof(part), "plain.%d.part", (int)gettid());
    assert_true(whole_file_write_text("other", "of another"));
    assert_int_equal(symlink("other", part), 0);
    assert_true(whole_file_write_text("plain", "first"));
    assert_int_equal(kind_of("plain"), S_IFREG);
    assert_text("other", "of another");
    assert_int_equal(mkfifo(part, 0600), 0);
    assert_true(whole_file_write_text("plain", "second"));
    assert_text("plain", "second");
    struct stat about;
    assert_int_equal(stat("plain", &about), 0);
    assert_int_equal(about.st_mode & 0777, 0640);
    umask(mask);
    assert_int_equal(unlink("plain") | unlink("other"), 0);
}

static void test_where_nothing_can_be_written(void **state)
{
    (void)state;
    assert_false(whole_file_write_text("nowhere/file", "text"));
    assert_int_equal(errno, ENOENT);
}

// Nothing must be left in it.
static int remove_folder(void **state)
{
    (void)state;
    return chdir("/") != 0 || rmdir(folder) != 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_file_is_made_and_replaced),
        cmocka_unit_test(test_what_is_no_file_stays),
        cmocka_unit_test(test_a_link_stays),
        cmocka_unit_test(test_half_a_file_is_none),
        cmocka_unit_test(test_two_writers),
        cmocka_unit_test(test_what_was_left_under_the_other_name),
        cmocka_unit_test(test_where_nothing_can_be_written),
    };
    return cmocka_run_group_tests(tests, enter_folder, remove_folder);
}
