// SPDX-License-Identifier: Apache-2.0
//
// The sum between GPUs by NCCL, on a stream of its own beside the kernels'.
#include <nccl.h>
#include <stdlib.h>

#include "mem/device_cuda.h"
#include "worker/reduce.h"

struct reducer_nccl {
    struct reducer base;
    struct device *device;
    struct stream *stream;
    struct event *made, *summed; // on the kernels' stream, on this one
    ncclComm_t comm;
    ncclResult_t failure; // the first
};

static void destroy(struct reducer *reducer)
{
    struct reducer_nccl *nccl = (struct reducer_nccl *)reducer;
    if (nccl == NULL) {
        return;
    }
    const struct device_ops *ops = nccl->device->ops;
    if (nccl->comm != NULL) {
        ncclCommDestroy(nccl->comm);
    }
    ops->event_destroy(nccl->device, nccl->made);
    ops->event_destroy(nccl->device, nccl->summed);
    ops->stream_destroy(nccl->device, nccl->stream);
    free(nccl);
}

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

static enum status create(struct comm *comm, struct device *device, struct mem_pool *staging,
                          struct reducer **reducer_p, struct error *error)
{
    (void)staging;
    struct reducer_nccl *nccl = calloc(1, sizeof(*nccl));
    if (nccl == NULL) {
        return error_set(error, STATUS_ERROR, "out of host memory");
    }
    nccl->base.ops = &reduce_nccl;
    nccl->device = device;
    enum status status = join(nccl, comm, error);
    if (status == STATUS_OK && (device->ops->stream_create(device, &nccl->stream) != STATUS_OK ||
                                device->ops->event_create(device, &nccl->made) != STATUS_OK ||
                                device->ops->event_create(device, &nccl->summed) != STATUS_OK)) {
        status = error_set(error, STATUS_ERROR, "cannot make a stream on device %s", device->ops->name);
    }
    if (status != STATUS_OK) {
        destroy(&nccl->base);
        return status;
    }
    *reducer_p = &nccl->base;
    return STATUS_OK;
}

static void start(struct reducer *reducer, struct stream *stream, device_address values, uint64_t count,
                  enum reduce_type type)
{
    struct reducer_nccl *nccl = (struct reducer_nccl *)reducer;
    const struct device_ops *ops = nccl->device->ops;
    void *at = device_cuda_pointer(values);
    ops->event_record(nccl->device, nccl->made, stream);
    ops->event_wait(nccl->device, nccl->stream, nccl->made);
    ncclResult_t result = ncclAllReduce(at, at, count, type == REDUCE_FLOAT32 ? ncclFloat32 : ncclFloat64, ncclSum,
                                        nccl->comm, device_cuda_stream(nccl->stream));
    nccl->failure = nccl->failure == ncclSuccess ? result : nccl->failure;
}

static void finish(struct reducer *reducer, struct stream *stream)
{
    struct reducer_nccl *nccl = (struct reducer_nccl *)reducer;
    nccl->device->ops->event_record(nccl->device, nccl->summed, nccl->stream);
    nccl->device->ops->event_wait(nccl->device, stream, nccl->summed);
}

// After a failure NCCL's kernels may wait for a rank that is lost: they are ended first.
static enum status check(struct reducer *reducer, struct error *error)
{
    struct reducer_nccl *nccl = (struct reducer_nccl *)reducer;
    ncclResult_t result = nccl->failure;
    if (result == ncclSuccess) {
        ncclCommGetAsyncError(nccl->comm, &result);
    }
    if (result == ncclSuccess || result == ncclInProgress) {
        return STATUS_OK;
    }
    enum status status = failed(error, "all-reduce", result);
    if (nccl->comm != NULL) {
        ncclCommAbort(nccl->comm);
    }
    nccl->comm = NULL;
    nccl->failure = result;
    return status;
}

const struct reduce_ops reduce_nccl = {
    .name = "nccl", .create = create, .destroy = destroy, .start = start, .finish = finish, .check = check};
