// SPDX-License-Identifier: Apache-2.0
#include "worker/sinks/protobuf.h"

#include <endian.h>
#include <string.h>

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED_64 = 1, WIRE_BYTES = 2, WIRE_FIXED_32 = 5 };

// Seven bits a byte, the lowest first; the eighth says that more follow.
static void put_varint(FILE *to, uint64_t value)
{
    for (; value > 0x7f; value >>= 7) {
        fputc((int)(value & 0x7f) | 0x80, to);
    }
    fputc((int)value, to);
}

static void put_key(FILE *to, uint32_t field, enum wire_type type)
{
    put_varint(to, (uint64_t)field << 3 | type);
}

void protobuf_put_count(FILE *to, uint32_t field, uint64_t value)
{
    put_key(to, field, WIRE_VARINT);
    put_varint(to, value);
}

void protobuf_put_double(FILE *to, uint32_t field, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    bits = htole64(bits);
    put_key(to, field, WIRE_FIXED_64);
    fwrite(&bits, sizeof(bits), 1, to);
}

void protobuf_put_float(FILE *to, uint32_t field, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    bits = htole32(bits);
    put_key(to, field, WIRE_FIXED_32);
    fwrite(&bits, sizeof(bits), 1, to);
}

void protobuf_put_message(FILE *to, uint32_t field, size_t count)
{
    put_key(to, field, WIRE_BYTES);
    put_varint(to, count);
}

void protobuf_put_bytes(FILE *to, uint32_t field, const void *bytes, size_t count)
{
    protobuf_put_message(to, field, count);
    fwrite(bytes, 1, count, to);
}
