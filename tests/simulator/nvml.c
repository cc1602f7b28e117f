// SPDX-License-Identifier: Apache-2.0
//
// libnvidia-ml.so.1 for simulated GPUs: what each holds and which processes hold it, read from the ledgers that the
// processes share. NVML's header is not part of the toolkit; the types follow its documentation.
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/ledger.h"

enum nvml_return {
    NVML_SUCCESS = 0,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_UNKNOWN = 999,
};

struct nvml_memory {
    unsigned long long total, free, used;
};

struct nvml_process {
    unsigned pid;
    unsigned long long used_bytes;
    unsigned gpu_instance, compute_instance;
};

// A device's handle: its number among the machine's GPUs, plus one.
typedef uintptr_t nvml_device;

#define GPUS_MAX    16
#define PREFIX      "headroom-"
#define NO_INSTANCE 0xffffffffU

static unsigned gpus(void)
{
    const char *text = getenv("SIMULATOR_GPUS");
    unsigned long count = text == NULL ? 1 : strtoul(text, NULL, 10);
    return (unsigned)(count < GPUS_MAX ? count : GPUS_MAX);
}

// As memory.cc names it.
static void ledger_name_of(nvml_device device, char name[LEDGER_NAME_MAX])
{
    const char *machine = getenv("SIMULATOR_NAME");
    if (machine != NULL) {
        snprintf(name, LEDGER_NAME_MAX, "simulator-%s-%u", machine, (unsigned)device - 1);
    } else {
        snprintf(name, LEDGER_NAME_MAX, "simulator-private-%d-%u", (int)getpid(), (unsigned)device - 1);
    }
}

static bool read_ledger(const char *name, uint64_t capacity, struct device_info *info_p)
{
    struct ledger *ledger = NULL;
    if (ledger_attach(name, capacity, &ledger, NULL) != STATUS_OK) {
        return false;
    }
    ledger_info(ledger, info_p);
    ledger_detach(ledger);
    return true;
}

int nvmlInit_v2(void)
{
    return getenv("SIMULATOR_DRIVER") != NULL ? NVML_ERROR_DRIVER_NOT_LOADED : NVML_SUCCESS;
}

int nvmlShutdown(void)
{
    return NVML_SUCCESS;
}

const char *nvmlErrorString(int result)
{
    return result == NVML_SUCCESS ? "Success" : "Unknown Error";
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvml_device *device_p)
{
    unsigned domain = 0, bus = 0;
    if (bus_id == NULL || device_p == NULL || sscanf(bus_id, "%x:%x:", &domain, &bus) != 2) {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    if (domain != 0 || bus < 1 || bus > gpus()) {
        return NVML_ERROR_NOT_FOUND;
    }
    *device_p = bus;
    return NVML_SUCCESS;
}

// "64MiB" and the like, as the runtime reads it.
static uint64_t capacity(void)
{
    const char *text = getenv("SIMULATOR_GPU_BYTES");
    if (text == NULL) {
        return UINT64_C(256) << 20;
    }
    char *end = NULL;
    uint64_t bytes = strtoull(text, &end, 10);
    return bytes << (*end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0);
}

int nvmlDeviceGetMemoryInfo(nvml_device device, struct nvml_memory *memory_p)
{
    char name[LEDGER_NAME_MAX];
    struct device_info info;
    ledger_name_of(device, name);
    if (!read_ledger(name, capacity(), &info)) {
        return NVML_ERROR_UNKNOWN;
    }
    *memory_p = (struct nvml_memory){info.capacity_bytes, info.free_bytes, info.capacity_bytes - info.free_bytes};
    return NVML_SUCCESS;
}

// The process that keeps the ledger of that name, if it is one of the device's and the process lives.
static bool read_process(const char *object, const char *device_name, struct nvml_process *process_p)
{
    char prefix[LEDGER_NAME_MAX + 32];
    int length = snprintf(prefix, sizeof(prefix), PREFIX "%s-pid-", device_name);
    struct device_info info;
    if (strncmp(object, prefix, (size_t)length) != 0 || !read_ledger(object + strlen(PREFIX), 0, &info) ||
        info.sharers < 2) {
        return false;
    }
    *process_p = (struct nvml_process){(unsigned)strtoul(object + length, NULL, 10), info.others_bytes, NO_INSTANCE,
                                       NO_INSTANCE};
    return true;
}

// Writes as many as there is room for; answers how many there are.
static unsigned read_processes(nvml_device device, struct nvml_process *processes, unsigned room)
{
    char name[LEDGER_NAME_MAX];
    unsigned count = 0;
    ledger_name_of(device, name);
    DIR *folder = opendir("/dev/shm");
    if (folder == NULL) {
        return 0;
    }
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        struct nvml_process process;
        if (read_process(entry->d_name, name, &process)) {
            if (count < room) {
                processes[count] = process;
            }
            count++;
        }
    }
    closedir(folder);
    return count;
}

int nvmlDeviceGetComputeRunningProcesses_v3(nvml_device device, unsigned *count_p, struct nvml_process *processes)
{
    unsigned room = processes == NULL ? 0 : *count_p;
    *count_p = read_processes(device, processes, room);
    return *count_p > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}
