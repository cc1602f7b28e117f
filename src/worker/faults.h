// SPDX-License-Identifier: Apache-2.0
//
// What goes wrong on purpose, for tests: fault.* of the configuration.
//
// Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_FAULTS_H
#define HEADROOM_WORKER_FAULTS_H

#include "worker/worker.h"

// From now on allocations are refused as fault.fail_allocation_* say.
void faults_refuse(struct worker *worker);

// Leaves fault.fragment_bytes of the device's memory free in pieces between blocks that stay. STATUS_OUT_OF_MEMORY
// where there are not as many.
enum status faults_fragment(struct worker *worker, struct error *error);

// Never returns in the step that fault.stall_step names.
void faults_stall(const struct worker *worker, uint64_t step);

// How much longer reading a sample takes.
uint64_t faults_read_ms(const struct worker *worker);

// Whether blocks of a step stay live after it.
bool faults_keep_blocks(const struct worker *worker);
// Allocates what fault.keep says and forgets it; a line in the log where there is no memory for it.
void faults_keep(struct worker *worker);

#endif
