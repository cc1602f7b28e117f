// SPDX-License-Identifier: Apache-2.0
//
// state.json of a checkpoint: where the run was, and what its files must be like.
//
// Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_CHECKPOINT_STATE_H
#define HEADROOM_WORKER_CHECKPOINT_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/error.h"
#include "sched/plan.h"
#include "worker/checkpoint/hashed_file.h"

struct checkpoint_state {
    uint64_t step;    // steps done
    uint64_t samples; // positions of the data done
    uint64_t seed;
    int sum_exponent;         // of train.reproducible's sums
    bool evaluation_due;      // a validation after these steps was put off
    uint32_t optimizer_files; // into which the optimizer's state is cut; 0: there is none
    uint32_t ranks;
    struct sched_share *plan; // of the next step, one share per rank; its owner frees it
};

#define CHECKPOINT_NAME_MAX 64

struct checkpoint_file {
    char name[CHECKPOINT_NAME_MAX];
    struct file_sum sum;
};

// The text of state.json, for the caller to free; NULL where the host's memory runs out.
char *checkpoint_state_print(const struct checkpoint_state *state, const struct checkpoint_file *files, size_t count);

// Reads state.json in `folder`, and all files that it names, once. STATUS_INVALID with a line naming the file where
// something is not as it was written, STATUS_ERROR where it cannot be told. On success the plan is the caller's.
enum status checkpoint_state_read(const char *folder, struct checkpoint_state *state, struct error *error);

#endif
