// SPDX-License-Identifier: Apache-2.0
//
// What the sequences of a run are for: the key of purpose p is random_draw(train.seed, p).
#ifndef HEADROOM_WORKER_RANDOM_H
#define HEADROOM_WORKER_RANDOM_H

#include "mem/random.h"

enum random_purpose { RANDOM_TRAIN, RANDOM_VALIDATION, RANDOM_CENTRES, RANDOM_ORDER };

#endif
