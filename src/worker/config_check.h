// SPDX-License-Identifier: Apache-2.0
//
// Checks that concern several keys at once.
#ifndef HEADROOM_WORKER_CONFIG_CHECK_H
#define HEADROOM_WORKER_CONFIG_CHECK_H

#include "worker/config.h"
#include "worker/config_refuse.h"

// `places[i]` is where config_keys[i] was given; `name` is the file to name where a key was not given at all.
enum status config_check(const struct config *config, const struct config_place *places, const char *name,
                         struct error *error);

#endif
