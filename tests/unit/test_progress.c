// SPDX-License-Identifier: Apache-2.0
//
// Standard output is a terminal, or a file, while a phase goes on; sleeps are at least as long as lines are apart.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "assert_matches.h"
#include "worker/progress.h"

#define TERMINAL_US 110000
#define SECOND_US   1100000

struct output {
    int earlier, reader; // the test's own, and what was written is read here
};

static void redirect(struct output *output, int writer)
{
    fflush(stdout);
    output->earlier = dup(STDOUT_FILENO);
    assert_return_code(dup2(writer, STDOUT_FILENO), 0);
    close(writer);
}

static int begin_terminal_of(unsigned short columns, void **state)
{
    static struct output output;
    const struct winsize size = {.ws_col = columns};
    int writer;
    assert_int_equal(openpty(&output.reader, &writer, NULL, NULL, &size), 0);
    redirect(&output, writer);
    *state = &output;
    return 0;
}

static int begin_terminal(void **state)
{
    return begin_terminal_of(100, state);
}

static int begin_narrow_terminal(void **state)
{
    return begin_terminal_of(55, state);
}

static int begin_terminal_that_does_not_say(void **state)
{
    return begin_terminal_of(0, state);
}

static int begin_file(void **state)
{
    static struct output output;
    char path[] = "/tmp/test_progress.XXXXXX";
    int writer = mkstemp(path);
    assert_return_code(writer, 0);
    output.reader = open(path, O_RDONLY);
    unlink(path);
    redirect(&output, writer);
    *state = &output;
    return 0;
}

static int end(void **state)
{
    struct output *output = *state;
    close(output->reader);
    return 0;
}

// All that was written. From here on the standard output is the test's own.
static const char *read_output(struct output *output)
{
    static char text[4096];
    fputc('$', stdout); // a terminal gives no end of file
    fflush(stdout);
    assert_return_code(dup2(output->earlier, STDOUT_FILENO), 0);
    close(output->earlier);
    size_t length = 0;
    while (length == 0 || text[length - 1] != '$') {
        ssize_t found = read(output->reader, text + length, sizeof(text) - 1 - length);
        assert_true(found > 0);
        length += (size_t)found;
    }
    text[length - 1] = '\0';
    return text;
}

// Half of 3 MiB, in pieces, with a pause in front of the last.
static void run_half(uint64_t log_seconds, useconds_t pause_us)
{
    struct progress progress;
    progress_begin(&progress, "reading", PROGRESS_BYTES, 3 << 20, log_seconds);
    progress_add(&progress, 1 << 20);
    usleep(pause_us);
    progress_add(&progress, 1 << 19);
    progress_add(&progress, 0);
    progress_end(&progress);
    progress_add(&progress, 1 << 20);
}

// A slow machine may show a line more.
static void test_a_terminal(void **state)
{
    run_half(0, TERMINAL_US);
    assert_matches(
        read_output(*state),
        "^(\r\033\\[Kreading  (33|50) %  left [0-9]+:[0-9]{2}  1\\.[05]0 MiB of 3\\.00 MiB  [0-9]+\\.[0-9] MB/s  "
        "\\[=+ +\\])+\r\033\\[K$");
}

static void test_a_log(void **state)
{
    run_half(1, SECOND_US);
    assert_matches(read_output(*state),
                   "^(reading  (33|50) %  left [0-9]+:[0-9]{2}  1\\.[05]0 MiB of 3\\.00 MiB  [01]\\.[0-9] MB/s\n)+$");
}

static void test_a_short_phase(void **state)
{
    run_half(1000, TERMINAL_US);
    assert_string_equal(read_output(*state), "");
}

static void test_a_log_without_lines(void **state)
{
    run_half(0, SECOND_US);
    assert_string_equal(read_output(*state), "");
}

static void end_line(void **state, const char *pattern)
{
    struct progress progress;
    progress_begin(&progress, "validation", PROGRESS_SAMPLES, 10, 0);
    usleep(TERMINAL_US);
    progress_add(&progress, 10);
    assert_matches(read_output(*state), pattern);
}

// The rate would be cut.
static void test_a_narrow_terminal(void **state)
{
    end_line(state, "Kvalidation  100 %  left 0:00  10 of 10 samples$");
}

static void test_a_terminal_that_does_not_say(void **state)
{
    end_line(state, "  [0-9]+ samples/s  \\[={15,16}\\]$");
}

static void test_more_than_all(void **state)
{
    struct progress progress;
    progress_begin(&progress, "validation", PROGRESS_SAMPLES, 10, 0);
    usleep(TERMINAL_US);
    progress_add(&progress, 12);
    assert_matches(read_output(*state),
                   "validation  100 %  left 0:00  10 of 10 samples  [0-9]+ samples/s  \\[={30}\\]$");
}

static void test_one_that_did_not_begin(void **state)
{
    struct progress progress = {0};
    usleep(TERMINAL_US);
    progress_add(&progress, 1);
    progress_end(&progress);
    assert_string_equal(read_output(*state), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_terminal, begin_terminal, end),
        cmocka_unit_test_setup_teardown(test_a_log, begin_file, end),
        cmocka_unit_test_setup_teardown(test_a_short_phase, begin_file, end),
        cmocka_unit_test_setup_teardown(test_a_log_without_lines, begin_file, end),
        cmocka_unit_test_setup_teardown(test_a_narrow_terminal, begin_narrow_terminal, end),
        cmocka_unit_test_setup_teardown(test_a_terminal_that_does_not_say, begin_terminal_that_does_not_say, end),
        cmocka_unit_test_setup_teardown(test_more_than_all, begin_terminal, end),
        cmocka_unit_test_setup_teardown(test_one_that_did_not_begin, begin_terminal, end),
    };
    unsetenv("OMPI_COMM_WORLD_RANK"); // with it the launcher's output would count
    return cmocka_run_group_tests(tests, NULL, NULL);
}
