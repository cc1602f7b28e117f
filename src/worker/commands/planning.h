// SPDX-License-Identifier: Apache-2.0
//
// What a configuration takes on a fleet of devices, and how the first step would be cut: the figures that headroom plan
// prints. They are those of a run whose ranks find their devices as described. Nothing is opened and nothing runs, but
// this machine's device where neither fleet nor configuration says what devices hold: it is asked what it has free.
//
// Threads: one at a time. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_COMMANDS_PLANNING_H
#define HEADROOM_WORKER_COMMANDS_PLANNING_H

#include "worker/commands/fleet.h"
#include "worker/job.h"
#include "worker/offers.h"
#include "worker/optimizer_state.h"

// What a rank's peak is made of.
enum planning_part {
    PLANNING_WEIGHTS, // and the copy that lists work with
    PLANNING_GRADIENTS,
    PLANNING_OPTIMIZER,     // what of its state is on the device
    PLANNING_ACTIVATIONS,   // a micro-step's block: samples, activations, and the gradients of these
    PLANNING_WORKSPACE,     // of kernels
    PLANNING_COMMUNICATION, // what ranks add up beside gradients
    PLANNING_PARTS
};
extern const char *const planning_part_names[PLANNING_PARTS];

struct planned_rank {
    uint64_t limit_bytes;
    struct shard shard; // of the optimizer's state
    struct optimizer_state_size state;
    struct offers offers;
};

// The kind of device.
struct planned_device {
    uint64_t granularity_bytes, workspace_bytes;
    size_t slots; // of inputs
};

struct planning {
    const struct config *config;
    const struct fleet *fleet;
    struct error instead;         // where device.kind: auto is the CPU: why; else without text
    const struct device_ops *ops; // NULL: the fleet's GPUs
    struct planned_device device;
    uint64_t ranks;
    struct model *model;
    struct optimizer_config optimizer;
    struct price_book *prices;
    struct costs *costs;          // NULL: not known
    struct costs_device measured; // on which they were
    struct resting_bytes resting; // without the optimizer's state
    struct device_usage usage;    // of this machine's device, where it was asked; else zeros
    struct planned_rank *rank;
    struct sched_report *reports; // one per rank
    uint64_t largest_shard;       // the rank that has it
    struct sched_coordinator *coordinator;
    const struct sched_share *plan; // one share per rank; NULL: no rank can hold a sample
    struct error misfit;            // STATUS_OK: it fits; else STATUS_OUT_OF_MEMORY, and why
};

// Neighbouring ranks of which all figures are the same; where shards of the optimizer's state differ by their rounding
// alone, those of the rank with the largest peak. A rank without a share has zeros there, and "none".
struct planned_row {
    uint64_t first, last;
    const char *device; // by the fleet; NULL: it says nothing
    uint64_t limit_bytes, headroom_bytes;
    uint64_t largest_micro_batch; // under any levers
    uint64_t share, micro_batch, accumulation_steps, levers;
    uint64_t part_bytes[PLANNING_PARTS];
    uint64_t peak_bytes; // all parts
};

// What the ranks do in a second by the costs of operations alone; all zeros where these are not known.
struct planned_speed {
    double step_ms, samples_per_s, tokens_per_s;
};

// `costs_path`: what operations cost, as a run on such a kind of device has written it, the folder of such a run, or
// NULL. The configuration and the fleet must outlive the planning; the fleet's devices take the place of the
// configuration's. Not fitting is no failure. STATUS_INVALID with a line, STATUS_ERROR where the host's memory runs out
// or this machine's device cannot be opened. The caller owns it, also where it failed.
enum status planning_create(struct config *config, const struct fleet *fleet, const char *costs_path,
                            struct planning *planning, struct error *error);
void planning_destroy(struct planning *planning);

// "cpu", "cuda": the kind of device that is planned for.
const char *planning_kind(const struct planning *planning);

// The ranks from `first` on.
struct planned_row planning_row(const struct planning *planning, uint64_t first);

// A rank that has no memory for as many samples at once as train.micro_batch_size asks of its share.
struct planned_shortfall {
    uint64_t rank, micro_batch;
    uint64_t asked; // 0: there is none
};
// The rank that does the least part of what is asked.
struct planned_shortfall planning_shortfall(const struct planning *planning);

// Bytes that the rank holds between steps, its optimizer's state being here or away.
uint64_t planning_resting_bytes(const struct planning *planning, uint64_t rank, bool away);

// What ranks have in common is told of the one with the largest shard.
const struct offers *planning_offers(const struct planning *planning);
// Whether there are several sets of levers.
bool planning_has_choice(const struct planning *planning);

// A micro-step under a set of levers, on the rank with the largest shard.
struct planned_micro_step {
    uint64_t micro_batch;
    uint64_t peak_bytes, slack_bytes, host_bytes;
    double ms; // 0: not known
};
struct planned_micro_step planning_micro_step(const struct planning *planning, uint64_t micro_batch, uint64_t levers);
// The micro-batch after this one of 1, 2, 4 ... samples and the most that a rank can hold; after 0 the first, and 0
// after the last.
uint64_t planning_next(const struct planning *planning, uint64_t micro_batch, uint64_t levers);

struct planned_speed planning_speed(const struct planning *planning);

#endif
