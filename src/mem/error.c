// SPDX-License-Identifier: Apache-2.0
#include "mem/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum status error_set(struct error *error, enum status status, const char *format, ...)
{
    if (error != NULL) {
        va_list arguments;
        error->status = status;
        va_start(arguments, format);
        vsnprintf(error->text, sizeof(error->text), format, arguments);
        va_end(arguments);
        for (char *end = strchr(error->text, '\n'); end != NULL; end = strchr(end, '\n')) {
            *end = ' '; // a name from outside may hold one
        }
    }
    return status;
}

enum status error_out_of_host_memory(struct error *error)
{
    return error_set(error, STATUS_ERROR, "out of host memory");
}
