// SPDX-License-Identifier: Apache-2.0
//
// The host side of a rank near its device: its threads and memory on the cores and the memory that the device's bus is
// attached to. By hwloc where it was built in, as it is with CUDA.
#ifndef HEADROOM_WORKER_BIND_H
#define HEADROOM_WORKER_BIND_H

#include <stddef.h>

#include "mem/device.h"

// Binds this process, and the threads that it will make. What a launcher has bound already stays, and so does a process
// whose device is near all cores. Writes what was done, or why nothing was, for a log; "" for a device on no bus.
void bind_near(const struct device_location *location, char *text, size_t size);

#endif
