// SPDX-License-Identifier: Apache-2.0
//
// test_comm self|mpi RANKS: the contract of comm.h on every rank of a job, which must have RANKS of them.
#include <string.h>

#include "check.h"

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

// All ranks of this test are on one host.
static void a_host_is_its_lowest_rank(void)
{
    CHECK(comm->host == 0);
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
    open_comm(argc, argv);
    ranks_are_numbered();
    a_host_is_its_lowest_rank();
    for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
        broadcast_brings_what_rank_0_has(messages[i]);
        gather_brings_what_each_rank_has(messages[i]);
    }
    first_failure_is_agreed_on();
    comm->ops->destroy(comm);
    return 0;
}
