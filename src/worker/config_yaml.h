// SPDX-License-Identifier: Apache-2.0
//
// From YAML to the struct: files, overrides and defaults take the same way, and each remembers where a key was given.
#ifndef HEADROOM_WORKER_CONFIG_YAML_H
#define HEADROOM_WORKER_CONFIG_YAML_H

#include "mem/error.h"
#include "worker/config.h"

struct config_reader {
    struct config *config;
    struct error *error;
};

// On failure STATUS_INVALID, or STATUS_ERROR when memory runs out. The config borrows `name` and `override`; the text
// must outlive the reader.
enum status config_yaml_defaults(struct config_reader *reader);
enum status config_yaml_file(struct config_reader *reader, const char *name, const char *text);
enum status config_yaml_override(struct config_reader *reader, const char *override);

#endif
