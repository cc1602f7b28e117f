// SPDX-License-Identifier: Apache-2.0
//
// A form in which a run's figures go to other programs, beside metrics.jsonl: a const table of functions.
//
// Threads: one at a time. Ranks: rank 0 only; nothing is collective.
#ifndef HEADROOM_WORKER_SINKS_SINK_H
#define HEADROOM_WORKER_SINKS_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/config/config.h"
#include "worker/run/line_file.h"
#include "worker/run/record.h"

// Lives as long as the sink.
struct sink_place {
    const struct config *config;
    const char *folder;         // of the run, with the metrics.jsonl of what was done before
    uint64_t first_step, steps; // the latter of the whole run
    size_t ranks;
};

struct sink_ops {
    const char *key; // that chooses it
    bool (*is_chosen)(const struct config *config);
    // The caller owns the sink. STATUS_ERROR or STATUS_INVALID with a line where it cannot be had.
    enum status (*open)(const struct sink_place *place, void **sink_p, struct error *error);
    // These may block on a disk, never on another program.
    void (*step)(void *sink, const struct record_step *step);
    void (*evaluation)(void *sink, const struct record_evaluation *evaluation); // NULL: it has no place for them
    void (*close)(void *sink);                                                  // after the last figures are out
    // As line_file_news and line_file_losses. NULL: there never is something to warn of.
    bool (*news)(void *sink, char text[LINE_FILE_WARNING_MAX]);
    bool (*losses)(void *sink, char text[LINE_FILE_WARNING_MAX]);
};

extern const struct sink_ops sink_tensorboard;     // RUN/tensorboard/
extern const struct sink_ops sink_csv;             // RUN/metrics.csv
extern const struct sink_ops sink_prometheus_file; // where the configuration says
extern const struct sink_ops sink_http;            // /metrics, /metrics.jsonl

#endif
