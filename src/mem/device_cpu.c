// SPDX-License-Identifier: Apache-2.0
//
// The CPU as a device: memory comes from mmap, a ledger keeps to the capacity, and streams run work at once in the
// calling thread, so an event is done when it is recorded.
#include "mem/device_cpu.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mem/clock.h"
#include "mem/ledger.h"

#define GRANULARITY UINT64_C(65536)

struct device_on_cpu {
    struct device base;
    struct ledger *ledger;
    uint64_t fault_bit; // set in every address that is handed out
};

struct stream {
    char unused; // streams are told apart by their addresses
};

struct event {
    uint64_t recorded_ns;
};

static struct device_on_cpu *on_cpu(struct device *device)
{
    return (struct device_on_cpu *)device;
}

// The first number after `key` in a file, or the file's first with an empty key; `otherwise` where there is none ("max"
// is none).
static uint64_t read_number(const char *folder, const char *name, const char *key, uint64_t otherwise)
{
    char path[2048], line[256];
    uint64_t number = otherwise;
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return otherwise;
    }
    while (fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), "%" SCNu64, &number) == 1) {
            break;
        }
    }
    fclose(file);
    return number;
}

// The names of a control group's files in one version of their interface.
struct cgroup_files {
    const char *root, *limit, *usage, *cache_key;
};

static const struct cgroup_files cgroup_1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                             "total_inactive_file "};
static const struct cgroup_files cgroup_2 = {"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "};

// What the group may still take. The cache of files that nobody uses counts as free: the kernel drops it first.
static uint64_t cgroup_free(const struct cgroup_files *files, const char *folder)
{
    uint64_t limit = read_number(folder, files->limit, "", UINT64_MAX);
    uint64_t usage = read_number(folder, files->usage, "", 0);
    uint64_t cache = read_number(folder, "memory.stat", files->cache_key, 0);
    uint64_t used = usage > cache ? usage - cache : 0;
    return limit > used ? limit - used : 0;
}

// The least of a group and those above it. Cuts `group` short.
static uint64_t cgroups_free(const struct cgroup_files *files, char *group)
{
    uint64_t least = UINT64_MAX;
    for (;;) {
        char folder[1536];
        snprintf(folder, sizeof(folder), "%s%s", files->root, group);
        uint64_t bytes = cgroup_free(files, folder);
        least = bytes < least ? bytes : least;
        char *slash = strrchr(group, '/');
        if (slash == NULL) {
            return least;
        }
        *slash = '\0';
    }
}

// Of this process. Each line is "ID:CONTROLLERS:GROUP"; version 2 has the id 0 and names no controllers.
static uint64_t own_cgroups_free(void)
{
    char line[1024];
    uint64_t least = UINT64_MAX;
    FILE *file = fopen("/proc/self/cgroup", "r");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *group = strstr(line, ":memory:");
        uint64_t bytes = UINT64_MAX;
        if (strncmp(line, "0::", 3) == 0) {
            bytes = cgroups_free(&cgroup_2, line + strlen("0::"));
        } else if (group != NULL) {
            bytes = cgroups_free(&cgroup_1, group + strlen(":memory:"));
        }
        least = bytes < least ? bytes : least;
    }
    if (file != NULL) {
        fclose(file);
    }
    return least;
}

// Of what is free now, the device gets all but an eighth: the program, its data and its libraries live there too.
static uint64_t machine_capacity(void)
{
    uint64_t least = own_cgroups_free(), available = read_number("/proc", "meminfo", "MemAvailable:", 0) * 1024;
    least = available < least ? available : least;
    return least - least / 8;
}

static enum status check_capacity(struct device_on_cpu *device, const struct device_config *config, struct error *error)
{
    struct device_info info;
    ledger_info(device->ledger, &info);
    if (info.capacity_bytes == config->capacity_bytes) {
        return STATUS_OK;
    }
    return error_set(error, STATUS_INVALID,
                     "device %s: its capacity is %" PRIu64 " bytes, as its first process said, not %" PRIu64 " bytes",
                     config->name, info.capacity_bytes, config->capacity_bytes);
}

static uint32_t count(struct error *error)
{
    (void)error;
    return 1;
}

static void locate(uint32_t index, struct device_location *location_p)
{
    (void)index;
    *location_p = (struct device_location){.id = "cpu"};
}

static enum status create(const struct device_config *config, struct device **device_p, struct error *error)
{
    struct device_on_cpu *device = calloc(1, sizeof(*device));
    if (device == NULL) {
        return error_out_of_host_memory(error);
    }
    device->base = (struct device){.ops = &device_cpu, .plain = config->plain};
    device->fault_bit = config->faulting_addresses ? DEVICE_CPU_FAULT_BIT : 0;
    uint64_t capacity = config->capacity_bytes > 0 ? config->capacity_bytes : machine_capacity();
    enum status status = ledger_attach(config->name, capacity, &device->ledger, error);
    if (status == STATUS_OK && config->capacity_bytes > 0) {
        status = check_capacity(device, config, error);
    }
    if (status != STATUS_OK) {
        ledger_detach(device->ledger);
        free(device);
        return status;
    }
    *device_p = &device->base;
    return STATUS_OK;
}

static void destroy(struct device *device)
{
    if (device != NULL) {
        ledger_detach(on_cpu(device)->ledger);
        free(device);
    }
}

static const char *description(struct device *device)
{
    (void)device;
    return "CPU";
}

static void forget_name(struct device *device)
{
    ledger_forget_name(on_cpu(device)->ledger);
}

static enum status reserve(struct device *device, uint64_t bytes, device_address *address_p)
{
    void *range = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) {
        return STATUS_OUT_OF_MEMORY;
    }
    *address_p = (uint64_t)(uintptr_t)range | on_cpu(device)->fault_bit;
    return STATUS_OK;
}

static void unreserve(struct device *device, device_address address, uint64_t bytes)
{
    (void)device;
    munmap(device_cpu_pointer(address), bytes);
}

static enum status commit(struct device *device, device_address address, uint64_t bytes)
{
    assert(bytes % GRANULARITY == 0);
    if (!ledger_take(on_cpu(device)->ledger, bytes)) {
        return STATUS_OUT_OF_MEMORY;
    }
    if (mprotect(device_cpu_pointer(address), bytes, PROT_READ | PROT_WRITE) != 0) {
        ledger_give(on_cpu(device)->ledger, bytes);
        return STATUS_OUT_OF_MEMORY;
    }
    return STATUS_OK;
}

// Memory without access: a use after the release faults.
static void release(struct device *device, device_address address, uint64_t bytes)
{
    void *memory = device_cpu_pointer(address);
    assert(bytes % GRANULARITY == 0);
    madvise(memory, bytes, MADV_DONTNEED);
    mprotect(memory, bytes, PROT_NONE);
    ledger_give(on_cpu(device)->ledger, bytes);
}

static void info(struct device *device, struct device_info *info_p)
{
    ledger_info(on_cpu(device)->ledger, info_p);
}

static void *host_pointer(struct device *device, device_address address)
{
    return on_cpu(device)->fault_bit != 0 ? NULL : device_cpu_pointer(address);
}

static enum status stream_create(struct device *device, struct stream **stream_p)
{
    (void)device;
    *stream_p = calloc(1, sizeof(**stream_p));
    return *stream_p == NULL ? STATUS_ERROR : STATUS_OK;
}

static void stream_destroy(struct device *device, struct stream *stream)
{
    (void)device;
    free(stream);
}

static void stream_synchronize(struct device *device, struct stream *stream)
{
    (void)device, (void)stream;
}

static enum status event_create(struct device *device, struct event **event_p)
{
    (void)device;
    *event_p = calloc(1, sizeof(**event_p));
    return *event_p == NULL ? STATUS_ERROR : STATUS_OK;
}

static void event_destroy(struct device *device, struct event *event)
{
    (void)device;
    free(event);
}

static void event_record(struct device *device, struct event *event, struct stream *stream)
{
    (void)device, (void)stream;
    event->recorded_ns = clock_ns();
}

static void event_wait(struct device *device, struct stream *stream, struct event *event)
{
    (void)device, (void)stream, (void)event;
}

static bool event_done(struct device *device, struct event *event)
{
    (void)device, (void)event;
    return true;
}

static void event_synchronize(struct device *device, struct event *event)
{
    (void)device, (void)event;
}

static uint64_t event_elapsed_ns(struct device *device, struct event *from, struct event *to)
{
    (void)device;
    return to->recorded_ns - from->recorded_ns;
}

static void synchronize(struct device *device)
{
    (void)device;
}

static enum status check(struct device *device, struct error *error)
{
    (void)device, (void)error;
    return STATUS_OK;
}

static void copy_to_device(struct device *device, struct stream *stream, device_address to, const void *from,
                           uint64_t bytes)
{
    (void)device, (void)stream;
    memcpy(device_cpu_pointer(to), from, bytes);
}

static void copy_to_host(struct device *device, struct stream *stream, void *to, device_address from, uint64_t bytes)
{
    (void)device, (void)stream;
    memcpy(to, device_cpu_pointer(from), bytes);
}

static void fill_zero(struct device *device, struct stream *stream, device_address to, uint64_t bytes)
{
    (void)device, (void)stream;
    memset(device_cpu_pointer(to), 0, bytes);
}

void device_cpu_set_neighbour(struct device *device, uint64_t bytes)
{
    ledger_set_neighbour(on_cpu(device)->ledger, bytes);
}

const struct device_ops device_cpu = {
    .name = "cpu",
    .granularity_bytes = GRANULARITY,
    .staging = &device_cpu,
    .count = count,
    .locate = locate,
    .create = create,
    .destroy = destroy,
    .description = description,
    .forget_name = forget_name,
    .reserve = reserve,
    .unreserve = unreserve,
    .commit = commit,
    .release = release,
    .info = info,
    .host_pointer = host_pointer,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_synchronize = stream_synchronize,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_wait = event_wait,
    .event_done = event_done,
    .event_synchronize = event_synchronize,
    .event_elapsed_ns = event_elapsed_ns,
    .synchronize = synchronize,
    .check = check,
    .copy_to_device = copy_to_device,
    .copy_to_host = copy_to_host,
    .fill_zero = fill_zero,
};
