// SPDX-License-Identifier: Apache-2.0
//
// How far a phase has come that may take long and is no training, on the standard output: on a terminal a line that
// keeps changing and goes in the end, elsewhere a line every so many seconds. A short phase shows nothing.
//
// Threads: one at a time. Ranks: nothing is collective; one shows it.
#ifndef HEADROOM_WORKER_PROGRESS_H
#define HEADROOM_WORKER_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

enum progress_unit { PROGRESS_BYTES, PROGRESS_SAMPLES };

// One that did not begin, all zeros, shows nothing.
struct progress {
    const char *what;
    enum progress_unit unit;
    uint64_t done, total;
    bool terminal, line_open;
    uint64_t period_ns; // between lines
    uint64_t start_ns, line_ns;
};

// `what` is done, a string that stays, in `total` units. `log_seconds`: between lines where there is no terminal; 0:
// there are none.
void progress_begin(struct progress *progress, const char *what, enum progress_unit unit, uint64_t total,
                    uint64_t log_seconds);
// So much more of it is done. Cheap enough for every piece.
void progress_add(struct progress *progress, uint64_t count);
// Takes the line off the terminal, and shows nothing more.
void progress_end(struct progress *progress);

#endif
