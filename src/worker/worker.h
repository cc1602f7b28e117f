// SPDX-License-Identifier: Apache-2.0
//
// One rank: what it owns while it trains, and how that is set up.
#ifndef HEADROOM_WORKER_WORKER_H
#define HEADROOM_WORKER_WORKER_H

#include <stdio.h>

#include "mem/pool.h"
#include "model/optimizer.h"
#include "model/price.h"
#include "sched/coordinator.h"
#include "sched/packed.h"
#include "sched/undone.h"
#include "worker/buckets.h"
#include "worker/comm/comm.h"
#include "worker/comm/reduce.h"
#include "worker/config/config.h"
#include "worker/costs.h"
#include "worker/data/loader.h"
#include "worker/offers.h"
#include "worker/op_timer.h"
#include "worker/optimizer_state.h"
#include "worker/place.h"
#include "worker/profile.h"
#include "worker/progress.h"
#include "worker/run/limit_file.h"
#include "worker/stopwatch.h"
#include "worker/transfers.h"
#include "worker/unrestricted.h"
#include "worker/watchdog.h"

// What every rank tells all others once a step, while the gradients are being added up, and after an evaluation.
struct step_message {
    struct sched_packed_report report; // for the next plan
    uint64_t samples;                  // that this rank did
    uint64_t position_hash;            // sum of position_hash() over them
    uint64_t others_bytes;             // of its device, that are not this process's
    uint64_t limit_bytes, allocated_peak_bytes, reserved_peak_bytes, predicted_peak_bytes;
    uint64_t kept_bytes;           // of the step's blocks, that are still live after it
    uint64_t kept_gradients_bytes; // of these
    uint64_t fragmented_bytes;     // after the step
    uint32_t left;                 // samples that it could not do of what it was dealt last
    uint32_t handed_back;          // all that it could not do
    uint32_t data_wait_us;
    uint32_t micro_batch, accumulation_steps; // as planned
    uint16_t oom_retries;
    uint8_t recompute_gain; // in percent; unrestricted.h
    uint8_t levers : 4;     // as planned
    bool squeezed : 1;      // a limit from outside keeps it from holding a sample
    bool stops : 1;         // it was told to, at the end of the step
    bool wrote : 1;         // its part of a checkpoint, and waits for the others
    bool unreserved : 1;    // it could not reserve what the plan takes
};
_Static_assert(sizeof(struct step_message) == 248, "what a rank sends in a step is little");

// What to do about a loss that is not finite.
#define WORKER_DIVERGED                                                                                                \
    "training has diverged. Lower optimizer.learning_rate, lengthen optimizer.warmup_steps or set train.clip_norm."

// What a step or an evaluation leaves on the device.
struct step_values {
    struct kernel_tally tally; // over all ranks, once it was reduced
    double gradient_squares;   // of the sum of gradients
    float gradient_scale;
};

// Of train.reproducible, on the device; fixed_sums.h.
struct fixed_values {
    struct kernel_fixed_tally tally;
    int64_t spilled; // terms that were too large
    float largest;   // gradient of the step
};
struct fixed_sums {
    device_address gradients; // an int64 for each; 0: sums are float32
    device_address values;    // one fixed_values
    uint64_t grains;          // of a global batch
    int exponent;             // of the largest term that is not too large
    double scale;             // a term counts as an integer in this unit's inverse
    int64_t limit;            // of such an integer
};

#define ADVICE_MAX 256

// Why a rank cannot hold a sample of a step.
struct shortage {
    struct error error; // STATUS_OK: it can
    enum mem_cause cause;
    char advice[ADVICE_MAX]; // what to change, in a sentence; "": no more than the error says
};

#define WORKER_SLOTS_MAX 2

struct worker {
    const struct config *config;
    enum list_purpose purpose; // LIST_EVALUATE: it does not train, and has no gradients, optimizer and training set
    struct comm *comm;
    uint64_t job; // a number that only this job knows
    struct place place;
    char binding[320];                   // of the host side near the device, for the log
    struct data_set *train, *validation; // NULL where there is none
    struct loader *loader;               // of `train`
    uint64_t steps;
    uint64_t first_step, first_position; // where this process begins, and in the data

    struct device *device;
    struct stream *stream, *copy_stream;         // for kernels, for samples and state on their way to the device
    struct event *slot_filled[WORKER_SLOTS_MAX]; // on the copy stream: a slot's samples are there
    struct event *slot_used[WORKER_SLOTS_MAX];   // on the stream: what used a slot is done
    struct mem_pool *pool;
    struct kernel_context *kernels; // on `stream`
    struct device *staging_device;
    struct mem_pool *staging;   // host memory that copies do not block on
    struct transfers transfers; // of what lists offload
    struct reducer *reducer;
    struct bucket *buckets; // of gradients
    size_t bucket_count;
    size_t *bucket_ready;   // scratch, one per bucket
    size_t buckets_started; // in this step

    struct model *model;
    struct price_book *prices;
    struct offers offers;
    struct unrestricted unrestricted;
    struct optimizer_config optimizer;
    struct list_memory memory; // its inputs and locals exist only while a share runs
    struct optimizer_memory optimizer_memory;
    struct optimizer_state state;
    struct shard *shards;  // every rank's, of the optimizer's state; NULL: every rank has all of it
    device_address values; // one step_values
    struct fixed_sums fixed;
    uint64_t grain;            // samples that the coordinator deals out together: 1, or those of train.reproducible
    uint64_t resting_bytes;    // allocated between steps
    uint64_t others_bytes;     // that others held of the device when it was opened, with CUDA's context
    uint64_t withheld_bytes;   // of its headroom, by a limit from outside
    struct device_usage usage; // once connected; 0 library_bytes: not known
    bool others_known;         // and what others hold

    struct sched_coordinator *coordinator;
    struct stopwatch *stopwatch;   // of micro-steps
    struct op_timer *op_timer;     // of their operations
    struct costs *costs;           // of operations
    struct profile *profile;       // of operations in all steps; NULL: not wanted
    uint64_t plan_ns;              // how long `plan` is predicted to take; 0: not every rank was measured
    uint32_t plan_hash;            // of `plan`; 0: there is none
    struct sched_speed rest;       // how long a step takes beyond that
    struct sched_share *plan;      // for the next step, one share per rank
    struct sched_report *reports;  // scratch for the coordinator, one per rank
    uint64_t *left;                // the same
    struct sched_undone undone;    // of the step that runs
    bool early_buckets;            // they are summed while the list still runs
    bool times_operations;         // of the next micro-step
    bool spent;                    // this rank could not hold a sample of it
    struct shortage shortage;      // why not
    uint32_t spokesman;            // the rank that says why the job ends for want of memory
    struct step_message message;   // this rank's
    struct step_message *messages; // every rank's, after a step or an evaluation
    struct step_records *records;  // of the steps under way

    struct memory_files *memory_files; // NULL before the run has a folder
    struct limit_file limit;           // from outside
    struct watchdog *watchdog;         // NULL: none
    struct progress progress;          // of a phase that is no step, on rank 0
    uint64_t present_step;             // that it is told of

    struct line_file *log; // this rank's; NULL before the run has a folder
};

// Opens the data and the device, and makes the model. Collective; no rank waits for one that fails. On failure, here
// and in worker_hold, `error` says why and the worker needs no worker_finish.
enum status worker_open(struct worker *worker, const struct config *config, enum list_purpose purpose,
                        struct comm *comm, struct error *error);
// Puts weights, gradients and optimizer state on the device. Collective as above, once worker_open has succeeded on
// every rank.
enum status worker_hold(struct worker *worker, struct error *error);
// Makes the reducer. Collective, once worker_hold has succeeded on every rank. A failure may leave other ranks waiting:
// the job must be ended.
enum status worker_connect(struct worker *worker, struct error *error);
// Of what was opened; nothing where that failed.
void worker_finish(struct worker *worker);

// STATUS_ERROR where something that was enqueued has failed. Does not block.
enum status worker_check(struct worker *worker, struct error *error);

// Tells the watchdog that the rank came further: it does `what`, a string that stays, or `waits` for others in it.
void worker_note(struct worker *worker, const char *what, bool waits);

// Begins worker->progress where this is rank 0, which shows its own part of what all do.
void worker_begin_progress(struct worker *worker, const char *what, enum progress_unit unit, uint64_t total);

// One line into this rank's log.
void worker_log(struct worker *worker, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Of the share's largest micro-step, of samples of the greatest length.
struct model_shape worker_shape(const struct worker *worker, const struct sched_share *share);
// Where the global batch of step `step` begins in the data.
uint64_t worker_position(const struct worker *worker, uint64_t step);

#endif
