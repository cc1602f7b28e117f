// SPDX-License-Identifier: Apache-2.0
//
// What a configuration means in numbers: model, optimizer, batch, and what memory they take. Pure.
#ifndef HEADROOM_WORKER_JOB_H
#define HEADROOM_WORKER_JOB_H

#include "kernels/kernels.h"
#include "mem/device.h"
#include "model/optimizer.h"
#include "model/price.h"
#include "sched/plan.h"
#include "worker/config/config.h"

// The config's model and optimizer in the words of src/model/.
struct model_config job_model_config(const struct config *config);
struct optimizer_config job_optimizer_config(const struct config *config, uint64_t steps);
// Samples that the coordinator deals out together, and how many of these `samples` are, the last maybe smaller.
uint64_t job_grain(const struct config *config);
uint64_t job_grains(const struct config *config, uint64_t samples);
// Samples of a share of the global batch, whose last grain may be smaller.
uint64_t job_share_samples(const struct config *config, const struct sched_share *share);
// What stays allocated between steps but the optimizer's state.
struct resting_bytes {
    uint64_t weights; // and the copy that lists work with
    uint64_t gradients;
    uint64_t workspace; // of kernels
    uint64_t sums;      // beside gradients, over all ranks: of losses; of a reproducible run all as integers, too
};
struct resting_bytes job_resting(const struct config *config, const struct model *model, uint64_t workspace_bytes);
uint64_t job_resting_bytes(const struct resting_bytes *resting);
// The peak of micro-steps of this shape over that level.
uint64_t job_peak_bytes(uint64_t resting_bytes, struct price_book *prices, enum list_purpose purpose,
                        struct model_shape shape);
// Slots of inputs in a micro-step's block: two where copies run beside kernels.
size_t job_slots(const struct device_ops *device);
const struct kernels *job_kernels(const struct config *config, const struct device_ops *device);
// What the configuration gives the rank's device, or the rank of a GPU; 0: what the machine has.
uint64_t job_capacity(const struct config *config, uint64_t rank);
// Steps of the whole run.
uint64_t job_steps(const struct config *config, uint64_t train_samples);

#endif
