// SPDX-License-Identifier: Apache-2.0
#include "mem/nvml.h"

#include <dlfcn.h>
#include <string.h>

#define PROCESSES_MAX 256
#define NOT_AVAILABLE UINT64_MAX

struct process {
    unsigned pid;
    unsigned long long used_bytes; // or NOT_AVAILABLE
    unsigned gpu_instance, compute_instance;
};

struct library {
    int (*init)(void);
    int (*shutdown)(void);
    int (*find)(const char *bus_id, void **device_p);
    int (*processes)(void *device, unsigned *count, struct process *processes);
};

static bool find(void *handle, const char *symbol, void *function_p)
{
    void *function = dlsym(handle, symbol);
    memcpy(function_p, &function, sizeof(function));
    return function != NULL;
}

static bool find_library(void *handle, struct library *library)
{
    return find(handle, "nvmlInit_v2", &library->init) && find(handle, "nvmlShutdown", &library->shutdown) &&
           find(handle, "nvmlDeviceGetHandleByPciBusId_v2", &library->find) &&
           find(handle, "nvmlDeviceGetComputeRunningProcesses_v3", &library->processes);
}

static bool add_up(const struct process *processes, unsigned count, uint32_t process, struct nvml_usage *usage_p)
{
    bool known = false;
    *usage_p = (struct nvml_usage){0};
    for (unsigned i = 0; i < count; i++) {
        if (processes[i].used_bytes == NOT_AVAILABLE) {
            return false;
        }
        if (processes[i].pid == process) {
            usage_p->own_bytes = processes[i].used_bytes;
            known = true;
        } else {
            usage_p->others_bytes += processes[i].used_bytes;
            usage_p->other_processes++;
        }
    }
    return known;
}

static bool ask(const struct library *library, const char *bus_id, uint32_t process, struct nvml_usage *usage_p)
{
    struct process processes[PROCESSES_MAX];
    unsigned count = PROCESSES_MAX;
    void *device;
    return library->find(bus_id, &device) == 0 && library->processes(device, &count, processes) == 0 &&
           add_up(processes, count, process, usage_p);
}

bool nvml_usage(const char *bus_id, uint32_t process, struct nvml_usage *usage_p)
{
    struct library library;
    void *handle = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    bool known = false;
    if (handle != NULL && find_library(handle, &library) && library.init() == 0) {
        known = ask(&library, bus_id, process, usage_p);
        library.shutdown();
    }
    if (handle != NULL) {
        dlclose(handle);
    }
    return known;
}
