// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "assert_matches.h"
#include "mem/clock.h"
#include "mem/recorder.h"

#define HEADER "Thread,Time,Action,Pointer,Size,Stream,Tag\n"

static struct mem_recorder *make(size_t capacity, const char *log_path)
{
    struct mem_recorder *recorder = NULL;
    struct error error;
    if (mem_recorder_create(capacity, log_path, &recorder, &error) != STATUS_OK) {
        fail_msg("%s", error.text);
    }
    return recorder;
}

static void append(struct mem_recorder *recorder, enum mem_action action, uint64_t address)
{
    const struct mem_event event = {.action = action,
                                    .stream = 3,
                                    .address = address,
                                    .bytes = 1024,
                                    .requested_bytes = 1000,
                                    .step = 7,
                                    .tag = "activations"};
    mem_recorder_append(recorder, &event);
}

static void the_newest_are_kept(void **state)
{
    (void)state;
    struct mem_recorder *recorder = make(3, NULL);
    for (uint64_t i = 0; i < 8; i++) {
        assert_int_equal(mem_recorder_count(recorder), i);
        assert_int_equal(mem_recorder_kept(recorder), i < 3 ? i : 3);
        append(recorder, MEM_ACTION_ALLOC, i);
        size_t kept = mem_recorder_kept(recorder);
        for (size_t j = 0; j < kept; j++) {
            assert_int_equal(mem_recorder_event(recorder, j)->address, i + 1 - kept + j);
        }
    }
    const struct mem_event *event = mem_recorder_event(recorder, 2);
    assert_int_equal(event->action, MEM_ACTION_ALLOC);
    assert_int_equal(event->requested_bytes, 1000);
    assert_int_equal(event->step, 7);
    assert_string_equal(event->tag, "activations");
    struct error error;
    assert_int_equal(mem_recorder_flush(recorder, &error), STATUS_OK);
    mem_recorder_destroy(recorder);
    mem_recorder_destroy(NULL);
}

static void times_are_told_absolutely(void **state)
{
    (void)state;
    uint64_t before_ns = clock_ns();
    struct mem_recorder *recorder = make(2, NULL);
    append(recorder, MEM_ACTION_ALLOC, 1);
    append(recorder, MEM_ACTION_FREE, 1);
    uint64_t first_ns = mem_recorder_event(recorder, 0)->time_ns, second_ns = mem_recorder_event(recorder, 1)->time_ns;
    assert_true(before_ns <= first_ns && first_ns <= second_ns && second_ns <= clock_ns());
    int64_t off_ns = (int64_t)(mem_recorder_wall_ns(recorder, second_ns) - (uint64_t)time(NULL) * 1000000000);
    assert_true(-2000000000 < off_ns && off_ns < 2000000000);
    mem_recorder_destroy(recorder);
}

static char *read_all(const char *path)
{
    static char text[1 << 20];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    return text;
}

static void make_path(char *path)
{
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
}

static void the_file_is_rmm_s_with_a_tag(void **state)
{
    (void)state;
    char path[] = "/tmp/test_recorder_XXXXXX";
    make_path(path);
    struct mem_recorder *recorder = make(1, path);
    assert_string_equal(read_all(path), HEADER);
    append(recorder, MEM_ACTION_SEGMENT_MAP, 0x7f0000000000);
    append(recorder, MEM_ACTION_ALLOC, 0x7f0000000200);
    append(recorder, MEM_ACTION_ALLOC_FAILED, 0);
    append(recorder, MEM_ACTION_FREE, 0x7f0000000200);
    const struct mem_event odd = {.action = MEM_ACTION_FREE, .tag = "a,\"b\n\xc3"};
    mem_recorder_append(recorder, &odd);
    assert_int_equal(mem_recorder_flush(recorder, NULL), STATUS_OK);
#define START "[0-9]+,[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\\.[0-9]{6},"
    assert_matches(read_all(path), "^" HEADER START "allocate,0x7f0000000200,1000,3,activations\n" START
                                   "allocate failure,0x0,1000,3,activations\n" START
                                   "free,0x7f0000000200,1000,3,activations\n" START "free,0x0,0,0,a__b__\n$");
    mem_recorder_destroy(recorder);
    unlink(path);
}

static void what_is_left_is_written_at_the_end(void **state)
{
    (void)state;
    char path[] = "/tmp/test_recorder_XXXXXX";
    make_path(path);
    struct mem_recorder *recorder = make(1, path);
    for (uint64_t i = 1; i <= 5000; i++) { // more than a buffer
        append(recorder, MEM_ACTION_ALLOC, i << 9);
    }
    mem_recorder_destroy(recorder);
    size_t lines = 0;
    const char *text = read_all(path);
    for (const char *end = strchr(text, '\n'); end != NULL; end = strchr(end + 1, '\n')) {
        lines++;
    }
    assert_int_equal(lines, 5001);
    unlink(path);
}

static void a_full_disk_is_told_once_and_cuts_no_line(void **state)
{
    (void)state;
    char path[] = "/tmp/test_recorder_XXXXXX";
    struct rlimit before, small;
    struct error error = {0};
    make_path(path);
    struct mem_recorder *recorder = make(4, path);
    append(recorder, MEM_ACTION_ALLOC, 512);
    assert_int_equal(mem_recorder_flush(recorder, &error), STATUS_OK);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    small = (struct rlimit){.rlim_cur = 4096, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (uint64_t i = 0; i < 2000; i++) {
        append(recorder, MEM_ACTION_ALLOC, 1024);
    }
    enum status first = mem_recorder_flush(recorder, &error), second = mem_recorder_flush(recorder, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    append(recorder, MEM_ACTION_ALLOC, 2048); // too late for the file
    assert_int_equal(first, STATUS_ERROR);
    assert_non_null(strstr(error.text, ": File too large"));
    assert_int_equal(second, STATUS_OK);
    assert_int_equal(mem_recorder_count(recorder), 2002);
    assert_int_equal(mem_recorder_event(recorder, 3)->address, 2048);
    mem_recorder_destroy(recorder);
    assert_matches(read_all(path), "^" HEADER START "allocate,0x200,1000,3,activations\n$");
    unlink(path);
}

static void a_file_that_cannot_be_made_is_named(void **state)
{
    (void)state;
    struct mem_recorder *recorder = NULL;
    struct error error;
    assert_int_equal(mem_recorder_create(1, "/nowhere/log.csv", &recorder, &error), STATUS_ERROR);
    assert_string_equal(error.text, "/nowhere/log.csv: No such file or directory");
    assert_int_equal(mem_recorder_create(1, "/dev/full", &recorder, &error), STATUS_ERROR);
    assert_string_equal(error.text, "/dev/full: cannot write: No space left on device");
    assert_int_equal(mem_recorder_create(SIZE_MAX / 8, NULL, &recorder, &error), STATUS_ERROR);
    assert_string_equal(error.text, "out of host memory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_are_kept),
        cmocka_unit_test(times_are_told_absolutely),
        cmocka_unit_test(the_file_is_rmm_s_with_a_tag),
        cmocka_unit_test(what_is_left_is_written_at_the_end),
        cmocka_unit_test(a_full_disk_is_told_once_and_cuts_no_line),
        cmocka_unit_test(a_file_that_cannot_be_made_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
