// SPDX-License-Identifier: Apache-2.0
//
// test_comm self|mpi [RANKS]: the contract of comm.h on every rank of a job, which must have RANKS of them. A failed
// check ends the whole job, so no rank is left waiting.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/comm.h"

static struct comm *comm;

#define CHECK(condition) check(condition, #condition, __func__, __LINE__)

static void check(bool holds, const char *condition, const char *where, int line)
{
    if (!holds) {
        fprintf(stderr, "rank %" PRIu32 ": %s:%d: %s\n", comm->rank, where, line, condition);
        comm->ops->abort(comm, 1);
    }
}

static void *make(size_t bytes)
{
    void *memory = malloc(bytes);
    CHECK(memory != NULL);
    return memory;
}

// The byte at `place` of what `rank` sends.
static unsigned char pattern(uint32_t rank, size_t place)
{
    return (unsigned char)(rank * 101 + place * 7 + place / 251);
}

static void ranks_are_numbered(void)
{
    uint32_t *all = make(comm->size * sizeof(*all));
    comm->ops->gather_start(comm, &comm->rank, all, sizeof(comm->rank));
    comm->ops->gather_wait(comm);
    for (uint32_t i = 0; i < comm->size; i++) {
        CHECK(all[i] == i);
    }
    free(all);
}

static void broadcast_brings_what_rank_0_has(size_t bytes)
{
    unsigned char *data = make(bytes + 1);
    for (size_t i = 0; i <= bytes; i++) {
        data[i] = pattern(comm->rank, i);
    }
    comm->ops->broadcast(comm, data, bytes);
    for (size_t i = 0; i < bytes; i++) {
        CHECK(data[i] == pattern(0, i));
    }
    CHECK(data[bytes] == pattern(comm->rank, bytes));
    free(data);
}

static void gather_brings_what_each_rank_has(size_t bytes)
{
    unsigned char *mine = make(bytes), *all = make(bytes * comm->size);
    for (size_t i = 0; i < bytes; i++) {
        mine[i] = pattern(comm->rank, i);
    }
    comm->ops->gather_start(comm, mine, all, bytes);
    comm->ops->gather_wait(comm);
    for (size_t i = 0; i < bytes * comm->size; i++) {
        CHECK(all[i] == pattern((uint32_t)(i / bytes), i % bytes));
    }
    free(all);
    free(mine);
}

// A device with room for `count` floats at the answered address.
static struct device *open_device(bool faulting, uint64_t bytes, struct stream **stream_p, device_address *values_p)
{
    struct device *device;
    struct device_config config = {.capacity_bytes = bytes, .faulting_addresses = faulting};
    CHECK(device_find("cpu")->create(&config, &device, NULL) == STATUS_OK);
    CHECK(device->ops->stream_create(device, stream_p) == STATUS_OK);
    CHECK(device->ops->reserve(device, bytes, values_p) == STATUS_OK);
    CHECK(device->ops->commit(device, *values_p, bytes) == STATUS_OK);
    CHECK((device->ops->host_pointer(device, *values_p) == NULL) == faulting);
    return device;
}

static void close_device(struct device *device, struct stream *stream, device_address values, uint64_t bytes)
{
    device->ops->release(device, values, bytes);
    device->ops->unreserve(device, values, bytes);
    device->ops->stream_destroy(device, stream);
    device->ops->destroy(device);
}

// Whole numbers, so that sums are exact in any order. One value more than `count` lies behind and stays as it is. A
// gather runs meanwhile, as in a training step.
static void all_reduce_adds_up(bool faulting, uint64_t count)
{
    struct stream *stream;
    device_address values;
    uint64_t granularity = device_find("cpu")->granularity_bytes;
    uint64_t bytes = ((count + 1) * sizeof(float) + granularity - 1) / granularity * granularity;
    struct device *device = open_device(faulting, bytes, &stream, &values);
    float *host = make((count + 1) * sizeof(*host));
    uint32_t *ranks = make(comm->size * sizeof(*ranks));
    for (uint64_t i = 0; i <= count; i++) {
        host[i] = (float)((comm->rank + 1) * (i % 997));
    }
    device->ops->copy_to_device(device, stream, values, host, (count + 1) * sizeof(*host));

    comm->ops->gather_start(comm, &comm->rank, ranks, sizeof(comm->rank));
    comm->ops->all_reduce(comm, device, stream, values, count);
    comm->ops->gather_wait(comm);

    float untouched = host[count];
    device->ops->copy_to_host(device, stream, host, values, (count + 1) * sizeof(*host));
    device->ops->stream_synchronize(device, stream);
    for (uint64_t i = 0; i < count; i++) {
        CHECK(host[i] == (float)(comm->size * (comm->size + 1) / 2 * (i % 997)));
    }
    CHECK(host[count] == untouched);
    CHECK(ranks[comm->size - 1] == comm->size - 1);
    free(ranks);
    free(host);
    close_device(device, stream, values, bytes);
}

static void first_failure_is_agreed_on(void)
{
    enum status first = STATUS_ERROR;
    CHECK(comm_first_failure(comm, STATUS_OK, &first) == comm->size);
    CHECK(first == STATUS_OK);
    for (uint32_t lowest = 0; lowest < comm->size; lowest++) { // it and all above fail, each in another way
        enum status mine = comm->rank < lowest    ? STATUS_OK
                           : comm->rank == lowest ? STATUS_OUT_OF_MEMORY
                                                  : STATUS_INVALID;
        CHECK(comm_first_failure(comm, mine, &first) == lowest);
        CHECK(first == STATUS_OUT_OF_MEMORY);
    }
}

int main(int argc, char **argv)
{
    static const size_t messages[] = {1, 4, 200, 65536, 1000003};
    // Around the 2^18 floats of the staging buffer, and several of it.
    static const uint64_t counts[] = {1, 7, 262143, 262144, 262145, 700001};
    const struct comm_ops *ops = argc > 1 && strcmp(argv[1], "self") == 0 ? &comm_self : &comm_mpi;
    if (ops->create(&comm, NULL) != STATUS_OK) {
        return 1;
    }
    CHECK(comm->ops == ops);
    CHECK(argc <= 2 || comm->size == strtoul(argv[2], NULL, 10));
    ranks_are_numbered();
    for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
        broadcast_brings_what_rank_0_has(messages[i]);
        gather_brings_what_each_rank_has(messages[i]);
    }
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        all_reduce_adds_up(false, counts[i]);
        all_reduce_adds_up(true, counts[i]);
    }
    first_failure_is_agreed_on();
    comm->ops->destroy(comm);
    return 0;
}
