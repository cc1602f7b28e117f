// SPDX-License-Identifier: Apache-2.0
//
// The devices that headroom plan is asked about: how many ranks there are, and what each one's device holds, by size or
// by the name of a well-known GPU.
//
// A GPU counts for less than its name says. From the figure that CUDA gives as its memory, FLEET_TAKEN_BYTES are taken
// off for what a fresh process finds gone: CUDA's context, the code of kernels, cuBLASLt, NCCL, and what the CUDA
// device never commits. The figures are from public reports of PyTorch's out-of-memory messages ("has a total capacity
// of 79.10 GiB"), near the lowest of them, since drivers and error correction differ; what is taken off is an
// assumption on the safe side. What this machine's GPU really has, a plan for no other device asks it.
//
// Threads: any. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_COMMANDS_FLEET_H
#define HEADROOM_WORKER_COMMANDS_FLEET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "mem/error.h"

#define FLEET_GROUPS_MAX  64
#define FLEET_NAME_MAX    32
#define FLEET_TAKEN_BYTES (UINT64_C(3) << 29)

// Neighbouring ranks with equal devices.
struct fleet_group {
    uint64_t ranks;
    char device[FLEET_NAME_MAX]; // as it was asked for
    uint64_t capacity_bytes;     // of the device
};

struct fleet {
    uint64_t ranks;                              // 0: not said
    struct fleet_group groups[FLEET_GROUPS_MAX]; // in the order of the ranks
    size_t count;                                // 0: no devices were said, the configuration says what they have
    bool has_gpus;                               // some device was named
};

// `ranks` is N or "NxDEVICE,NxDEVICE", `device` a name or a size, for all ranks; NULL: not given. STATUS_INVALID with a
// line that says what is allowed.
enum status fleet_read(const char *ranks, const char *device, struct fleet *fleet, struct error *error);

// The names of devices that it knows, separated by commas.
void fleet_print_devices(FILE *to);

// That of the rank, where devices were said.
const struct fleet_group *fleet_find(const struct fleet *fleet, uint64_t rank);

#endif
