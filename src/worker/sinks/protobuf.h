// SPDX-License-Identifier: Apache-2.0
//
// Writes fields of a message in protobuf's wire format: as much of it as TensorBoard's events need.
//
// Threads: one at a time for each file.
#ifndef HEADROOM_WORKER_SINKS_PROTOBUF_H
#define HEADROOM_WORKER_SINKS_PROTOBUF_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

// `field`: its number in the message. What fails is seen by ferror.
void protobuf_put_count(FILE *to, uint32_t field, uint64_t value); // int64 that is not negative, enum
void protobuf_put_double(FILE *to, uint32_t field, double value);
void protobuf_put_float(FILE *to, uint32_t field, float value);
void protobuf_put_bytes(FILE *to, uint32_t field, const void *bytes, size_t count); // string, bytes, message
// The front of a message of so many bytes, which come next.
void protobuf_put_message(FILE *to, uint32_t field, size_t count);

#endif
