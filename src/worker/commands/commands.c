// SPDX-License-Identifier: Apache-2.0
#include "worker/commands/commands.h"

#include <stdbool.h>
#include <stdio.h>

int command_finish(enum status status, struct error *error)
{
    bool written = fflush(stdout) == 0 && ferror(stdout) == 0;
    if (status == STATUS_OK && !written) {
        status = error_set(error, STATUS_ERROR, "the output cannot be written");
    }
    if (status != STATUS_OK) {
        fprintf(stderr, "headroom: %s\n", error->text);
    }
    return (int)status;
}
