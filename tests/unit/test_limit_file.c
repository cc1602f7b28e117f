// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "mem/whole_file.h"
#include "worker/run/limit_file.h"

#define KIB UINT64_C(1024)

static size_t reads; // of any file

ssize_t __real_read(int file, void *bytes, size_t size);
ssize_t __wrap_read(int file, void *bytes, size_t size);

ssize_t __wrap_read(int file, void *bytes, size_t size)
{
    reads++;
    return __real_read(file, bytes, size);
}

struct fixture {
    char folder[64], limits[80];
    struct limit_file limit;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    snprintf(f->folder, sizeof(f->folder), "/tmp/headroom-limit-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    snprintf(f->limits, sizeof(f->limits), "%s/limits", f->folder);
    limit_file_name(f->folder, 3, f->limit.path);
    reads = 0;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    remove(f->limit.path);
    rmdir(f->limits);
    int failed = rmdir(f->folder);
    free(f);
    return failed;
}

// In place, as a person's shell does.
static void write_text(struct fixture *f, const char *text)
{
    mkdir(f->limits, 0777);
    FILE *file = fopen(f->limit.path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static bool put(FILE *file, const void *text)
{
    return fputs(text, file) >= 0;
}

static void expect(struct fixture *f, enum limit_news news, uint64_t bytes)
{
    assert_int_equal(limit_file_follow(&f->limit), news);
    assert_int_equal(f->limit.bytes, bytes);
}

static void expect_complaint(struct fixture *f, const char *complaint, uint64_t bytes)
{
    expect(f, LIMIT_UNCLEAR, bytes);
    assert_string_equal(f->limit.complaint, complaint);
    expect(f, LIMIT_STAYS, bytes); // said once
}

static void no_file_is_no_limit(void **state)
{
    struct fixture *f = *state;
    struct limit_file none = {0};
    assert_int_equal(limit_file_follow(&none), LIMIT_STAYS);
    assert_int_equal(none.bytes, 0);
    expect(f, LIMIT_STAYS, 0);
    assert_int_equal(mkdir(f->limits, 0777), 0);
    expect(f, LIMIT_STAYS, 0);
}

static void sizes_are_those_of_a_configuration(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {{"512\n", 512},
                 {"64KiB\n", 64 * KIB},
                 {"1.5GiB\n", 1536 * KIB * KIB},
                 {"20GB\n", UINT64_C(20000000000)},
                 {"1\n", 1},
                 {"none\n", 0},
                 {"1024TiB\n", KIB * KIB * KIB * KIB * KIB}};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        write_text(*state, sizes[i].text);
        expect(*state, LIMIT_CHANGED, sizes[i].bytes);
    }
}

static void a_file_is_read_when_it_changed(void **state)
{
    struct fixture *f = *state;
    write_text(f, "64KiB\n");
    expect(f, LIMIT_CHANGED, 64 * KIB);
    for (size_t i = 0; i < 10; i++) {
        expect(f, LIMIT_STAYS, 64 * KIB);
    }
    assert_int_equal(reads, 1);
    for (uint64_t i = 1; i < 10; i++) { // of one length, and within a tick of the file system's clock
        char text[16];
        snprintf(text, sizeof(text), "%d\n", (int)i);
        assert_true(whole_file_write(f->limit.path, put, text));
        expect(f, LIMIT_CHANGED, i);
    }
    assert_int_equal(reads, 10);
    assert_true(whole_file_write(f->limit.path, put, "9B\n"));
    expect(f, LIMIT_STAYS, 9);
}

static void a_file_that_is_removed_releases(void **state)
{
    struct fixture *f = *state;
    write_text(f, "64KiB\n");
    expect(f, LIMIT_CHANGED, 64 * KIB);
    assert_int_equal(unlink(f->limit.path), 0);
    expect(f, LIMIT_CHANGED, 0);
    expect(f, LIMIT_STAYS, 0);
    write_text(f, "64KiB\n");
    expect(f, LIMIT_CHANGED, 64 * KIB);
    assert_int_equal(unlink(f->limit.path), 0);
    assert_int_equal(rmdir(f->limits), 0);
    expect(f, LIMIT_CHANGED, 0);
}

static void nonsense_leaves_the_limit(void **state)
{
    static const char not_bytes[] = "is not a number of bytes such as 4096, 64MiB or 1.5GB";
    static const char *const texts[][2] = {
        {"lots\n", not_bytes},
        {"0\n", "is out of range"},
        {"-1\n", "is out of range"},
        {"0.5\n", "is not a whole number of bytes"},
        {"99999999999999999999\n", "is out of range"},
        {" 64KiB\n", not_bytes},
        {"", "is not one whole line"},
        {"64KiB\n64KiB\n", "is not one whole line"},
        {"\n", not_bytes},
    };
    struct fixture *f = *state;
    write_text(f, texts[0][0]);
    expect_complaint(f, texts[0][1], 0);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        write_text(f, "64KiB\n");
        limit_file_follow(&f->limit);
        write_text(f, texts[i][0]);
        expect_complaint(f, texts[i][1], 64 * KIB);
    }
    write_text(f, "64KiB\n");
    expect(f, LIMIT_STAYS, 64 * KIB);
    write_text(f, "lots\n");
    expect_complaint(f, not_bytes, 64 * KIB);
    assert_int_equal(unlink(f->limit.path), 0);
    expect(f, LIMIT_CHANGED, 0);
}

static void a_file_that_is_half_there_leaves_the_limit(void **state)
{
    static const char whole[] = "21474836480\n";
    struct fixture *f = *state;
    char half[sizeof(whole)] = "";
    write_text(f, "64KiB\n");
    expect(f, LIMIT_CHANGED, 64 * KIB);
    for (size_t length = 0; whole[length] != '\n'; length++) {
        write_text(f, half);
        expect(f, length == 0 ? LIMIT_UNCLEAR : LIMIT_STAYS, 64 * KIB);
        half[length] = whole[length];
    }
    write_text(f, whole);
    expect(f, LIMIT_CHANGED, 20 * KIB * KIB * KIB);
    assert_null(f->limit.complaint);
}

static void what_is_no_file_leaves_the_limit(void **state)
{
    struct fixture *f = *state;
    write_text(f, "64KiB\n");
    expect(f, LIMIT_CHANGED, 64 * KIB);
    assert_int_equal(unlink(f->limit.path), 0);
    assert_int_equal(mkdir(f->limit.path, 0777), 0);
    expect_complaint(f, "Is a directory", 64 * KIB);
    assert_int_equal(rmdir(f->limit.path), 0);
    assert_int_equal(mkfifo(f->limit.path, 0666), 0); // which nobody writes to
    expect_complaint(f, "is not one whole line", 64 * KIB);
    assert_int_equal(unlink(f->limit.path), 0);
    assert_int_equal(symlink("rank_3", f->limit.path), 0);
    expect_complaint(f, "Too many levels of symbolic links", 64 * KIB);
}

static void bytes_that_are_no_text_leave_the_limit(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(mkdir(f->limits, 0777), 0);
    FILE *file = fopen(f->limit.path, "w");
    assert_non_null(file);
    for (int i = 0; i < 4096; i++) {
        fwrite("64\n\0", 1, 4, file);
    }
    assert_int_equal(fclose(file), 0);
    expect_complaint(f, "is not one whole line", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(no_file_is_no_limit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sizes_are_those_of_a_configuration, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_is_read_when_it_changed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_that_is_removed_releases, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nonsense_leaves_the_limit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_that_is_half_there_leaves_the_limit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_no_file_leaves_the_limit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bytes_that_are_no_text_leave_the_limit, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
