// SPDX-License-Identifier: Apache-2.0
//
// Token shards in llm.c's format of uint16 (data/tokens.c), PREFIX_000000.bin and what follows. They get these names
// when all are on the disk; until then they are called PREFIX_000000.bin.part.
//
// Threads: one at a time. Ranks: nothing is collective. All calls but shards_count block.
#ifndef HEADROOM_WORKER_TOKENIZE_SHARDS_H
#define HEADROOM_WORKER_TOKENIZE_SHARDS_H

#include <stdint.h>

#include "mem/error.h"

#define SHARDS_TOKENS_MAX INT32_MAX // of one, as its header counts them

struct shards;

// Each but the last has `tokens_max` tokens. STATUS_INVALID where the folder is not there, or has a shard of this
// prefix already.
enum status shards_create(const char *prefix, uint64_t tokens_max, struct shards **shards_p, struct error *error);
// Removes what was not committed. Accepts NULL.
void shards_destroy(struct shards *shards);

// STATUS_ERROR where a file cannot be written, STATUS_INVALID where there are more shards than six digits count.
enum status shards_write(struct shards *shards, const uint16_t *tokens, uint64_t count, struct error *error);
// All shards get their names, or none. Nothing is written after that.
enum status shards_commit(struct shards *shards, struct error *error);

uint64_t shards_count(const struct shards *shards);

#endif
