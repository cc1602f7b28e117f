// SPDX-License-Identifier: Apache-2.0
//
// A run on another machine, followed through its HTTP endpoint (run/endpoint.h): the lines of its metrics.jsonl, as
// history.h reads them from a folder.
//
// Threads: one. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_TOP_REMOTE_H
#define HEADROOM_WORKER_TOP_REMOTE_H

#include <stdbool.h>

#include "worker/run/history.h"

struct remote;

// Whether `run` is an address and no folder: none of that name is there, and it has no slash that is not of a URL.
bool remote_is_address(const char *run);

// Asks `address` for the first time: HOST, HOST:PORT or a URL without a user, under which the endpoint's paths are. The
// caller owns the remote. Blocks for ten seconds at most. STATUS_INVALID with a line where the address is none, its
// host is not known or something else answers; STATUS_ERROR where nothing does.
enum status remote_open(const char *address, struct remote **remote_p, struct error *error);
// Accepts NULL.
void remote_close(struct remote *remote);

// The next line. HISTORY_NOTHING ends what was there when it was asked, and the next call asks again. Where another run
// answers by then, its first line is the next. Blocks for ten seconds at most; that nothing answers is no failure.
// STATUS_INVALID with a line where what answers is none of a run's, after which the remote can only be closed.
enum status remote_next(struct remote *remote, struct history_line *line_p, struct error *error);

// Why the latest call got no answer; NULL: it got one. Valid until the next call, as are the following.
const char *remote_trouble(const struct remote *remote);
const char *remote_folder(const struct remote *remote); // of the run, on its machine
uint64_t remote_steps(const struct remote *remote);     // of the whole run; 0: not known

#endif
