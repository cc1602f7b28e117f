// SPDX-License-Identifier: Apache-2.0
#include "worker/advice.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>

const char *advice_more_levers(const struct config *config)
{
    enum config_recompute all = config_all_levers(config);
    if (all == config->train.recompute) {
        return NULL;
    }
    return all == CONFIG_RECOMPUTE_OFFLOAD ? "set train.recompute: offload" : "set train.recompute: auto";
}

// "Do this, do that, or do a third."
static void join_ways(const char *const *ways, size_t count, char *text)
{
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        const char *before = i == 0 ? "" : i + 1 < count ? ", " : ", or ";
        used += (size_t)snprintf(text + used, ADVICE_MAX - used, "%s%s", before, ways[i]);
    }
    snprintf(text + used, ADVICE_MAX - used, ".");
    text[0] = (char)toupper((unsigned char)text[0]);
}

const char *advice_out_of_memory(const struct worker *worker, enum mem_cause cause, bool training, char *text)
{
    const struct config *config = worker->config;
    const char *ways[5];
    bool auto_only = config->train.reproducible && config->train.recompute == CONFIG_RECOMPUTE_AUTO;
    size_t count = 0;
    if (cause == MEM_CAUSE_FRAGMENTED && config->device.segments == CONFIG_PLAIN) {
        ways[count++] = "set device.segments: expandable";
        join_ways(ways, count, text);
        return text;
    }
    if (worker->grain > 1) {
        ways[count++] = "lower train.grain_size";
    }
    const char *more_levers = advice_more_levers(config);
    bool large = cause == MEM_CAUSE_CAPACITY || cause == MEM_CAUSE_EXTERNAL;
    if (large && training && more_levers != NULL) {
        ways[count++] = more_levers;
    }
    if (large && worker->resting_bytes > 0 && worker->offers.lacks_host) {
        ways[count++] = "raise train.offload_bytes";
    }
    if (worker->withheld_bytes > 0 && cause != MEM_CAUSE_CAPACITY) {
        ways[count++] = "lift the limit from outside (headroom limit RUN_DIR --bytes none)";
    } else if (cause == MEM_CAUSE_EXTERNAL) {
        ways[count++] = worker->place.sharers > 1 ? "start fewer ranks on a device" : "leave the device to this job";
    } else if (config->device.capacities_count > 0) {
        ways[count++] = "raise device.capacity";
    } else if (config->train.precision != CONFIG_BF16 && !auto_only) {
        ways[count++] = "set train.precision: bf16";
    }
    ways[count++] =
        config->model.kind == CONFIG_MODEL_GPT ? "lower model.seq_len or model.channels" : "make model.layers smaller";
    join_ways(ways, count, text);
    return text;
}

const char *advice_grain_name(const struct worker *worker, char *text)
{
    if (worker->grain <= 1) {
        snprintf(text, ADVICE_GRAIN_NAME_MAX, "a single sample");
    } else {
        snprintf(text, ADVICE_GRAIN_NAME_MAX, "a grain of %" PRIu64 " samples", worker->grain);
    }
    return text;
}
