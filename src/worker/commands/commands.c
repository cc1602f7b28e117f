// SPDX-License-Identifier: Apache-2.0
#include "worker/commands/commands.h"

#include <stdio.h>
#include <string.h>

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

enum status command_take_option(char *const **arguments, const struct command_option *options, size_t count,
                                bool *taken_p, struct error *error)
{
    const char *name = **arguments;
    size_t i = 0;
    while (i < count && strcmp(name, options[i].name) != 0) {
        i++;
    }
    *taken_p = i < count;
    if (!*taken_p) {
        return STATUS_OK;
    }
    if ((*arguments)[1] == NULL) {
        return error_set(error, STATUS_INVALID, "%s needs a value; see headroom --help", name);
    }
    *options[i].place = *++*arguments;
    return STATUS_OK;
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
