// SPDX-License-Identifier: Apache-2.0
//
// Between GPUs by NCCL, on a stream of its own beside the kernels'. A thread watches for failures, as between
// hosts: whatever the program waits for, a lost rank ends the wait.
#include <nccl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "mem/device_cuda.h"
#include "mem/sanitizer.h"
#include "worker/comm/reduce.h"

struct reducer_nccl {
    struct reducer base;
    struct device *device;
    struct stream *stream;
    struct event *made, *done; // on the kernels' stream, on this one
    uint32_t ranks;
    pthread_t watcher;
    bool watched;
    pthread_mutex_t lock; // of what follows
    pthread_cond_t end;
    bool ending;
    ncclComm_t comm;      // NULL: never joined, or given up
    struct error failure; // the first
};

static enum status failed(struct error *error, const char *what, ncclResult_t result)
{
    const char *detail = ncclGetLastError(NULL);
    return error_set(error, STATUS_ERROR, "NCCL: %s: %s%s%s", what, ncclGetErrorString(result),
                     *detail == '\0' ? "" : ": ", detail);
}

// Rank 0 makes the job's id, and tells the others too where it could not.
static enum status join(struct reducer_nccl *nccl, struct comm *comm, struct error *error)
{
    struct {
        ncclUniqueId id;
        ncclResult_t result;
    } made = {.result = ncclSuccess};
    if (comm->rank == 0) {
        made.result = ncclGetUniqueId(&made.id);
    }
    comm->ops->broadcast(comm, &made, sizeof(made));
    if (made.result != ncclSuccess) {
        return failed(error, "ncclGetUniqueId", made.result);
    }
    ncclResult_t result = ncclCommInitRank(&nccl->comm, (int)comm->size, made.id, (int)comm->rank);
    return result == ncclSuccess ? STATUS_OK : failed(error, "ncclCommInitRank", result);
}

static bool is_failure(ncclResult_t result)
{
    return result != ncclSuccess && result != ncclInProgress;
}

// NCCL's kernels may wait for a rank that is lost: they are ended, and with them whoever waits for the device. With the
// lock.
static void give_up(struct reducer_nccl *nccl, const char *what, ncclResult_t result)
{
    failed(&nccl->failure, what, result);
    ncclCommAbort(nccl->comm);
    nccl->comm = NULL;
}

// With the lock.
static void ask(struct reducer_nccl *nccl)
{
    if (nccl->comm == NULL) {
        return;
    }
    ncclResult_t result = ncclSuccess, asked = ncclCommGetAsyncError(nccl->comm, &result);
    if (is_failure(asked) || is_failure(result)) {
        give_up(nccl, "all-reduce", is_failure(asked) ? asked : result);
    }
}

static void *watch(void *argument)
{
    enum { PERIOD_NS = 20000000 };
    struct reducer_nccl *nccl = argument;
    pthread_mutex_lock(&nccl->lock);
    while (!nccl->ending) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += PERIOD_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&nccl->end, &nccl->lock, &until);
        ask(nccl);
    }
    pthread_mutex_unlock(&nccl->lock);
    return NULL;
}

static void end_watch(struct reducer_nccl *nccl)
{
    pthread_mutex_lock(&nccl->lock);
    nccl->ending = true;
    pthread_cond_signal(&nccl->end);
    pthread_mutex_unlock(&nccl->lock);
    pthread_join(nccl->watcher, NULL);
}

static void destroy(struct reducer *reducer)
{
    struct reducer_nccl *nccl = (struct reducer_nccl *)reducer;
    if (nccl == NULL) {
        return;
    }
    const struct device_ops *ops = nccl->device->ops;
    if (nccl->watched) {
        end_watch(nccl);
    }
    if (nccl->comm != NULL) {
        ncclCommDestroy(nccl->comm);
    }
    ops->event_destroy(nccl->device, nccl->made);
    ops->event_destroy(nccl->device, nccl->done);
    ops->stream_destroy(nccl->device, nccl->stream);
    pthread_cond_destroy(&nccl->end);
    pthread_mutex_destroy(&nccl->lock);
    free(nccl);
}

static enum status prepare(struct reducer_nccl *nccl, struct error *error)
{
    struct device *device = nccl->device;
    if (device->ops->stream_create(device, &nccl->stream) != STATUS_OK ||
        device->ops->event_create(device, &nccl->made) != STATUS_OK ||
        device->ops->event_create(device, &nccl->done) != STATUS_OK) {
        return error_set(error, STATUS_ERROR, "cannot make a stream on device %s", device->ops->name);
    }
    nccl->watched = pthread_create(&nccl->watcher, NULL, watch, nccl) == 0;
    return nccl->watched ? STATUS_OK : error_set(error, STATUS_ERROR, "cannot start a thread");
}

static enum status create(struct comm *comm, struct device *device, struct mem_pool *staging,
                          struct reducer **reducer_p, struct error *error)
{
    (void)staging;
    struct reducer_nccl *nccl = calloc(1, sizeof(*nccl));
    if (nccl == NULL) {
        return error_out_of_host_memory(error);
    }
    nccl->base.ops = &reduce_nccl;
    nccl->device = device;
    nccl->ranks = comm->size;
    pthread_mutex_init(&nccl->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&nccl->end, &attributes);
    pthread_condattr_destroy(&attributes);
    enum status status = join(nccl, comm, error);
    if (status == STATUS_OK) {
        status = prepare(nccl, error);
    }
    if (status != STATUS_OK) {
        destroy(&nccl->base);
        return status;
    }
    *reducer_p = &nccl->base;
    return STATUS_OK;
}

static ncclDataType_t datatype_of(enum reduce_type type)
{
    switch (type) {
    case REDUCE_FLOAT32:
        return ncclFloat32;
    case REDUCE_FLOAT64:
        return ncclFloat64;
    case REDUCE_INT64:
        return ncclInt64;
    }
    return ncclNumTypes;
}

// What comes on NCCL's stream sees what was enqueued on the other until now.
static void follow(struct reducer_nccl *nccl, struct stream *stream)
{
    nccl->device->ops->event_record(nccl->device, nccl->made, stream);
    nccl->device->ops->event_wait(nccl->device, nccl->stream, nccl->made);
}

static void start(struct reducer *reducer, struct stream *stream, device_address values, uint64_t count,
                  enum reduce_type type)
{
    struct reducer_nccl *nccl = (struct reducer_nccl *)reducer;
    void *at = device_cuda_pointer(values);
    follow(nccl, stream);
    sanitizer_access(nccl->device, nccl->stream, values, count * reduce_type_bytes(type), true, "all-reduce");
    pthread_mutex_lock(&nccl->lock);
    if (nccl->comm != NULL) {
        ncclResult_t result =
            ncclAllReduce(at, at, count, datatype_of(type), ncclSum, nccl->comm, device_cuda_stream(nccl->stream));
        if (is_failure(result)) {
            give_up(nccl, "all-reduce", result);
        }
    }
    pthread_mutex_unlock(&nccl->lock);
}

// With the lock.
static ncclResult_t broadcast_all(const struct reducer_nccl *nccl, device_address values, const struct shard *shards)
{
    cudaStream_t stream = device_cuda_stream(nccl->stream);
    ncclResult_t result = ncclGroupStart();
    for (uint32_t rank = 0; rank < nccl->ranks && !is_failure(result); rank++) {
        void *at = device_cuda_pointer(values + shards[rank].first * sizeof(float));
        if (shards[rank].elements > 0) {
            result = ncclBroadcast(at, at, shards[rank].elements, ncclFloat32, (int)rank, nccl->comm, stream);
        }
    }
    ncclResult_t ended = ncclGroupEnd();
    return is_failure(result) ? result : ended;
}

static void gather(struct reducer *reducer, struct stream *stream, device_address values, const struct shard *shards)
{
    struct reducer_nccl *nccl = (struct reducer_nccl *)reducer;
    const struct shard *last = &shards[nccl->ranks - 1];
    follow(nccl, stream);
    sanitizer_access(nccl->device, nccl->stream, values, (last->first + last->elements) * sizeof(float), true,
                     "all-gather");
    pthread_mutex_lock(&nccl->lock);
    if (nccl->comm != NULL) {
        ncclResult_t result = broadcast_all(nccl, values, shards);
        if (is_failure(result)) {
            give_up(nccl, "all-gather", result);
        }
    }
    pthread_mutex_unlock(&nccl->lock);
}

static void finish(struct reducer *reducer, struct stream *stream)
{
    struct reducer_nccl *nccl = (struct reducer_nccl *)reducer;
    nccl->device->ops->event_record(nccl->device, nccl->done, nccl->stream);
    nccl->device->ops->event_wait(nccl->device, stream, nccl->done);
}

static enum status check(struct reducer *reducer, struct error *error)
{
    struct reducer_nccl *nccl = (struct reducer_nccl *)reducer;
    pthread_mutex_lock(&nccl->lock);
    ask(nccl);
    enum status status = nccl->failure.status;
    if (status != STATUS_OK) {
        error_set(error, status, "%s", nccl->failure.text);
    }
    pthread_mutex_unlock(&nccl->lock);
    return status;
}

const struct reduce_ops reduce_nccl = {.name = "nccl",
                                       .overlaps = true,
                                       .create = create,
                                       .destroy = destroy,
                                       .start = start,
                                       .gather = gather,
                                       .finish = finish,
                                       .check = check};
