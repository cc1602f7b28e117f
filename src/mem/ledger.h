// SPDX-License-Identifier: Apache-2.0
//
// The ledger of a CPU device: who holds how much of its capacity. A named ledger lives in POSIX shared memory
// ("/headroom-NAME"), one slot for each attachment; a ledger without a name is this attachment's own.
//
// Processes exclude each other by flock, and each keeps a lock on its slot for as long as it lives. The kernel undoes
// both when a process dies, in whatever container it ran; slots of the dead are cleared whenever somebody looks. (A
// child that was forked without exec shares its parent's life.) The last to leave removes the object; one that a killed
// job left behind is removed by the next attachment of any name.
//
// Threads: any. Ranks: nothing is collective.
#ifndef HEADROOM_MEM_LEDGER_H
#define HEADROOM_MEM_LEDGER_H

#include <stddef.h>

#include "mem/device.h"

#define LEDGER_SLOTS    1024 // attachments that one name takes
#define LEDGER_NAME_MAX 96

struct ledger;

// 1 to `most` of A-Z a-z 0-9 . _ -
bool ledger_valid_name(const char *name, size_t most);

// `name`: 1 to LEDGER_NAME_MAX of A-Z a-z 0-9 . _ -, or NULL. The first live attachment of a name decides the capacity.
enum status ledger_attach(const char *name, uint64_t capacity_bytes, struct ledger **ledger_p, struct error *error);
// Gives back everything that this attachment holds. Accepts NULL.
void ledger_detach(struct ledger *ledger);

// No more will attach by this name. Those who have stay together, and nothing is left behind even where all are killed.
void ledger_forget_name(struct ledger *ledger);

// False when less than `bytes` are free; then nothing has changed.
bool ledger_take(struct ledger *ledger, uint64_t bytes);
void ledger_give(struct ledger *ledger, uint64_t bytes);
// What a neighbour of this attachment claims; granted even beyond the capacity.
void ledger_set_neighbour(struct ledger *ledger, uint64_t bytes);
void ledger_info(struct ledger *ledger, struct device_info *info_p);

#endif
