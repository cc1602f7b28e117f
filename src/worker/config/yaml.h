// SPDX-License-Identifier: Apache-2.0
//
// From YAML to a struct: files, overrides and defaults take the same way, and each remembers where a key was given.
#ifndef HEADROOM_WORKER_CONFIG_YAML_H
#define HEADROOM_WORKER_CONFIG_YAML_H

#include "mem/error.h"
#include "worker/config/refuse.h"
#include "worker/config/schema.h"

struct config_reader {
    const struct config_schema *schema;
    void *values;                // the struct that the schema's offsets are in
    struct config_place *places; // of each key
    struct error *error;
};

// The file's whole text, for the caller to free. STATUS_INVALID where there is no such file or it is no text.
enum status config_yaml_read(const char *path, char **text_p, struct error *error);

// On failure STATUS_INVALID, or STATUS_ERROR when memory runs out. The places borrow `name` and `override`; the text
// must outlive the reader.
enum status config_yaml_defaults(struct config_reader *reader);
enum status config_yaml_file(struct config_reader *reader, const char *name, const char *text);
enum status config_yaml_override(struct config_reader *reader, const char *override);

#endif
