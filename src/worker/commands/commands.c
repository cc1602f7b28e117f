// SPDX-License-Identifier: Apache-2.0
#include "worker/commands/commands.h"

#include <stdbool.h>
#include <stdio.h>

#include "worker/config/refuse.h"
#include "worker/config/value.h"

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

enum status command_scan(const char *option, const struct config_key *key, const char *text, void *value,
                         struct error *error)
{
    const char *complaint = config_value_scan(key, text, false, value);
    if (complaint == NULL) {
        return STATUS_OK;
    }
    char given[128];
    snprintf(given, sizeof(given), "%s %s", option, text);
    return config_refuse_value(error, &(struct config_place){.override = given}, key, text, complaint);
}
