// SPDX-License-Identifier: Apache-2.0
#include "worker/signals.h"

#include <stddef.h>
#include <time.h>

static void block(int one, int other)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, one);
    sigaddset(&signals, other);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
}

void signals_block(void)
{
    block(SIGUSR1, SIGUSR2);
}

void signals_block_ends(void)
{
    block(SIGINT, SIGTERM);
}

bool signal_came(int signal)
{
    const struct timespec at_once = {0};
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, signal);
    return sigtimedwait(&signals, NULL, &at_once) == signal;
}
