// SPDX-License-Identifier: Apache-2.0
#include "worker/signals.h"

#include <stddef.h>
#include <time.h>

void signals_block(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
}

bool signal_came(int signal)
{
    const struct timespec at_once = {0};
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, signal);
    return sigtimedwait(&signals, NULL, &at_once) == signal;
}
