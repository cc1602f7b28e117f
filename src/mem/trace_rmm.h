// SPDX-License-Identifier: Apache-2.0
//
// Reads RMM's log as a trace: see trace.h.
#ifndef HEADROOM_MEM_TRACE_RMM_H
#define HEADROOM_MEM_TRACE_RMM_H

#include <stdbool.h>

#include "mem/trace_rows.h"

#define TRACE_RMM_HEADER "Thread,Time,Action,Pointer,Size,Stream"

struct trace_rmm_event;

struct trace_rmm {
    bool with_tags;
    struct trace_rmm_event *events;
    size_t count, capacity;
    size_t moments; // lines
};

// True where the first line is that of such a log.
bool trace_rmm_begin(struct trace_rmm *rmm, const char *first_line);
// Cuts the line up.
enum status trace_rmm_line(struct trace_rmm *rmm, struct trace_line *line, struct trace_rows *rows,
                           struct error *error);
// Finds where each row ends.
enum status trace_rmm_end(struct trace_rmm *rmm, const char *path, struct trace_rows *rows, struct error *error);
void trace_rmm_finish(struct trace_rmm *rmm);

#endif
