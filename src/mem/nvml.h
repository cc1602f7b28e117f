// SPDX-License-Identifier: Apache-2.0
//
// NVML, the library of NVIDIA's driver that knows which processes use a GPU. It is looked for at run time; its types
// are declared here after its documentation, as no package carries its header.
#ifndef HEADROOM_MEM_NVML_H
#define HEADROOM_MEM_NVML_H

#include <stdbool.h>
#include <stdint.h>

struct nvml_usage {
    uint64_t own_bytes; // of the process asked for, all of them: contexts and libraries too
    uint64_t others_bytes;
    uint32_t other_processes;
};

// Who uses the GPU with that PCI bus id. False where the library is missing or does not know the process, as in a
// container with processes of its own. Takes milliseconds.
bool nvml_usage(const char *bus_id, uint32_t process, struct nvml_usage *usage_p);

#endif
