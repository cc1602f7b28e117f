// SPDX-License-Identifier: Apache-2.0
//
// The specification of every kernel: plain loops on one thread, computed in float64 and rounded when written. It runs
// on the CPU device.
#ifndef HEADROOM_KERNELS_REFERENCE_H
#define HEADROOM_KERNELS_REFERENCE_H

#include "kernels/kernels.h"

extern const struct kernels kernels_reference_fp32, kernels_reference_bf16;

#endif
