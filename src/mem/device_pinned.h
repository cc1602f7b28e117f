// SPDX-License-Identifier: Apache-2.0
//
// Pinned host memory as a device of its own: what is copied to and from GPUs without blocking. `reserve` takes the
// memory, which may block; `commit` and `release` only count. A device_config's capacity must be given.
#ifndef HEADROOM_MEM_DEVICE_PINNED_H
#define HEADROOM_MEM_DEVICE_PINNED_H

#include "mem/device.h"

extern const struct device_ops device_pinned;

#endif
