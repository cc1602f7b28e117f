// SPDX-License-Identifier: Apache-2.0
//
// With an argument it writes its example there, for test_snapshot.py to open.
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "mem/pickle.h"
#include "mem/snapshot.h"

#define MIB    UINT64_C(1048576)
#define GROWS  UINT64_C(0x7f0000000000)
#define PLAIN  UINT64_C(0x10000000)
#define GONE   UINT64_C(0x20000000)
#define BEFORE UINT64_C(100) // events that the ring has lost

static void note(struct mem_recorder *recorder, enum mem_action action, uint64_t stream, uint64_t address,
                 uint64_t bytes, const char *tag, uint64_t step)
{
    struct mem_event event = {.action = action,
                              .stream = stream,
                              .address = address,
                              .bytes = bytes,
                              .requested_bytes = bytes - 12,
                              .device_free_bytes = 3 * MIB,
                              .step = step};
    snprintf(event.tag, sizeof(event.tag), "%s", tag);
    mem_recorder_append(recorder, &event);
}

static void record(struct mem_recorder *recorder)
{
    for (uint64_t i = 0; i < BEFORE; i++) {
        note(recorder, i % 2 == 0 ? MEM_ACTION_ALLOC : MEM_ACTION_FREE, 0, GROWS, 512, "lost", i);
    }
    note(recorder, MEM_ACTION_SEGMENT_MAP, 0, GROWS + 2 * MIB, 2 * MIB, "", 0);
    note(recorder, MEM_ACTION_ALLOC, 0, GROWS + MIB, 2 * MIB, "activations", 1);
    note(recorder, MEM_ACTION_ALLOC_FAILED, 0, 0, 100 * MIB, "logits", 1);
    note(recorder, MEM_ACTION_SEGMENT_ALLOC, 7, GONE, 2 * MIB, "", 1);
    note(recorder, MEM_ACTION_ALLOC, 7, GONE, MIB, "slot", 1);
    note(recorder, MEM_ACTION_FREE, 0, GROWS + MIB, 2 * MIB, "activations", 1);
    note(recorder, MEM_ACTION_FREE, 7, GONE, MIB, "slot", 2);
    note(recorder, MEM_ACTION_SEGMENT_FREE, 7, GONE, 2 * MIB, "", 2);
    note(recorder, MEM_ACTION_SEGMENT_UNMAP, 0, GROWS + 2 * MIB, 2 * MIB, "", 2);
    note(recorder, MEM_ACTION_SEGMENT_ALLOC, 7, PLAIN, 2 * MIB, "", 3);
    note(recorder, MEM_ACTION_ALLOC, 7, PLAIN, 512, "\xc3mall", 3);
}

static enum status write_example(const char *path, struct error *error)
{
    static const struct mem_snapshot_block first[] = {
        {GROWS, MIB, MIB - 12, MEM_BLOCK_ACTIVE_ALLOCATED, "weights", 0},
        {GROWS + MIB, MIB, 0, MEM_BLOCK_INACTIVE, NULL, 0},
    };
    static const struct mem_snapshot_block second[] = {
        {PLAIN, 512, 500, MEM_BLOCK_ACTIVE_ALLOCATED, "\xc3mall", 3},
        {PLAIN + 512, 2 * MIB - 512, 0, MEM_BLOCK_INACTIVE, NULL, 0},
    };
    static const struct mem_snapshot_segment segments[] = {
        {.address = GROWS, .bytes = 2 * MIB, .expandable = true, .blocks = first, .block_count = 2},
        {.address = PLAIN, .bytes = 2 * MIB, .stream = 7, .pool = 1, .blocks = second, .block_count = 2},
    };
    struct mem_recorder *recorder = NULL;
    enum status status = mem_recorder_create(11, NULL, &recorder, error);
    if (status == STATUS_OK) {
        record(recorder);
        const struct mem_snapshot snapshot = {
            .device = 2, .segments = segments, .segment_count = 2, .recorder = recorder};
        status = mem_snapshot_write(path, &snapshot, error);
    }
    mem_recorder_destroy(recorder);
    return status;
}

static void expect_pickled(uint64_t number, const char *bytes, size_t size)
{
    char *text = NULL;
    size_t length = 0;
    FILE *file = open_memstream(&text, &length);
    assert_non_null(file);
    pickle_number(file, number);
    fclose(file);
    assert_int_equal(length, size);
    assert_memory_equal(text, bytes, size);
    free(text);
}

static void numbers_of_any_size(void **state)
{
    (void)state;
    expect_pickled(0, "J\0\0\0\0", 5);
    expect_pickled(0x7fffffff, "J\xff\xff\xff\x7f", 5);
    expect_pickled(0x80000000, "\x8a\x05\0\0\0\x80\0", 7);
    expect_pickled(0x7f0000000200, "\x8a\x06\0\x02\0\0\0\x7f", 8);
    expect_pickled(INT64_MAX, "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", 10);
    expect_pickled(UINT64_MAX, "\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\0", 11);
}

static void make_folder(char *folder)
{
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chdir(folder), 0);
}

static void remove_folder(const char *folder)
{
    unlink("snapshot.pickle");
    assert_int_equal(chdir("/"), 0);
    assert_int_equal(rmdir(folder), 0); // nothing else is left in it
}

static void a_snapshot_is_written(void **state)
{
    (void)state;
    char folder[] = "/tmp/test_snapshot_XXXXXX";
    struct error error;
    make_folder(folder);
    assert_int_equal(write_example("snapshot.pickle", &error), STATUS_OK);
    assert_int_equal(access("snapshot.pickle", R_OK), 0);
    remove_folder(folder);
}

static void nothing_yet_is_a_snapshot_too(void **state)
{
    (void)state;
    char folder[] = "/tmp/test_snapshot_XXXXXX", bytes[4] = "";
    struct error error;
    make_folder(folder);
    assert_int_equal(mem_snapshot_write("snapshot.pickle", &(struct mem_snapshot){0}, &error), STATUS_OK);
    FILE *file = fopen("snapshot.pickle", "r");
    assert_int_equal(fread(bytes, 1, 4, file), 4);
    assert_memory_equal(bytes, "\x80\x02}(", 4);
    fclose(file);
    remove_folder(folder);
}

static void what_cannot_be_written_leaves_the_last(void **state)
{
    (void)state;
    char folder[] = "/tmp/test_snapshot_XXXXXX", bytes[5] = "";
    struct rlimit before, small;
    struct error error;
    make_folder(folder);
    FILE *file = fopen("snapshot.pickle", "w");
    fputs("last", file);
    fclose(file);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    small = (struct rlimit){.rlim_cur = 512, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    enum status status = write_example("snapshot.pickle", &error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, STATUS_ERROR);
    assert_string_equal(error.text, "snapshot.pickle: File too large");
    file = fopen("snapshot.pickle", "r");
    assert_int_equal(fread(bytes, 1, 5, file), 4);
    assert_string_equal(bytes, "last");
    fclose(file);
    remove_folder(folder);
    assert_int_equal(write_example("/nowhere/snapshot.pickle", &error), STATUS_ERROR);
    assert_string_equal(error.text, "/nowhere/snapshot.pickle: No such file or directory");
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        struct error error;
        return write_example(argv[1], &error) == STATUS_OK ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_of_any_size),
        cmocka_unit_test(a_snapshot_is_written),
        cmocka_unit_test(nothing_yet_is_a_snapshot_too),
        cmocka_unit_test(what_cannot_be_written_leaves_the_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
