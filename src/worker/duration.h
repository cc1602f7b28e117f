// SPDX-License-Identifier: Apache-2.0
//
// How long something takes, for people.
//
// Threads: any.
#ifndef HEADROOM_WORKER_DURATION_H
#define HEADROOM_WORKER_DURATION_H

#define DURATION_TEXT_MAX 32

// "0:35", "1:02:03", from a day on "4d 17h", and "?" for what is no time. Answers `text`.
const char *duration_text(double seconds, char text[DURATION_TEXT_MAX]);

#endif
