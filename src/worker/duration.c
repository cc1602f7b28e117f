// SPDX-License-Identifier: Apache-2.0
#include "worker/duration.h"

#include <inttypes.h>
#include <stdio.h>

#define MINUTE      UINT64_C(60)
#define HOUR        (60 * MINUTE)
#define DAY         (24 * HOUR)
#define SECONDS_MAX 1e15

const char *duration_text(double seconds, char text[DURATION_TEXT_MAX])
{
    if (!(seconds >= 0 && seconds < SECONDS_MAX)) { // also where it is no number
        snprintf(text, DURATION_TEXT_MAX, "?");
        return text;
    }
    uint64_t left = (uint64_t)seconds, hours = left / HOUR, minutes = left % HOUR / MINUTE;
    if (left >= DAY) {
        snprintf(text, DURATION_TEXT_MAX, "%" PRIu64 "d %" PRIu64 "h", hours / 24, hours % 24);
    } else if (left >= HOUR) {
        snprintf(text, DURATION_TEXT_MAX, "%" PRIu64 ":%02" PRIu64 ":%02" PRIu64, hours, minutes, left % MINUTE);
    } else {
        snprintf(text, DURATION_TEXT_MAX, "%" PRIu64 ":%02" PRIu64, minutes, left % MINUTE);
    }
    return text;
}
