// SPDX-License-Identifier: Apache-2.0
//
// What terminals understand, for a line that keeps changing.
#ifndef HEADROOM_WORKER_TERMINAL_H
#define HEADROOM_WORKER_TERMINAL_H

#define TERMINAL_CLEAR_LINE "\r\033[K"
#define TERMINAL_NO_WRAP    "\033[?7l" // what it is too narrow for is not shown
#define TERMINAL_WRAP       "\033[?7h"

#endif
