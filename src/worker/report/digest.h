// SPDX-License-Identifier: Apache-2.0
//
// What a report shows of a run's history, in bounded memory whatever the number of steps: 27 MB for 1,000 ranks.
//
// Threads: one at a time. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_REPORT_DIGEST_H
#define HEADROOM_WORKER_REPORT_DIGEST_H

#include "worker/report/columns.h"
#include "worker/run/record.h"

#define DIGEST_EVENTS_MAX 200

// One of the fields of a rank that are shown.
struct digest_lane {
    const char *field; // of record_rank_fields; `levers` counts as their number
    bool adds_up;      // what counts of several steps is the sum
};

extern const struct digest_lane digest_lanes[]; // closed by one without a field
#define DIGEST_LANES 15

enum digest_series { DIGEST_EVALUATION_LOSS, DIGEST_EVALUATION_ACCURACY, DIGEST_EVALUATION_SERIES };

// A process that goes on or ends, or a checkpoint that could not be written.
struct digest_event {
    const char *kind; // "resume", "end", "checkpoint"
    uint64_t step;    // steps done
    uint64_t ranks;   // resume
    double seconds;   // end
    enum status status;
    char text[sizeof(((struct error *)0)->text)]; // resume: from where; checkpoint: why not
};

struct digest {
    struct columns steps;       // the series are record_step_fields
    struct columns evaluations; // enum digest_series; their step is the number of steps done
    struct columns lanes;       // series rank * DIGEST_LANES + number of the lane
    size_t ranks;               // the most that there were at a time
    uint64_t step_count;
    struct record_step newest; // where there is one; without its ranks
    size_t newest_ranks;
    struct record_rank largest; // of the newest step, the rank with the largest micro-batch
    uint32_t largest_rank;
    uint64_t largest_levers;                // of offers.h
    uint64_t checkpoints, checkpoint_bytes; // that were written
    double checkpoint_pause_ms;
    struct digest_event events[DIGEST_EVENTS_MAX];
    size_t event_count;  // up to DIGEST_EVENTS_MAX: the newest
    bool ended, resumed; // the newest process has written its last line; some process went on
};

// Reads FOLDER/metrics.jsonl up to what is there now; digest_finish releases it in any case. STATUS_INVALID where it is
// no run's folder or a line is none of a run's, STATUS_ERROR where it cannot be read.
enum status digest_read(struct digest *digest, const char *folder, struct error *error);
void digest_finish(struct digest *digest);

#endif
