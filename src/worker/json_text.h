// SPDX-License-Identifier: Apache-2.0
//
// Texts from elsewhere, such as names of files, as JSON strings.
//
// Threads: any.
#ifndef HEADROOM_WORKER_JSON_TEXT_H
#define HEADROOM_WORKER_JSON_TEXT_H

#include <jansson.h>

// A string of the text; where it is no UTF-8, with a question mark for each byte beyond ASCII. The caller owns it. NULL
// where the host's memory runs out.
json_t *json_text(const char *text);

#endif
