// SPDX-License-Identifier: Apache-2.0
#include "worker/config/value.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "worker/config/config.h"

#define DIGITS "0123456789"

static const char not_whole[] = "is not a whole number";
static const char not_bytes[] = "is not a number of bytes such as 4096, 64MiB or 1.5GB";
static const char not_real[] = "is not a number";
static const char out_of_range[] = "is out of range";

// Largest binary unit first: config_value_print takes the first that divides.
static const struct unit {
    const char *name;
    uint64_t bytes;
} units[] = {
    {"PiB", UINT64_C(1) << 50},
    {"TiB", UINT64_C(1) << 40},
    {"GiB", UINT64_C(1) << 30},
    {"MiB", UINT64_C(1) << 20},
    {"KiB", UINT64_C(1) << 10},
    {"", 1},
    {"B", 1},
    {"TB", 1000000000000},
    {"GB", 1000000000},
    {"MB", 1000000},
    {"KB", 1000},
};
#define UNIT_COUNT (sizeof(units) / sizeof(units[0]))

const char *config_type_name(enum config_type type)
{
    static const char *const names[] = {
        [CONFIG_TYPE_BOOL] = "bool",     [CONFIG_TYPE_COUNT] = "count", [CONFIG_TYPE_BYTES] = "bytes",
        [CONFIG_TYPE_REAL] = "real",     [CONFIG_TYPE_CHOICE] = "name", [CONFIG_TYPE_TEXT] = "text",
        [CONFIG_TYPE_NEIGHBOUR] = "map",
    };
    return names[type];
}

size_t config_value_size(const struct config_key *key)
{
    switch (key->type) {
    case CONFIG_TYPE_BOOL:
        return sizeof(bool);
    case CONFIG_TYPE_COUNT:
    case CONFIG_TYPE_BYTES:
        return sizeof(uint64_t);
    case CONFIG_TYPE_REAL:
        return sizeof(double);
    case CONFIG_TYPE_CHOICE:
        return sizeof(unsigned);
    case CONFIG_TYPE_TEXT:
        return sizeof(char *);
    case CONFIG_TYPE_NEIGHBOUR:
        return sizeof(struct config_neighbour);
    }
    return 0;
}

static bool is_word(const struct config_key *key, const char *text, bool quoted)
{
    return !quoted && key->word != NULL && strcmp(text, key->word) == 0;
}

static const char *scan_bool(const char *text, bool *value)
{
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) {
        return "is neither true nor false";
    }
    *value = *text == 't';
    return NULL;
}

static const char *scan_whole(const char *text, uint64_t *whole_p)
{
    bool negative = *text == '-';
    const char *digits = text + negative;
    size_t length = strspn(digits, DIGITS);
    if (length == 0 || digits[length] != '\0') {
        return not_whole;
    }
    errno = 0;
    uint64_t whole = strtoull(digits, NULL, 10);
    if (negative || errno == ERANGE) {
        return out_of_range;
    }
    *whole_p = whole;
    return NULL;
}

static const struct unit *find_unit(const char *name)
{
    for (size_t i = 0; i < UNIT_COUNT; i++) {
        if (strcmp(units[i].name, name) == 0) {
            return &units[i];
        }
    }
    return NULL;
}

// "1.5GiB": the digits without their point are 15, one of them a decimal, so 15 * 2^30 / 10 bytes, which is whole.
static const char *scan_size(const char *text, uint64_t *bytes_p)
{
    bool negative = *text == '-';
    text += negative;
    unsigned __int128 number = 0, scale = 1;
    bool digit = false, point = false;
    for (; isdigit((unsigned char)*text) || (*text == '.' && digit && !point); text++) {
        if (*text == '.') {
            point = true;
            digit = false;
            continue;
        }
        digit = true;
        number = number * 10 + (unsigned)(*text - '0');
        scale *= point ? 10 : 1;
        if (number > UINT64_MAX || scale > UINT64_MAX) {
            return out_of_range;
        }
    }
    const struct unit *unit = find_unit(text);
    if (!digit || unit == NULL) {
        return not_bytes;
    }
    number *= unit->bytes;
    if (number % scale != 0) {
        return "is not a whole number of bytes";
    }
    if (negative || number / scale > UINT64_MAX) {
        return out_of_range;
    }
    *bytes_p = (uint64_t)(number / scale);
    return NULL;
}

// `scan` reads the text as it reads the bounds.
static const char *scan_in_range(const struct config_key *key, const char *(*scan)(const char *, uint64_t *),
                                 const char *text, uint64_t *value)
{
    uint64_t min = 0, max = 0, number = 0;
    const char *complaint = scan(key->min, &min);
    assert(complaint == NULL);
    complaint = scan(key->max, &max);
    assert(complaint == NULL);
    complaint = scan(text, &number);
    if (complaint != NULL) {
        return complaint;
    }
    if (number < min || number > max) {
        return out_of_range;
    }
    *value = number;
    return NULL;
}

// Counts and bytes.
static const char *scan_number(const struct config_key *key, const char *text, bool quoted, uint64_t *value)
{
    if (is_word(key, text, quoted)) {
        *value = key->word_value;
        return NULL;
    }
    return scan_in_range(key, key->type == CONFIG_TYPE_BYTES ? scan_size : scan_whole, text, value);
}

// strtod alone would also take spaces, hexadecimal digits, "inf" and "nan".
static const char *scan_real(const struct config_key *key, const char *text, double *value)
{
    if (text[strspn(text, DIGITS "+-.eE")] != '\0') {
        return not_real;
    }
    char *end;
    double real = strtod(text, &end);
    if (end == text || *end != '\0') {
        return not_real;
    }
    if (!(real >= strtod(key->min, NULL) && real <= strtod(key->max, NULL))) {
        return out_of_range;
    }
    *value = real;
    return NULL;
}

static const char *scan_choice(const struct config_key *key, const char *text, void *value)
{
    for (unsigned i = 0; key->names[i] != NULL; i++) {
        if (strcmp(text, key->names[i]) == 0) {
            memcpy(value, &i, sizeof(i)); // the enums differ from key to key, but not in size
            return NULL;
        }
    }
    return "is not one of the names";
}
_Static_assert(sizeof(enum config_model) == sizeof(unsigned), "scan_choice writes enums as unsigned");

static const char *scan_text(const struct config_key *key, const char *text, bool quoted, char **value)
{
    char *copy = NULL;
    if (*text == '\0') {
        return "is empty";
    }
    if (!is_word(key, text, quoted)) {
        copy = strdup(text);
        if (copy == NULL) {
            return "does not fit the memory";
        }
    }
    free(*value);
    *value = copy;
    return NULL;
}

const char *config_value_scan(const struct config_key *key, const char *text, bool quoted, void *value)
{
    switch (key->type) {
    case CONFIG_TYPE_BOOL:
        return scan_bool(text, value);
    case CONFIG_TYPE_COUNT:
    case CONFIG_TYPE_BYTES:
        return scan_number(key, text, quoted, value);
    case CONFIG_TYPE_REAL:
        return scan_real(key, text, value);
    case CONFIG_TYPE_CHOICE:
        return scan_choice(key, text, value);
    case CONFIG_TYPE_TEXT:
        return scan_text(key, text, quoted, value);
    case CONFIG_TYPE_NEIGHBOUR:
        break;
    }
    assert(false); // a neighbour is read key by key
    return NULL;
}

static void print_bytes(uint64_t bytes, FILE *file)
{
    const struct unit *unit = units;
    while (unit->bytes > 1 && (bytes == 0 || bytes % unit->bytes != 0)) {
        unit++;
    }
    fprintf(file, "%" PRIu64 "%s", bytes / unit->bytes, unit->name);
}

static void print_number(const struct config_key *key, uint64_t number, FILE *file)
{
    if (key->word != NULL && number == key->word_value) {
        fputs(key->word, file);
    } else if (key->type == CONFIG_TYPE_BYTES) {
        print_bytes(number, file);
    } else {
        fprintf(file, "%" PRIu64, number);
    }
}

// The fewest digits that give the same number again; 17 always do.
static void print_real(double real, FILE *file)
{
    char text[320]; // %g needs 24, but the compiler counts with 311
    int digits = 1;
    do {
        snprintf(text, sizeof(text), "%.*g", digits++, real);
    } while (strtod(text, NULL) != real);
    fputs(text, file);
}

static void print_quoted(const char *text, FILE *file)
{
    fputc('"', file);
    for (; *text != '\0'; text++) {
        if (iscntrl((unsigned char)*text)) {
            fprintf(file, "\\x%02x", (unsigned)*text);
        } else {
            fprintf(file, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
        }
    }
    fputc('"', file);
}

static void print_text(const struct config_key *key, const char *text, FILE *file)
{
    static const char plain[] = DIGITS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-./";
    if (text == NULL) {
        fputs(key->word, file);
    } else if (text[strspn(text, plain)] == '\0' && *text != '-' && !is_word(key, text, false)) {
        fputs(text, file);
    } else {
        print_quoted(text, file);
    }
}

static void print_neighbour(const struct config_neighbour *neighbour, FILE *file)
{
    fputc('{', file);
    for (size_t i = 0; i < CONFIG_NEIGHBOUR_KEYS_MAX; i++) {
        const struct config_key *key = &config_neighbour_keys[i];
        fprintf(file, "%s%s: ", i > 0 ? ", " : "", config_key_name(key));
        config_value_print(key, (const char *)neighbour + key->offset, file);
    }
    fputc('}', file);
}

void config_value_print(const struct config_key *key, const void *value, FILE *file)
{
    switch (key->type) {
    case CONFIG_TYPE_BOOL:
        fputs(*(const bool *)value ? "true" : "false", file);
        break;
    case CONFIG_TYPE_COUNT:
    case CONFIG_TYPE_BYTES:
        print_number(key, *(const uint64_t *)value, file);
        break;
    case CONFIG_TYPE_REAL:
        print_real(*(const double *)value, file);
        break;
    case CONFIG_TYPE_CHOICE: {
        unsigned choice;
        memcpy(&choice, value, sizeof(choice));
        fputs(key->names[choice], file);
        break;
    }
    case CONFIG_TYPE_TEXT:
        print_text(key, *(char *const *)value, file);
        break;
    case CONFIG_TYPE_NEIGHBOUR:
        print_neighbour(value, file);
        break;
    }
}

static void print_names(const char *const *names, FILE *file)
{
    for (size_t i = 0; names[i] != NULL; i++) {
        fprintf(file, "%s%s", i > 0 ? ", " : "", names[i]);
    }
}

static void print_neighbour_allowed(FILE *file)
{
    for (size_t i = 0; i < CONFIG_NEIGHBOUR_KEYS_MAX; i++) {
        const struct config_key *key = &config_neighbour_keys[i];
        fprintf(file, "%s%s: %s to %s", i > 0 ? ", " : "{", config_key_name(key), key->min, key->max);
    }
    fputc('}', file);
}

void config_value_print_allowed(const struct config_key *key, FILE *file)
{
    switch (key->type) {
    case CONFIG_TYPE_BOOL:
        fputs("true, false", file);
        break;
    case CONFIG_TYPE_COUNT:
    case CONFIG_TYPE_BYTES:
    case CONFIG_TYPE_REAL:
        fprintf(file, "%s to %s", key->min, key->max);
        break;
    case CONFIG_TYPE_CHOICE:
        print_names(key->names, file);
        break;
    case CONFIG_TYPE_TEXT:
        fputs("text", file);
        break;
    case CONFIG_TYPE_NEIGHBOUR:
        print_neighbour_allowed(file);
        break;
    }
    if (key->word != NULL) {
        fprintf(file, " or %s", key->word);
    }
    if (key->list_max != 0) {
        fprintf(file, ", one or up to %zu as [a, b]", key->list_max);
    }
}
