// SPDX-License-Identifier: Apache-2.0
//
// A run's folder, shown to the doctor.
//
// Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_DOCTOR_EXAMINE_H
#define HEADROOM_WORKER_DOCTOR_EXAMINE_H

#include "worker/doctor/doctor.h"

struct examination {
    struct config config;
    struct doctor *doctor;
    uint32_t ranks;
    uint64_t steps; // that were told of
    bool ended;     // with this status; else the run is under way, or was killed
    enum status status;
};

// All that the folder tells until now. STATUS_INVALID with a line where it is no run's, after which, as after any
// failure, there is nothing to finish.
enum status examine_run(const char *folder, struct examination *examination, struct error *error);
void examine_finish(struct examination *examination);

#endif
