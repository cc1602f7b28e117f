// SPDX-License-Identifier: Apache-2.0
#include "worker/config/refuse.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "worker/config/value.h"

#define LENGTH_MAX 32 // of names worth a comparison

static void print_place(const struct config_place *place, const char *path, FILE *file)
{
    if (place->override != NULL) {
        fprintf(file, "command line: %.200s: ", place->override);
        return;
    }
    fprintf(file, "%s:", place->file);
    if (place->line != 0) {
        fprintf(file, "%u:%u:", place->line, place->column);
    }
    fputc(' ', file);
    if (path != NULL) {
        fprintf(file, "%s: ", path);
    }
}

enum status config_refuse(struct error *error, const struct config_place *place, const char *path, const char *format,
                          ...)
{
    char line[sizeof(error->text)] = "";
    FILE *file = fmemopen(line, sizeof(line) - 1, "w");
    if (file == NULL) {
        return error_set(error, STATUS_ERROR, "out of memory");
    }
    va_list arguments;
    va_start(arguments, format);
    print_place(place, path, file);
    vfprintf(file, format, arguments);
    va_end(arguments);
    fclose(file);
    for (char *c = line; *c != '\0'; c++) {
        if (iscntrl((unsigned char)*c)) {
            *c = ' '; // the user's words may hold line breaks
        }
    }
    return error_set(error, STATUS_INVALID, "%s", line);
}

enum status config_refuse_value(struct error *error, const struct config_place *place, const struct config_key *key,
                                const char *value, const char *complaint)
{
    char allowed[512] = "";
    FILE *file = fmemopen(allowed, sizeof(allowed) - 1, "w");
    if (file == NULL) {
        return error_set(error, STATUS_ERROR, "out of memory");
    }
    config_value_print_allowed(key, file);
    fclose(file);
    return config_refuse(error, place, key->path, "%.80s %s; allowed: %s", value, complaint, allowed);
}

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

// Levenshtein's distance: insertions, deletions and replacements from `a` to `b`, both at most LENGTH_MAX long.
static size_t edit_distance(const char *a, const char *b)
{
    size_t width = strlen(b);
    size_t row[LENGTH_MAX + 1]; // distances from the part of `a` read so far to each beginning of `b`
    for (size_t j = 0; j <= width; j++) {
        row[j] = j;
    }
    for (; *a != '\0'; a++) {
        size_t diagonal = row[0]++;
        for (size_t j = 1; j <= width; j++) {
            size_t replaced = diagonal + (*a != b[j - 1]);
            diagonal = row[j];
            row[j] = min(replaced, 1 + min(row[j], row[j - 1]));
        }
    }
    return row[width];
}

// The one of `names` (closed by NULL) that takes the fewest edits from `text`; NULL when none is near.
static const char *closest(const char *text, const char *const *names)
{
    size_t length = strlen(text);
    if (length > LENGTH_MAX) {
        return NULL;
    }
    const char *nearest = NULL;
    size_t least = 2 + length / 4; // one edit in a short name, more in a long one
    for (; *names != NULL; names++) {
        size_t distance = strlen(*names) <= LENGTH_MAX ? edit_distance(text, *names) : least;
        if (distance < least) {
            least = distance;
            nearest = *names;
        }
    }
    return nearest;
}

enum status config_refuse_name(struct error *error, const struct config_place *place, const char *path,
                               const char *what, const char *name, const char *const *names)
{
    char list[512] = "";
    FILE *file = fmemopen(list, sizeof(list) - 1, "w");
    if (file == NULL) {
        return error_set(error, STATUS_ERROR, "out of memory");
    }
    const char *near = closest(name, names);
    if (near != NULL) {
        fprintf(file, "did you mean '%s'? ", near);
    }
    fputs("allowed: ", file);
    for (size_t i = 0; names[i] != NULL; i++) {
        fprintf(file, "%s%s", i > 0 ? ", " : "", names[i]);
    }
    fclose(file);
    return config_refuse(error, place, path, "there is no %s '%.80s'; %s", what, name, list);
}
