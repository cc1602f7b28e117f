// SPDX-License-Identifier: Apache-2.0
//
// How many threads this rank's CPU kernels use.
#ifndef HEADROOM_WORKER_THREADS_H
#define HEADROOM_WORKER_THREADS_H

#include <stdbool.h>

#include "worker/comm/comm.h"

// Each rank takes an equal part of the cores that it may run on, divided among the ranks that may run on the very same
// ones; a rank that its launcher has bound to cores of its own takes them all. At least one. What the user says in
// OMP_NUM_THREADS stands. `reproducible`: one, since results depend on their number. Collective.
void threads_choose(struct comm *comm, bool reproducible);

#endif
