// SPDX-License-Identifier: Apache-2.0
#include "mem/printable.h"

#include <stdbool.h>

#define C1_LEAD 0xc2 // of the UTF-8 of U+0080 to U+00bf

static bool is_control(unsigned char before, unsigned char byte)
{
    return byte < 0x20 || byte == 0x7f || (before == C1_LEAD && byte >= 0x80 && byte < 0xa0);
}

const char *printable(const char *text, char *to, size_t size)
{
    unsigned char before = 0;
    size_t i = 0;
    for (; i + 1 < size && text[i] != '\0'; i++) {
        unsigned char byte = (unsigned char)text[i];
        bool control = is_control(before, byte);
        if (control && byte >= 0x80) {
            to[i - 1] = '?';
        }
        to[i] = control ? '?' : text[i];
        before = byte;
    }
    to[i] = '\0';
    return to;
}
