// SPDX-License-Identifier: Apache-2.0
//
// What a person reads whose configuration is wrong: always one line, with the place, the value and what is allowed.
#ifndef HEADROOM_WORKER_CONFIG_REFUSE_H
#define HEADROOM_WORKER_CONFIG_REFUSE_H

#include "mem/error.h"
#include "worker/config/schema.h"

struct config_place {      // where a key was given; all zero: nowhere, it has its default
    const char *file;      // NULL: on the command line
    const char *override;  // "section.key=value", or NULL
    unsigned line, column; // in the file, counted from 1; 0: the file as a whole
};

// Writes "place: path: ..." and returns STATUS_INVALID, as the next two do. `path` may be NULL; an override names its
// key by itself.
enum status config_refuse(struct error *error, const struct config_place *place, const char *path, const char *format,
                          ...) __attribute__((format(printf, 4, 5)));
// `complaint` completes the sentence that starts with `value`.
enum status config_refuse_value(struct error *error, const struct config_place *place, const struct config_key *key,
                                const char *value, const char *complaint);
// Says that `name` is none of `names` (closed by NULL), and which of them comes near. `what` it should be.
enum status config_refuse_name(struct error *error, const struct config_place *place, const char *path,
                               const char *what, const char *name, const char *const *names);

#endif
