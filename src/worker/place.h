// SPDX-License-Identifier: Apache-2.0
//
// Which device each rank runs on.
#ifndef HEADROOM_WORKER_PLACE_H
#define HEADROOM_WORKER_PLACE_H

#include "mem/device.h"
#include "worker/comm/comm.h"
#include "worker/config/config.h"

#define PLACE_DEVICES_MAX 32 // that a rank chooses from: the first ones that it sees

struct place {
    const struct device_ops *ops; // the kind of device: the same on every rank
    uint32_t index;               // among those that this process sees
    struct device_location location;
    uint32_t sharers;     // ranks on this device
    bool shared;          // somewhere, several ranks are on one device
    struct error instead; // where device.kind: auto did not find GPUs for all: why; else without text
};

// The kind of device that the configuration asks for; for "auto" that is the CPU's where this process finds no GPU, or
// the configuration uses what only the CPU device has: then `instead` says why. `cuda` where it was not built in is
// refused by config_check.
const struct device_ops *place_kind(const struct config *config, struct error *instead);

// Chooses this rank's device: ranks of one host take the GPUs that they see in turn, and none that another has while
// they see a free one. Collective; on failure every rank may have its own `error`.
enum status place_choose(const struct config *config, struct comm *comm, struct place *place_p, struct error *error);

#endif
