// SPDX-License-Identifier: Apache-2.0
//
// What headroom simulate is told: a file of the configuration's form, with keys of its own. docs/simulate.md lists
// them.
#ifndef HEADROOM_WORKER_COMMANDS_SCENARIO_H
#define HEADROOM_WORKER_COMMANDS_SCENARIO_H

#include "sched/world.h"
#include "worker/config/schema.h"

#include "mem/error.h"

extern const struct config_schema scenario_schema;

// Reads `path` and then overrides[count], as config_read does.
enum status scenario_read(struct sched_scenario *scenario, const char *path, char *const *overrides, size_t count,
                          struct error *error);

#endif
