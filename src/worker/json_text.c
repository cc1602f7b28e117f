// SPDX-License-Identifier: Apache-2.0
#include "worker/json_text.h"

#include <stdlib.h>
#include <string.h>

json_t *json_text(const char *text)
{
    json_t *value = json_string(text);
    char *plain = value == NULL ? strdup(text) : NULL;
    for (char *c = plain; c != NULL && *c != '\0'; c++) {
        *c = *c & '\x80' ? '?' : *c;
    }
    if (plain != NULL) {
        value = json_string(plain);
    }
    free(plain);
    return value;
}
