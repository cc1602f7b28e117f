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

static bool is_option(const char *name)
{
    return name[0] == '-';
}

static const struct command_argument *find_option(const struct command_argument *takes, size_t count, const char *name)
{
    size_t i = 0;
    while (i < count && strcmp(takes[i].name, name) != 0) {
        i++;
    }
    return i < count ? &takes[i] : NULL;
}

// And has no room for more.
static bool is_given(const struct command_argument *takes)
{
    return takes->text == NULL ? *takes->given : takes->count == NULL && *takes->text != NULL;
}

static bool can_be(const struct command_argument *takes, const char *text)
{
    return !is_option(takes->name) && !is_given(takes) && (takes->fits == NULL || takes->fits(text));
}

static const struct command_argument *find_operand(const struct command_argument *takes, size_t count, const char *text)
{
    size_t i = 0;
    while (i < count && !can_be(&takes[i], text)) {
        i++;
    }
    return i < count ? &takes[i] : NULL;
}

// The option's value, too, at which `*argument` then stands. False where it has none.
static bool take(const struct command_argument *takes, char *const **argument)
{
    if (takes->text == NULL) {
        *takes->given = true;
        return true;
    }
    if (is_option(takes->name)) {
        ++*argument;
    }
    takes->text[takes->count == NULL ? 0 : (*takes->count)++] = **argument;
    return **argument != NULL;
}

enum status command_parse(const char *command, const struct command_argument *takes, size_t count,
                          char *const *arguments, struct error *error)
{
    for (; *arguments != NULL; arguments++) {
        const char *name = *arguments;
        const struct command_argument *found =
            is_option(name) ? find_option(takes, count, name) : find_operand(takes, count, name);
        if (found == NULL) {
            return error_set(error, STATUS_INVALID, "%s does not take '%s'; see headroom %s --help", command, name,
                             command);
        }
        if (is_given(found)) {
            return error_set(error, STATUS_INVALID, "%s is given twice; see headroom %s --help", name, command);
        }
        if (!take(found, &arguments)) {
            return error_set(error, STATUS_INVALID, "%s needs a value; see headroom %s --help", name, command);
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (takes[i].needed && *takes[i].text == NULL) {
            return error_set(error, STATUS_INVALID, "%s needs %s; see headroom %s --help", command, takes[i].name,
                             command);
        }
    }
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
