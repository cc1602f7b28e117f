// SPDX-License-Identifier: Apache-2.0
//
// Memory of simulated GPUs. Device memory is the process's own memory at the very address that kernels use, but closed
// to the host except while work runs. Its bytes are booked in a ledger that processes share.
#include <cuda.h>
#include <map>
#include <set>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "state.h"

extern "C" {
#include "mem/ledger.h"
}

#define PAGE UINT64_C(4096)

// One GPU as this process sees it.
struct gpu {
    struct ledger *all; // what is taken of the GPU; NULL before the context
    struct ledger *own; // this process's part of it, by its number, for NVML
    std::set<uint64_t> loaded;
};

// What cuMemCreate made. Its bytes are given back once it is released and no longer mapped.
struct physical_memory {
    int gpu;
    uint64_t bytes;
    bool released;
    bool mapped;
};

// Accessible or mapped device memory.
struct range {
    uint64_t bytes;
    bool accessible;
    struct physical_memory *physical; // NULL: cudaMalloc's
    int gpu;
    uintptr_t user; // what cudaMalloc answered
};

struct pinned {
    uint64_t bytes;
    bool registered; // by cudaHostRegister
};

struct memory {
    struct gpu gpus[SIMULATOR_GPUS_MAX];
    std::map<uintptr_t, struct range> ranges;
    std::map<uintptr_t, uint64_t> reservations;
    std::map<uintptr_t, struct pinned> pinned;
    bool open;
};

// Never destroyed: the poller may outlive main.
static struct memory *memory()
{
    static struct memory *memory = new struct memory();
    return memory;
}

static uint64_t round_up(uint64_t bytes, uint64_t multiple)
{
    return (bytes + multiple - 1) / multiple * multiple;
}

// ---- GPUs and what is taken of them ----

static std::vector<int> visible_gpus()
{
    uint64_t count = std::min(simulator_setting("SIMULATOR_GPUS", 1), static_cast<uint64_t>(SIMULATOR_GPUS_MAX));
    std::vector<int> visible;
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    if (list == nullptr) {
        for (uint64_t i = 0; i < count; i++) {
            visible.push_back(static_cast<int>(i));
        }
        return visible;
    }
    for (char *end = nullptr; *list != '\0'; list = *end == ',' ? end + 1 : end) {
        long index = strtol(list, &end, 10);
        if (end == list || index < 0 || static_cast<uint64_t>(index) >= count) {
            break; // as CUDA does, what follows a GPU that does not exist is not seen
        }
        visible.push_back(static_cast<int>(index));
    }
    return visible;
}

int memory_gpus()
{
    return static_cast<int>(visible_gpus().size());
}

int memory_physical_gpu(int gpu)
{
    return visible_gpus()[static_cast<size_t>(gpu)];
}

static std::string ledger_name(int gpu)
{
    const char *name = getenv("SIMULATOR_NAME");
    std::string machine = name != nullptr ? name : "private-" + std::to_string(getpid());
    return "simulator-" + machine + "-" + std::to_string(memory_physical_gpu(gpu));
}

static struct ledger *attach(const std::string &name, uint64_t capacity)
{
    struct ledger *ledger = nullptr;
    struct error error;
    if (ledger_attach(name.c_str(), capacity, &ledger, &error) != STATUS_OK) {
        fprintf(stderr, "simulator: %s\n", error.text);
        return nullptr;
    }
    return ledger;
}

static void leave()
{
    std::lock_guard<std::mutex> guard(simulator_mutex);
    for (struct gpu &gpu : memory()->gpus) {
        ledger_detach(gpu.own);
        ledger_detach(gpu.all);
        gpu = {};
    }
}

cudaError_t memory_make_context(int index)
{
    struct gpu *gpu = &memory()->gpus[index];
    if (gpu->all != nullptr) {
        return cudaSuccess;
    }
    std::string name = ledger_name(index);
    struct ledger *all = attach(name, simulator_setting("SIMULATOR_GPU_BYTES", UINT64_C(256) << 20));
    struct ledger *own = attach(name + "-pid-" + std::to_string(getpid()), UINT64_MAX);
    if (all == nullptr || own == nullptr) {
        ledger_detach(own);
        ledger_detach(all);
        return cudaErrorInitializationError;
    }
    *gpu = {all, own, {}};
    if (!memory_take(index, simulator_setting("SIMULATOR_CONTEXT_BYTES", UINT64_C(1) << 20))) {
        ledger_detach(own);
        ledger_detach(all);
        *gpu = {};
        return cudaErrorMemoryAllocation;
    }
    static bool leaves = atexit(leave) == 0;
    return leaves ? cudaSuccess : cudaErrorInitializationError;
}

bool memory_take(int gpu, uint64_t bytes)
{
    return ledger_take(memory()->gpus[gpu].all, bytes) && ledger_take(memory()->gpus[gpu].own, bytes);
}

void memory_give(int gpu, uint64_t bytes)
{
    ledger_give(memory()->gpus[gpu].own, bytes);
    ledger_give(memory()->gpus[gpu].all, bytes);
}

bool simulator_load(uint64_t code)
{
    return simulator_call(SIMULATOR_CONTEXT, [code] {
               int gpu = simulator_current_gpu();
               std::set<uint64_t> *loaded = &memory()->gpus[gpu].loaded;
               if (loaded->count(code) == 0 && !memory_take(gpu, simulator_setting("SIMULATOR_CODE_BYTES", 65536))) {
                   return cudaErrorMemoryAllocation;
               }
               loaded->insert(code);
               return cudaSuccess;
           }) == cudaSuccess;
}

void memory_info(int gpu, uint64_t *free_p, uint64_t *total_p)
{
    struct device_info info;
    ledger_info(memory()->gpus[gpu].all, &info);
    *free_p = info.free_bytes;
    *total_p = info.capacity_bytes;
}

void simulator_gpu_identity(char *buffer, size_t size)
{
    snprintf(buffer, size, "%s", ledger_name(simulator_current_gpu()).c_str());
}

// ---- The host's access ----

static bool host_is_kept_out()
{
    static const bool kept_out = simulator_setting("SIMULATOR_HOST_ACCESS", 0) == 0;
    return kept_out;
}

static void protect(uintptr_t address, uint64_t bytes, int protection)
{
    if (mprotect(reinterpret_cast<void *>(address), bytes, protection) != 0) {
        perror("simulator: mprotect");
        abort();
    }
}

static int closed_protection()
{
    return host_is_kept_out() ? PROT_NONE : PROT_READ | PROT_WRITE;
}

// Ranges that touch are one call.
static void protect_all(int protection)
{
    uintptr_t start = 0, end = 0;
    for (const auto &[address, range] : memory()->ranges) {
        if (!range.accessible) {
            continue;
        }
        if (address != end) {
            if (start != 0) {
                protect(start, end - start, protection);
            }
            start = address;
        }
        end = address + range.bytes;
    }
    if (start != 0) {
        protect(start, end - start, protection);
    }
}

void memory_open()
{
    if (!memory()->open && host_is_kept_out()) {
        protect_all(PROT_READ | PROT_WRITE);
    }
    memory()->open = true;
}

void memory_close()
{
    if (memory()->open && host_is_kept_out()) {
        protect_all(PROT_NONE);
    }
    memory()->open = false;
}

// Fresh memory at an address, with contents that make a sum not a number.
static bool back_with_memory(uintptr_t address, uint64_t bytes)
{
    void *at = mmap(reinterpret_cast<void *>(address), bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (at == MAP_FAILED) {
        return false;
    }
    madvise(at, bytes, MADV_HUGEPAGE); // makes opening and closing cheap
    memset(at, 0xff, bytes);
    return true;
}

static void take_memory_away(uintptr_t address, uint64_t bytes)
{
    mmap(reinterpret_cast<void *>(address), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
         -1, 0);
}

// A range of addresses that are a multiple of the granularity; 0 where there is none.
static uintptr_t reserve_addresses(uint64_t bytes)
{
    uint64_t room = bytes + SIMULATOR_GRANULARITY;
    void *at = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        return 0;
    }
    uintptr_t start = reinterpret_cast<uintptr_t>(at), aligned = round_up(start, SIMULATOR_GRANULARITY);
    if (aligned > start) {
        munmap(at, aligned - start);
    }
    if (aligned + bytes < start + room) {
        munmap(reinterpret_cast<void *>(aligned + bytes), start + room - aligned - bytes);
    }
    return aligned;
}

// ---- What an address is ----

template <typename Value> static auto covering(std::map<uintptr_t, Value> &map, uintptr_t address)
{
    auto next = map.upper_bound(address);
    return next == map.begin() ? map.end() : std::prev(next);
}

bool memory_is_device(const void *pointer, size_t bytes)
{
    uintptr_t address = reinterpret_cast<uintptr_t>(pointer), end = address + bytes;
    auto at = covering(memory()->ranges, address);
    while (at != memory()->ranges.end() && at->first <= address && at->second.accessible &&
           address < at->first + at->second.bytes) {
        address = at->first + at->second.bytes;
        if (address >= end) {
            return true;
        }
        ++at;
    }
    return false;
}

bool memory_touches_device(const void *pointer)
{
    uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
    auto range = covering(memory()->ranges, address);
    auto reserved = covering(memory()->reservations, address);
    return (range != memory()->ranges.end() && address - range->first < range->second.bytes) ||
           (reserved != memory()->reservations.end() && address - reserved->first < reserved->second);
}

bool memory_is_pinned(const void *pointer, size_t bytes)
{
    uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
    auto at = covering(memory()->pinned, address);
    return at != memory()->pinned.end() && address - at->first < at->second.bytes &&
           bytes <= at->second.bytes - (address - at->first);
}

bool simulator_is_device_memory(const void *address, size_t bytes)
{
    std::lock_guard<std::mutex> guard(simulator_mutex);
    return memory_is_device(address, bytes);
}

// ---- cudaMalloc ----

// The end touches a page that nobody may use, so that the first byte beyond an array faults.
cudaError_t cudaMalloc(void **pointer_p, size_t bytes)
{
    simulator_count_device_calls++;
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        if (pointer_p == nullptr) {
            return cudaErrorInvalidValue;
        }
        *pointer_p = nullptr;
        if (bytes == 0) {
            return cudaSuccess;
        }
        int gpu = simulator_current_gpu();
        uint64_t used = round_up(bytes, 256), mapped = round_up(used, PAGE);
        uint64_t taken = round_up(bytes, SIMULATOR_GRANULARITY);
        if (!memory_take(gpu, taken)) {
            return cudaErrorMemoryAllocation;
        }
        uintptr_t base = reserve_addresses(mapped + PAGE);
        if (base == 0 || !back_with_memory(base, mapped)) {
            memory_give(gpu, taken);
            return cudaErrorMemoryAllocation;
        }
        protect(base, mapped, closed_protection());
        uintptr_t user = base + (mapped - used);
        memory()->ranges[base] = {mapped, true, nullptr, gpu, user};
        *pointer_p = reinterpret_cast<void *>(user);
        return cudaSuccess;
    });
}

cudaError_t cudaFree(void *pointer)
{
    if (pointer != nullptr) {
        simulator_count_device_calls++;
        simulator_count_host_synchronizations++;
    }
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        if (pointer == nullptr) {
            return cudaSuccess;
        }
        auto at = covering(memory()->ranges, reinterpret_cast<uintptr_t>(pointer));
        if (at == memory()->ranges.end() || at->second.physical != nullptr ||
            at->second.user != reinterpret_cast<uintptr_t>(pointer)) {
            return cudaErrorInvalidValue;
        }
        streams_drain_gpu(at->second.gpu);
        uint64_t bytes = at->second.bytes;
        memory_give(at->second.gpu,
                    round_up(bytes - (at->second.user - at->first), SIMULATOR_GRANULARITY)); // as cudaMalloc took
        munmap(reinterpret_cast<void *>(at->first), bytes + PAGE);
        memory()->ranges.erase(at);
        return simulator_ready(SIMULATOR_DRIVER);
    });
}

cudaError_t cudaMemGetInfo(size_t *free_p, size_t *total_p)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        memory_info(simulator_current_gpu(), free_p, total_p);
        return cudaSuccess;
    });
}

// ---- Pinned host memory ----

cudaError_t cudaHostAlloc(void **pointer_p, size_t bytes, unsigned)
{
    simulator_count_host_synchronizations++;
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        void *at = mmap(nullptr, round_up(bytes, PAGE), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) {
            return cudaErrorMemoryAllocation;
        }
        memory()->pinned[reinterpret_cast<uintptr_t>(at)] = {bytes, false};
        *pointer_p = at;
        return cudaSuccess;
    });
}

cudaError_t cudaMallocHost(void **pointer_p, size_t bytes)
{
    return cudaHostAlloc(pointer_p, bytes, cudaHostAllocDefault);
}

static cudaError_t unpin(void *pointer, bool registered)
{
    auto at = memory()->pinned.find(reinterpret_cast<uintptr_t>(pointer));
    if (at == memory()->pinned.end() || at->second.registered != registered) {
        return registered ? cudaErrorHostMemoryNotRegistered : cudaErrorInvalidValue;
    }
    if (!registered) {
        munmap(pointer, round_up(at->second.bytes, PAGE));
    }
    memory()->pinned.erase(at);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *pointer)
{
    simulator_count_host_synchronizations += pointer != nullptr;
    return simulator_call(SIMULATOR_CONTEXT, [&] { return pointer == nullptr ? cudaSuccess : unpin(pointer, false); });
}

cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned)
{
    simulator_count_host_synchronizations++;
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        if (pointer == nullptr || bytes == 0) {
            return cudaErrorInvalidValue;
        }
        uintptr_t start = reinterpret_cast<uintptr_t>(pointer);
        auto at = covering(memory()->pinned, start + bytes - 1);
        if (at != memory()->pinned.end() && at->first + at->second.bytes > start) {
            return cudaErrorHostMemoryAlreadyRegistered;
        }
        memory()->pinned[start] = {bytes, true};
        return cudaSuccess;
    });
}

cudaError_t cudaHostUnregister(void *pointer)
{
    simulator_count_host_synchronizations++;
    return simulator_call(SIMULATOR_CONTEXT, [&] { return unpin(pointer, true); });
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer)
{
    return simulator_call(SIMULATOR_DRIVER, [&] {
        *attributes = {};
        void *address = const_cast<void *>(pointer);
        if (memory_is_device(pointer, 1)) {
            attributes->type = cudaMemoryTypeDevice;
            attributes->device = covering(memory()->ranges, reinterpret_cast<uintptr_t>(pointer))->second.gpu;
            attributes->devicePointer = address;
        } else if (memory_is_pinned(pointer, 1)) {
            attributes->type = cudaMemoryTypeHost;
            attributes->devicePointer = attributes->hostPointer = address;
        } else {
            attributes->hostPointer = address;
        }
        return cudaSuccess;
    });
}

// ---- The driver's virtual memory ----

template <typename Body> static CUresult driver_call(Body body)
{
    std::lock_guard<std::mutex> guard(simulator_mutex);
    cudaError_t error = simulator_ready(SIMULATOR_DRIVER);
    return error != cudaSuccess ? static_cast<CUresult>(error) : body();
}

static bool is_gpu_with_context(const CUmemLocation *location)
{
    return location->type == CU_MEM_LOCATION_TYPE_DEVICE && location->id >= 0 && location->id < memory_gpus() &&
           memory()->gpus[location->id].all != nullptr;
}

static bool is_multiple(uint64_t bytes)
{
    return bytes > 0 && bytes % SIMULATOR_GRANULARITY == 0;
}

static void forget_physical(struct physical_memory *physical)
{
    if (physical->released && !physical->mapped) {
        memory_give(physical->gpu, physical->bytes);
        delete physical;
    }
}

// Whether mappings cover [address, address + bytes) exactly, none cut.
static bool covered_by_whole_mappings(uintptr_t address, uint64_t bytes)
{
    uintptr_t end = address + bytes;
    auto at = memory()->ranges.find(address);
    while (address < end) {
        if (at == memory()->ranges.end() || at->first != address || at->second.physical == nullptr) {
            return false;
        }
        address += at->second.bytes;
        ++at;
    }
    return address == end;
}

static bool inside_a_reservation(uintptr_t address, uint64_t bytes)
{
    auto at = covering(memory()->reservations, address);
    return at != memory()->reservations.end() && address - at->first < at->second &&
           bytes <= at->second - (address - at->first);
}

static bool any_mapping_in(uintptr_t address, uint64_t bytes)
{
    auto at = covering(memory()->ranges, address + bytes - 1);
    return at != memory()->ranges.end() && at->first + at->second.bytes > address;
}

CUresult cuMemGetAllocationGranularity(size_t *bytes_p, const CUmemAllocationProp *properties,
                                       CUmemAllocationGranularity_flags)
{
    return driver_call([&] {
        if (properties->type != CU_MEM_ALLOCATION_TYPE_PINNED || !is_gpu_with_context(&properties->location)) {
            return CUDA_ERROR_INVALID_VALUE;
        }
        if (simulator_setting("SIMULATOR_PLAIN", 0) != 0) {
            return CUDA_ERROR_NOT_SUPPORTED;
        }
        *bytes_p = SIMULATOR_GRANULARITY;
        return CUDA_SUCCESS;
    });
}

CUresult cuMemAddressReserve(CUdeviceptr *address_p, size_t bytes, size_t alignment, CUdeviceptr, unsigned long long)
{
    return driver_call([&] {
        if (!is_multiple(bytes) || alignment > SIMULATOR_GRANULARITY) {
            return CUDA_ERROR_INVALID_VALUE;
        }
        uintptr_t address = reserve_addresses(bytes);
        if (address == 0) {
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        memory()->reservations[address] = bytes;
        *address_p = address;
        return CUDA_SUCCESS;
    });
}

CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes)
{
    return driver_call([&] {
        auto at = memory()->reservations.find(address);
        if (at == memory()->reservations.end() || at->second != bytes || any_mapping_in(address, bytes)) {
            return CUDA_ERROR_INVALID_VALUE;
        }
        munmap(reinterpret_cast<void *>(address), bytes);
        memory()->reservations.erase(at);
        return CUDA_SUCCESS;
    });
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle_p, size_t bytes, const CUmemAllocationProp *properties,
                     unsigned long long flags)
{
    simulator_count_device_calls++;
    return driver_call([&] {
        if (!is_multiple(bytes) || properties->type != CU_MEM_ALLOCATION_TYPE_PINNED || flags != 0 ||
            !is_gpu_with_context(&properties->location)) {
            return CUDA_ERROR_INVALID_VALUE;
        }
        if (!memory_take(properties->location.id, bytes)) {
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        struct physical_memory *physical = new physical_memory{properties->location.id, bytes, false, false};
        *handle_p = reinterpret_cast<CUmemGenericAllocationHandle>(physical);
        return CUDA_SUCCESS;
    });
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    simulator_count_device_calls++;
    return driver_call([&] {
        struct physical_memory *physical = reinterpret_cast<struct physical_memory *>(handle);
        if (physical == nullptr || physical->released) {
            return CUDA_ERROR_INVALID_VALUE;
        }
        physical->released = true;
        forget_physical(physical);
        return CUDA_SUCCESS;
    });
}

// Simpler than CUDA: the whole of a handle, at one place at a time; what it held is lost when it is unmapped.
CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags)
{
    simulator_count_device_calls++;
    return driver_call([&] {
        struct physical_memory *physical = reinterpret_cast<struct physical_memory *>(handle);
        if (physical == nullptr || physical->released || physical->mapped || bytes != physical->bytes || offset != 0 ||
            flags != 0 || !inside_a_reservation(address, bytes) || any_mapping_in(address, bytes) ||
            address % SIMULATOR_GRANULARITY != 0) {
            return CUDA_ERROR_INVALID_VALUE;
        }
        if (!back_with_memory(address, bytes)) {
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        protect(address, bytes, PROT_NONE);
        physical->mapped = true;
        memory()->ranges[address] = {bytes, false, physical, physical->gpu, 0};
        return CUDA_SUCCESS;
    });
}

CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc *access, size_t count)
{
    simulator_count_device_calls++;
    return driver_call([&] {
        if (count != 1 || !is_gpu_with_context(&access->location) || !covered_by_whole_mappings(address, bytes)) {
            return CUDA_ERROR_INVALID_VALUE;
        }
        bool accessible = access->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
        for (auto at = memory()->ranges.find(address); at != memory()->ranges.end() && at->first < address + bytes;
             ++at) {
            at->second.accessible = accessible;
        }
        protect(address, bytes, accessible ? closed_protection() : PROT_NONE);
        return CUDA_SUCCESS;
    });
}

// Waits for nothing: work that still uses the memory faults.
CUresult cuMemUnmap(CUdeviceptr address, size_t bytes)
{
    simulator_count_device_calls++;
    return driver_call([&] {
        if (bytes == 0 || !covered_by_whole_mappings(address, bytes)) {
            return CUDA_ERROR_INVALID_VALUE;
        }
        for (auto at = memory()->ranges.find(address); at != memory()->ranges.end() && at->first < address + bytes;) {
            at->second.physical->mapped = false;
            forget_physical(at->second.physical);
            at = memory()->ranges.erase(at);
        }
        take_memory_away(address, bytes);
        return CUDA_SUCCESS;
    });
}
