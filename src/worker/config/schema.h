// SPDX-License-Identifier: Apache-2.0
//
// The table of all configuration keys. It is read by those who fill, check, print and explain a struct config; nobody
// else lists keys. Other files of this form have tables of their own.
#ifndef HEADROOM_WORKER_CONFIG_SCHEMA_H
#define HEADROOM_WORKER_CONFIG_SCHEMA_H

#include <stddef.h>
#include <stdint.h>

enum config_type {
    CONFIG_TYPE_BOOL,
    CONFIG_TYPE_COUNT,     // uint64_t
    CONFIG_TYPE_BYTES,     // uint64_t
    CONFIG_TYPE_REAL,      // double
    CONFIG_TYPE_CHOICE,    // an enum whose values count from 0
    CONFIG_TYPE_TEXT,      // char *, owned by the struct
    CONFIG_TYPE_NEIGHBOUR, // struct config_neighbour
};

// Bounds and default are written as a user would write them, and read by what reads the user's values.
struct config_key {
    const char *path; // "section.name"
    enum config_type type;
    size_t offset;            // of the value, or of a list's first, in the struct
    size_t list_max;          // 0: one value; else a list of at most so many
    size_t count_offset;      // list: where its length (size_t) is
    const char *min, *max;    // count, bytes, real
    const char *const *names; // choice: what is allowed, in the enum's order, closed by NULL
    const char *word;         // count, bytes, text: may stand in place of a value, or NULL; a text is then NULL
    uint64_t word_value;      // count, bytes: what the word stands for
    const char *fallback;     // the default; NULL: the key must be given
    const char *help;
};

// What a file may say. A struct of values belongs to it.
struct config_schema {
    const char *const *sections; // in order, closed by NULL
    const struct config_key *keys;
    size_t count; // at most CONFIG_KEYS_MAX
};

#define CONFIG_BYTES_MAX          "1024TiB" // the most that a size may say
#define CONFIG_KEYS_MAX           96
#define CONFIG_NEIGHBOUR_KEYS_MAX 4

// All keys; those of one section stand together.
extern const struct config_key config_keys[];
extern const size_t config_keys_count;
// The keys of one entry of device.neighbours; their offsets are in struct config_neighbour. All must be given.
extern const struct config_key config_neighbour_keys[CONFIG_NEIGHBOUR_KEYS_MAX];
// The same with its sections; offsets are in struct config.
extern const struct config_schema config_schema;

// The part of a key's path after its section.
const char *config_key_name(const struct config_key *key);

#endif
