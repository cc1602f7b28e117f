// SPDX-License-Identifier: Apache-2.0
//
// Named ranges of the host's time, which profilers show beside the device's work (NVTX where CUDA is built in). They
// nest within a thread. Without a profiler they cost next to nothing.
#ifndef HEADROOM_MEM_RANGE_H
#define HEADROOM_MEM_RANGE_H

void range_begin(const char *name);
void range_end(void);

#endif
