// SPDX-License-Identifier: Apache-2.0
//
// The answer to who follows a run by HTTP, as run/endpoint.h says: bytes of metrics.jsonl as they are in the file, so
// none of it is held in memory.
//
// Threads: one at a time. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_SINKS_HTTP_LINES_H
#define HEADROOM_WORKER_SINKS_HTTP_LINES_H

#include <microhttpd.h>

#include "worker/sinks/sink.h"

struct http_lines;

// The caller owns it. NULL when the host's memory runs out.
struct http_lines *http_lines_create(const struct sink_place *place);
// Accepts NULL.
void http_lines_destroy(struct http_lines *lines);

// The answer to the connection's question, with its code, and whether it goes up to the end of what there is. The
// caller owns it. NULL where there is none.
struct MHD_Response *http_lines_answer(const struct http_lines *lines, struct MHD_Connection *connection,
                                       unsigned *code_p, bool *all_p);

#endif
