// SPDX-License-Identifier: Apache-2.0
//
// The simulated CUDA device keeps what it promises in tests/simulator/README.md. Each test runs in a process of its
// own, because environment variables are read once and errors stay.
#include <cublasLt.h>
#include <cuda.h>
#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <nccl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

extern "C" {
#include <cmocka.h>
}

#include "expect.h"
#include "random_bits.h"
#include "simulator.h"

#define MIB UINT64_C(1048576)

#define CUDA(call) EXPECT((call) == cudaSuccess)

static pid_t start(void (*body)())
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); // cmocka's handler would go on with the next test
        alarm(60);
        body();
        fflush(NULL);
        exit(0);
    }
    return child;
}

static int end_of(pid_t child)
{
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

#define IN_OWN_PROCESS(name)                                                                                           \
    static void test_##name(void **)                                                                                   \
    {                                                                                                                  \
        assert_int_equal(end_of(start(name)), 0);                                                                      \
    }

template <typename Value> static Value *device_array(size_t count)
{
    void *pointer = nullptr;
    CUDA(cudaMalloc(&pointer, count * sizeof(Value)));
    return static_cast<Value *>(pointer);
}

template <typename Value> static Value *pinned_array(size_t count)
{
    void *pointer = nullptr;
    CUDA(cudaHostAlloc(&pointer, count * sizeof(Value), cudaHostAllocDefault));
    return static_cast<Value *>(pointer);
}

static cudaStream_t new_stream()
{
    cudaStream_t stream = nullptr;
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

static cudaEvent_t new_event()
{
    cudaEvent_t event = nullptr;
    CUDA(cudaEventCreate(&event));
    return event;
}

static uint64_t free_bytes()
{
    size_t free = 0, total = 0;
    CUDA(cudaMemGetInfo(&free, &total));
    return free;
}

// ---- Devices and drivers ----

static void devices()
{
    int count = 0, value = 0;
    setenv("SIMULATOR_GPUS", "3", 1);
    CUDA(cudaGetDeviceCount(&count));
    EXPECT(count == 3);
    EXPECT(cudaSetDevice(3) == cudaErrorInvalidDevice && cudaGetLastError() == cudaErrorInvalidDevice);
    EXPECT(cudaGetLastError() == cudaSuccess);
    CUDA(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 2));
    EXPECT(value == 227 * 1024);
    char bus[32];
    CUDA(cudaDeviceGetPCIBusId(bus, sizeof(bus), 2));
    EXPECT(strcmp(bus, "0000:03:00.0") == 0);
    setenv("CUDA_VISIBLE_DEVICES", "2,0", 1);
    CUDA(cudaGetDeviceCount(&count));
    CUDA(cudaDeviceGetPCIBusId(bus, sizeof(bus), 0));
    EXPECT(count == 2 && strcmp(bus, "0000:03:00.0") == 0);
    struct cudaDeviceProp properties;
    CUDA(cudaGetDeviceProperties(&properties, 0));
    EXPECT(strcmp(properties.name, "Simulated GPU") == 0 && properties.major == 9);

    setenv("SIMULATOR_GPUS", "0", 1);
    EXPECT(cudaGetDeviceCount(&count) == cudaErrorNoDevice);
    setenv("SIMULATOR_GPUS", "1", 1);
    setenv("SIMULATOR_DRIVER", "none", 1);
    EXPECT(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver);
    CUDA(cudaDriverGetVersion(&value));
    EXPECT(value == 0);
    setenv("SIMULATOR_DRIVER", "insufficient", 1);
    void *pointer = nullptr;
    EXPECT(cudaMalloc(&pointer, 1) == cudaErrorInsufficientDriver);
    CUDA(cudaDriverGetVersion(&value));
    EXPECT(value > 0 && value < 13000);
}
IN_OWN_PROCESS(devices)

// ---- Memory ----

struct driver {
    decltype(&cuMemAddressReserve) reserve;
    decltype(&cuMemAddressFree) unreserve;
    decltype(&cuMemCreate) create;
    decltype(&cuMemRelease) release;
    decltype(&cuMemMap) map;
    decltype(&cuMemUnmap) unmap;
    decltype(&cuMemSetAccess) set_access;
};

template <typename Function> static void entry(const char *symbol, Function *function_p)
{
    void *address = nullptr;
    enum cudaDriverEntryPointQueryResult result;
    CUDA(cudaGetDriverEntryPointByVersion(symbol, &address, 10020, cudaEnableDefault, &result));
    EXPECT(result == cudaDriverEntryPointSuccess && address != nullptr);
    *function_p = reinterpret_cast<Function>(address);
}

static struct driver driver_entries()
{
    struct driver driver;
    entry("cuMemAddressReserve", &driver.reserve);
    entry("cuMemAddressFree", &driver.unreserve);
    entry("cuMemCreate", &driver.create);
    entry("cuMemRelease", &driver.release);
    entry("cuMemMap", &driver.map);
    entry("cuMemUnmap", &driver.unmap);
    entry("cuMemSetAccess", &driver.set_access);
    return driver;
}

static const CUmemAllocationProp on_gpu_0 = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                             .requestedHandleTypes = CU_MEM_HANDLE_TYPE_NONE,
                                             .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0},
                                             .win32HandleMetaData = nullptr,
                                             .allocFlags = {}};
static const CUmemAccessDesc for_gpu_0 = {{.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0},
                                          CU_MEM_ACCESS_FLAGS_PROT_READWRITE};

static void *address_of(CUdeviceptr address)
{
    return reinterpret_cast<void *>(address);
}

static void virtual_memory()
{
    void *missing = &missing;
    enum cudaDriverEntryPointQueryResult result;
    CUDA(cudaGetDriverEntryPointByVersion("cuMemNothing", &missing, 13000, cudaEnableDefault, &result));
    EXPECT(missing == nullptr && result == cudaDriverEntryPointSymbolNotFound);
    setenv("SIMULATOR_GPU_BYTES", "16MiB", 1);
    struct driver driver = driver_entries();
    CUmemGenericAllocationHandle a = 0, b = 0, c = 0;
    EXPECT(driver.create(&a, 2 * MIB, &on_gpu_0, 0) == CUDA_ERROR_INVALID_VALUE); // no context yet
    CUDA(cudaSetDevice(0));
    uint64_t free = free_bytes();
    EXPECT(free == 15 * MIB);
    CUdeviceptr at = 0;
    EXPECT(driver.reserve(&at, 3 * MIB, 0, 0, 0) == CUDA_ERROR_INVALID_VALUE);
    EXPECT(driver.reserve(&at, UINT64_C(1) << 40, 0, 0, 0) == CUDA_SUCCESS && at % (2 * MIB) == 0);

    EXPECT(driver.create(&a, 4 * MIB, &on_gpu_0, 0) == CUDA_SUCCESS);
    EXPECT(driver.create(&b, 10 * MIB, &on_gpu_0, 0) == CUDA_SUCCESS);
    EXPECT(free_bytes() == MIB);
    EXPECT(driver.create(&c, 2 * MIB, &on_gpu_0, 0) == CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT(free_bytes() == MIB && cudaPeekAtLastError() == cudaSuccess);
    EXPECT(driver.map(at, 4 * MIB, 0, a, 0) == CUDA_SUCCESS);
    EXPECT(driver.map(at + 2 * MIB, 10 * MIB, 0, b, 0) == CUDA_ERROR_INVALID_VALUE); // not on top of another
    EXPECT(driver.map(at + 4 * MIB, 10 * MIB, 0, b, 0) == CUDA_SUCCESS);

    cudaStream_t stream = new_stream();
    EXPECT(cudaMemsetAsync(address_of(at), 1, 14 * MIB, stream) == cudaErrorInvalidValue); // no access yet
    EXPECT(driver.set_access(at, 14 * MIB, &for_gpu_0, 1) == CUDA_SUCCESS);
    CUDA(cudaMemsetAsync(address_of(at), 1, 14 * MIB, stream)); // across both
    std::vector<unsigned char> host(14 * MIB);
    CUDA(cudaMemcpyAsync(host.data(), address_of(at), 14 * MIB, cudaMemcpyDeviceToHost, stream));
    EXPECT(host == std::vector<unsigned char>(14 * MIB, 1));
    EXPECT(cudaMemcpyAsync(address_of(at), host.data(), 14 * MIB + 1, cudaMemcpyHostToDevice, stream) ==
           cudaErrorInvalidValue);

    EXPECT(driver.unmap(at, 2 * MIB) == CUDA_ERROR_INVALID_VALUE); // a part of a mapping
    EXPECT(driver.unreserve(at, UINT64_C(1) << 40) == CUDA_ERROR_INVALID_VALUE);
    EXPECT(driver.release(a) == CUDA_SUCCESS && free_bytes() == MIB); // still mapped
    EXPECT(driver.unmap(at, 14 * MIB) == CUDA_SUCCESS && free_bytes() == 5 * MIB);
    EXPECT(driver.release(b) == CUDA_SUCCESS && free_bytes() == free);

    EXPECT(driver.create(&c, 2 * MIB, &on_gpu_0, 0) == CUDA_SUCCESS);
    EXPECT(driver.map(at, 2 * MIB, 0, c, 0) == CUDA_SUCCESS);
    EXPECT(cudaMemsetAsync(address_of(at), 1, 1, stream) == cudaErrorInvalidValue); // access does not outlive unmap
    EXPECT(driver.unmap(at, 2 * MIB) == CUDA_SUCCESS && driver.release(c) == CUDA_SUCCESS);
    EXPECT(driver.unreserve(at, UINT64_C(1) << 40) == CUDA_SUCCESS);
}
IN_OWN_PROCESS(virtual_memory)

// Memory that is unmapped under work which still uses it.
static void unmapped_too_early()
{
    CUDA(cudaSetDevice(0));
    struct driver driver = driver_entries();
    CUdeviceptr at = 0;
    CUmemGenericAllocationHandle handle = 0;
    EXPECT(driver.reserve(&at, 2 * MIB, 0, 0, 0) == CUDA_SUCCESS);
    EXPECT(driver.create(&handle, 2 * MIB, &on_gpu_0, 0) == CUDA_SUCCESS);
    EXPECT(driver.map(at, 2 * MIB, 0, handle, 0) == CUDA_SUCCESS);
    EXPECT(driver.set_access(at, 2 * MIB, &for_gpu_0, 1) == CUDA_SUCCESS);
    cudaStream_t stream = new_stream();
    CUDA(cudaMemsetAsync(address_of(at), 0, 2 * MIB, stream));
    EXPECT(driver.unmap(at, 2 * MIB) == CUDA_SUCCESS);
    EXPECT(cudaStreamSynchronize(stream) == cudaErrorIllegalAddress);
}
IN_OWN_PROCESS(unmapped_too_early)

static void fresh_memory_is_not_a_number()
{
    float *device = device_array<float>(1000), host[1000];
    CUDA(cudaMemcpy(host, device, sizeof(host), cudaMemcpyDeviceToHost));
    for (float value : host) {
        EXPECT(isnan(value));
    }
}
IN_OWN_PROCESS(fresh_memory_is_not_a_number)

static void host_reads_device_memory()
{
    volatile float *device = device_array<float>(10);
    cudaStream_t stream = new_stream();
    CUDA(cudaMemsetAsync(const_cast<float *>(device), 0, 40, stream));
    CUDA(cudaStreamSynchronize(stream));
    exit(device[3] == 0 ? 2 : 3);
}

static void host_writes_fresh_memory()
{
    volatile float *device = device_array<float>(10);
    device[0] = 1;
}

static void work_writes_beyond_an_array()
{
    float *device = device_array<float>(64);
    cudaStream_t stream = new_stream();
    simulator_enqueue(stream, [device] { device[63] = 1; });
    CUDA(cudaStreamSynchronize(stream));
    simulator_enqueue(stream, [device] { device[64] = 1; });
    cudaStreamSynchronize(stream);
}

static void test_faults(void **)
{
    for (void (*body)() : {host_reads_device_memory, host_writes_fresh_memory, work_writes_beyond_an_array}) {
        int status = end_of(start(body));
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    }
}

// ---- One GPU, several processes ----

// Holds `bytes` until it is killed.
static void hold(uint64_t bytes, int ready)
{
    device_array<char>(bytes);
    EXPECT(write(ready, "r", 1) == 1);
    pause();
}

static void shared_gpu()
{
    char letter = 0;
    int ready[2];
    setenv("SIMULATOR_NAME", ("test-shared-" + std::to_string(getpid())).c_str(), 1);
    setenv("SIMULATOR_GPU_BYTES", "32MiB", 1);
    EXPECT(pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) {
        hold(12 * MIB, ready[1]);
    }
    EXPECT(read(ready[0], &letter, 1) == 1);
    EXPECT(free_bytes() == 18 * MIB); // two contexts
    void *pointer = nullptr;
    EXPECT(cudaMalloc(&pointer, 20 * MIB) == cudaErrorMemoryAllocation && pointer == nullptr);
    EXPECT(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess);
    EXPECT(kill(child, SIGKILL) == 0 && waitpid(child, nullptr, 0) == child);
    EXPECT(free_bytes() == 31 * MIB);
    CUDA(cudaMalloc(&pointer, 20 * MIB));
    CUDA(cudaFree(pointer));
    EXPECT(free_bytes() == 31 * MIB);
}
IN_OWN_PROCESS(shared_gpu)

static void no_room_for_a_context()
{
    setenv("SIMULATOR_GPU_BYTES", "1MiB", 1);
    setenv("SIMULATOR_CONTEXT_BYTES", "2MiB", 1);
    EXPECT(cudaSetDevice(0) == cudaErrorMemoryAllocation);
}
IN_OWN_PROCESS(no_room_for_a_context)

// ---- Streams and events ----

static void work_is_late()
{
    int *device = device_array<int>(1), *host = pinned_array<int>(2);
    cudaStream_t stream = new_stream();
    cudaEvent_t event = new_event();
    host[0] = 1;
    host[1] = 0;
    simulator_reset_counters();
    CUDA(cudaMemcpyAsync(device, &host[0], sizeof(int), cudaMemcpyHostToDevice, stream));
    simulator_enqueue(stream, [device] { *device *= 10; });
    CUDA(cudaMemcpyAsync(&host[1], device, sizeof(int), cudaMemcpyDeviceToHost, stream));
    CUDA(cudaEventRecord(event, stream));
    EXPECT(host[1] == 0);
    host[0] = 7; // reused too early: the copy sees it
    EXPECT(simulator_host_synchronizations() == 0 && simulator_launches() == 1);
    CUDA(cudaEventSynchronize(event));
    EXPECT(host[1] == 70 && simulator_host_synchronizations() == 1);

    // What is pageable is taken at the call, and blocks where the host's side is written.
    int source = 3, target = 0;
    CUDA(cudaMemcpyAsync(device, &source, sizeof(int), cudaMemcpyHostToDevice, stream));
    source = 4;
    EXPECT(simulator_host_synchronizations() == 1);
    CUDA(cudaMemcpyAsync(&target, device, sizeof(int), cudaMemcpyDeviceToHost, stream));
    EXPECT(target == 3 && simulator_host_synchronizations() == 2);

    CUDA(cudaMemcpyAsync(device, &host[0], sizeof(int), cudaMemcpyHostToDevice, stream));
    CUDA(cudaFreeHost(host));
    EXPECT(cudaStreamSynchronize(stream) == cudaErrorIllegalAddress);
}
IN_OWN_PROCESS(work_is_late)

// Whether `consumer` saw what `producer` wrote, by the seed.
static bool consumer_sees(uint64_t seed, bool ordered)
{
    static int result[2];
    pid_t child = fork();
    if (child == 0) {
        setenv("SIMULATOR_SEED", std::to_string(seed).c_str(), 1);
        int *device = device_array<int>(1);
        cudaStream_t producer = new_stream(), consumer = new_stream();
        cudaEvent_t event = new_event();
        simulator_enqueue(producer, [device] { *device = 1; });
        simulator_enqueue(producer, [device] { *device = 42; });
        CUDA(cudaEventRecord(event, producer));
        simulator_enqueue(producer, [device] { result[1] = *device; });
        if (ordered) {
            CUDA(cudaStreamWaitEvent(consumer, event, 0));
        }
        simulator_enqueue(consumer, [device] { result[0] = *device; });
        CUDA(cudaStreamSynchronize(consumer));
        exit(result[0] == 42 ? 0 : 1);
    }
    int status = 0;
    EXPECT(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status) == 0;
}

static void streams_are_ordered_by_events_alone()
{
    int without = 0;
    for (uint64_t seed = 0; seed < 16; seed++) {
        EXPECT(consumer_sees(seed, true));
        EXPECT(consumer_sees(seed, false) == consumer_sees(seed, false)); // the seed decides
        without += consumer_sees(seed, false);
    }
    EXPECT(without > 0 && without < 16);
}
IN_OWN_PROCESS(streams_are_ordered_by_events_alone)

// An event that is recorded again: who waited before waits for the first mark.
static void events()
{
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t event = new_event(), later = new_event(), never = new_event();
    static int order[3], count;
    EXPECT(cudaEventQuery(never) == cudaSuccess && cudaStreamWaitEvent(a, never, 0) == cudaSuccess);
    CUDA(cudaEventSynchronize(never));
    float ms = -1;
    EXPECT(cudaEventElapsedTime(&ms, never, event) == cudaErrorInvalidResourceHandle);

    simulator_enqueue(a, [] { order[count++] = 1; });
    CUDA(cudaEventRecord(event, a));
    CUDA(cudaStreamWaitEvent(b, event, 0));
    simulator_enqueue(b, [] { order[count++] = 2; });
    CUDA(cudaEventRecord(later, b));
    EXPECT(cudaEventElapsedTime(&ms, event, later) == cudaErrorNotReady);
    CUDA(cudaStreamWaitEvent(a, later, 0));
    simulator_enqueue(a, [] { order[count++] = 3; });
    cudaEvent_t first = event;
    CUDA(cudaEventRecord(first, a));
    CUDA(cudaEventSynchronize(first));
    EXPECT(count == 3 && order[0] == 1 && order[1] == 2 && order[2] == 3);
    CUDA(cudaEventElapsedTime(&ms, later, event));
    EXPECT(ms > 0 && ms < 60000);

    for (int i = 0; i < 100; i++) {
        simulator_enqueue(a, [] { count++; });
    }
    CUDA(cudaEventRecord(event, a));
    CUDA(cudaEventDestroy(later));
    EXPECT(cudaEventQuery(later) == cudaErrorInvalidResourceHandle);
    EXPECT(cudaEventQuery(event) == cudaErrorNotReady);
    int asked = 0;
    while (cudaEventQuery(event) == cudaErrorNotReady) {
        asked++;
    }
    EXPECT(asked > 5 && asked < 200 && count == 103);
    simulator_enqueue(a, [] { count++; });
    CUDA(cudaStreamDestroy(a)); // what is enqueued still runs
    EXPECT(count == 103 && cudaStreamQuery(a) == cudaErrorInvalidResourceHandle);
    CUDA(cudaDeviceSynchronize());
    EXPECT(count == 104);
    for (int i = 0; i < 5000; i++) {
        simulator_enqueue(b, [] { count++; });
    }
    EXPECT(count > 104 && count < 5104); // a full queue runs some
    EXPECT(cudaStreamQuery(b) == cudaErrorNotReady);
}
IN_OWN_PROCESS(events)

static void null_stream()
{
    static int count;
    simulator_enqueue(nullptr, [] { count++; });
    CUDA(cudaStreamSynchronize(nullptr));
    EXPECT(count == 1);
    setenv("SIMULATOR_STRICT", "1", 1);
    simulator_enqueue(nullptr, [] { count++; });
    EXPECT(cudaGetLastError() == cudaErrorInvalidResourceHandle);
}
IN_OWN_PROCESS(null_stream)

// ---- Errors ----

static void launches_fail()
{
    setenv("SIMULATOR_FAIL_AFTER", "3", 1);
    static int count;
    cudaStream_t stream = new_stream();
    cudaEvent_t event = new_event();
    for (int i = 0; i < 5; i++) {
        simulator_enqueue(stream, [] { count++; });
    }
    CUDA(cudaEventRecord(event, stream));
    EXPECT(cudaPeekAtLastError() == cudaSuccess); // not executed yet
    EXPECT(cudaEventSynchronize(event) == cudaErrorIllegalAddress);
    EXPECT(count == 2);
    EXPECT(cudaGetLastError() == cudaErrorIllegalAddress && cudaGetLastError() == cudaErrorIllegalAddress);
    void *pointer = nullptr;
    EXPECT(cudaMalloc(&pointer, 1) == cudaErrorIllegalAddress);
    EXPECT(strcmp(cudaGetErrorString(cudaErrorIllegalAddress), "an illegal memory access was encountered") == 0);
}
IN_OWN_PROCESS(launches_fail)

static void refused_calls_do_not_stay()
{
    simulator_fail(cudaErrorInvalidConfiguration);
    EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess);
    CUDA(cudaSetDevice(0));
    EXPECT(cudaFree(&errno) == cudaErrorInvalidValue);
    EXPECT(cudaHostUnregister(&errno) == cudaErrorHostMemoryNotRegistered);
    static char block[8192];
    CUDA(cudaHostRegister(block, sizeof(block), cudaHostRegisterDefault));
    EXPECT(cudaHostRegister(block + 100, 10, cudaHostRegisterDefault) == cudaErrorHostMemoryAlreadyRegistered);
    CUDA(cudaHostUnregister(block));
}
IN_OWN_PROCESS(refused_calls_do_not_stay)

// ---- cuBLASLt ----

static uint64_t random_state;

static size_t below(size_t bound)
{
    return static_cast<size_t>(random_bits(&random_state) % bound);
}

// In [-1, 1), exact in bfloat16.
static float random_value()
{
    return static_cast<float>(below(256)) / 128 - 1;
}

static float to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    memcpy(&value, &bits, 4);
    return value;
}

// A matrix on the host in float, and on the device in its type. `stride` is its leading dimension.
struct matrix {
    cudaDataType type;
    bool by_row;
    size_t rows, columns, stride;
    std::vector<float> host;
    void *device;
    cublasLtMatrixLayout_t layout;

    size_t at(size_t i, size_t j) const
    {
        return by_row ? i * stride + j : i + j * stride;
    }
    size_t element_bytes() const
    {
        return type == CUDA_R_16BF ? 2 : 4;
    }
};

static void upload(struct matrix *matrix)
{
    std::vector<char> bytes(matrix->host.size() * matrix->element_bytes());
    for (size_t i = 0; i < matrix->host.size(); i++) {
        const char *value = reinterpret_cast<const char *>(&matrix->host[i]);
        size_t size = matrix->element_bytes();
        memcpy(&bytes[i * size], value + 4 - size, size);
    }
    CUDA(cudaMemcpy(matrix->device, bytes.data(), bytes.size(), cudaMemcpyHostToDevice));
}

static void download(struct matrix *matrix)
{
    std::vector<char> bytes(matrix->host.size() * matrix->element_bytes());
    CUDA(cudaMemcpy(bytes.data(), matrix->device, bytes.size(), cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < matrix->host.size(); i++) {
        size_t size = matrix->element_bytes();
        matrix->host[i] = 0;
        memcpy(reinterpret_cast<char *>(&matrix->host[i]) + 4 - size, &bytes[i * size], size);
    }
}

static struct matrix make_matrix(cudaDataType type, bool by_row, size_t rows, size_t columns, size_t padding)
{
    struct matrix matrix = {type, by_row, rows, columns, (by_row ? columns : rows) + padding, {}, nullptr, nullptr};
    matrix.host.resize(matrix.stride * (by_row ? rows : columns));
    for (float &value : matrix.host) {
        value = random_value();
    }
    matrix.device = device_array<char>(matrix.host.size() * matrix.element_bytes());
    upload(&matrix);
    EXPECT(cublasLtMatrixLayoutCreate(&matrix.layout, type, rows, columns, static_cast<int64_t>(matrix.stride)) ==
           CUBLAS_STATUS_SUCCESS);
    int32_t order = CUBLASLT_ORDER_ROW;
    if (by_row) {
        EXPECT(cublasLtMatrixLayoutSetAttribute(matrix.layout, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, sizeof(order)) ==
               CUBLAS_STATUS_SUCCESS);
    }
    return matrix;
}

static void free_matrix(struct matrix *matrix)
{
    CUDA(cudaFree(matrix->device));
    EXPECT(cublasLtMatrixLayoutDestroy(matrix->layout) == CUBLAS_STATUS_SUCCESS);
}

template <typename Value>
static void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, Value value)
{
    EXPECT(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)) == CUBLAS_STATUS_SUCCESS);
}

struct product_case {
    bool bf16, float_out, by_row, transpose_a, transpose_b;
    uint32_t epilogue;
    size_t m, n, k;
    float alpha, beta;
};

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static double gelu_slope(double x)
{
    return (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5;
}

static void check_close(const struct product_case *test, float value, double wanted)
{
    double tolerance = 1e-5 * (1 + fabs(wanted)) * (1 + static_cast<double>(test->k) / 64);
    if (test->bf16 && !test->float_out) {
        tolerance += fabs(wanted) / 256;
    }
    if (!(fabs(value - wanted) <= tolerance)) {
        fprintf(stderr, "epilogue %u, %zux%zux%zu: %.9g, not %.9g\n", test->epilogue, test->m, test->n, test->k,
                static_cast<double>(value), wanted);
    }
    EXPECT(fabs(value - wanted) <= tolerance);
}

static void check_product(const struct product_case *test, cublasLtHandle_t handle, cudaStream_t stream)
{
    cudaDataType in = test->bf16 ? CUDA_R_16BF : CUDA_R_32F, out = test->float_out ? CUDA_R_32F : in;
    size_t m = test->m, n = test->n, k = test->k;
    struct matrix a = test->transpose_a ? make_matrix(in, test->by_row, k, m, below(3))
                                        : make_matrix(in, test->by_row, m, k, below(3));
    struct matrix b = test->transpose_b ? make_matrix(in, test->by_row, n, k, below(3))
                                        : make_matrix(in, test->by_row, k, n, below(3));
    struct matrix c = make_matrix(out, test->by_row, m, n, below(3)),
                  d = make_matrix(out, test->by_row, m, n, below(3));
    struct matrix bias = make_matrix(out, false, m, 1, 0), aux = make_matrix(out, false, m, n, (8 - m % 8) % 8);
    if (test->beta == 0) { // must not be read
        std::fill(c.host.begin(), c.host.end(), NAN);
        upload(&c);
    }
    cublasLtMatmulDesc_t operation;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result;
    int count = 0;
    EXPECT(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS);
    set<int32_t>(operation, CUBLASLT_MATMUL_DESC_TRANSA, test->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set<int32_t>(operation, CUBLASLT_MATMUL_DESC_TRANSB, test->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set<uint32_t>(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, test->epilogue);
    set<const void *>(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.device);
    set<void *>(operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux.device);
    set<int64_t>(operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, static_cast<int64_t>(aux.stride));
    EXPECT(cublasLtMatmulPreferenceCreate(&preference) == CUBLAS_STATUS_SUCCESS);
    uint32_t alignment = 4;
    uint64_t workspace_bytes = 1 << 20;
    for (auto attribute : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
        EXPECT(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &alignment, 4) == CUBLAS_STATUS_SUCCESS);
    }
    EXPECT(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                                8) == CUBLAS_STATUS_SUCCESS);
    EXPECT(cublasLtMatmulAlgoGetHeuristic(handle, operation, a.layout, b.layout, c.layout, d.layout, preference, 1,
                                          &result, &count) == CUBLAS_STATUS_SUCCESS);
    EXPECT(count == 1 && result.workspaceSize > 0 && result.workspaceSize <= workspace_bytes);
    void *workspace = device_array<char>(workspace_bytes);
    std::vector<float> before = d.host, aux_before = aux.host;
    float alpha = test->alpha, beta = test->beta;
    auto multiply = [&](size_t workspace_bytes) {
        return cublasLtMatmul(handle, operation, &alpha, a.device, a.layout, b.device, b.layout, &beta, c.device,
                              c.layout, d.device, d.layout, &result.algo, workspace, workspace_bytes, stream);
    };
    EXPECT(multiply(result.workspaceSize - 1) == CUBLAS_STATUS_INVALID_VALUE);
    EXPECT(multiply(workspace_bytes) == CUBLAS_STATUS_SUCCESS);
    alpha = beta = NAN; // were read at the call
    CUDA(cudaStreamSynchronize(stream));
    download(&d);
    download(&aux);

    std::vector<bool> result_at(d.host.size());
    bool writes_aux = (test->epilogue & 128) != 0 && test->epilogue != CUBLASLT_EPILOGUE_DGELU;
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t p = 0; p < k; p++) {
                sum += static_cast<double>(a.host[test->transpose_a ? a.at(p, i) : a.at(i, p)]) *
                       static_cast<double>(b.host[test->transpose_b ? b.at(j, p) : b.at(p, j)]);
            }
            double value = static_cast<double>(test->alpha) * sum;
            value += test->beta == 0 ? 0 : static_cast<double>(test->beta * c.host[c.at(i, j)]);
            value += (test->epilogue & CUBLASLT_EPILOGUE_BIAS) != 0 ? static_cast<double>(bias.host[i]) : 0;
            if (writes_aux) {
                check_close(test, aux.host[aux.at(i, j)], value);
            } else {
                EXPECT(aux.host[aux.at(i, j)] == aux_before[aux.at(i, j)]);
            }
            if (test->epilogue == CUBLASLT_EPILOGUE_DGELU) {
                value *= gelu_slope(static_cast<double>(aux.host[aux.at(i, j)]));
            } else if ((test->epilogue & CUBLASLT_EPILOGUE_GELU) != 0) {
                value = gelu(value);
            }
            check_close(test, d.host[d.at(i, j)], value);
            if (d.type == CUDA_R_16BF) {
                EXPECT(d.host[d.at(i, j)] == to_bf16(d.host[d.at(i, j)]));
            }
            result_at[d.at(i, j)] = true;
        }
    }
    for (size_t i = 0; i < d.host.size(); i++) {
        EXPECT(result_at[i] || d.host[i] == before[i]); // nothing between the columns
    }
    std::vector<unsigned char> left(result.workspaceSize);
    CUDA(cudaMemcpy(left.data(), workspace, left.size(), cudaMemcpyDeviceToHost));
    EXPECT(left == std::vector<unsigned char>(left.size(), 0xff)); // an algorithm uses its workspace

    for (struct matrix *matrix : {&a, &b, &c, &d, &bias, &aux}) {
        free_matrix(matrix);
    }
    CUDA(cudaFree(workspace));
    EXPECT(cublasLtMatmulDescDestroy(operation) == CUBLAS_STATUS_SUCCESS);
    EXPECT(cublasLtMatmulPreferenceDestroy(preference) == CUBLAS_STATUS_SUCCESS);
}

static void products()
{
    static const uint32_t epilogues[] = {
        CUBLASLT_EPILOGUE_DEFAULT,   CUBLASLT_EPILOGUE_BIAS,     CUBLASLT_EPILOGUE_GELU,
        CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
        CUBLASLT_EPILOGUE_DGELU,
    };
    cublasLtHandle_t handle;
    EXPECT(cublasLtCreate(&handle) == CUBLAS_STATUS_SUCCESS);
    cudaStream_t stream = new_stream();
    for (uint32_t epilogue : epilogues) {
        for (int i = 0; i < 24; i++) {
            struct product_case test = {.bf16 = i % 2 == 1,
                                        .float_out = i % 3 == 1,
                                        .by_row = epilogue == CUBLASLT_EPILOGUE_DEFAULT && below(2) == 1,
                                        .transpose_a = (i & 4) != 0,
                                        .transpose_b = (i & 8) != 0,
                                        .epilogue = epilogue,
                                        .m = 1 + below(40),
                                        .n = 1 + below(40),
                                        .k = 1 + below(i == 0 ? 600 : 40),
                                        .alpha = i % 5 == 0 ? 1.0F : random_value(),
                                        .beta = i % 3 == 0 ? 0 : random_value()};
            check_product(&test, handle, stream);
        }
    }
}
IN_OWN_PROCESS(products)

struct problem {
    cudaDataType type;
    uint32_t epilogue;
    int64_t aux_stride;
    int32_t order;
    size_t m;
};

static cublasStatus_t ask(const struct problem *problem, cublasLtMatmulHeuristicResult_t *result_p)
{
    size_t m = problem->m, n = 16, k = 32;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulDesc_t operation;
    cublasLtMatmulPreference_t preference;
    int count = -1;
    cublasLtMatrixLayoutCreate(&a, problem->type, m, k, 64);
    cublasLtMatrixLayoutCreate(&b, problem->type, k, n, 64);
    cublasLtMatrixLayoutCreate(&c, problem->type, m, n, 64);
    for (cublasLtMatrixLayout_t layout : {a, b, c}) {
        cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_ORDER, &problem->order, sizeof(int32_t));
    }
    cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    set<uint32_t>(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, problem->epilogue);
    set<int64_t>(operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, problem->aux_stride);
    cublasLtMatmulPreferenceCreate(&preference);
    cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(nullptr, operation, a, b, c, c, preference, 1, result_p, &count);
    EXPECT(count == (status == CUBLAS_STATUS_SUCCESS ? 1 : 0));
    void *memory = device_array<char>(64 * 64 * 4 * 3 + 256);
    char *base = static_cast<char *>(memory);
    float one = 1, zero = 0;
    if (status == CUBLAS_STATUS_SUCCESS) {
        size_t bytes = 64 * 64 * 4;
        auto multiply = [&](size_t offset) {
            return cublasLtMatmul(nullptr, operation, &one, base + offset, a, base + bytes, b, &zero, base + 2 * bytes,
                                  c, base + 2 * bytes, c, &result_p->algo, nullptr, 0, nullptr);
        };
        EXPECT(multiply(0) == CUBLAS_STATUS_SUCCESS);
        EXPECT(multiply(64) == CUBLAS_STATUS_INVALID_VALUE); // not as aligned as was promised
        set<int32_t>(operation, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
        EXPECT(multiply(0) != CUBLAS_STATUS_SUCCESS); // chosen for another problem
    }
    return status;
}

static void refused_products()
{
    cublasLtMatmulHeuristicResult_t result;
    struct problem problem = {CUDA_R_16BF, CUBLASLT_EPILOGUE_DEFAULT, 0, CUBLASLT_ORDER_COL, 32};
    CUDA(cudaSetDevice(0));
    EXPECT(ask(&problem, &result) == CUBLAS_STATUS_SUCCESS);
    problem.m = 65; // more rows than the leading dimension
    EXPECT(ask(&problem, &result) == CUBLAS_STATUS_INVALID_VALUE);
    problem = {CUDA_R_16F, CUBLASLT_EPILOGUE_DEFAULT, 0, CUBLASLT_ORDER_COL, 32};
    EXPECT(ask(&problem, &result) == CUBLAS_STATUS_NOT_SUPPORTED);
    problem = {CUDA_R_16BF, CUBLASLT_EPILOGUE_DGELU, 33, CUBLASLT_ORDER_COL, 32};
    EXPECT(ask(&problem, &result) == CUBLAS_STATUS_NOT_SUPPORTED);
    problem = {CUDA_R_32F, CUBLASLT_EPILOGUE_GELU_AUX, 24, CUBLASLT_ORDER_COL, 32};
    EXPECT(ask(&problem, &result) == CUBLAS_STATUS_NOT_SUPPORTED);
    problem = {CUDA_R_32F, CUBLASLT_EPILOGUE_GELU, 0, CUBLASLT_ORDER_ROW, 32};
    EXPECT(ask(&problem, &result) == CUBLAS_STATUS_NOT_SUPPORTED);
    problem = {CUDA_R_32F, CUBLASLT_EPILOGUE_BGRADA, 0, CUBLASLT_ORDER_COL, 32};
    EXPECT(ask(&problem, &result) == CUBLAS_STATUS_NOT_SUPPORTED);
}
IN_OWN_PROCESS(refused_products)

// ---- NCCL ----

#define RANKS      3
#define NCCL(call) EXPECT((call) == ncclSuccess)

// `body` on every rank, as processes; all must end well.
static void on_ranks(void (*body)(ncclComm_t, int), bool one_gpu, bool named_hosts, ncclResult_t wanted)
{
    ncclUniqueId id;
    pid_t ranks[RANKS];
    setenv("SIMULATOR_NAME", ("test-nccl-" + std::to_string(getpid())).c_str(), 1);
    setenv("SIMULATOR_GPUS", one_gpu ? "1" : "3", 1);
    NCCL(ncclGetUniqueId(&id));
    for (int rank = 0; rank < RANKS; rank++) {
        ranks[rank] = fork();
        if (ranks[rank] == 0) {
            alarm(60);
            if (named_hosts) {
                setenv("NCCL_HOSTID", std::to_string(rank).c_str(), 1);
            }
            CUDA(cudaSetDevice(one_gpu ? 0 : rank));
            ncclComm_t communicator = nullptr;
            EXPECT(ncclCommInitRank(&communicator, RANKS, id, rank) == wanted);
            if (wanted == ncclSuccess) {
                body(communicator, rank);
            }
            exit(0);
        }
    }
    for (pid_t rank : ranks) {
        int status = 0;
        EXPECT(waitpid(rank, &status, 0) == rank && status == 0);
    }
}

static void add_much(ncclComm_t communicator, int rank)
{
    const size_t count = 200001; // several chunks and a part of one
    float *device = device_array<float>(count), *host = pinned_array<float>(count);
    double *sums = device_array<double>(3), *host_sums = pinned_array<double>(3);
    cudaStream_t stream = new_stream();
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < count; i++) {
            host[i] = static_cast<float>((i % 1000) * static_cast<size_t>(rank + 1));
        }
        host_sums[0] = host_sums[1] = host_sums[2] = 1e10 + rank;
        CUDA(cudaMemcpyAsync(device, host, count * sizeof(float), cudaMemcpyHostToDevice, stream));
        CUDA(cudaMemcpyAsync(sums, host_sums, 24, cudaMemcpyHostToDevice, stream));
        NCCL(ncclGroupStart());
        NCCL(ncclAllReduce(device, device, count, ncclFloat32, ncclSum, communicator, stream));
        NCCL(ncclAllReduce(sums, sums, 3, ncclFloat64, ncclSum, communicator, stream));
        NCCL(ncclGroupEnd());
        CUDA(cudaMemcpyAsync(host, device, count * sizeof(float), cudaMemcpyDeviceToHost, stream));
        CUDA(cudaMemcpyAsync(host_sums, sums, 24, cudaMemcpyDeviceToHost, stream));
        CUDA(cudaStreamSynchronize(stream));
        for (size_t i = 0; i < count; i++) {
            EXPECT(host[i] == static_cast<float>(i % 1000 * 6));
        }
        EXPECT(host_sums[0] == 3e10 + 3 && host_sums[2] == 3e10 + 3);
    }
    ncclResult_t result = ncclInternalError;
    NCCL(ncclCommGetAsyncError(communicator, &result));
    EXPECT(result == ncclSuccess);
    NCCL(ncclCommFinalize(communicator));
    NCCL(ncclCommDestroy(communicator));
    EXPECT(ncclCommDestroy(communicator) == ncclInvalidArgument);
}

static void all_reduce()
{
    on_ranks(add_much, false, false, ncclSuccess);
    on_ranks(add_much, true, true, ncclSuccess);
    on_ranks(add_much, true, false, ncclInvalidUsage); // two ranks on one GPU
}
IN_OWN_PROCESS(all_reduce)

static int next_rank[RANKS][2]; // pipes; rank r reads from its own

// Every rank enqueues, and then waits for the rank before it, outside of CUDA. Rank 0 waits for its stream first: it
// ends only because the other ranks' GPUs go on.
static void wait_elsewhere(ncclComm_t communicator, int rank)
{
    char letter = 'x';
    float *device = device_array<float>(100);
    cudaStream_t stream = new_stream(), other = new_stream();
    CUDA(cudaMemsetAsync(device, 0, 400, stream));
    if (rank != 0) {
        NCCL(ncclAllReduce(device, device, 100, ncclFloat32, ncclSum, communicator, stream));
        EXPECT(read(next_rank[rank][0], &letter, 1) == 1);
    } else {
        // Another stream does not wait for ranks that have not come yet.
        NCCL(ncclAllReduce(device, device, 100, ncclFloat32, ncclSum, communicator, stream));
        simulator_enqueue(other, [] {});
        CUDA(cudaStreamSynchronize(other));
        CUDA(cudaStreamSynchronize(stream));
    }
    EXPECT(write(next_rank[(rank + 1) % RANKS][1], &letter, 1) == 1);
    CUDA(cudaStreamSynchronize(stream));
}

// Rank 0 enqueues what the others do not, and gives up.
static void give_up(ncclComm_t communicator, int rank)
{
    float *device = device_array<float>(100);
    cudaStream_t stream = new_stream();
    ncclResult_t result = ncclSuccess;
    if (rank == 0) {
        NCCL(ncclAllReduce(device, device, 100, ncclFloat32, ncclSum, communicator, stream));
        EXPECT(cudaStreamQuery(stream) == cudaErrorNotReady);
        NCCL(ncclCommAbort(communicator));
        CUDA(cudaStreamSynchronize(stream));
    } else {
        while (result == ncclSuccess) {
            NCCL(ncclCommGetAsyncError(communicator, &result));
        }
        EXPECT(result == ncclRemoteError);
        NCCL(ncclCommAbort(communicator));
    }
}

// Ranks that add different amounts.
static void disagree(ncclComm_t communicator, int rank)
{
    float *device = device_array<float>(100);
    cudaStream_t stream = new_stream();
    ncclResult_t result = ncclSuccess;
    NCCL(ncclAllReduce(device, device, rank == 1 ? 99 : 100, ncclFloat32, ncclSum, communicator, stream));
    CUDA(cudaStreamSynchronize(stream));
    NCCL(ncclCommGetAsyncError(communicator, &result));
    EXPECT(result == ncclInvalidUsage);
}

static void ranks_that_wait()
{
    for (auto &ends : next_rank) {
        EXPECT(pipe(ends) == 0);
    }
    on_ranks(wait_elsewhere, false, false, ncclSuccess);
    on_ranks(give_up, false, false, ncclSuccess);
    on_ranks(disagree, false, false, ncclSuccess);
}
IN_OWN_PROCESS(ranks_that_wait)

// ---- NVML ----

struct nvml_memory {
    unsigned long long total, free, used;
};
struct nvml_process {
    unsigned pid;
    unsigned long long used_bytes;
    unsigned gpu_instance, compute_instance;
};

static const char *nvml_path;

template <typename Function> static Function nvml(const char *symbol)
{
    static void *library = dlopen(nvml_path, RTLD_NOW);
    EXPECT(library != nullptr && dlsym(library, symbol) != nullptr);
    return reinterpret_cast<Function>(dlsym(library, symbol));
}

static void nvml_tells_who_holds_what()
{
    char letter = 0;
    int ready[2];
    setenv("SIMULATOR_NAME", ("test-nvml-" + std::to_string(getpid())).c_str(), 1);
    setenv("SIMULATOR_GPU_BYTES", "64MiB", 1);
    EXPECT(pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) {
        hold(8 * MIB, ready[1]);
    }
    EXPECT(read(ready[0], &letter, 1) == 1);

    void *device = nullptr;
    struct nvml_memory memory = {};
    struct nvml_process processes[4] = {};
    unsigned count = 0;
    EXPECT(nvml<int (*)()>("nvmlInit_v2")() == 0);
    auto get = nvml<int (*)(const char *, void **)>("nvmlDeviceGetHandleByPciBusId_v2");
    auto list = nvml<int (*)(void *, unsigned *, struct nvml_process *)>("nvmlDeviceGetComputeRunningProcesses_v3");
    EXPECT(get("00000000:09:00.0", &device) == 6);
    EXPECT(get("0000:01:00.0", &device) == 0);
    EXPECT(nvml<int (*)(void *, struct nvml_memory *)>("nvmlDeviceGetMemoryInfo")(device, &memory) == 0);
    EXPECT(memory.total == 64 * MIB && memory.used == 9 * MIB && memory.free == 55 * MIB);
    device_array<char>(2 * MIB);
    EXPECT(list(device, &count, nullptr) == 7 && count == 2);
    count = 4;
    EXPECT(list(device, &count, processes) == 0 && count == 2);
    int self = processes[0].pid == static_cast<unsigned>(getpid()) ? 0 : 1;
    EXPECT(processes[self].used_bytes == 3 * MIB && processes[1 - self].used_bytes == 9 * MIB);
    EXPECT(processes[1 - self].pid == static_cast<unsigned>(child));
    EXPECT(kill(child, SIGKILL) == 0 && waitpid(child, nullptr, 0) == child);
    count = 4;
    EXPECT(list(device, &count, processes) == 0 && count == 1);
    EXPECT(nvml<int (*)()>("nvmlShutdown")() == 0);
}
IN_OWN_PROCESS(nvml_tells_who_holds_what)

int main(int argc, char **argv)
{
    nvml_path = argc > 1 ? argv[1] : "libnvidia-ml.so.1";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_devices),
        cmocka_unit_test(test_virtual_memory),
        cmocka_unit_test(test_unmapped_too_early),
        cmocka_unit_test(test_fresh_memory_is_not_a_number),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_shared_gpu),
        cmocka_unit_test(test_no_room_for_a_context),
        cmocka_unit_test(test_work_is_late),
        cmocka_unit_test(test_streams_are_ordered_by_events_alone),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_null_stream),
        cmocka_unit_test(test_launches_fail),
        cmocka_unit_test(test_refused_calls_do_not_stay),
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_refused_products),
        cmocka_unit_test(test_all_reduce),
        cmocka_unit_test(test_ranks_that_wait),
        cmocka_unit_test(test_nvml_tells_who_holds_what),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
