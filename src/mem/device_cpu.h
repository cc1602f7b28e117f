// SPDX-License-Identifier: Apache-2.0
//
// What only the CPU device has: the way back from an address to memory, for the CPU's kernels, and a neighbour on
// command, for tests and demonstrations.
#ifndef HEADROOM_MEM_DEVICE_CPU_H
#define HEADROOM_MEM_DEVICE_CPU_H

#include "mem/device.h"

extern const struct device_ops device_cpu;

// Faulting addresses carry this bit: no user address of x86-64 or AArch64 has it.
#define DEVICE_CPU_FAULT_BIT (UINT64_C(1) << 55)

static inline void *device_cpu_pointer(device_address address)
{
    return (void *)(uintptr_t)(address & ~DEVICE_CPU_FAULT_BIT);
}

// Sets what a neighbour on this device holds (0: it has left). The claim is granted whole, as a machine's memory is
// when another program grows, so it can push the device over its capacity; those who share the device see less free
// memory, or none, until they give some back. One neighbour for each process attached; it leaves with the process.
void device_cpu_set_neighbour(struct device *device, uint64_t bytes);

#endif
