// SPDX-License-Identifier: Apache-2.0
//
// A sanitizer for what streams do with a device's memory: two uses of the same bytes, at least one of which writes,
// that nothing puts in an order, and uses of blocks that were freed. It does not depend on time: what would be wrong
// with slower streams is found on any. As torch.cuda._sanitizer does, it keeps a vector clock for each stream and event
// (Mattern, "Virtual time and global states of distributed systems", 1989) and for each byte the last write and what
// each stream last read since (Flanagan and Freund, "FastTrack", 2009).
//
// Streams, events and copies are watched by a table of entries that stands before the device's own. Whoever enqueues
// other work says what it uses, the host says what it does itself with memory that copies use too, and the pool says
// where blocks begin and end. All of these calls do nothing where no sanitizer is attached.
//
// The host's memory and the device's are one space of addresses: what a device that the host reaches calls an address
// is the host's pointer, and no other device's memory is where the host's is.
//
// Threads: any; calls on one stream must not overlap. Attaching and detaching: nobody else uses the device meanwhile.
// Ranks: nothing is collective.
#ifndef HEADROOM_MEM_SANITIZER_H
#define HEADROOM_MEM_SANITIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "mem/device.h"

#define SANITIZER_STREAMS_MAX 16 // at a time; one that was destroyed counts until the host has waited for its work

// From now on `device->ops` is the sanitizer's table. What was enqueued before is not known. STATUS_ERROR without host
// memory.
enum status sanitizer_attach(struct device *device, struct error *error);
// Puts the device's own table back. Destroying the device does it too.
void sanitizer_detach(struct device *device);

// A block of the pool; `tag` names it in findings (cut at 31 bytes).
void sanitizer_block(struct device *device, device_address address, uint64_t bytes, const char *tag);
// Whoever reuses the block's memory must come after the present work of `stream`; NULL: the caller knows that it does.
void sanitizer_block_freed(struct device *device, device_address address, struct stream *stream);

// Work that is enqueued on `stream` now uses these bytes. `place` names it in findings and must outlive the sanitizer.
void sanitizer_access(struct device *device, struct stream *stream, device_address address, uint64_t bytes, bool writes,
                      const char *place);

// The host uses these bytes now: staging memory, or a device's that it reaches. Uses of several threads are not put in
// an order.
void sanitizer_host_access(struct device *device, const void *memory, uint64_t bytes, bool writes, const char *place);

// A finding of somebody else's: the rest of the line, behind "sanitizer: ".
void sanitizer_report(struct device *device, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Uses that were found wrong. The device's `check` tells of the first.
uint64_t sanitizer_findings(struct device *device);
// Ranges of memory that are told apart, which is what the sanitizer's own memory grows with.
uint64_t sanitizer_ranges(struct device *device);

// Red zones: bytes around a block that nobody may write. These two are no uses of the memory, and block the host.
void sanitizer_fill(struct device *device, struct stream *stream, device_address address, uint64_t bytes, uint8_t byte);
// Whether some byte is not as it was filled, and the first such byte's offset.
bool sanitizer_find_damage(struct device *device, struct stream *stream, device_address address, uint64_t bytes,
                           uint8_t byte, uint64_t *offset_p);

// AddressSanitizer stops the program where the host touches poisoned bytes, `sanitizer_fill` and the device's copies on
// the CPU included. Only where the host may touch the device's memory at all, and in programs built with it. Memory is
// unpoisoned before it goes back to the device.
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZER_POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZER_POISONS 1
#endif
#endif
void sanitizer_set_poison(struct device *device, device_address address, uint64_t bytes, bool poisoned);

#endif
