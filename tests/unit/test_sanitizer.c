// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lazy_device.h"
#include "mem/device_cpu.h"
#include "mem/random.h"
#include "mem/sanitizer.h"
#include "mem/uint64.h"

#ifdef SANITIZER_POISONS
#include <sanitizer/asan_interface.h>
#endif

#define KIB     UINT64_C(1024)
#define MEMORY  (64 * KIB) // a granule
#define STREAMS 4
#define EVENTS  4

#define READ  false
#define WRITE true

// What the device under the sanitizer answers.
static bool answers_done, answers_failure;

static bool event_done(struct device *device, struct event *event)
{
    (void)device, (void)event;
    return answers_done;
}

static enum status check(struct device *device, struct error *error)
{
    (void)device;
    return answers_failure ? error_set(error, STATUS_ERROR, "the device failed") : STATUS_OK;
}

// A new event may be where an old one was.
static uint64_t event_memory[EVENTS];
static bool event_taken[EVENTS];

static enum status event_create(struct device *device, struct event **event_p)
{
    (void)device;
    size_t i = 0;
    while (event_taken[i]) {
        i++;
    }
    event_taken[i] = true;
    *event_p = (struct event *)&event_memory[i];
    return STATUS_OK;
}

static void event_destroy(struct device *device, struct event *event)
{
    (void)device;
    event_taken[(uint64_t *)event - event_memory] = false;
}

static struct device_ops table; // the CPU's but for these

struct fixture {
    struct device *device;
    device_address memory;
    struct stream *streams[STREAMS]; // numbers 1 to 4
    struct event *events[EVENTS];
};

static void watch(struct fixture *f)
{
    struct error error;
    assert_int_equal(sanitizer_attach(f->device, &error), STATUS_OK);
    for (size_t i = 0; i < STREAMS; i++) {
        assert_int_equal(f->device->ops->stream_create(f->device, &f->streams[i]), STATUS_OK);
    }
    for (size_t i = 0; i < EVENTS; i++) {
        assert_int_equal(f->device->ops->event_create(f->device, &f->events[i]), STATUS_OK);
    }
}

static void stop_watching(struct fixture *f)
{
    for (size_t i = 0; i < STREAMS; i++) {
        f->device->ops->stream_destroy(f->device, f->streams[i]);
    }
    for (size_t i = 0; i < EVENTS; i++) {
        f->device->ops->event_destroy(f->device, f->events[i]);
    }
    sanitizer_detach(f->device);
}

static void open_memory(struct fixture *f, bool faulting)
{
    struct error error;
    const struct device_config config = {.capacity_bytes = 1024 * KIB, .faulting_addresses = faulting};
    assert_int_equal(device_cpu.create(&config, &f->device, &error), STATUS_OK);
    assert_int_equal(device_cpu.reserve(f->device, MEMORY, &f->memory), STATUS_OK);
    assert_int_equal(device_cpu.commit(f->device, f->memory, MEMORY), STATUS_OK);
    answers_done = true;
    answers_failure = false;
    memset(event_taken, 0, sizeof(event_taken));
    table = device_cpu;
    table.staging = &table;
    table.event_create = event_create;
    table.event_destroy = event_destroy;
    table.event_done = event_done;
    table.check = check;
    f->device->ops = &table;
}

static void close_memory(struct fixture *f)
{
    device_cpu.release(f->device, f->memory, MEMORY);
    device_cpu.unreserve(f->device, f->memory, MEMORY);
    device_cpu.destroy(f->device);
}

static struct fixture open_fixture(void)
{
    struct fixture f;
    open_memory(&f, false);
    watch(&f);
    return f;
}

static void close_fixture(struct fixture *f)
{
    stop_watching(f);
    close_memory(f);
}

static void use(struct fixture *f, size_t stream, uint64_t offset, uint64_t bytes, bool writes, const char *place)
{
    sanitizer_access(f->device, f->streams[stream], f->memory + offset, bytes, writes, place);
}

static void record(struct fixture *f, size_t event, size_t stream)
{
    f->device->ops->event_record(f->device, f->events[event], f->streams[stream]);
}

static void wait_for(struct fixture *f, size_t stream, size_t event)
{
    f->device->ops->event_wait(f->device, f->streams[stream], f->events[event]);
}

static void begin_block(struct fixture *f, uint64_t offset, uint64_t bytes, const char *tag)
{
    sanitizer_block(f->device, f->memory + offset, bytes, tag);
}

static void free_block(struct fixture *f, uint64_t offset, size_t stream)
{
    sanitizer_block_freed(f->device, f->memory + offset, f->streams[stream]);
}

static void assert_clean(struct fixture *f)
{
    struct error error = {.text = ""};
    enum status status = f->device->ops->check(f->device, &error);
    assert_string_equal(error.text, "");
    assert_int_equal(status, STATUS_OK);
    assert_int_equal(sanitizer_findings(f->device), 0);
}

static void assert_finding(struct fixture *f, const char *text)
{
    struct error error = {.text = ""};
    assert_int_equal(f->device->ops->check(f->device, &error), STATUS_ERROR);
    assert_string_equal(error.text, text);
    assert_int_equal(sanitizer_findings(f->device), 1);
}

static void events_order_two_streams(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    begin_block(&f, 0, 4 * KIB, "micro-step");
    for (int i = 0; i < 3; i++) { // the consumer's event lets the producer write again
        wait_for(&f, 0, 1);
        use(&f, 0, 0, 4 * KIB, WRITE, "producer");
        record(&f, 0, 0);
        wait_for(&f, 1, 0);
        use(&f, 1, 0, 4 * KIB, READ, "consumer");
        record(&f, 1, 1);
    }
    assert_clean(&f);
    close_fixture(&f);
}

static void order_is_passed_on(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    use(&f, 0, 0, 64, WRITE, "first");
    record(&f, 0, 0);
    wait_for(&f, 1, 0); // uses nothing itself
    record(&f, 1, 1);
    wait_for(&f, 2, 1);
    use(&f, 2, 0, 64, WRITE, "third");
    assert_clean(&f);
    close_fixture(&f);
}

static void synchronize_stream(struct fixture *f)
{
    f->device->ops->stream_synchronize(f->device, f->streams[0]);
}

static void synchronize_device(struct fixture *f)
{
    f->device->ops->synchronize(f->device);
}

static void synchronize_event(struct fixture *f)
{
    record(f, 0, 0);
    f->device->ops->event_synchronize(f->device, f->events[0]);
}

static void ask_event(struct fixture *f)
{
    record(f, 0, 0);
    assert_true(f->device->ops->event_done(f->device, f->events[0]));
}

static void what_the_host_waited_for_is_over(void **context)
{
    (void)context;
    void (*const waits[])(struct fixture *) = {synchronize_stream, synchronize_device, synchronize_event, ask_event};
    for (size_t i = 0; i < sizeof(waits) / sizeof(waits[0]); i++) {
        struct fixture f = open_fixture();
        begin_block(&f, 0, KIB, "block");
        use(&f, 0, 0, KIB, WRITE, "before");
        waits[i](&f);
        use(&f, 1, 0, KIB, WRITE, "after");
        assert_clean(&f);
        use(&f, 0, 0, KIB, READ, "beside"); // what was enqueued since is not
        assert_finding(&f, "stream sanitizer: beside on stream 1 reads bytes 0..1023 of block 'block', which after on "
                           "stream 2 writes without a dependency between the two");
        close_fixture(&f);
    }
}

static void an_event_that_is_not_done_orders_nothing(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    use(&f, 0, 0, KIB, WRITE, "before");
    record(&f, 0, 0);
    answers_done = false;
    assert_false(f.device->ops->event_done(f.device, f.events[0]));
    use(&f, 1, 0, KIB, WRITE, "after");
    assert_int_equal(sanitizer_findings(f.device), 1);
    close_fixture(&f);
}

static void many_streams_read_at_once(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    begin_block(&f, 0, KIB, "weights");
    use(&f, 0, 0, KIB, WRITE, "optimizer");
    record(&f, 0, 0);
    for (size_t i = 1; i < STREAMS; i++) {
        wait_for(&f, i, 0);
        use(&f, i, 0, KIB, READ, "forward");
        use(&f, i, 100, 10, READ, "forward"); // a later use than that of the bytes beside it
        record(&f, i, i);
    }
    for (size_t i = 1; i < STREAMS - 1; i++) {
        wait_for(&f, 0, i);
    }
    assert_clean(&f);
    use(&f, 0, 0, KIB, WRITE, "optimizer"); // waits for all but the last
    assert_finding(&f, "stream sanitizer: optimizer on stream 1 writes bytes 0..99 of block 'weights', which forward "
                       "on stream 4 reads without a dependency between the two");
    close_fixture(&f);
}

static void disjoint_bytes_need_no_order(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    begin_block(&f, 0, KIB, "a");
    begin_block(&f, KIB, KIB, "b");
    use(&f, 0, 0, 512, WRITE, "left");
    use(&f, 1, 512, 512, WRITE, "right");
    use(&f, 2, KIB, KIB, READ, "b");
    use(&f, 3, 300, 0, WRITE, "nothing");
    assert_clean(&f);
    close_fixture(&f);
}

static void each_missing_edge_is_found(void **context)
{
    (void)context;
    static const char *const verbs[] = {"reads", "writes"};
    for (int i = 1; i < 4; i++) {
        bool first = (i & 1) != 0, second = (i & 2) != 0;
        struct fixture f = open_fixture();
        char text[256];
        begin_block(&f, KIB, 4 * KIB, "micro-step");
        use(&f, 0, KIB, 4 * KIB, first, "layer_norm");
        assert_clean(&f);
        use(&f, 1, KIB, 4 * KIB, second, "gelu");
        snprintf(text, sizeof(text),
                 "stream sanitizer: gelu on stream 2 %s bytes 0..4095 of block 'micro-step', which layer_norm on "
                 "stream 1 %s without a dependency between the two",
                 verbs[second], verbs[first]);
        assert_finding(&f, text);
        close_fixture(&f);
    }
}

static void an_order_the_wrong_way_round_is_none(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    record(&f, 0, 0);
    use(&f, 0, 0, 64, WRITE, "late"); // after the mark
    wait_for(&f, 1, 0);
    use(&f, 1, 0, 64, READ, "early");
    assert_int_equal(sanitizer_findings(f.device), 1);
    close_fixture(&f);
}

static void a_wait_covers_what_was_recorded_then(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    begin_block(&f, 0, KIB, "slot");
    use(&f, 0, 0, KIB, WRITE, "first");
    record(&f, 0, 0);
    wait_for(&f, 1, 0);
    use(&f, 1, 0, KIB, READ, "reader");
    record(&f, 1, 1);
    wait_for(&f, 0, 1);
    use(&f, 0, 0, KIB, WRITE, "second");
    record(&f, 0, 0); // anew
    assert_clean(&f);
    use(&f, 1, 0, KIB, READ, "reader");
    assert_finding(&f, "stream sanitizer: reader on stream 2 reads bytes 0..1023 of block 'slot', which second on "
                       "stream 1 writes without a dependency between the two");
    close_fixture(&f);
}

static void a_mark_of_another_stream_replaces_the_first(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    use(&f, 0, 0, KIB, WRITE, "writer");
    record(&f, 0, 0);
    record(&f, 0, 2);
    wait_for(&f, 1, 0);
    use(&f, 1, 0, KIB, READ, "reader");
    assert_int_equal(sanitizer_findings(f.device), 1);
    close_fixture(&f);
}

static void a_new_event_marks_nothing(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    const struct event *old = f.events[2];
    use(&f, 0, 0, KIB, WRITE, "writer");
    record(&f, 2, 0);
    f.device->ops->event_destroy(f.device, f.events[2]);
    f.device->ops->event_create(f.device, &f.events[2]);
    assert_ptr_equal(f.events[2], old);
    wait_for(&f, 1, 2);
    f.device->ops->event_synchronize(f.device, f.events[2]);
    use(&f, 1, 0, KIB, READ, "reader");
    assert_int_equal(sanitizer_findings(f.device), 1);
    close_fixture(&f);
}

static void an_overlap_is_told_where_it_is(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    begin_block(&f, 0, 2 * KIB, "before");
    begin_block(&f, 2 * KIB, 8 * KIB, "activations");
    use(&f, 0, 3 * KIB, 2 * KIB, WRITE, "softmax");
    use(&f, 0, 3 * KIB + 100, 8, READ, "softmax"); // its ranges count as one overlap
    use(&f, 1, KIB, KIB, WRITE, "copy");
    use(&f, 1, 2 * KIB, 2 * KIB, READ, "copy");
    assert_finding(&f, "stream sanitizer: copy on stream 2 reads bytes 1024..2047 of block 'activations', which "
                       "softmax on stream 1 writes without a dependency between the two");
    close_fixture(&f);
}

static void a_use_over_two_blocks_is_told_by_the_first_overlap(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    begin_block(&f, 0, KIB, "a");
    begin_block(&f, KIB, KIB, "b");
    use(&f, 0, 0, 2 * KIB, WRITE, "first");
    use(&f, 1, 10, 2 * KIB - 10, READ, "second");
    assert_finding(&f, "stream sanitizer: second on stream 2 reads bytes 10..1023 of block 'a', which first on "
                       "stream 1 writes without a dependency between the two");
    close_fixture(&f);
}

static void memory_of_no_block_is_told_by_its_address(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    char text[256];
    use(&f, 0, 0, 16, WRITE, "first");
    use(&f, 1, 4, 4, READ, "second");
    snprintf(text, sizeof(text),
             "stream sanitizer: second on stream 2 reads bytes 0x%llx..0x%llx of no block, which first on stream 1 "
             "writes without a dependency between the two",
             (unsigned long long)f.memory + 4, (unsigned long long)f.memory + 7);
    assert_finding(&f, text);
    close_fixture(&f);
}

static void copies_are_uses(void **context)
{
    (void)context;
    const uint8_t zeros[64] = {0};
    uint8_t host[64], back[64];
    memset(host, 7, sizeof(host));
    for (int i = 0; i < 3; i++) {
        struct fixture f = open_fixture();
        const struct device_ops *ops = f.device->ops;
        begin_block(&f, 0, 64, "values");
        ops->copy_to_device(f.device, f.streams[0], f.memory, host, 64);
        if (i == 0) {
            ops->copy_to_host(f.device, f.streams[1], back, f.memory + 32, 32);
            assert_finding(&f, "stream sanitizer: copy_to_host on stream 2 reads bytes 32..63 of block 'values', which "
                               "copy_to_device on stream 1 writes without a dependency between the two");
        } else if (i == 1) {
            ops->fill_zero(f.device, f.streams[1], f.memory, 8);
            assert_finding(&f, "stream sanitizer: fill_zero on stream 2 writes bytes 0..7 of block 'values', which "
                               "copy_to_device on stream 1 writes without a dependency between the two");
        } else {
            ops->copy_to_host(f.device, f.streams[0], back, f.memory, 64);
            assert_memory_equal(back, host, 64);
            ops->fill_zero(f.device, f.streams[0], f.memory, 64);
            assert_memory_equal(device_cpu_pointer(f.memory), zeros, 64);
            assert_clean(&f);
            ops->copy_to_device(f.device, NULL, f.memory, host, 4);
            assert_finding(&f, "stream sanitizer: copy_to_device on stream 0 writes bytes 0..3 of block 'values', "
                               "which fill_zero on stream 1 writes without a dependency between the two");
        }
        close_fixture(&f);
    }
}

// The only finding is that `use` of the host's bytes [first, last] conflicts with `other`.
static void assert_host_finding(struct fixture *f, const char *use, const uint8_t *first, const uint8_t *last,
                                const char *other)
{
    char expected[256];
    snprintf(expected, sizeof(expected),
             "stream sanitizer: %s bytes 0x%" PRIxPTR "..0x%" PRIxPTR
             " of no block, which %s without a dependency between the two",
             use, (uintptr_t)first, (uintptr_t)last, other);
    assert_finding(f, expected);
    close_fixture(f);
}

// One stream reads the first half of the host's bytes, another writes the second; the host reads what is only read.
static struct fixture open_with_copies(uint8_t host[64])
{
    struct fixture f = open_fixture();
    f.device->ops->copy_to_device(f.device, f.streams[0], f.memory, host, 32);
    f.device->ops->copy_to_host(f.device, f.streams[1], host + 32, f.memory + 32, 32);
    sanitizer_host_access(f.device, host, 32, READ, "the host");
    assert_clean(&f);
    return f;
}

static void what_copies_use_of_the_host_is_told(void **context)
{
    (void)context;
    uint8_t host[64] = {0};
    struct fixture f = open_with_copies(host);
    sanitizer_host_access(f.device, host + 8, 4, WRITE, "loader");
    assert_host_finding(&f, "loader by the host writes", host + 8, host + 11, "copy_to_device on stream 1 reads");

    f = open_with_copies(host);
    sanitizer_host_access(f.device, host + 60, 4, READ, "values");
    assert_host_finding(&f, "values by the host reads", host + 60, host + 63, "copy_to_host on stream 2 writes");

    f = open_with_copies(host);
    const struct device_ops *ops = f.device->ops;
    ops->stream_synchronize(f.device, f.streams[0]);
    ops->stream_synchronize(f.device, f.streams[1]);
    sanitizer_host_access(f.device, host, 64, WRITE, "the host");
    ops->copy_to_host(f.device, f.streams[2], host, f.memory, 64);
    assert_clean(&f);
    ops->copy_to_device(f.device, f.streams[3], f.memory + 128, host, 64);
    assert_host_finding(&f, "copy_to_device on stream 4 reads", host, host + 63, "copy_to_host on stream 3 writes");
}

static void a_freed_block_is_not_used(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    begin_block(&f, KIB, KIB, "scratch");
    use(&f, 0, KIB, KIB, WRITE, "kernel");
    free_block(&f, KIB, 0);
    assert_clean(&f);
    use(&f, 1, KIB + 512, KIB, READ, "copy");
    assert_finding(
        &f, "stream sanitizer: copy on stream 2 reads bytes 512..1023 of block 'scratch' after free on stream 1");
    close_fixture(&f);
}

static void a_block_freed_for_any_stream_is_not_used_either(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    begin_block(&f, 0, KIB, "scratch");
    sanitizer_block_freed(f.device, f.memory, NULL);
    use(&f, 0, 0, KIB, WRITE, "kernel");
    assert_finding(&f,
                   "stream sanitizer: kernel on stream 1 writes bytes 0..1023 of block 'scratch' after free for any "
                   "stream");
    close_fixture(&f);
}

static void a_free_comes_after_the_work_of_all_streams(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    begin_block(&f, 0, KIB, "scratch");
    use(&f, 1, 0, 256, READ, "copy");
    free_block(&f, 0, 0);
    assert_finding(&f,
                   "stream sanitizer: free on stream 1 frees bytes 0..255 of block 'scratch', which copy on stream 2 "
                   "reads without a dependency between the two");
    close_fixture(&f);
}

static void memory_is_reused_after_the_free(void **context)
{
    (void)context;
    for (int waits = 0; waits < 2; waits++) {
        struct fixture f = open_fixture();
        begin_block(&f, 0, KIB, "old");
        use(&f, 0, 0, KIB, WRITE, "kernel");
        record(&f, 0, 0);
        free_block(&f, 0, 0); // names the work that the mark covers
        begin_block(&f, 0, 512, "new");
        use(&f, 0, 0, 100, READ, "kernel"); // its own stream needs no wait
        if (waits != 0) {
            record(&f, 0, 0);
            wait_for(&f, 1, 0);
        }
        use(&f, 1, 0, 512, WRITE, "copy");
        if (waits != 0) {
            assert_clean(&f);
        } else {
            assert_finding(&f, "stream sanitizer: copy on stream 2 writes bytes 0..511 of block 'new', which free on "
                               "stream 1 frees without a dependency between the two");
        }
        close_fixture(&f);
    }
}

static void a_free_is_told_from_the_use_before_it(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    begin_block(&f, 0, 64, "a");
    begin_block(&f, 64, 64, "b");
    use(&f, 0, 0, 128, WRITE, "kernel");
    sanitizer_block_freed(f.device, f.memory, NULL);
    free_block(&f, 64, 0);
    begin_block(&f, 0, 128, "new");
    use(&f, 1, 64, 64, READ, "copy");
    assert_finding(&f, "stream sanitizer: copy on stream 2 reads bytes 64..127 of block 'new', which free on stream 1 "
                       "frees without a dependency between the two");
    close_fixture(&f);
}

static void a_free_comes_after_what_its_stream_waits_for(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    begin_block(&f, 0, KIB, "old");
    use(&f, 0, 0, 8, WRITE, "kernel");
    record(&f, 0, 0); // before the wait
    use(&f, 1, 8, 8, WRITE, "copy");
    record(&f, 1, 1);
    wait_for(&f, 0, 1);
    free_block(&f, 0, 0);
    begin_block(&f, 0, KIB, "new");
    wait_for(&f, 2, 0);
    use(&f, 2, 8, 8, WRITE, "other"); // not after the copy
    assert_int_equal(sanitizer_findings(f.device), 1);
    close_fixture(&f);
}

static void a_block_freed_for_any_stream_keeps_its_uses(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    begin_block(&f, 0, KIB, "old");
    use(&f, 0, 0, KIB, READ, "kernel");
    sanitizer_block_freed(f.device, f.memory, NULL);
    begin_block(&f, 0, KIB, "new");
    assert_clean(&f);
    use(&f, 1, 0, KIB, WRITE, "copy");
    assert_finding(&f, "stream sanitizer: copy on stream 2 writes bytes 0..1023 of block 'new', which kernel on stream "
                       "1 reads without a dependency between the two");
    close_fixture(&f);
}

static void memory_goes_back_after_its_uses(void **context)
{
    (void)context;
    for (int waits = 0; waits < 2; waits++) {
        struct fixture f = open_fixture();
        const struct device_ops *ops = f.device->ops;
        begin_block(&f, 512, KIB, "scratch");
        use(&f, 2, 512, KIB, READ, "kernel");
        sanitizer_block_freed(f.device, f.memory + 512, NULL);
        if (waits != 0) {
            ops->stream_synchronize(f.device, f.streams[2]);
        }
        ops->release(f.device, f.memory, MEMORY);
        assert_int_equal(ops->commit(f.device, f.memory, MEMORY), STATUS_OK);
        use(&f, 0, 512, KIB, WRITE, "other"); // of memory that is new
        if (waits != 0) {
            assert_clean(&f);
        } else {
            assert_finding(&f, "stream sanitizer: release by the host returns bytes 0..1023 of block 'scratch', which "
                               "kernel on stream 3 reads without a dependency between the two");
        }
        close_fixture(&f);
    }
}

static void the_first_finding_is_kept(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    struct error first, later;
    use(&f, 0, 0, 64, WRITE, "first");
    use(&f, 1, 0, 64, WRITE, "second");
    f.device->ops->check(f.device, &first);
    use(&f, 2, 0, 64, WRITE, "third");
    assert_int_equal(sanitizer_findings(f.device), 2);
    assert_int_equal(f.device->ops->check(f.device, &later), STATUS_ERROR);
    assert_string_equal(later.text, first.text);
    answers_failure = true; // what the device says comes first
    assert_int_equal(f.device->ops->check(f.device, &later), STATUS_ERROR);
    assert_string_equal(later.text, "the device failed");
    close_fixture(&f);
}

static void long_names_are_cut(void **context)
{
    (void)context;
    char place[300], text[512];
    struct fixture f = open_fixture();
    memset(place, 'p', sizeof(place));
    place[sizeof(place) - 1] = '\0';
    begin_block(&f, 0, 64, place);
    use(&f, 0, 0, 64, WRITE, place);
    use(&f, 1, 0, 64, WRITE, place);
    snprintf(text, sizeof(text),
             "stream sanitizer: %.80s on stream 2 writes bytes 0..63 of block '%.31s', which %.80s on stream 1 writes "
             "without a dependency between the two",
             place, place, place);
    assert_finding(&f, text);
    close_fixture(&f);
}

static void a_stream_is_told_by_its_creation(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    struct stream *fifth;
    begin_block(&f, 0, 64, "block");
    use(&f, 1, 0, 64, WRITE, "gone");
    f.device->ops->stream_destroy(f.device, f.streams[1]);
    f.device->ops->stream_create(f.device, &fifth);
    f.streams[1] = fifth; // its work is not that of the second, whatever its address
    use(&f, 1, 0, 64, WRITE, "new");
    assert_finding(&f, "stream sanitizer: new on stream 5 writes bytes 0..63 of block 'block', which gone on stream 2 "
                       "writes without a dependency between the two");
    close_fixture(&f);
}

static void streams_come_and_go(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    const struct device_ops *ops = f.device->ops;
    for (int i = 0; i < 10 * SANITIZER_STREAMS_MAX; i++) {
        struct stream *stream;
        assert_int_equal(ops->stream_create(f.device, &stream), STATUS_OK);
        sanitizer_access(f.device, stream, f.memory, 64, WRITE, "kernel");
        ops->stream_synchronize(f.device, stream);
        ops->stream_destroy(f.device, stream);
    }
    assert_clean(&f);
    ops->stream_destroy(f.device, NULL);
    close_fixture(&f);
}

static void too_many_streams_are_told(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    struct stream *streams[SANITIZER_STREAMS_MAX - STREAMS];
    for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]); i++) { // one more than there is room for, with NULL
        assert_clean(&f);
        assert_int_equal(f.device->ops->stream_create(f.device, &streams[i]), STATUS_OK);
    }
    assert_finding(&f, "stream sanitizer: more than 16 streams at a time");
    for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]); i++) {
        sanitizer_access(f.device, streams[i], f.memory + i, 1, WRITE, "kernel");
        f.device->ops->event_record(f.device, f.events[0], streams[i]);
        f.device->ops->event_wait(f.device, streams[i], f.events[0]);
        f.device->ops->stream_synchronize(f.device, streams[i]);
        f.device->ops->stream_destroy(f.device, streams[i]);
    }
    close_fixture(&f);
}

static void detaching_puts_the_table_back(void **context)
{
    (void)context;
    struct fixture f;
    open_memory(&f, false);
    struct device *device = f.device;
    watch(&f);
    assert_ptr_equal(f.device, device);
    assert_ptr_not_equal(device->ops, &table);
    stop_watching(&f);
    assert_ptr_equal(device->ops, &table);
    sanitizer_detach(device); // does nothing where none is attached, as these
    sanitizer_block(device, f.memory, 64, "block");
    sanitizer_access(device, NULL, f.memory, 64, WRITE, "kernel");
    sanitizer_block_freed(device, f.memory, NULL);
    assert_int_equal(sanitizer_findings(device), 0);
    assert_int_equal(sanitizer_ranges(device), 0);
    close_memory(&f);
}

static void destroying_the_device_detaches(void **context)
{
    (void)context;
    struct error error;
    struct device *device;
    assert_int_equal(device_cpu.create(&(struct device_config){.capacity_bytes = MEMORY}, &device, &error), STATUS_OK);
    assert_int_equal(sanitizer_attach(device, &error), STATUS_OK);
    device->ops->destroy(NULL);
    device->ops->destroy(device); // what it leaves is a leak
}

static void where_memory_is_does_not_change(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    assert_false(device_is_apart(f.device->ops));
    stop_watching(&f);
    table.staging = &device_cpu;
    watch(&f);
    assert_true(device_is_apart(f.device->ops));
    assert_ptr_equal(f.device->ops->staging, &device_cpu);
    close_fixture(&f);
}

// Schedules of random work. What comes before what is worked out from the edges between all nodes so far.
#define NODES_MAX  192
#define NODE_WORDS (NODES_MAX / 64)
#define ARENA      UINT64_C(1024)
#define BLOCK      (ARENA / 4)
#define NO_NODE    SIZE_MAX
#define LOST_MAX   6 // destroyed streams in a schedule, so that there are never too many
#define SCHEDULES  3000
#define STEPS      160
#define USE_BYTES  24 // most are small, so that ranges are many

struct node {
    uint64_t before[NODE_WORDS]; // nodes that come before it
    bool used, writes;           // it uses [from, to)
    uint64_t from, to;
    size_t done; // whoever comes after this node comes after the use; NO_NODE: everything does
};

struct random_run {
    struct fixture f;
    uint64_t key, drawn;
    struct node nodes[NODES_MAX];
    size_t count;
    size_t last[STREAMS];    // node of each stream
    size_t counted[STREAMS]; // its last that is a use or a wait
    size_t recorded[EVENTS]; // the event's last mark
    size_t host;             // the last node of the host
    bool freed[ARENA / BLOCK];
    int lost;
    uint64_t uses, conflicts, ranges_max; // of all schedules
};

static uint64_t draw(struct random_run *run, uint64_t below)
{
    return random_draw(run->key, run->drawn++) % below;
}

static bool comes_before(const struct random_run *run, size_t node, size_t later)
{
    return (run->nodes[later].before[node / 64] >> (node % 64) & 1) != 0;
}

static void follow(struct random_run *run, size_t node, size_t earlier)
{
    if (earlier != NO_NODE) {
        for (size_t i = 0; i < NODE_WORDS; i++) {
            run->nodes[node].before[i] |= run->nodes[earlier].before[i];
        }
        run->nodes[node].before[earlier / 64] |= UINT64_C(1) << (earlier % 64);
    }
}

static size_t add_node(struct random_run *run)
{
    assert_true(run->count < NODES_MAX);
    run->nodes[run->count] = (struct node){.done = run->count};
    follow(run, run->count, run->host);
    return run->count++;
}

static size_t add_on_stream(struct random_run *run, size_t stream)
{
    size_t node = add_node(run);
    follow(run, node, run->last[stream]);
    return node;
}

// The first byte of the node's use that is in conflict; UINT64_MAX: none is.
static uint64_t first_conflict(const struct random_run *run, size_t node, bool frees)
{
    const struct node *now = &run->nodes[node];
    uint64_t first = UINT64_MAX;
    for (size_t i = 0; i < node; i++) {
        const struct node *then = &run->nodes[i];
        uint64_t from = uint64_max(now->from, then->from), to = uint64_min(now->to, then->to);
        bool ordered = then->done == NO_NODE || comes_before(run, then->done, node);
        if (then->used && from < to && (now->writes || then->writes) && !ordered) {
            first = uint64_min(first, from);
        }
    }
    for (size_t i = 0; !frees && i < ARENA / BLOCK; i++) {
        uint64_t from = uint64_max(now->from, i * BLOCK), to = uint64_min(now->to, (i + 1) * BLOCK);
        if (run->freed[i] && from < to) {
            first = uint64_min(first, from);
        }
    }
    return first;
}

// The finding tells the byte. Ends the schedule where there is one.
static bool expect(struct random_run *run, uint64_t first)
{
    if (first == UINT64_MAX) {
        assert_int_equal(sanitizer_findings(run->f.device), 0);
        return true;
    }
    struct error error;
    unsigned long long told = 0;
    assert_int_equal(sanitizer_findings(run->f.device), 1);
    assert_int_equal(run->f.device->ops->check(run->f.device, &error), STATUS_ERROR);
    const char *bytes = strstr(error.text, " bytes ");
    assert_non_null(bytes);
    assert_int_equal(sscanf(bytes, " bytes %llu..", &told), 1);
    assert_int_equal(told, first % BLOCK);
    run->conflicts++;
    return false;
}

// Most uses that are in conflict are left out, so that schedules are long.
static bool is_left_out(struct random_run *run, uint64_t first)
{
    if (first == UINT64_MAX || draw(run, 64) == 0) {
        return false;
    }
    run->count--;
    return true;
}

static bool random_use(struct random_run *run)
{
    size_t stream = draw(run, STREAMS), node = add_on_stream(run, stream);
    struct node *use_node = &run->nodes[node];
    use_node->used = true;
    use_node->writes = draw(run, 3) == 0;
    use_node->from = draw(run, ARENA - USE_BYTES);
    use_node->to = use_node->from + 1 + draw(run, draw(run, 8) == 0 ? ARENA - use_node->from : USE_BYTES);
    uint64_t first = first_conflict(run, node, false);
    if (is_left_out(run, first)) {
        return true;
    }
    run->last[stream] = run->counted[stream] = node;
    use(&run->f, stream, use_node->from, use_node->to - use_node->from, use_node->writes, "use");
    run->uses++;
    return expect(run, first);
}

static bool random_free(struct random_run *run)
{
    size_t block = draw(run, ARENA / BLOCK), stream = draw(run, STREAMS);
    if (run->freed[block]) {
        run->freed[block] = false;
        begin_block(&run->f, block * BLOCK, BLOCK, "block");
        return expect(run, UINT64_MAX);
    }
    if (draw(run, 4) == 0) {
        run->freed[block] = true;
        sanitizer_block_freed(run->f.device, run->f.memory + block * BLOCK, NULL);
        return expect(run, UINT64_MAX);
    }
    size_t node = add_on_stream(run, stream);
    run->nodes[node].used = run->nodes[node].writes = true;
    run->nodes[node].from = block * BLOCK;
    run->nodes[node].to = (block + 1) * BLOCK;
    run->nodes[node].done = run->counted[stream];
    uint64_t first = first_conflict(run, node, true);
    if (is_left_out(run, first)) {
        return true;
    }
    run->freed[block] = true;
    run->last[stream] = node;
    free_block(&run->f, block * BLOCK, stream);
    return expect(run, first);
}

static void random_record(struct random_run *run)
{
    size_t stream = draw(run, STREAMS), event = draw(run, EVENTS);
    run->last[stream] = run->recorded[event] = add_on_stream(run, stream);
    record(&run->f, event, stream);
}

static void random_wait(struct random_run *run)
{
    size_t stream = draw(run, STREAMS), event = draw(run, EVENTS), node = add_on_stream(run, stream);
    follow(run, node, run->recorded[event]);
    run->last[stream] = node;
    if (run->recorded[event] != NO_NODE) {
        run->counted[stream] = node;
    }
    wait_for(&run->f, stream, event);
}

static void random_host_wait(struct random_run *run)
{
    const struct device_ops *ops = run->f.device->ops;
    size_t stream = draw(run, STREAMS), event = draw(run, EVENTS);
    uint64_t kind = draw(run, 16);
    answers_done = draw(run, 2) == 0;
    if (kind < 8) {
        if (ops->event_done(run->f.device, run->f.events[event])) {
            size_t node = add_node(run);
            follow(run, node, run->recorded[event]);
            run->host = node;
        }
        return;
    }
    size_t node = add_node(run);
    if (kind < 12) {
        follow(run, node, run->recorded[event]);
        ops->event_synchronize(run->f.device, run->f.events[event]);
    } else if (kind < 15) {
        follow(run, node, run->last[stream]);
        ops->stream_synchronize(run->f.device, run->f.streams[stream]);
    } else {
        for (size_t i = 0; i < node; i++) {
            follow(run, node, i);
        }
        ops->synchronize(run->f.device);
    }
    run->host = node;
}

static void random_new_stream(struct random_run *run)
{
    const struct device_ops *ops = run->f.device->ops;
    size_t stream = draw(run, STREAMS);
    if (run->lost++ < LOST_MAX) {
        ops->stream_destroy(run->f.device, run->f.streams[stream]);
        assert_int_equal(ops->stream_create(run->f.device, &run->f.streams[stream]), STATUS_OK);
        run->last[stream] = run->counted[stream] = NO_NODE;
    }
}

// False ends the schedule.
static bool random_step(struct random_run *run)
{
    uint64_t kind = draw(run, 64);
    if (kind < 32) {
        return random_use(run);
    }
    if (kind < 36) {
        return random_free(run);
    }
    if (kind < 47) {
        random_record(run);
    } else if (kind < 59) {
        random_wait(run);
    } else if (kind < 63) {
        random_host_wait(run);
    } else {
        random_new_stream(run);
    }
    return expect(run, UINT64_MAX);
}

static void begin_schedule(struct random_run *run, uint64_t seed)
{
    run->key = seed;
    run->drawn = run->count = 0;
    run->lost = 0;
    run->host = NO_NODE;
    for (size_t i = 0; i < STREAMS; i++) {
        run->last[i] = run->counted[i] = NO_NODE;
    }
    for (size_t i = 0; i < EVENTS; i++) {
        run->recorded[i] = NO_NODE;
    }
    watch(&run->f);
    for (size_t i = 0; i < ARENA / BLOCK; i++) {
        run->freed[i] = false;
        begin_block(&run->f, i * BLOCK, BLOCK, "block");
    }
}

static void random_schedules_agree_with_the_graph(void **context)
{
    (void)context;
    struct random_run *run = calloc(1, sizeof(*run));
    assert_non_null(run);
    open_memory(&run->f, false);
    for (uint64_t seed = 0; seed < SCHEDULES; seed++) {
        begin_schedule(run, seed);
        for (int i = 0; i < STEPS && random_step(run); i++) {
            run->ranges_max = uint64_max(run->ranges_max, sanitizer_ranges(run->f.device));
        }
        stop_watching(&run->f);
    }
    assert_in_range(run->conflicts, SCHEDULES / 4, SCHEDULES * 3 / 4); // either end is common
    assert_true(run->uses > 30 * SCHEDULES);
    assert_true(run->ranges_max > 100); // enough to forget some
    close_memory(&run->f);
    free(run);
}

static void what_is_alike_is_one_range(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    assert_int_equal(sanitizer_ranges(f.device), 1);
    begin_block(&f, 0, KIB, "block");
    assert_int_equal(sanitizer_ranges(f.device), 3);
    for (uint64_t i = 1; i < 8; i++) {
        use(&f, 0, 100 * i, 50, i % 2 != 0, "kernel");
    }
    assert_int_equal(sanitizer_ranges(f.device), 3 + 2 * 7);
    use(&f, 0, 0, KIB, WRITE, "kernel");
    assert_int_equal(sanitizer_ranges(f.device), 3);
    use(&f, 0, 500, 0, WRITE, "nothing");
    assert_int_equal(sanitizer_ranges(f.device), 3);
    use(&f, 0, KIB, KIB, WRITE, "other");
    f.device->ops->stream_synchronize(f.device, f.streams[0]);
    f.device->ops->release(f.device, f.memory, MEMORY);
    assert_int_equal(sanitizer_ranges(f.device), 1);
    assert_int_equal(f.device->ops->commit(f.device, f.memory, MEMORY), STATUS_OK);
    close_fixture(&f);
}

static void a_long_run_keeps_little(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    for (uint64_t i = 0; i < 100000; i++) {
        size_t stream = i % STREAMS;
        uint64_t offset = random_draw(1, i) % (MEMORY - 64);
        wait_for(&f, stream, 0);
        use(&f, stream, offset, 1 + random_draw(2, i) % 64, random_draw(3, i) % 2 == 0, "kernel");
        record(&f, 0, stream);
        if (i % 20 == 19) {
            f.device->ops->stream_synchronize(f.device, f.streams[stream]);
        }
        assert_in_range(sanitizer_ranges(f.device), 1, 256);
    }
    assert_clean(&f);
    close_fixture(&f);
}

static void steps_without_host_keep_little(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    for (uint64_t i = 0; i < 20000; i++) { // tensors of a step, which the next reuses for others
        uint64_t bytes = 256 + i % 2 * 128;
        begin_block(&f, 0, 16 * KIB, "micro-step");
        for (uint64_t offset = 0; offset + bytes <= 16 * KIB; offset += 8 * bytes) {
            use(&f, 0, offset, bytes, WRITE, "forward");
            use(&f, 0, offset, bytes, READ, "backward");
        }
        free_block(&f, 0, 0);
        assert_in_range(sanitizer_ranges(f.device), 1, 64);
    }
    assert_clean(&f);
    close_fixture(&f);
}

struct worker {
    struct fixture *f;
    size_t number;
};

static void *work(void *context)
{
    const struct worker *worker = context;
    struct fixture *f = worker->f;
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t offset = worker->number * 8 * KIB + i % 8 * KIB;
        begin_block(f, offset, KIB, "own");
        use(f, worker->number, offset, KIB, WRITE, "own");
        record(f, worker->number, worker->number);
        wait_for(f, worker->number, worker->number);
        f->device->ops->event_done(f->device, f->events[worker->number]);
        free_block(f, offset, worker->number);
    }
    return NULL;
}

static void threads_enqueue_beside_each_other(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    pthread_t threads[STREAMS];
    struct worker workers[STREAMS];
    for (size_t i = 0; i < STREAMS; i++) {
        workers[i] = (struct worker){&f, i};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (size_t i = 0; i < STREAMS; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_clean(&f);
    close_fixture(&f);
}

#define ZONE 10000 // bytes, more than a piece

static void damage_is_found_where_it_is(void **context)
{
    (void)context;
    for (int faulting = 0; faulting < 2; faulting++) {
        struct fixture f;
        open_memory(&f, faulting != 0);
        watch(&f);
        uint8_t *memory = device_cpu_pointer(f.memory);
        uint64_t offset = 77;
        memset(memory, 1, MEMORY);
        sanitizer_fill(f.device, f.streams[0], f.memory + 3, ZONE, 0xa5);
        assert_int_equal(memory[2], 1);
        assert_int_equal(memory[3 + ZONE], 1);
        assert_false(sanitizer_find_damage(f.device, f.streams[0], f.memory + 3, ZONE, 0xa5, &offset));
        assert_int_equal(offset, 77);
        for (uint64_t at = 0; at < ZONE; at += at == 0 ? 4095 : at == 4095 ? 1 : ZONE - 1 - 4096) {
            memory[3 + at] ^= 1;
            assert_true(sanitizer_find_damage(f.device, f.streams[0], f.memory + 3, ZONE, 0xa5, &offset));
            assert_int_equal(offset, at);
            memory[3 + at] ^= 1;
        }
        memory[3 + 9000] = memory[3 + 8000] = 0;
        assert_true(sanitizer_find_damage(f.device, f.streams[0], f.memory + 3, ZONE, 0xa5, &offset));
        assert_int_equal(offset, 8000);
        close_fixture(&f);
    }
}

static void red_zones_are_no_uses(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    uint64_t offset;
    begin_block(&f, 0, KIB, "block");
    free_block(&f, 0, 0);
    sanitizer_fill(f.device, f.streams[1], f.memory, KIB, 1);
    assert_false(sanitizer_find_damage(f.device, f.streams[2], f.memory, KIB, 1, &offset));
    assert_clean(&f);
    begin_block(&f, 0, KIB, "block");
    use(&f, 1, 512, 8, WRITE, "kernel");
    sanitizer_fill(f.device, f.streams[1], f.memory, 512, 1); // the host waits, but not for the program
    use(&f, 2, 512, 8, WRITE, "kernel");
    assert_int_equal(sanitizer_findings(f.device), 1);
    close_fixture(&f);
}

static void red_zones_work_on_a_slow_device(void **context)
{
    (void)context;
    struct lazy_device lazy;
    static uint8_t memory[ZONE];
    uint64_t offset;
    lazy_device_init(&lazy, LAZY_WHEN_FORCED);
    device_address address = (device_address)(uintptr_t)memory;
    sanitizer_fill(&lazy.device, lazy_stream(&lazy), address, ZONE, 9);
    assert_false(sanitizer_find_damage(&lazy.device, lazy_stream(&lazy), address, ZONE, 9, &offset));
    memory[ZONE - 1] = 8;
    assert_true(sanitizer_find_damage(&lazy.device, lazy_stream(&lazy), address, ZONE, 9, &offset));
    assert_int_equal(offset, ZONE - 1);
    assert_int_equal(lazy.wrong, 0);
    lazy_device_finish(&lazy);
}

static void poisoned_memory_is_known_to_the_compiler(void **context)
{
    (void)context;
    struct fixture f = open_fixture();
    sanitizer_set_poison(f.device, f.memory + 512, 512, true);
#ifdef SANITIZER_POISONS
    uint8_t *memory = device_cpu_pointer(f.memory);
    assert_false(__asan_address_is_poisoned(memory + 511));
    assert_true(__asan_address_is_poisoned(memory + 512));
    assert_true(__asan_address_is_poisoned(memory + 1023));
    assert_false(__asan_address_is_poisoned(memory + 1024));
#endif
    sanitizer_set_poison(f.device, f.memory + 512, 512, false);
    sanitizer_fill(f.device, f.streams[0], f.memory + 512, 512, 1);
    close_fixture(&f);
}

static void addresses_that_fault_are_not_poisoned(void **context)
{
    (void)context;
    struct fixture f;
    open_memory(&f, true);
    sanitizer_set_poison(f.device, f.memory, 512, true);
    sanitizer_fill(f.device, NULL, f.memory, 512, 1);
    sanitizer_set_poison(f.device, f.memory, 512, false);
    close_memory(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_order_two_streams),
        cmocka_unit_test(order_is_passed_on),
        cmocka_unit_test(what_the_host_waited_for_is_over),
        cmocka_unit_test(an_event_that_is_not_done_orders_nothing),
        cmocka_unit_test(many_streams_read_at_once),
        cmocka_unit_test(disjoint_bytes_need_no_order),
        cmocka_unit_test(each_missing_edge_is_found),
        cmocka_unit_test(an_order_the_wrong_way_round_is_none),
        cmocka_unit_test(a_wait_covers_what_was_recorded_then),
        cmocka_unit_test(a_mark_of_another_stream_replaces_the_first),
        cmocka_unit_test(a_new_event_marks_nothing),
        cmocka_unit_test(an_overlap_is_told_where_it_is),
        cmocka_unit_test(a_use_over_two_blocks_is_told_by_the_first_overlap),
        cmocka_unit_test(memory_of_no_block_is_told_by_its_address),
        cmocka_unit_test(copies_are_uses),
        cmocka_unit_test(what_copies_use_of_the_host_is_told),
        cmocka_unit_test(a_freed_block_is_not_used),
        cmocka_unit_test(a_block_freed_for_any_stream_is_not_used_either),
        cmocka_unit_test(a_free_comes_after_the_work_of_all_streams),
        cmocka_unit_test(memory_is_reused_after_the_free),
        cmocka_unit_test(a_free_is_told_from_the_use_before_it),
        cmocka_unit_test(a_free_comes_after_what_its_stream_waits_for),
        cmocka_unit_test(a_block_freed_for_any_stream_keeps_its_uses),
        cmocka_unit_test(memory_goes_back_after_its_uses),
        cmocka_unit_test(the_first_finding_is_kept),
        cmocka_unit_test(long_names_are_cut),
        cmocka_unit_test(a_stream_is_told_by_its_creation),
        cmocka_unit_test(streams_come_and_go),
        cmocka_unit_test(too_many_streams_are_told),
        cmocka_unit_test(detaching_puts_the_table_back),
        cmocka_unit_test(destroying_the_device_detaches),
        cmocka_unit_test(where_memory_is_does_not_change),
        cmocka_unit_test(random_schedules_agree_with_the_graph),
        cmocka_unit_test(what_is_alike_is_one_range),
        cmocka_unit_test(a_long_run_keeps_little),
        cmocka_unit_test(steps_without_host_keep_little),
        cmocka_unit_test(threads_enqueue_beside_each_other),
        cmocka_unit_test(damage_is_found_where_it_is),
        cmocka_unit_test(red_zones_are_no_uses),
        cmocka_unit_test(red_zones_work_on_a_slow_device),
        cmocka_unit_test(poisoned_memory_is_known_to_the_compiler),
        cmocka_unit_test(addresses_that_fault_are_not_poisoned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
