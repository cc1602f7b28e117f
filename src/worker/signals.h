// SPDX-License-Identifier: Apache-2.0
//
// What a process is told from outside: SIGUSR1, to stop at the end of a step with a checkpoint, and SIGUSR2, to write a
// snapshot of its memory. They may come several times, and to some ranks only. A command that must not leave files half
// written is told by SIGINT or SIGTERM to end.
#ifndef HEADROOM_WORKER_SIGNALS_H
#define HEADROOM_WORKER_SIGNALS_H

#include <signal.h>
#include <stdbool.h>

// For the whole process, before it starts a thread: SIGUSR1 and SIGUSR2 wait until signal_came looks.
void signals_block(void);
// The same, for SIGINT and SIGTERM.
void signals_block_ends(void);
// Whether the signal came since the last call. Does not block.
bool signal_came(int signal);

#endif
