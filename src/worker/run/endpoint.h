// SPDX-License-Identifier: Apache-2.0
//
// How a run under way is followed from another machine, by HTTP: sinks/http_lines.h answers, and top/remote.h asks.
//
// A GET of ENDPOINT_LINES answers with metrics.jsonl, or with what a Range of its bytes names. An ETag that changes
// says that another process answers, with lines of its own.
#ifndef HEADROOM_WORKER_RUN_ENDPOINT_H
#define HEADROOM_WORKER_RUN_ENDPOINT_H

#define ENDPOINT_PORT    "9464" // that is asked where none is given
#define ENDPOINT_METRICS "/metrics"
#define ENDPOINT_LINES   "/metrics.jsonl"

// Headers of each answer about lines.
#define ENDPOINT_FOLDER "Headroom-Run"   // the run's folder, with what is no letter or digit as %XX
#define ENDPOINT_STEPS  "Headroom-Steps" // of the whole run; 0: not known

// A follower asks again after this long. An endpoint that was followed until twice that ago ends once it has told the
// last line, and this long after.
#define ENDPOINT_PERIOD_MS 500

#endif
