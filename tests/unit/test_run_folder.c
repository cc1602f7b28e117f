// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/run/run_folder.h"

static char folder[] = "/tmp/test_run_folder_XXXXXX";

static int enter_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) == NULL || chdir(folder) != 0 || mkdir("run", 0700) != 0;
}

static void write_environment(const char *text)
{
    FILE *file = fopen("run/env.txt", "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void expect_ranks(const char *text, uint32_t expected)
{
    uint32_t ranks;
    struct error error = {0};
    write_environment(text);
    assert_int_equal(run_folder_ranks("run", &ranks, &error), STATUS_OK);
    assert_int_equal(ranks, expected);
}

static void expect_refused(const char *complaint)
{
    uint32_t ranks;
    struct error error = {0};
    assert_int_equal(run_folder_ranks("run", &ranks, &error), STATUS_INVALID);
    assert_string_equal(error.text, complaint);
}

static void test_ranks_of_the_latest_process(void **state)
{
    (void)state;
    expect_ranks("headroom 0.1.0\nranks 3\ncommand headroom train\n", 3);
    expect_ranks("ranks 3\ncommand x\nranks 1048576\ncommand ranks 7\n", 1048576);
}

static void test_a_number_that_no_run_has(void **state)
{
    (void)state;
    static const char *const wrong[] = {"4294967295", "1048577", "99999999999999999999", "0", "-1", "3x",
                                        "",           "\033[2J"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        char text[64], complaint[128];
        snprintf(text, sizeof(text), "ranks %s\n", wrong[i]);
        write_environment(text);
        snprintf(complaint, sizeof(complaint), "run/env.txt: ranks %s: is no number of ranks; allowed: 1 to 1048576",
                 wrong[i][0] == '\033' ? "?[2J" : wrong[i]);
        expect_refused(complaint);
    }
}

static void test_no_run(void **state)
{
    (void)state;
    static const char complaint[] = "run: no run's folder: it has no env.txt that tells a number of ranks";
    write_environment("headroom 0.1.0\n");
    expect_refused(complaint);
    assert_int_equal(unlink("run/env.txt"), 0);
    expect_refused(complaint);
    assert_int_equal(mkfifo("run/env.txt", 0600), 0); // whose reader would wait for ever
    expect_refused(complaint);
    assert_int_equal(unlink("run/env.txt"), 0);
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir("run") != 0 || chdir("/") != 0 || rmdir(folder) != 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_of_the_latest_process),
        cmocka_unit_test(test_a_number_that_no_run_has),
        cmocka_unit_test(test_no_run),
    };
    return cmocka_run_group_tests(tests, enter_folder, remove_folder);
}
