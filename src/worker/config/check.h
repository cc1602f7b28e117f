// SPDX-License-Identifier: Apache-2.0
//
// Checks that concern several keys at once.
#ifndef HEADROOM_WORKER_CONFIG_CHECK_H
#define HEADROOM_WORKER_CONFIG_CHECK_H

#include "worker/config/config.h"

enum status config_check(const struct config *config, struct error *error);

#endif
