// SPDX-License-Identifier: Apache-2.0
#include "mem/error.h"

#include <stdarg.h>
#include <stdio.h>

#include "mem/printable.h"

enum status error_set(struct error *error, enum status status, const char *format, ...)
{
    if (error != NULL) {
        va_list arguments;
        error->status = status;
        va_start(arguments, format);
        vsnprintf(error->text, sizeof(error->text), format, arguments);
        va_end(arguments);
        printable(error->text, error->text, sizeof(error->text)); // a name from outside may hold anything
    }
    return status;
}

enum status error_out_of_host_memory(struct error *error)
{
    return error_set(error, STATUS_ERROR, "out of host memory");
}
