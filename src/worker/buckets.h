// SPDX-License-Identifier: Apache-2.0
//
// The gradients in buckets: neighbouring parameters whose gradients are added up over ranks together, as soon as the
// last micro-step's backward pass has made them (Li et al., "PyTorch Distributed", 2020).
//
// Pure functions of the list, so that all ranks have the same buckets in the same order.
#ifndef HEADROOM_WORKER_BUCKETS_H
#define HEADROOM_WORKER_BUCKETS_H

#include "model/model.h"

struct bucket {
    uint64_t first_element, elements; // of the buffer of gradients
    size_t ready;                     // operations of its list after which its gradients are done
};

// Buckets of at least `bytes` each, but the last, in the order in which they become ready; they cover the buffer. The
// caller frees what is written at `*buckets_p`. Answers their number; 0 when the host's memory runs out.
size_t buckets_make(const struct model *model, const struct list *list, uint64_t bytes, struct bucket **buckets_p);

// For another list of the model, after how many operations each bucket and all before it are done: ready[count]. False
// when the host's memory runs out.
bool buckets_ready(const struct bucket *buckets, size_t count, const struct list *list, size_t *ready);

#endif
