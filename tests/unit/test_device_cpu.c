// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "mem/device_cpu.h"
#include "mem/ledger.h"

#define MIB        UINT64_C(1048576)
#define PAGE_BYTES UINT64_C(65536) // the device's granularity
#define RANGE      (64 * MIB)

static struct device *open_device(const char *name, uint64_t capacity, bool faulting)
{
    struct device *device = NULL;
    struct error error;
    struct device_config config = {.name = name, .capacity_bytes = capacity, .faulting_addresses = faulting};
    assert_int_equal(device_cpu.create(&config, &device, &error), STATUS_OK);
    return device;
}

// A name of this process's own, so that test programs may run side by side.
static const char *test_name(char buffer[64], const char *what)
{
    snprintf(buffer, 64, "test-%s-%d", what, (int)getpid());
    return buffer;
}

static struct device_info info_of(struct device *device)
{
    struct device_info info;
    device_cpu.info(device, &info);
    return info;
}

static const char *object_path(char buffer[128], const char *name)
{
    snprintf(buffer, 128, "/dev/shm/headroom-%s", name);
    return buffer;
}

static bool object_exists(const char *name)
{
    char path[128];
    return access(object_path(path, name), F_OK) == 0;
}

static device_address reserve(struct device *device)
{
    device_address range;
    assert_int_equal(device_cpu.reserve(device, RANGE, &range), STATUS_OK);
    return range;
}

// A child dies with this process, and of its first failed assertion.
static pid_t fork_child(void)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setenv("CMOCKA_TEST_ABORT", "1", 1);
        signal(SIGSEGV, SIG_DFL); // cmocka catches them
        signal(SIGBUS, SIG_DFL);
    }
    return child;
}

// Whether a write to the address kills. An address that no memory can have raises SIGBUS on x86-64 when it stands in
// a register of the stack.
static bool faults(void *address)
{
    pid_t child = fork_child();
    if (child == 0) {
        *(volatile unsigned char *)address = 1;
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && (WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS);
}

static void memory_is_committed_and_released(void **context)
{
    (void)context;
    struct device *device = open_device(NULL, 4 * MIB, false);
    device_address range = reserve(device);
    assert_int_equal(device_cpu.granularity_bytes, PAGE_BYTES);
    assert_true(faults(device_cpu.host_pointer(device, range)));
    assert_int_equal(info_of(device).free_bytes, 4 * MIB);
    assert_int_equal(device_cpu.commit(device, range, MIB), STATUS_OK);
    memset(device_cpu.host_pointer(device, range), 7, MIB);
    assert_int_equal(info_of(device).held_bytes, MIB);
    assert_int_equal(info_of(device).free_bytes, 3 * MIB);
    assert_int_equal(info_of(device).others_bytes, 0);
    assert_int_equal(info_of(device).sharers, 1);
    assert_int_equal(device_cpu.commit(device, range + MIB, MIB), STATUS_OK);
    device_cpu.release(device, range + MIB / 2, MIB); // across the seam of the two
    assert_int_equal(info_of(device).held_bytes, MIB);
    assert_int_equal(*(unsigned char *)device_cpu.host_pointer(device, range), 7);
    device_cpu.release(device, range, MIB / 2);
    device_cpu.release(device, range + MIB + MIB / 2, MIB / 2);
    assert_int_equal(info_of(device).free_bytes, 4 * MIB);
    device_cpu.unreserve(device, range, RANGE);
    device_cpu.destroy(device);
    device_cpu.destroy(NULL);
}

static void more_than_the_capacity_is_refused_and_changes_nothing(void **context)
{
    (void)context;
    struct device *device = open_device(NULL, 2 * MIB, false);
    device_address range = reserve(device);
    assert_int_equal(device_cpu.commit(device, range, 2 * MIB + PAGE_BYTES), STATUS_OUT_OF_MEMORY);
    assert_int_equal(info_of(device).held_bytes, 0);
    assert_true(faults(device_cpu.host_pointer(device, range)));
    assert_int_equal(device_cpu.commit(device, range, 2 * MIB), STATUS_OK);
    assert_int_equal(device_cpu.commit(device, range + 2 * MIB, PAGE_BYTES), STATUS_OUT_OF_MEMORY);
    assert_int_equal(info_of(device).held_bytes, 2 * MIB);
    assert_false(faults(device_cpu.host_pointer(device, range)));
    assert_true(faults(device_cpu.host_pointer(device, range + 2 * MIB)));
    device_cpu.release(device, range, 2 * MIB);
    device_cpu.unreserve(device, range, RANGE);
    device_cpu.destroy(device);
}

static void without_a_capacity_it_has_what_the_machine_has(void **context)
{
    (void)context;
    struct device *device = open_device(NULL, 0, false);
    uint64_t physical = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    assert_in_range(info_of(device).capacity_bytes, 16 * MIB, physical);
    device_cpu.destroy(device);
}

static void a_name_outside_the_alphabet_is_refused(void **context)
{
    (void)context;
    char too_long[LEDGER_NAME_MAX + 2] = "";
    memset(too_long, 'x', LEDGER_NAME_MAX + 1);
    const char *const names[] = {"", "a/b", "a b", "..\n\nx", too_long};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct device *device;
        struct error error;
        struct device_config config = {.name = names[i], .capacity_bytes = MIB};
        assert_int_equal(device_cpu.create(&config, &device, &error), STATUS_INVALID);
        assert_int_equal(error.status, STATUS_INVALID);
        assert_non_null(strstr(error.text, "allowed are"));
        assert_null(strchr(error.text, '\n'));
        assert_int_equal(device_cpu.create(&config, &device, NULL), STATUS_INVALID);
    }
}

static void the_longest_name_is_accepted(void **context)
{
    (void)context;
    char name[LEDGER_NAME_MAX + 1] = "";
    int length = snprintf(name, sizeof(name), "test-Az09._-%d", (int)getpid());
    memset(name + length, 'x', LEDGER_NAME_MAX - (size_t)length);
    struct device *device = open_device(name, MIB, false);
    assert_true(object_exists(name));
    device_cpu.destroy(device);
    assert_false(object_exists(name));
}

static void neighbours_may_push_it_over_its_capacity(void **context)
{
    (void)context;
    struct device *device = open_device(NULL, 4 * MIB, false);
    device_address range = reserve(device);
    assert_int_equal(device_cpu.commit(device, range, 3 * MIB), STATUS_OK);
    device_cpu_set_neighbour(device, 2 * MIB);
    assert_int_equal(info_of(device).others_bytes, 2 * MIB);
    assert_int_equal(info_of(device).free_bytes, 0);
    assert_int_equal(device_cpu.commit(device, range + 3 * MIB, PAGE_BYTES), STATUS_OUT_OF_MEMORY);
    device_cpu_set_neighbour(device, 0);
    assert_int_equal(info_of(device).free_bytes, MIB);
    device_cpu.release(device, range, 3 * MIB);
    device_cpu.unreserve(device, range, RANGE);
    device_cpu.destroy(device);
}

static void faulting_addresses_fault_on_the_host_only(void **context)
{
    (void)context;
    struct device *device = open_device(NULL, 4 * MIB, true);
    struct stream *stream;
    assert_int_equal(device_cpu.stream_create(device, &stream), STATUS_OK);
    device_address range = reserve(device);
    assert_int_equal(device_cpu.commit(device, range, MIB), STATUS_OK);
    assert_null(device_cpu.host_pointer(device, range));
    assert_true(faults((void *)(uintptr_t)range));
    assert_false(faults(device_cpu_pointer(range)));
    char out[] = "to the device and back", in[sizeof(out)];
    device_cpu.copy_to_device(device, stream, range + 100, out, sizeof(out));
    device_cpu.copy_to_host(device, stream, in, range + 100, sizeof(in));
    device_cpu.stream_synchronize(device, stream);
    assert_string_equal(in, out);
    device_cpu.fill_zero(device, stream, range + 103, 4);
    device_cpu.copy_to_host(device, stream, in, range + 100, sizeof(in));
    device_cpu.synchronize(device);
    assert_memory_equal(in, "to \0\0\0\0devi", 11);
    device_cpu.release(device, range, MIB);
    assert_true(faults(device_cpu_pointer(range))); // a use after the release
    device_cpu.unreserve(device, range, RANGE);
    device_cpu.stream_destroy(device, stream);
    device_cpu.destroy(device);
}

static void events_pass_in_stream_order(void **context)
{
    (void)context;
    struct device *device = open_device(NULL, MIB, false);
    struct stream *first, *second;
    struct event *event;
    assert_int_equal(device_cpu.stream_create(device, &first), STATUS_OK);
    assert_int_equal(device_cpu.stream_create(device, &second), STATUS_OK);
    assert_ptr_not_equal(first, second);
    assert_int_equal(device_cpu.event_create(device, &event), STATUS_OK);
    device_cpu.event_record(device, event, first);
    device_cpu.event_wait(device, second, event);
    device_cpu.stream_synchronize(device, second);
    assert_true(device_cpu.event_done(device, event));
    device_cpu.event_destroy(device, event);
    device_cpu.stream_destroy(device, second);
    device_cpu.stream_destroy(device, first);
    device_cpu.destroy(device);
}

static void devices_of_one_name_share_one_capacity(void **context)
{
    (void)context;
    char name[64];
    struct device *a = open_device(test_name(name, "share"), 4 * MIB, false);
    struct device *b = open_device(name, 0, false); // the first decides
    device_address range = reserve(a), other = reserve(b);
    assert_int_equal(info_of(b).capacity_bytes, 4 * MIB);
    assert_int_equal(info_of(b).sharers, 2);
    assert_int_equal(device_cpu.commit(a, range, 3 * MIB), STATUS_OK);
    assert_int_equal(info_of(b).others_bytes, 3 * MIB);
    assert_int_equal(info_of(b).free_bytes, MIB);
    assert_int_equal(device_cpu.commit(b, other, 2 * MIB), STATUS_OUT_OF_MEMORY);
    assert_int_equal(device_cpu.commit(b, other, MIB), STATUS_OK);
    device_cpu.release(a, range, 3 * MIB);
    device_cpu.unreserve(a, range, RANGE);
    device_cpu.destroy(a);
    assert_int_equal(info_of(b).free_bytes, 3 * MIB);
    assert_int_equal(info_of(b).sharers, 1);
    assert_true(object_exists(name));
    device_cpu.release(b, other, MIB);
    device_cpu.unreserve(b, other, RANGE);
    device_cpu.destroy(b);
    assert_false(object_exists(name));
}

static void another_capacity_for_a_name_is_refused(void **context)
{
    (void)context;
    char name[64];
    struct device *first = open_device(test_name(name, "differ"), 4 * MIB, false), *second;
    struct device_config config = {.name = name, .capacity_bytes = 5 * MIB};
    struct error error;
    assert_int_equal(device_cpu.create(&config, &second, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "4194304 bytes, as its first process said, not 5242880 bytes"));
    assert_int_equal(info_of(first).sharers, 1);
    device_cpu.destroy(first);
    assert_false(object_exists(name));
}

static void a_forgotten_name_leaves_its_sharers_together(void **context)
{
    (void)context;
    char name[64];
    struct device *a = open_device(test_name(name, "forgotten"), 4 * MIB, false);
    struct device *b = open_device(name, 4 * MIB, false);
    device_cpu.forget_name(a);
    assert_false(object_exists(name));
    device_cpu.forget_name(b);
    device_address range = reserve(a);
    assert_int_equal(device_cpu.commit(a, range, 3 * MIB), STATUS_OK);
    assert_int_equal(info_of(b).others_bytes, 3 * MIB);
    struct device *namesake = open_device(name, 2 * MIB, false);
    assert_int_equal(info_of(namesake).sharers, 1);
    device_cpu.destroy(b);
    device_cpu.release(a, range, 3 * MIB);
    device_cpu.unreserve(a, range, RANGE);
    device_cpu.destroy(a);
    assert_true(object_exists(name)); // the namesake's
    device_cpu.destroy(namesake);
    assert_false(object_exists(name));
}

// Holds 2 MiB of the named device, says so, and waits to be killed.
static pid_t start_holder(const char *name)
{
    int ends[2];
    char ready;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork_child();
    if (child == 0) {
        struct device *device = open_device(name, 4 * MIB, false);
        device_address range = reserve(device);
        ready = device_cpu.commit(device, range, 2 * MIB) == STATUS_OK ? 'y' : 'n';
        device_cpu_set_neighbour(device, MIB);
        (void)!write(ends[1], &ready, 1);
        for (;;) {
            pause();
        }
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &ready, 1), 1);
    assert_int_equal(ready, 'y');
    close(ends[0]);
    return child;
}

static void a_killed_sharer_gives_everything_back(void **context)
{
    (void)context;
    char name[64];
    struct device *device = open_device(test_name(name, "killed"), 4 * MIB, false);
    device_address range = reserve(device);
    pid_t child = start_holder(name);
    assert_int_equal(info_of(device).others_bytes, 3 * MIB);
    assert_int_equal(info_of(device).sharers, 2);
    assert_int_equal(kill(child, SIGKILL), 0);
    siginfo_t dead;
    assert_int_equal(waitid(P_PID, (id_t)child, &dead, WEXITED | WNOWAIT), 0); // dead, but still in the process table
    assert_int_equal(device_cpu.commit(device, range, 4 * MIB), STATUS_OK);
    device_cpu.release(device, range, 4 * MIB);
    assert_int_equal(info_of(device).others_bytes, 0);
    assert_int_equal(info_of(device).free_bytes, 4 * MIB);
    assert_int_equal(info_of(device).sharers, 1);
    assert_int_equal(waitpid(child, NULL, 0), child);
    device_cpu.unreserve(device, range, RANGE);
    device_cpu.destroy(device);
    assert_false(object_exists(name));
}

// Runs start_holder in a pid namespace of its own, as another container would have, until `orders` is closed. Answers
// 'r' when the holder is ready, 'n' where namespaces are not allowed.
static void hold_in_namespace(const char *name, int orders, int answers)
{
    if (unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0) {
        (void)!write(answers, "n", 1);
        _exit(0);
    }
    char byte;
    pid_t holder = start_holder(name);
    (void)!write(answers, "r", 1);
    (void)!read(orders, &byte, 1);
    kill(holder, SIGKILL);
    waitpid(holder, NULL, 0);
    _exit(0);
}

static void a_sharer_in_another_container_counts(void **context)
{
    (void)context;
    char name[64], answer;
    struct device *device = open_device(test_name(name, "space"), 4 * MIB, false);
    int orders[2], answers[2];
    assert_int_equal(pipe(orders), 0);
    assert_int_equal(pipe(answers), 0);
    pid_t outer = fork_child();
    if (outer == 0) {
        close(orders[1]);
        hold_in_namespace(name, orders[0], answers[1]);
    }
    assert_int_equal(read(answers[0], &answer, 1), 1);
    struct device_info info = info_of(device);
    for (size_t i = 0; i < 2; i++) {
        close(orders[1 - i]);
        close(answers[i]);
    }
    assert_int_equal(waitpid(outer, NULL, 0), outer);
    struct device_info after = info_of(device);
    device_cpu.destroy(device);
    if (answer == 'n') {
        print_message("skipped: this user may not make a pid namespace\n");
        skip();
    }
    assert_int_equal(info.sharers, 2);
    assert_int_equal(info.others_bytes, 3 * MIB);
    assert_int_equal(after.sharers, 1);
    assert_int_equal(after.others_bytes, 0);
}

// Whatever else runs on this host may remove the object first, so nothing here asks whether it was left.
static void what_a_killed_job_left_is_removed_by_the_next(void **context)
{
    (void)context;
    char name[64], other[64];
    pid_t child = start_holder(test_name(name, "left"));
    device_cpu.destroy(open_device(test_name(other, "next"), MIB, false));
    assert_true(object_exists(name)); // its holder lives
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    device_cpu.destroy(open_device(other, MIB, false));
    assert_false(object_exists(name));
}

static void a_name_that_the_dead_left_starts_afresh(void **context)
{
    (void)context;
    char name[64];
    pid_t child = start_holder(test_name(name, "afresh"));
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    struct device *device = open_device(name, MIB, false);
    assert_int_equal(info_of(device).capacity_bytes, MIB);
    assert_int_equal(info_of(device).free_bytes, MIB);
    device_cpu.destroy(device);
    assert_false(object_exists(name));
}

static void make_object(const char *name, const char *text)
{
    char path[128];
    int file = open(object_path(path, name), O_CREAT | O_EXCL | O_WRONLY, 0600);
    assert_true(file >= 0);
    assert_int_equal(write(file, text, strlen(text)), strlen(text));
    close(file);
}

static void an_empty_object_is_removed_and_a_strange_one_is_left_alone(void **context)
{
    (void)context;
    char empty[64], strange[64], next[64], path[128];
    make_object(test_name(empty, "empty"), "");
    make_object(test_name(strange, "strange"), "not a ledger");
    device_cpu.destroy(open_device(test_name(next, "next"), MIB, false));
    bool left = object_exists(strange);
    unlink(object_path(path, strange));
    assert_true(left);
    assert_false(object_exists(empty));
}

static void what_is_no_ledger_is_refused_and_left_alone(void **context)
{
    (void)context;
    char name[64], path[128], garbage[32768];
    memset(garbage, 'x', sizeof(garbage));
    test_name(name, "foreign");
    for (size_t i = 0; i < 2; i++) { // of another size, and of a ledger's
        struct device *device = open_device(name, MIB, false);
        struct stat about;
        assert_int_equal(stat(object_path(path, name), &about), 0);
        device_cpu.destroy(device);
        garbage[i == 0 ? 8 : about.st_size] = '\0';
        make_object(name, garbage);
        garbage[8] = 'x';
        struct device_config config = {.name = name, .capacity_bytes = MIB};
        struct error error;
        enum status status = device_cpu.create(&config, &device, &error);
        bool left = object_exists(name);
        unlink(path);
        assert_int_equal(status, STATUS_ERROR);
        assert_non_null(strstr(error.text, "is another program's, or another version's"));
        assert_true(left);
    }
}

static void a_name_takes_so_many_attachments(void **context)
{
    (void)context;
    enum { MOST = LEDGER_SLOTS };
    char name[64];
    struct device *devices[MOST], *extra;
    struct error error;
    struct rlimit files; // each attachment keeps one open
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    files.rlim_cur = files.rlim_max;
    if (files.rlim_max < MOST + 64 || setrlimit(RLIMIT_NOFILE, &files) != 0) {
        print_message("skipped: a process may open only %ju files here\n", (uintmax_t)files.rlim_max);
        skip();
    }
    for (size_t i = 0; i < MOST; i++) {
        devices[i] = open_device(test_name(name, "crowd"), MIB, false);
    }
    struct device_config config = {.name = name, .capacity_bytes = MIB};
    assert_int_equal(device_cpu.create(&config, &extra, &error), STATUS_ERROR);
    assert_non_null(strstr(error.text, "more than 1024"));
    assert_int_equal(info_of(devices[0]).sharers, MOST);
    device_cpu.destroy(devices[100]);
    devices[100] = open_device(name, MIB, false);
    for (size_t i = 0; i < MOST; i++) {
        device_cpu.destroy(devices[i]);
    }
    assert_false(object_exists(name));
}

#define RACERS     6
#define RACE_LOOPS 1000

// Takes and returns memory in a hurry; says with its exit code whether the device ever showed more than its capacity.
static void take_and_return(const char *name)
{
    struct device *device = open_device(name, 4 * MIB, false);
    device_address range = reserve(device);
    uint64_t state = (uint64_t)getpid();
    for (int i = 0; i < RACE_LOOPS; i++) {
        state = state * UINT64_C(6364136223846793005) + 1;
        uint64_t bytes = (1 + (state >> 60)) * PAGE_BYTES * 2;
        if (device_cpu.commit(device, range, bytes) == STATUS_OK) {
            struct device_info info = info_of(device);
            if (info.held_bytes != bytes || info.held_bytes + info.others_bytes > 4 * MIB) {
                _exit(1);
            }
            device_cpu.release(device, range, bytes);
        }
    }
    device_cpu.unreserve(device, range, RANGE);
    device_cpu.destroy(device);
}

// Comes and goes in a hurry; the object must be there all the while that somebody is attached.
static void come_and_go(const char *name)
{
    for (int i = 0; i < RACE_LOOPS / 2; i++) {
        struct device *device = open_device(name, MIB, false);
        if (!object_exists(name)) {
            _exit(1);
        }
        device_cpu.destroy(device);
    }
}

static void run_racers(void (*race)(const char *name), const char *name)
{
    pid_t children[RACERS];
    for (int i = 0; i < RACERS; i++) {
        children[i] = fork_child();
        if (children[i] == 0) {
            race(name);
            _exit(0);
        }
    }
    for (int i = 0; i < RACERS; i++) {
        int status;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_int_equal(status, 0);
    }
}

static void racing_processes_never_exceed_the_capacity(void **context)
{
    (void)context;
    char name[64];
    struct device *device = open_device(test_name(name, "race"), 4 * MIB, false);
    run_racers(take_and_return, name);
    assert_int_equal(info_of(device).free_bytes, 4 * MIB);
    device_cpu.destroy(device);
    assert_false(object_exists(name));
}

static void racing_processes_always_meet_in_one_object(void **context)
{
    (void)context;
    char name[64];
    run_racers(come_and_go, test_name(name, "meet"));
    assert_false(object_exists(name));
}

struct runner {
    struct device *device;
    device_address range; // MiB of its own
};

// Answers NULL when the device never refused nor showed less than this thread holds.
static void *run(void *argument)
{
    struct runner *runner = argument;
    void *wrong = NULL;
    for (int i = 0; i < RACE_LOOPS; i++) {
        if (device_cpu.commit(runner->device, runner->range, MIB) != STATUS_OK) {
            return runner;
        }
        wrong = info_of(runner->device).held_bytes < MIB ? runner : wrong;
        device_cpu.release(runner->device, runner->range, MIB);
    }
    return wrong;
}

static void race_threads(const char *name)
{
    enum { THREADS = 4 };
    struct device *device = open_device(name, THREADS * MIB, false);
    device_address range = reserve(device);
    pthread_t threads[THREADS];
    struct runner runners[THREADS];
    for (size_t i = 0; i < THREADS; i++) {
        runners[i] = (struct runner){device, range + i * MIB};
        assert_int_equal(pthread_create(&threads[i], NULL, run, &runners[i]), 0);
    }
    bool right = true;
    for (size_t i = 0; i < THREADS; i++) {
        void *wrong;
        assert_int_equal(pthread_join(threads[i], &wrong), 0);
        right = right && wrong == NULL;
    }
    assert_true(right);
    assert_int_equal(info_of(device).held_bytes, 0);
    device_cpu.unreserve(device, range, RANGE);
    device_cpu.destroy(device);
}

static void threads_of_one_device_exclude_each_other(void **context)
{
    (void)context;
    char name[64];
    race_threads(NULL);
    race_threads(test_name(name, "threads"));
}

static void devices_are_found_by_name(void **context)
{
    (void)context;
    assert_ptr_equal(device_find("cpu"), &device_cpu);
    assert_null(device_find("abacus"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_committed_and_released),
        cmocka_unit_test(more_than_the_capacity_is_refused_and_changes_nothing),
        cmocka_unit_test(without_a_capacity_it_has_what_the_machine_has),
        cmocka_unit_test(a_name_outside_the_alphabet_is_refused),
        cmocka_unit_test(the_longest_name_is_accepted),
        cmocka_unit_test(neighbours_may_push_it_over_its_capacity),
        cmocka_unit_test(faulting_addresses_fault_on_the_host_only),
        cmocka_unit_test(events_pass_in_stream_order),
        cmocka_unit_test(devices_of_one_name_share_one_capacity),
        cmocka_unit_test(another_capacity_for_a_name_is_refused),
        cmocka_unit_test(a_forgotten_name_leaves_its_sharers_together),
        cmocka_unit_test(a_killed_sharer_gives_everything_back),
        cmocka_unit_test(a_sharer_in_another_container_counts),
        cmocka_unit_test(what_a_killed_job_left_is_removed_by_the_next),
        cmocka_unit_test(a_name_that_the_dead_left_starts_afresh),
        cmocka_unit_test(an_empty_object_is_removed_and_a_strange_one_is_left_alone),
        cmocka_unit_test(what_is_no_ledger_is_refused_and_left_alone),
        cmocka_unit_test(a_name_takes_so_many_attachments),
        cmocka_unit_test(racing_processes_never_exceed_the_capacity),
        cmocka_unit_test(racing_processes_always_meet_in_one_object),
        cmocka_unit_test(threads_of_one_device_exclude_each_other),
        cmocka_unit_test(devices_are_found_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
