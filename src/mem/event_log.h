// SPDX-License-Identifier: Apache-2.0
//
// The recorder's file: see recorder.h.
#ifndef HEADROOM_MEM_EVENT_LOG_H
#define HEADROOM_MEM_EVENT_LOG_H

#include "mem/recorder.h"

struct event_log;

enum status event_log_create(const char *path, struct event_log **log_p, struct error *error);
// Flushes; a failure goes untold. Accepts NULL.
void event_log_destroy(struct event_log *log);

void event_log_append(struct event_log *log, const struct mem_event *event, uint64_t wall_ns);

// STATUS_ERROR once, for the first failure.
enum status event_log_flush(struct event_log *log, struct error *error);

#endif
