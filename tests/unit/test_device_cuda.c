// SPDX-License-Identifier: Apache-2.0
//
// The CUDA device where GPUs are short of something: on the simulator, each test in a process of its own, as the
// simulator reads its environment once and keeps errors.
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "expect.h"
#include "mem/device_cuda.h"
#include "mem/device_pinned.h"
#include "mem/nvml.h"
#include "simulator.h"

#define GRANULE       (UINT64_C(2) << 20)
#define CONTEXT_BYTES (UINT64_C(1) << 20)

static void in_child(void (*body)(void))
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        body();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static struct device *open_index(uint32_t index)
{
    struct error error;
    struct device *device = NULL;
    enum status status = device_cuda.create(&(struct device_config){.index = index, .sharers = 1}, &device, &error);
    EXPECT(status == STATUS_OK);
    return device;
}

static struct device *open_gpu(void)
{
    return open_index(0);
}

static device_address reserve(struct device *device, uint64_t granules)
{
    device_address range;
    EXPECT(device->ops->reserve(device, granules * GRANULE, &range) == STATUS_OK);
    return range;
}

static struct device_info info_of(struct device *device)
{
    struct device_info info;
    device->ops->info(device, &info);
    return info;
}

static void expect_refusal(const char *variable, const char *value, uint32_t index, const char *line)
{
    struct error error = {0};
    struct device *device = NULL;
    setenv(variable, value, 1);
    EXPECT(device_cuda.create(&(struct device_config){.index = index, .sharers = 1}, &device, &error) == STATUS_ERROR);
    EXPECT(device == NULL);
    EXPECT(strstr(error.text, line) != NULL);
    EXPECT(strchr(error.text, '\n') == NULL);
}

static void no_driver(void)
{
    expect_refusal("SIMULATOR_DRIVER", "none", 0, "no NVIDIA driver is installed");
    EXPECT(device_cuda.count(NULL) == 0);
}

static void old_driver(void)
{
    expect_refusal("SIMULATOR_DRIVER", "insufficient", 0, "the NVIDIA driver is for CUDA ");
}

static void no_gpu(void)
{
    expect_refusal("SIMULATOR_GPUS", "0", 0, "the NVIDIA driver finds no GPU");
}

static void hidden_gpus(void)
{
    expect_refusal("CUDA_VISIBLE_DEVICES", "", 0, "CUDA_VISIBLE_DEVICES is ''");
}

static void too_few_gpus(void)
{
    expect_refusal("SIMULATOR_GPUS", "2", 2, "there is no GPU 2 among the 2");
}

static void each_gpu_has_its_own_location(void)
{
    struct device_location one, other;
    setenv("SIMULATOR_GPUS", "2", 1);
    EXPECT(device_cuda.count(NULL) == 2);
    device_cuda.locate(0, &one);
    device_cuda.locate(1, &other);
    EXPECT(strcmp(one.id, other.id) != 0 && strcmp(one.bus_id, other.bus_id) != 0);
}

static void a_full_gpu_changes_nothing(void)
{
    setenv("SIMULATOR_GPU_BYTES", "64MiB", 1); // a context takes one, and one is kept for code
    struct device *device = open_gpu();
    device_address range = reserve(device, 32);
    EXPECT(device_cuda.commit(device, range, 28 * GRANULE) == STATUS_OK);
    EXPECT(info_of(device).free_bytes == 3 * GRANULE);
    EXPECT(device_cuda.commit(device, range + 28 * GRANULE, 4 * GRANULE) == STATUS_OUT_OF_MEMORY);
    EXPECT(info_of(device).free_bytes == 3 * GRANULE && info_of(device).held_bytes == 28 * GRANULE);
    EXPECT(device_cuda.check(device, NULL) == STATUS_OK);
    EXPECT(device_cuda.commit(device, range + 28 * GRANULE, 3 * GRANULE) == STATUS_OK);
    EXPECT(info_of(device).free_bytes == 0 && info_of(device).held_bytes == 31 * GRANULE);
    device_cuda.release(device, range, 31 * GRANULE);
    device_cuda.unreserve(device, range, 32 * GRANULE);
    device_cuda.destroy(device);
}

static void what_is_committed_is_not_free(void)
{
    struct device *device = open_gpu();
    device_address range = reserve(device, 8);
    uint64_t free_bytes = info_of(device).free_bytes;
    uint64_t capacity_bytes = info_of(device).capacity_bytes;
    EXPECT(free_bytes == capacity_bytes - CONTEXT_BYTES - capacity_bytes / 64);
    EXPECT(device_cuda.commit(device, range, 3 * GRANULE) == STATUS_OK);
    EXPECT(device_cuda.commit(device, range + 3 * GRANULE, 3 * GRANULE) == STATUS_OK);
    EXPECT(info_of(device).free_bytes == free_bytes - 6 * GRANULE);
    EXPECT(info_of(device).others_bytes == CONTEXT_BYTES);
    device_cuda.release(device, range + 2 * GRANULE, 2 * GRANULE);
    EXPECT(info_of(device).free_bytes == free_bytes - 4 * GRANULE);
    device_cuda.release(device, range, 2 * GRANULE);
    device_cuda.release(device, range + 4 * GRANULE, 2 * GRANULE);
    EXPECT(info_of(device).free_bytes == free_bytes && info_of(device).held_bytes == 0);
    device_cuda.unreserve(device, range, 8 * GRANULE);
    EXPECT(device_cuda.check(device, NULL) == STATUS_OK);
    device_cuda.destroy(device);
}

// The second granule of three is taken: the first must not stay.
static void what_cannot_be_mapped_changes_nothing(void)
{
    struct error error;
    struct device *device = open_gpu();
    device_address range = reserve(device, 4);
    EXPECT(device_cuda.commit(device, range + GRANULE, GRANULE) == STATUS_OK);
    struct device_info before = info_of(device);
    EXPECT(device_cuda.commit(device, range, 3 * GRANULE) == STATUS_OUT_OF_MEMORY);
    struct device_info after = info_of(device);
    EXPECT(after.free_bytes == before.free_bytes && after.held_bytes == GRANULE);
    EXPECT(device_cuda.commit(device, range, GRANULE) == STATUS_OK);
    EXPECT(device_cuda.check(device, &error) == STATUS_ERROR);
    EXPECT(strstr(error.text, "mapping memory: invalid argument") != NULL);
}

static void destroy_returns_what_is_left(void)
{
    struct device *observer = open_gpu(), *device = open_gpu();
    uint64_t free_bytes = info_of(observer).free_bytes;
    device_address range = reserve(device, 8), other = reserve(device, 2);
    reserve(device, 1); // holds nothing
    EXPECT(device_cuda.commit(device, range, 5 * GRANULE) == STATUS_OK);
    EXPECT(device_cuda.commit(device, other + GRANULE, GRANULE) == STATUS_OK);
    device_cuda.release(device, range + GRANULE, 2 * GRANULE);
    EXPECT(info_of(observer).free_bytes == free_bytes - 4 * GRANULE);
    device_cuda.destroy(device);
    EXPECT(info_of(observer).free_bytes == free_bytes);
    EXPECT(cudaMemset((void *)(uintptr_t)range, 0, 1) == cudaErrorInvalidValue);
}

// Without virtual memory a range is memory.
static void a_plain_gpu_gives_whole_ranges(void)
{
    setenv("SIMULATOR_PLAIN", "1", 1);
    setenv("SIMULATOR_GPU_BYTES", "64MiB", 1);
    struct device *device = open_gpu();
    EXPECT(device->plain);
    uint64_t free_bytes = info_of(device).free_bytes;
    device_address range = reserve(device, 8), other = reserve(device, 2), refused;
    EXPECT(info_of(device).free_bytes == free_bytes - 10 * GRANULE);
    EXPECT(device_cuda.commit(device, range, 8 * GRANULE) == STATUS_OK);
    EXPECT(info_of(device).held_bytes == 8 * GRANULE);
    EXPECT(device_cuda.reserve(device, 22 * GRANULE, &refused) == STATUS_OUT_OF_MEMORY);
    device_cuda.release(device, range, 8 * GRANULE);
    EXPECT(info_of(device).held_bytes == 0 && info_of(device).free_bytes == free_bytes - 10 * GRANULE);
    device_cuda.unreserve(device, range, 8 * GRANULE);
    EXPECT(info_of(device).free_bytes == free_bytes - 2 * GRANULE);
    EXPECT(device_cuda.check(device, NULL) == STATUS_OK);
    device_cuda.destroy(device);
    EXPECT(cudaFree((void *)(uintptr_t)other) == cudaErrorInvalidValue); // has been returned
}

static void a_wrong_call_is_named(void)
{
    struct error error;
    struct device *device = open_gpu();
    device_address range = reserve(device, 2);
    EXPECT(device_cuda.commit(device, range, 2 * GRANULE) == STATUS_OK);
    device_cuda.unreserve(device, range, 2 * GRANULE); // still holds memory
    EXPECT(device_cuda.check(device, &error) == STATUS_ERROR);
    EXPECT(strcmp(error.text, "GPU 0 (Simulated GPU): cuMemAddressFree: invalid argument") == 0);
}

// Memory that is released under a stream which still uses it.
static void work_that_fails_is_found(void)
{
    struct error error;
    struct stream *stream;
    struct event *event;
    struct device *device = open_gpu();
    device_address range = reserve(device, 2);
    EXPECT(device_cuda.stream_create(device, &stream) == STATUS_OK);
    EXPECT(device_cuda.event_create(device, &event) == STATUS_OK);
    EXPECT(device_cuda.commit(device, range, 2 * GRANULE) == STATUS_OK);
    device_cuda.fill_zero(device, stream, range, GRANULE);
    device_cuda.stream_synchronize(device, stream);
    EXPECT(device_cuda.check(device, NULL) == STATUS_OK);
    device_cuda.fill_zero(device, stream, range, GRANULE);
    device_cuda.event_record(device, event, stream);
    device_cuda.release(device, range, GRANULE);
    device_cuda.event_synchronize(device, event);
    EXPECT(device_cuda.check(device, &error) == STATUS_ERROR);
    EXPECT(strstr(error.text, "an illegal memory access was encountered") != NULL);
    EXPECT(device_cuda.event_done(device, event)); // nobody waits for ever
    struct device_info info = info_of(device);
    EXPECT(info.held_bytes == GRANULE && info.free_bytes == 0 && info.others_bytes == 0); // nothing is known
}

// A device on the second GPU, and what its calls take.
struct second {
    struct device *device;
    struct stream *stream;
    struct event *event;
    device_address range;
    char *host; // of staging memory
};

static void call_reserve(struct second *s)
{
    s->range = reserve(s->device, 1);
}

static void call_commit(struct second *s)
{
    EXPECT(device_cuda.commit(s->device, s->range, GRANULE) == STATUS_OK);
}

static void call_stream_create(struct second *s)
{
    EXPECT(device_cuda.stream_create(s->device, &s->stream) == STATUS_OK);
}

static void call_event_create(struct second *s)
{
    EXPECT(device_cuda.event_create(s->device, &s->event) == STATUS_OK);
}

static void call_copy_to_device(struct second *s)
{
    memcpy(s->host, "\1\2\3\4", 4);
    device_cuda.copy_to_device(s->device, s->stream, s->range, s->host, 4);
}

static void call_fill_zero(struct second *s)
{
    device_cuda.fill_zero(s->device, s->stream, s->range + 1, 2);
}

static void call_event_record(struct second *s)
{
    device_cuda.event_record(s->device, s->event, s->stream);
}

static void call_event_wait(struct second *s)
{
    device_cuda.event_wait(s->device, s->stream, s->event);
}

static void call_copy_to_host(struct second *s)
{
    device_cuda.copy_to_host(s->device, s->stream, s->host + 4, s->range, 4);
}

static void call_event_synchronize(struct second *s)
{
    device_cuda.event_synchronize(s->device, s->event);
}

static void call_event_done(struct second *s)
{
    EXPECT(device_cuda.event_done(s->device, s->event));
}

static void call_event_elapsed_ns(struct second *s)
{
    EXPECT(device_cuda.event_elapsed_ns(s->device, s->event, s->event) == 0);
}

static void call_stream_synchronize(struct second *s)
{
    device_cuda.stream_synchronize(s->device, s->stream);
    EXPECT(memcmp(s->host + 4, "\1\0\0\4", 4) == 0);
}

static void call_synchronize(struct second *s)
{
    device_cuda.synchronize(s->device);
}

static void call_info(struct second *s)
{
    EXPECT(info_of(s->device).held_bytes == GRANULE);
}

static void call_check(struct second *s)
{
    EXPECT(device_cuda.check(s->device, NULL) == STATUS_OK);
}

static void call_event_destroy(struct second *s)
{
    device_cuda.event_destroy(s->device, s->event);
}

static void call_stream_destroy(struct second *s)
{
    device_cuda.stream_destroy(s->device, s->stream);
}

static void call_release(struct second *s)
{
    device_cuda.release(s->device, s->range, GRANULE);
}

static void call_unreserve(struct second *s)
{
    device_cuda.unreserve(s->device, s->range, GRANULE);
}

static void (*const calls[])(struct second *) = {
    call_reserve,    call_commit,           call_stream_create,      call_event_create, call_copy_to_device,
    call_fill_zero,  call_event_record,     call_event_wait,         call_copy_to_host, call_event_synchronize,
    call_event_done, call_event_elapsed_ns, call_stream_synchronize, call_synchronize,  call_info,
    call_check,      call_event_destroy,    call_stream_destroy,     call_release,      call_unreserve,
};

struct job {
    void (*call)(struct second *);
    struct second *second;
};

static void *run_job(void *argument)
{
    const struct job *job = argument;
    job->call(job->second);
    return NULL;
}

// Else a process would take memory for a context on every GPU that one of its threads has touched. Each call is the
// first of its thread.
static void threads_leave_other_gpus_alone(void)
{
    const struct device_config config = {.index = 1, .capacity_bytes = 4096, .sharers = 1};
    struct nvml_usage usage;
    struct device *staging;
    device_address host;
    int current = 0;
    setenv("SIMULATOR_GPUS", "2", 1);
    struct second second = {.device = open_index(1)};
    EXPECT(device_pinned.create(&config, &staging, NULL) == STATUS_OK);
    EXPECT(device_pinned.reserve(staging, 4096, &host) == STATUS_OK);
    EXPECT(cudaGetDevice(&current) == cudaSuccess && current == 1);
    second.host = device_pinned.host_pointer(staging, host);
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        pthread_t thread;
        struct job job = {calls[i], &second};
        EXPECT(pthread_create(&thread, NULL, run_job, &job) == 0);
        EXPECT(pthread_join(thread, NULL) == 0);
        EXPECT(!nvml_usage("0000:01:00.0", (uint32_t)getpid(), &usage));
    }
    EXPECT(nvml_usage("0000:02:00.0", (uint32_t)getpid(), &usage));
    EXPECT(device_cuda.check(second.device, NULL) == STATUS_OK);
}

static void the_first_failure_stays(void)
{
    struct error error;
    struct device *device = open_gpu();
    device_cuda_note(device, cudaSuccess, "nothing");
    EXPECT(device_cuda.check(device, &error) == STATUS_OK);
    device_cuda_note(device, cudaErrorIllegalAddress, "the first");
    device_cuda_note_text(device, "the second", "too late");
    EXPECT(device_cuda.check(device, &error) == STATUS_ERROR);
    EXPECT(strstr(error.text, "GPU 0 (Simulated GPU): the first: an illegal memory access") != NULL);
    EXPECT(device_cuda.check(device, &error) == STATUS_ERROR);
    device_cuda.destroy(device);
}

static void a_refused_launch_is_found(void)
{
    struct error error;
    struct stream *stream;
    struct event *event;
    struct device *device = open_gpu();
    EXPECT(device_cuda.stream_create(device, &stream) == STATUS_OK);
    EXPECT(device_cuda.event_create(device, &event) == STATUS_OK);
    simulator_fail(cudaErrorInvalidConfiguration); // as a launch that is refused
    device_cuda.event_record(device, event, stream);
    while (!device_cuda.event_done(device, event)) {
    }
    EXPECT(device_cuda.check(device, &error) == STATUS_ERROR);
    EXPECT(strstr(error.text, "a kernel: ") != NULL);
}

static void libraries_and_others_are_told_apart(void)
{
    struct device_usage usage;
    device_address range;
    void *library = NULL;
    setenv("SIMULATOR_CONTEXT_BYTES", "3MiB", 1);
    struct device *device = open_gpu();
    EXPECT(device_cuda.reserve(device, GRANULE, &range) == STATUS_OK);
    EXPECT(device_cuda.commit(device, range, GRANULE) == STATUS_OK);
    EXPECT(cudaMalloc(&library, 2 * GRANULE) == cudaSuccess);
    EXPECT(device_cuda.usage(device, &usage));
    EXPECT(usage.library_bytes == (UINT64_C(3) << 20) + 2 * GRANULE);
    EXPECT(usage.other_processes == 0 && usage.others_bytes == 0);
}

// Holds three granules until it is killed.
static pid_t start_neighbour(void)
{
    int ends[2];
    char ready;
    EXPECT(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct device *device = open_gpu();
        device_address range = reserve(device, 3);
        EXPECT(device_cuda.commit(device, range, 3 * GRANULE) == STATUS_OK);
        EXPECT(write(ends[1], "r", 1) == 1);
        pause();
        _exit(0);
    }
    close(ends[1]);
    EXPECT(read(ends[0], &ready, 1) == 1);
    close(ends[0]);
    return child;
}

static void a_neighbour_is_seen(void)
{
    char name[64];
    struct device_usage usage;
    snprintf(name, sizeof(name), "test-neighbour-%d", (int)getpid());
    setenv("SIMULATOR_NAME", name, 1);
    setenv("SIMULATOR_GPU_BYTES", "32MiB", 1); // half of one is kept for code
    pid_t neighbour = start_neighbour();
    struct device *device = open_gpu();
    device_address range = reserve(device, 12);
    EXPECT(info_of(device).free_bytes == 12 * GRANULE - CONTEXT_BYTES / 2);
    EXPECT(device_cuda.commit(device, range, 12 * GRANULE) == STATUS_OUT_OF_MEMORY);
    EXPECT(device_cuda.commit(device, range, 11 * GRANULE) == STATUS_OK);
    EXPECT(info_of(device).others_bytes == 3 * GRANULE + 2 * CONTEXT_BYTES);
    EXPECT(device_cuda.usage(device, &usage));
    EXPECT(usage.other_processes == 1 && usage.others_bytes == 3 * GRANULE + CONTEXT_BYTES);
    EXPECT(usage.library_bytes == CONTEXT_BYTES);
    EXPECT(kill(neighbour, SIGKILL) == 0 && waitpid(neighbour, NULL, 0) == neighbour);
    EXPECT(device_cuda.usage(device, &usage) && usage.other_processes == 0 && usage.others_bytes == 0);
    EXPECT(device_cuda.commit(device, range + 11 * GRANULE, GRANULE) == STATUS_OK);
    device_cuda.destroy(device);
}

static void without_nvml_nobody_knows(void)
{
    struct device_usage usage;
    struct device_info info;
    setenv("SIMULATOR_CONTEXT_BYTES", "3MiB", 1);
    struct device *device = open_gpu();
    EXPECT(!device_cuda.usage(device, &usage));
    device_cuda.info(device, &info);
    EXPECT(info.others_bytes == UINT64_C(3) << 20);
}

static void pinned_memory_is_counted(void)
{
    struct error error;
    struct device_info info;
    struct device *device;
    device_address range;
    EXPECT(device_pinned.create(&(struct device_config){.capacity_bytes = 8192}, &device, &error) == STATUS_OK);
    EXPECT(device_pinned.reserve(device, 65536, &range) == STATUS_OK);
    EXPECT(device_pinned.commit(device, range, 8192) == STATUS_OK);
    EXPECT(device_pinned.commit(device, range + 8192, 4096) == STATUS_OUT_OF_MEMORY);
    device_pinned.release(device, range + 4096, 4096);
    EXPECT(device_pinned.commit(device, range + 8192, 4096) == STATUS_OK);
    device_pinned.info(device, &info);
    EXPECT(info.held_bytes == 8192 && info.free_bytes == 0 && info.capacity_bytes == 8192);
    memset(device_pinned.host_pointer(device, range), 1, 8192);
    device_pinned.unreserve(device, range, 65536);
    EXPECT(device_pinned.check(device, &error) == STATUS_OK);
    EXPECT(device_pinned.reserve(device, 4096, &range) == STATUS_OK);
    device_pinned.destroy(device);
    EXPECT(cudaFreeHost((void *)(uintptr_t)range) == cudaErrorInvalidValue); // has been returned
}

static void (*const bodies[])(void) = {
    no_driver,
    old_driver,
    no_gpu,
    hidden_gpus,
    too_few_gpus,
    each_gpu_has_its_own_location,
    what_is_committed_is_not_free,
    a_full_gpu_changes_nothing,
    what_cannot_be_mapped_changes_nothing,
    destroy_returns_what_is_left,
    a_plain_gpu_gives_whole_ranges,
    a_wrong_call_is_named,
    work_that_fails_is_found,
    threads_leave_other_gpus_alone,
    the_first_failure_stays,
    a_refused_launch_is_found,
    libraries_and_others_are_told_apart,
    a_neighbour_is_seen,
    pinned_memory_is_counted,
};

static void every_body_ends_well(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        in_child(bodies[i]);
    }
}

// What LD_LIBRARY_PATH says is read when a program starts.
static void nvml_is_not_there(void **state)
{
    (void)state;
    char command[4096];
    ssize_t length = readlink("/proc/self/exe", command + 1, sizeof(command) - 64);
    assert_true(length > 0);
    command[0] = '\'';
    snprintf(command + 1 + length, 64, "' without-nvml");
    unsetenv("LD_LIBRARY_PATH");
    assert_int_equal(system(command), 0);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "without-nvml") == 0) {
        without_nvml_nobody_knows();
        _exit(0);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_body_ends_well),
        cmocka_unit_test(nvml_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
