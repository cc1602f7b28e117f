// SPDX-License-Identifier: Apache-2.0
//
// NCCL among processes of one machine, over shared memory: an all-reduce, added in the order of ranks, and a broadcast.
// It needs no MPI, because the product's MPI may be called from one thread only, and what is enqueued must go on while
// that thread waits in MPI.
#include <errno.h>
#include <fcntl.h>
#include <functional>
#include <memory>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "state.h"

#define RANKS_MAX   64
#define CHUNK_BYTES 262144

// One rank's part of the shared memory. The counters count chunks over the communicator's life.
struct seat {
    std::atomic<uint64_t> written; // chunks that the rank put into `chunk`
    std::atomic<uint64_t> read;    // chunks whose sum the rank took
    std::atomic<int> arrived;
    std::atomic<int> aborted;
    char host[64], gpu[128];
    uint64_t count, type, sequence; // of the call that the chunk belongs to
    int root;                       // the same
    alignas(64) char chunk[CHUNK_BYTES];
};

struct ncclComm {
    int rank, ranks, device;
    struct seat *seats;
    uint64_t chunks;           // done so far
    uint64_t issued, finished; // calls
    bool aborted;
    ncclResult_t failure;
    char text[256];

    ~ncclComm()
    {
        munmap(seats, sizeof(*seats) * static_cast<size_t>(ranks));
    }
};

// Work that is enqueued keeps the communicator; guarded by the simulator's lock.
static std::vector<std::shared_ptr<struct ncclComm>> *communicators()
{
    static auto *all = new std::vector<std::shared_ptr<struct ncclComm>>();
    return all;
}

static thread_local char last_text[256];
static thread_local int group_depth;
static thread_local std::vector<std::function<ncclResult_t()>> *group;

static std::shared_ptr<struct ncclComm> find(ncclComm_t communicator)
{
    for (const auto &known : *communicators()) {
        if (known.get() == communicator) {
            return known;
        }
    }
    return nullptr;
}

static ncclResult_t refuse(ncclResult_t result, const char *text)
{
    snprintf(last_text, sizeof(last_text), "%s", text);
    return result;
}

ncclResult_t ncclGetVersion(int *version_p)
{
    *version_p = NCCL_VERSION_CODE;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const texts[] = {
        "no error",
        "unhandled cuda error",
        "unhandled system error",
        "internal error",
        "invalid argument",
        "invalid usage",
        "remote process exited or there was a network error",
        "NCCL operation in progress",
    };
    return result >= 0 && result < ncclNumResults ? texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t)
{
    return last_text;
}

// ---- Meeting ----

ncclResult_t ncclGetUniqueId(ncclUniqueId *id_p)
{
    *id_p = {};
    uint64_t random[2];
    if (getentropy(random, sizeof(random)) != 0) {
        return ncclSystemError;
    }
    snprintf(id_p->internal, sizeof(id_p->internal), "/simulator-nccl-%016llx%016llx",
             static_cast<unsigned long long>(random[0]), static_cast<unsigned long long>(random[1]));
    return ncclSuccess;
}

static struct seat *open_seats(const char *name, int ranks)
{
    size_t bytes = sizeof(struct seat) * static_cast<size_t>(ranks);
    int file = shm_open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) {
        return nullptr;
    }
    void *at = ftruncate(file, static_cast<off_t>(bytes)) == 0
                   ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
                   : MAP_FAILED;
    close(file);
    return at == MAP_FAILED ? nullptr : static_cast<struct seat *>(at);
}

// NCCL tells machines apart by their name, or by what the environment says instead.
static void describe_self(struct seat *seat)
{
    const char *host = getenv("NCCL_HOSTID");
    snprintf(seat->host, sizeof(seat->host), "%s", host != nullptr ? host : "");
    simulator_gpu_identity(seat->gpu, sizeof(seat->gpu));
    seat->arrived = 1;
}

static void wait_for_all(const struct seat *seats, int ranks)
{
    for (int rank = 0; rank < ranks; rank++) {
        while (seats[rank].arrived == 0) {
            usleep(200);
        }
    }
}

static ncclResult_t check_gpus(const struct seat *seats, int ranks)
{
    for (int a = 0; a < ranks; a++) {
        for (int b = 0; b < a; b++) {
            if (strcmp(seats[a].gpu, seats[b].gpu) == 0 && strcmp(seats[a].host, seats[b].host) == 0) {
                char text[256];
                snprintf(text, sizeof(text), "Duplicate GPU detected : rank %d and rank %d both on CUDA device %.100s",
                         b, a, seats[a].gpu);
                return refuse(ncclInvalidUsage, text);
            }
        }
    }
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *communicator_p, int ranks, ncclUniqueId id, int rank, ncclConfig_t *)
{
    if (communicator_p == nullptr || ranks < 1 || ranks > RANKS_MAX || rank < 0 || rank >= ranks) {
        return refuse(ncclInvalidArgument, "invalid rank or number of ranks");
    }
    *communicator_p = nullptr;
    if (simulator_call(SIMULATOR_CONTEXT, [] { return cudaSuccess; }) != cudaSuccess) {
        return refuse(ncclUnhandledCudaError, "no CUDA context");
    }
    struct seat *seats = open_seats(id.internal, ranks);
    if (seats == nullptr) {
        return refuse(ncclSystemError, "cannot open shared memory");
    }
    describe_self(&seats[rank]);
    wait_for_all(seats, ranks);
    if (rank == 0) {
        shm_unlink(id.internal);
    }
    auto made = std::make_shared<struct ncclComm>();
    made->rank = rank;
    made->ranks = ranks;
    made->device = simulator_current_gpu();
    made->seats = seats;
    ncclResult_t result = check_gpus(seats, ranks);
    if (result == ncclSuccess) {
        std::lock_guard<std::mutex> guard(simulator_mutex);
        communicators()->push_back(made);
        *communicator_p = made.get();
    }
    return result;
}

ncclResult_t ncclCommInitRank(ncclComm_t *communicator_p, int ranks, ncclUniqueId id, int rank)
{
    return ncclCommInitRankConfig(communicator_p, ranks, id, rank, nullptr);
}

static ncclResult_t leave(ncclComm_t communicator, bool aborts)
{
    std::lock_guard<std::mutex> guard(simulator_mutex);
    std::shared_ptr<struct ncclComm> known = find(communicator);
    if (known == nullptr) {
        return refuse(ncclInvalidArgument, "no communicator");
    }
    if (aborts) {
        known->aborted = true;
        known->seats[known->rank].aborted = 1;
    }
    std::erase(*communicators(), known);
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t communicator)
{
    return leave(communicator, false);
}

ncclResult_t ncclCommAbort(ncclComm_t communicator)
{
    return leave(communicator, true);
}

// Waits until what was enqueued is done.
ncclResult_t ncclCommFinalize(ncclComm_t communicator)
{
    std::unique_lock<std::mutex> guard(simulator_mutex);
    std::shared_ptr<struct ncclComm> known = find(communicator);
    if (known == nullptr) {
        return refuse(ncclInvalidArgument, "no communicator");
    }
    streams_drain_gpu(known->device);
    return known->failure;
}

static bool another_aborted(const struct ncclComm *communicator)
{
    for (int rank = 0; rank < communicator->ranks; rank++) {
        if (communicator->seats[rank].aborted != 0) {
            return true;
        }
    }
    return false;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t *result_p)
{
    std::lock_guard<std::mutex> guard(simulator_mutex);
    std::shared_ptr<struct ncclComm> known = find(communicator);
    if (known == nullptr) {
        return refuse(ncclInvalidArgument, "no communicator");
    }
    *result_p = known->failure != ncclSuccess  ? known->failure
                : another_aborted(known.get()) ? ncclRemoteError
                                               : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t communicator, int *count_p)
{
    *count_p = communicator->ranks;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t communicator, int *rank_p)
{
    *rank_p = communicator->rank;
    return ncclSuccess;
}

// ---- All-reduce and broadcast ----

#define SUM (-1)

struct call {
    std::shared_ptr<struct ncclComm> communicator;
    const char *from;
    char *to;
    uint64_t count, type, sequence;
    uint64_t element_bytes;
    int root;              // of a broadcast; SUM: it is an all-reduce
    uint64_t offset_bytes; // done so far
    bool written;          // this rank's part of the chunk at hand
    bool fails;
};

template <typename Value> static void add_up(const struct ncclComm *communicator, void *to, size_t bytes)
{
    Value *sum = static_cast<Value *>(to);
    for (size_t i = 0; i < bytes / sizeof(Value); i++) {
        Value value = 0;
        for (int rank = 0; rank < communicator->ranks; rank++) {
            value += reinterpret_cast<const Value *>(communicator->seats[rank].chunk)[i];
        }
        sum[i] = value;
    }
}

static bool all_read(const struct ncclComm *communicator)
{
    for (int rank = 0; rank < communicator->ranks; rank++) {
        if (communicator->seats[rank].read < communicator->chunks) {
            return false;
        }
    }
    return true;
}

static bool all_written(const struct ncclComm *communicator)
{
    for (int rank = 0; rank < communicator->ranks; rank++) {
        if (communicator->seats[rank].written <= communicator->chunks) {
            return false;
        }
    }
    return true;
}

// Ranks that disagree about what they add would hang or compute nonsense on GPUs; here they are told.
static bool all_agree(struct call *call)
{
    struct ncclComm *communicator = call->communicator.get();
    for (int rank = 0; rank < communicator->ranks; rank++) {
        const struct seat *seat = &communicator->seats[rank];
        if (seat->count != call->count || seat->type != call->type || seat->sequence != call->sequence ||
            seat->root != call->root) {
            fprintf(stderr, "simulator: NCCL call %llu: rank %d has %llu elements, rank %d %llu\n",
                    static_cast<unsigned long long>(call->sequence), communicator->rank,
                    static_cast<unsigned long long>(call->count), rank, static_cast<unsigned long long>(seat->count));
            communicator->failure = ncclInvalidUsage;
            return false;
        }
    }
    return true;
}

static void write_chunk(struct call *call, size_t bytes)
{
    struct seat *seat = &call->communicator->seats[call->communicator->rank];
    if (call->root == SUM || call->root == call->communicator->rank) {
        memcpy(seat->chunk, call->from + call->offset_bytes, bytes);
    }
    seat->root = call->root;
    seat->count = call->count;
    seat->type = call->type;
    seat->sequence = call->sequence;
    seat->written = call->communicator->chunks + 1;
    call->written = true;
}

static void take_chunk(struct call *call, size_t bytes)
{
    struct ncclComm *communicator = call->communicator.get();
    void *to = call->to + call->offset_bytes;
    if (call->root != SUM) {
        memcpy(to, communicator->seats[call->root].chunk, bytes);
    } else if (call->type == ncclFloat32) {
        add_up<float>(communicator, to, bytes);
    } else if (call->type == ncclFloat64) {
        add_up<double>(communicator, to, bytes);
    } else {
        add_up<int64_t>(communicator, to, bytes);
    }
    communicator->chunks++;
    communicator->seats[communicator->rank].read = communicator->chunks;
    call->offset_bytes += bytes;
    call->written = false;
}

// As far as it goes without waiting; true once all is done.
static bool advance(struct call *call)
{
    struct ncclComm *communicator = call->communicator.get();
    uint64_t total = call->count * call->element_bytes;
    if (communicator->finished != call->sequence) {
        return communicator->aborted; // an earlier call on another stream comes first
    }
    if (call->fails) {
        communicator->failure = ncclSystemError;
    }
    if (!memory_is_device(call->from, total) || !memory_is_device(call->to, total)) {
        simulator_fail(cudaErrorIllegalAddress);
        return true;
    }
    while (call->offset_bytes < total && !communicator->aborted && communicator->failure == ncclSuccess) {
        size_t bytes = std::min<uint64_t>(CHUNK_BYTES, total - call->offset_bytes);
        if (!call->written) {
            if (!all_read(communicator)) {
                return false;
            }
            write_chunk(call, bytes);
        }
        if (!all_written(communicator)) {
            return false;
        }
        if (all_agree(call)) {
            take_chunk(call, bytes);
        }
    }
    communicator->finished++;
    return true;
}

// Messages of few bytes go another way than long ones, and each way is connected when it is first gone.
static uint64_t code_of(ncclDataType_t type, size_t count, int root)
{
    return UINT64_C(0x6e63636c) + 4 * static_cast<uint64_t>(type) + 2 * (root != SUM) + (count > 4096);
}

static ncclResult_t in_group(std::function<ncclResult_t()> issue)
{
    if (group_depth == 0) {
        return issue();
    }
    if (group == nullptr) {
        group = new std::vector<std::function<ncclResult_t()>>();
    }
    group->push_back(std::move(issue));
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void)
{
    group_depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    if (group_depth == 0) {
        return refuse(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
    }
    ncclResult_t result = ncclSuccess;
    if (--group_depth == 0 && group != nullptr) {
        for (const auto &issue : *group) {
            result = result == ncclSuccess ? issue() : result;
        }
        group->clear();
    }
    return result;
}

static ncclResult_t enqueue(const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t handle,
                            cudaStream_t stream)
{
    auto call = std::make_shared<struct call>();
    if (!simulator_load(code_of(type, count, root))) {
        return refuse(ncclUnhandledCudaError, "cannot connect: out of memory");
    }
    {
        std::lock_guard<std::mutex> guard(simulator_mutex);
        call->communicator = find(handle);
        if (call->communicator == nullptr) {
            return refuse(ncclInvalidArgument, "no communicator");
        }
        call->sequence = call->communicator->issued++;
        call->fails = call->sequence == simulator_setting("SIMULATOR_FAIL_SUM", UINT64_MAX);
    }
    call->from = static_cast<const char *>(from);
    call->to = static_cast<char *>(to);
    call->count = count;
    call->type = type;
    call->element_bytes = type == ncclFloat32 ? 4 : 8;
    call->root = root;
    cudaError_t error = streams_enqueue_polled(stream, [call] { return advance(call.get()); });
    return error == cudaSuccess ? ncclSuccess : refuse(ncclUnhandledCudaError, cudaGetErrorString(error));
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t operation,
                           ncclComm_t handle, cudaStream_t stream)
{
    if ((type != ncclFloat32 && type != ncclFloat64 && type != ncclInt64) || operation != ncclSum) {
        return refuse(ncclInvalidArgument, "the simulator adds float32, float64 and int64 only");
    }
    return in_group([=] { return enqueue(from, to, count, type, SUM, handle, stream); });
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t handle,
                           cudaStream_t stream)
{
    if (type != ncclFloat32 || root < 0) {
        return refuse(ncclInvalidArgument, "the simulator broadcasts float32 only");
    }
    return in_group([=] { return enqueue(from, to, count, type, root, handle, stream); });
}
