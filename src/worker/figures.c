// SPDX-License-Identifier: Apache-2.0
#include "worker/figures.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static size_t count_columns(const char *text)
{
    size_t columns = 0;
    for (; *text != '\0'; text++) {
        columns += ((uint8_t)*text & 0xC0) != 0x80; // the first byte of a character
    }
    return columns;
}

struct figures figures_begin(size_t columns)
{
    return (struct figures){.room = columns};
}

void figures_add(struct figures *line, const char *format, ...)
{
    char *figure = line->text + line->bytes;
    size_t most = sizeof(line->text) - line->bytes;
    va_list arguments;
    va_start(arguments, format);
    size_t bytes = (size_t)vsnprintf(figure, most, format, arguments);
    va_end(arguments);
    size_t columns = count_columns(figure);
    if (bytes >= most || columns > line->room) {
        *figure = '\0';
        line->room = 0;
        return;
    }
    line->bytes += bytes;
    line->room -= columns;
}
