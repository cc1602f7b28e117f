// SPDX-License-Identifier: Apache-2.0
//
// What terminals understand, for a line that keeps changing.
#ifndef HEADROOM_WORKER_TERMINAL_H
#define HEADROOM_WORKER_TERMINAL_H

#define TERMINAL_CLEAR_LINE "\r\033[K"

#endif
