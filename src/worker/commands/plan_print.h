// SPDX-License-Identifier: Apache-2.0
//
// A planning for people, and for programs: the same figures, to the standard output.
#ifndef HEADROOM_WORKER_COMMANDS_PLAN_PRINT_H
#define HEADROOM_WORKER_COMMANDS_PLAN_PRINT_H

#include "worker/commands/planning.h"

// Tables; where it fits, the last line says so.
void plan_print_text(const struct planning *planning);
// One object; docs/operations.md lists its keys. STATUS_ERROR where the host's memory runs out.
enum status plan_print_json(const struct planning *planning, struct error *error);

#endif
