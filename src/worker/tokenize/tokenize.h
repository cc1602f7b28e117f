// SPDX-License-Identifier: Apache-2.0
//
// Documents to token shards, on several threads. Threads take turns at reading chunks and encode them beside each
// other; one of them at a time writes those that are next, in the order in which they were read. So shards are the same
// bits for any number of threads.
//
// Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_TOKENIZE_TOKENIZE_H
#define HEADROOM_WORKER_TOKENIZE_TOKENIZE_H

#include <stddef.h>
#include <stdint.h>

#include "mem/error.h"
#include "worker/tokenize/vocabulary.h"

struct tokenize_totals {
    uint64_t bytes_read, bytes; // of the inputs: those that are done, and all
    uint64_t documents, tokens, shards;
};

struct tokenize_job {
    char *const *inputs; // paths (input.h)
    size_t input_count;
    const struct vocabulary *vocabulary; // NULL: tokens are bytes
    const char *prefix;                  // of the shards' paths (shards.h)
    uint64_t shard_tokens;               // up to SHARDS_TOKENS_MAX
    uint64_t threads;
    void (*progress)(void *context, const struct tokenize_totals *totals); // after each chunk, on any thread
    void *context;
};

// Writes all shards, or none. At most a few MiB a thread wait to be encoded or written, and one chunk of any size.
// STATUS_INVALID with a line where an input or the prefix is wrong, STATUS_ERROR where a file or the host fails, or
// SIGINT or SIGTERM came, if they are blocked (signals.h). Of several mistakes in the inputs the first is told. Blocks.
enum status tokenize(const struct tokenize_job *job, struct tokenize_totals *totals_p, struct error *error);

#endif
