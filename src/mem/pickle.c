// SPDX-License-Identifier: Apache-2.0
#include "mem/pickle.h"

#include <string.h>

// By pickletools' names.
enum opcode {
    PROTO = 0x80,
    STOP = '.',
    BININT = 'J',
    LONG1 = 0x8a,
    NEWTRUE = 0x88,
    NEWFALSE = 0x89,
    BINUNICODE = 'X',
    TUPLE2 = 0x86,
    EMPTY_DICT = '}',
    MARK = '(',
    SETITEMS = 'u',
    EMPTY_LIST = ']',
    APPEND = 'a',
    BINPUT = 'q',
    BINGET = 'h',
};

static void put_bytes(FILE *file, uint64_t number, int count)
{
    for (int i = 0; i < count; i++) {
        putc((int)(i < 8 ? number >> (8 * i) & 0xff : 0), file);
    }
}

void pickle_begin(FILE *file)
{
    putc(PROTO, file);
    putc(2, file);
}

void pickle_end(FILE *file)
{
    putc(STOP, file);
}

void pickle_number(FILE *file, uint64_t number)
{
    if (number <= INT32_MAX) {
        putc(BININT, file);
        put_bytes(file, number, 4);
        return;
    }
    int count = 4;
    while (count < 9 && number >> (8 * count - 1) != 0) { // the highest bit is the sign
        count++;
    }
    putc(LONG1, file);
    putc(count, file);
    put_bytes(file, number, count);
}

void pickle_bool(FILE *file, bool value)
{
    putc(value ? NEWTRUE : NEWFALSE, file);
}

void pickle_text(FILE *file, const char *text)
{
    putc(BINUNICODE, file);
    put_bytes(file, strlen(text), 4);
    for (; *text != '\0'; text++) {
        putc(*text >= ' ' && *text <= '~' ? *text : '?', file);
    }
}

void pickle_pair(FILE *file, uint64_t first, uint64_t second)
{
    pickle_number(file, first);
    pickle_number(file, second);
    putc(TUPLE2, file);
}

void pickle_dict_begin(FILE *file)
{
    putc(EMPTY_DICT, file);
    putc(MARK, file);
}

void pickle_dict_end(FILE *file)
{
    putc(SETITEMS, file);
}

void pickle_list(FILE *file)
{
    putc(EMPTY_LIST, file);
}

void pickle_append(FILE *file)
{
    putc(APPEND, file);
}

void pickle_remember(FILE *file, uint8_t number)
{
    putc(BINPUT, file);
    putc(number, file);
}

void pickle_recall(FILE *file, uint8_t number)
{
    putc(BINGET, file);
    putc(number, file);
}
