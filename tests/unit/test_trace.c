// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "mem/recorder.h"
#include "mem/replay.h"
#include "mem/trace.h"

#define HEADER "id,lower,upper,size\n"
#define RMM    "Thread,Time,Action,Pointer,Size,Stream\n"
#define TAGGED "Thread,Time,Action,Pointer,Size,Stream,Tag\n"
#define AT     "2342727,15:47:02.841961,"
#define MIB    UINT64_C(1048576)

static enum status read_bytes(const char *text, size_t size, struct mem_trace *trace, struct error *error)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, size, file), size);
    rewind(file);
    enum status status = mem_trace_read("trace.csv", file, trace, error);
    fclose(file);
    return status;
}

static enum status read_text(const char *text, struct mem_trace *trace, struct error *error)
{
    return read_bytes(text, strlen(text), trace, error);
}

static struct mem_trace trace_of(const char *rows)
{
    char text[1024];
    struct mem_trace trace;
    struct error error;
    snprintf(text, sizeof(text), HEADER "%s", rows);
    if (read_text(text, &trace, &error) != STATUS_OK) {
        fail_msg("%s", error.text);
    }
    return trace;
}

static void expect_buffer(const struct mem_trace *trace, size_t i, uint64_t bytes, uint32_t birth, uint32_t death)
{
    assert_int_equal(trace->buffers[i].bytes, bytes);
    assert_int_equal(trace->buffers[i].birth, birth);
    assert_int_equal(trace->buffers[i].death, death);
}

static void moments_are_counted_from_the_first(void **state)
{
    (void)state;
    struct mem_trace trace =
        trace_of("7,1000,1005,64\n3,1002,1003,0\r\n4,1005,1010,32"); // the last line may lack its end
    assert_int_equal(trace.count, 3);
    expect_buffer(&trace, 0, 64, 0, 4);
    expect_buffer(&trace, 1, 0, 2, 2);
    expect_buffer(&trace, 2, 32, 5, 9);
    mem_trace_finish(&trace);
}

static void far_apart_only_changes_count(void **state)
{
    (void)state;
    struct mem_trace trace = trace_of("0,5,9000000000000000000,64\n1,5000000000,6000000000,32\n");
    expect_buffer(&trace, 0, 64, 0, 2);
    expect_buffer(&trace, 1, 32, 1, 1);
    mem_trace_finish(&trace);
}

static void rmm_s_log_is_read(void **state)
{
    (void)state;
    struct mem_trace trace;
    struct error error;
    static const char text[] =
        RMM AT "allocate,0x7f00,100,0\n" AT "allocate failure,(nil),50,0\n" AT "allocate,7F80,20,0x30a\r\n" AT
               "free,0x7f00,100,0\n" AT "allocate,0x7f00,30,0\n" AT "allocate,(nil),0,0\n" AT "free,(nil),0,0\n" AT
               "free,0x7f00,30,0\n";
    assert_int_equal(read_text(text, &trace, &error), STATUS_OK);
    assert_int_equal(trace.count, 3);
    expect_buffer(&trace, 0, 100, 0, 2);
    expect_buffer(&trace, 1, 20, 2, 7); // never freed
    expect_buffer(&trace, 2, 30, 4, 6);
    mem_trace_finish(&trace);
}

static void what_a_recorder_wrote_is_read(void **state)
{
    (void)state;
    char path[] = "/tmp/test_trace_XXXXXX";
    struct mem_recorder *recorder = NULL;
    struct mem_trace trace;
    struct error error;
    close(mkstemp(path));
    assert_int_equal(mem_recorder_create(1, path, &recorder, &error), STATUS_OK);
    struct mem_event event = {.action = MEM_ACTION_ALLOC, .address = 512, .bytes = 512, .requested_bytes = 77};
    mem_recorder_append(recorder, &event);
    event.action = MEM_ACTION_ALLOC_FAILED;
    mem_recorder_append(recorder, &event);
    event.action = MEM_ACTION_FREE;
    mem_recorder_append(recorder, &event);
    mem_recorder_destroy(recorder);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(mem_trace_read(path, file, &trace, &error), STATUS_OK);
    fclose(file);
    assert_int_equal(trace.count, 1);
    expect_buffer(&trace, 0, 77, 0, 1);
    mem_trace_finish(&trace);
    unlink(path);
}

static void what_ends_comes_before_what_begins(void **state)
{
    (void)state;
    struct mem_trace trace = trace_of("0,0,2,1\n1,2,3,1\n2,0,2,1\n");
    static const struct mem_trace_event expected[] = {{0, false}, {2, false}, {0, true},
                                                      {2, true},  {1, false}, {1, true}};
    struct mem_trace_event *events = mem_trace_events(&trace);
    assert_non_null(events);
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(events[i].buffer, expected[i].buffer);
        assert_int_equal(events[i].frees, expected[i].frees);
    }
    free(events);
    mem_trace_finish(&trace);
}

static void a_mistake_is_named_with_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *line;
    } cases[] = {
        {"", ": there is no buffer in it; a trace begins with id,lower,upper,size"},
        {HEADER, ": there is no buffer in it; a trace begins with id,lower,upper,size"},
        {"id,size\n1,2\n", ":1: 'id,size' is not the first line of a trace: id,lower,upper,size"},
        {HEADER "1,2,3,4\n1,2,3\n", ":3: '1,2,3' is not four numbers below 2^63: id,lower,upper,size"},
        {HEADER "1,2,3,4,5\n", ":2: '1,2,3,4,5' is not four numbers below 2^63: id,lower,upper,size"},
        {HEADER "1,2,3,-4\n", ":2: '1,2,3,-4' is not four numbers below 2^63: id,lower,upper,size"},
        {HEADER "1,2,3,9223372036854775808\n",
         ":2: '1,2,3,9223372036854775808' is not four numbers below 2^63: id,lower,upper,size"},
        {HEADER "\n", ":2: '' is not four numbers below 2^63: id,lower,upper,size"},
        {HEADER "1,2,3,600000000000000000\n1,2,3,600000000000000000\n", ":3: sizes add up to 2^60 bytes or more"},
        {HEADER "1,3,3,4\n", ":2: upper 3 is not above lower 3"},
        {RMM AT "free,0x200,1,0\n", ":2: 0x200 is freed but not allocated"},
        {RMM AT "allocate,0x200,1,0\n" AT "free,0x200,1,0\n" AT "free,0x200,1,0\n",
         ":4: 0x200 is freed but not allocated"},
        {RMM AT "allocate,0x200,1,0\n" AT "allocate,0x100,1,0\n" AT "allocate,0x200,1,0\n" AT "free,0x1,1,0\n",
         ":4: 0x200 is allocated but was not freed before"},
        {RMM AT "allocate,(nil),1,0\n", ":2: '(nil)' is not where an allocation can be"},
        {RMM AT "allocate,0x,1,0\n", ":2: '0x' is not a pointer in hexadecimal digits"},
        {RMM AT "allocate,0x12345678123456789,1,0\n", ":2: '0x12345678123456789' is not a pointer"},
        {RMM AT "allocate,0x200g,1,0\n", ":2: '0x200g' is not a pointer in hexadecimal digits"},
        {RMM AT "allocate,0x200,-1,0\n", ":2: '-1' is not a size below 2^63"},
        {RMM AT "allocate,0x200,,0\n", ":2: '' is not a size below 2^63"},
        {RMM AT "map,0x200,1,0\n", ":2: 'map' is not allocate, free or allocate failure"},
        {RMM AT "free,0x200,1,0,tag\n", "' is not Thread,Time,Action,Pointer,Size,Stream"},
        {TAGGED AT "free,0x200,1,0\n", "' is not Thread,Time,Action,Pointer,Size,Stream,Tag"},
        {TAGGED AT "allocate,0x200,1152921504606846976,0,x\n", ":2: sizes add up to 2^60 bytes or more"},
        {TAGGED AT "allocate failure,0x0,1,0,x\n", ": there is no buffer in it"},
        {"Thread,Time,Action,Pointer,Size,Stream,\n", ":1: 'Thread,Time,Action,Pointer,Size,Stream,' is not"},
        {HEADER "1,2,3,4\r1,2,3,5\n", ":2: '1,2,3,4?1,2,3,5' is not four numbers below 2^63"},
        {HEADER "1,2,3,4\r\r\n", ":2: '1,2,3,4?' is not four numbers below 2^63"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct mem_trace trace;
        struct error error = {0};
        assert_int_equal(read_text(cases[i].text, &trace, &error), STATUS_INVALID);
        if (strstr(error.text, cases[i].line) == NULL) {
            fail_msg("%s is not %s", error.text, cases[i].line);
        }
    }
}

static void a_nul_byte_is_refused(void **state)
{
    (void)state;
    static const char ended[] = HEADER "1,2,3,4\0\n", last[] = HEADER "1,2,3,4\0,5", first[] = "\0" HEADER;
    struct mem_trace trace;
    struct error error = {0};
    assert_int_equal(read_bytes(ended, sizeof(ended) - 1, &trace, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, ":2: the line holds a NUL byte"));
    assert_int_equal(read_bytes(last, sizeof(last) - 1, &trace, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, ":2: the line holds a NUL byte"));
    assert_int_equal(read_bytes(first, sizeof(first) - 1, &trace, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, ":1: the line holds a NUL byte"));
}

static void long_lines_are_named(void **state)
{
    (void)state;
    char text[sizeof(HEADER) + 400] = HEADER;
    struct mem_trace trace;
    struct error error = {0};
    memset(text + strlen(HEADER), '1', 399);
    assert_int_equal(read_text(text, &trace, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "trace.csv:2: the line is longer than 254 bytes"));
}

static void expect_held(const char *rows, uint64_t pool, uint64_t pytorch)
{
    struct mem_trace trace = trace_of(rows);
    struct mem_trace_event *events = mem_trace_events(&trace);
    assert_non_null(events);
    assert_int_equal(mem_replay_pool(&trace, events, 2 * MIB, false), pool);
    assert_int_equal(mem_replay_pytorch(&trace, events), pytorch);
    free(events);
    mem_trace_finish(&trace);
}

// c10/cuda/CUDACachingAllocator.cpp's constants, one after the other.
static void pytorch_s_rules(void **state)
{
    (void)state;
    expect_held("0,0,1,1\n", 2 * MIB, 2 * MIB);
    expect_held("0,0,1,1048576\n", 2 * MIB, 2 * MIB);
    expect_held("0,0,1,1048577\n", 2 * MIB, 20 * MIB);
    expect_held("0,0,1,10485759\n", 10 * MIB, 10 * MIB); // rounded up to 512, and so 10 MiB
    expect_held("0,0,1,10485248\n", 10 * MIB, 20 * MIB);
    expect_held("0,0,1,10485761\n", 12 * MIB, 12 * MIB);
    // A large block leaves what is more than 1 MiB: of 20 MiB, 19 - 1 to the next.
    expect_held("0,0,2,9437184\n1,0,2,9437184\n", 18 * MIB, 20 * MIB);
    // 12 MiB serve 11, the rest of 1 MiB stays with the block; another of 11 MiB reuses it.
    expect_held("0,0,1,12582912\n1,2,4,11534336\n2,3,4,2097152\n", 14 * MIB, 32 * MIB);
    // Small and large requests never share a segment.
    expect_held("0,0,1,2097152\n1,2,3,1048576\n", 2 * MIB, 22 * MIB);
    expect_held("0,0,1,1000000000000000000\n", UINT64_C(1000000000000000000) / (2 * MIB) * 2 * MIB + 2 * MIB,
                UINT64_C(1000000000000000000) / (2 * MIB) * 2 * MIB + 2 * MIB);
    // Empty buffers take no block; ours takes the smallest.
    expect_held("0,0,1,0\n", 2 * MIB, 0);
    // Free neighbours are joined, and serve what neither could.
    expect_held("0,0,2,8388608\n1,0,2,8388608\n2,3,4,20971520\n", 20 * MIB, 20 * MIB);
    // Of equal blocks the lowest serves, beyond 2 TiB too: the end of the first segment, which so stays cut in two.
    expect_held("0,0,1,4398071676928\n1,0,3,25165824\n2,1,4,4398046511104\n3,3,9,25165824\n4,4,9,4398071676928\n",
                UINT64_C(8796143353856), UINT64_C(8796168519680));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moments_are_counted_from_the_first),
        cmocka_unit_test(far_apart_only_changes_count),
        cmocka_unit_test(what_ends_comes_before_what_begins),
        cmocka_unit_test(a_mistake_is_named_with_its_line),
        cmocka_unit_test(long_lines_are_named),
        cmocka_unit_test(pytorch_s_rules),
        cmocka_unit_test(a_nul_byte_is_refused),
        cmocka_unit_test(rmm_s_log_is_read),
        cmocka_unit_test(what_a_recorder_wrote_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
