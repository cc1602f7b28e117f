// SPDX-License-Identifier: Apache-2.0
//
// One value of the configuration between the text that a person writes and the struct.
#ifndef HEADROOM_WORKER_CONFIG_VALUE_H
#define HEADROOM_WORKER_CONFIG_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "worker/config/schema.h"

const char *config_type_name(enum config_type type);
// Size of one value of the key's type in its struct.
size_t config_value_size(const struct config_key *key);

// Reads `text` as one value of the key, which is no neighbour, into `value`; a text that was there is freed. What
// stood in quotes is never the key's word. On failure `value` keeps what it held, and what is returned completes the
// sentence "'text' ..."; NULL: all is well.
const char *config_value_scan(const struct config_key *key, const char *text, bool quoted, void *value);

// Writes what config_value_scan reads back as exactly this value, quoted where YAML needs it.
void config_value_print(const struct config_key *key, const void *value, FILE *file);

// Writes what the key accepts, as in "1 to 64 or auto".
void config_value_print_allowed(const struct config_key *key, FILE *file);

#endif
