// SPDX-License-Identifier: Apache-2.0
//
// Where the optimizer's state is: on the device, or away, in host memory. Then a step brings it to the device piece by
// piece: while the kernel works on one, the next comes and the one before goes back. Ren et al., "ZeRO-Offload" (2021)
// keeps state so, but updates it on the host; here the device does, so that the bits are the same.
//
// With train.shard_optimizer a rank has the state of its shard alone, and updates no other weights.
//
// Threads: one at a time. Ranks: each for itself.
#ifndef HEADROOM_WORKER_OPTIMIZER_STATE_H
#define HEADROOM_WORKER_OPTIMIZER_STATE_H

#include "mem/pool.h"
#include "model/optimizer.h"
#include "worker/shards.h"

#define OPTIMIZER_STATE_SLOTS 2

struct worker;

// Bytes; 0: there is no state.
struct optimizer_state_size {
    uint64_t bytes;           // all of it
    uint64_t device_bytes[2]; // on the device, where it is there and where it is away
};

struct optimizer_state {
    struct shard shard; // the elements that it is of
    struct optimizer_state_size size;
    bool away;
    device_address block;  // on the device: all of it, or when it is away the slots of pieces; 0: there is no state
    device_address staged; // in staging memory, which it keeps when it comes back; 0: it has none
    char *host;            // the same
    struct event *filled[OPTIMIZER_STATE_SLOTS];  // on the copy stream: a slot holds the next piece
    struct event *emptied[OPTIMIZER_STATE_SLOTS]; // on the transfers' stream: what was in a slot is back in host memory
    struct event *computed;                       // on the stream of kernels
};

// Of the state of so many elements.
struct optimizer_state_size optimizer_state_size(uint64_t elements, const struct optimizer_config *optimizer);

// Holds state of its shard that is 0 on the device, or, where that has no memory for it and it may leave, away.
// STATUS_OUT_OF_MEMORY where neither is to be had, and the pool tells why; STATUS_ERROR where the host's memory or the
// device's events run out. worker->resting_bytes says what else is held. optimizer_state_finish is due in any case.
enum status optimizer_state_hold(struct worker *worker);
// Nothing that uses it is under way.
void optimizer_state_finish(struct worker *worker);

// Makes it be away, or on the device. False where the memory for that is refused; then it is where it was. Blocks until
// the device is done with it.
bool optimizer_state_move(struct worker *worker, bool away);

// Where it is on the device, the host memory that it kept goes back.
void optimizer_state_drop_host(struct worker *worker);

// The bytes of headroom that the rank gains when its state leaves, or would lose if it came back.
uint64_t optimizer_state_gain(const struct worker *worker);

// Elements [first, first + count) of the shard, of state number `number`, wherever it is, to host memory and from
// there. Block until that is done, and until the device is done with all steps before.
void optimizer_state_read(struct worker *worker, size_t number, uint64_t first, uint64_t count, float *values);
void optimizer_state_write(struct worker *worker, size_t number, uint64_t first, uint64_t count, const float *values);

// Enqueues the optimizer's step over the shard, wherever the state is. Does not block.
void optimizer_state_step(struct worker *worker, uint64_t step);

#endif
