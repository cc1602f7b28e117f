// SPDX-License-Identifier: Apache-2.0
//
// Chunk n is in slot n % slots from when it is read until it is written. The ring holds the chunks [written, read).
#include "worker/tokenize/tokenize.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "worker/signals.h"
#include "worker/tokenize/encoder.h"
#include "worker/tokenize/input.h"
#include "worker/tokenize/shards.h"

#define SLOTS_PER_THREAD 4

struct slot {
    struct input_chunk chunk;
    struct encoded encoded;
    struct error error; // of reading or encoding it
    bool done;          // it may be written
};

struct tokenizing {
    const struct tokenize_job *job;
    struct input *input;   // with the mutex
    struct shards *shards; // one thread writes
    struct tokenize_totals totals;
    uint64_t slot_count;

    pthread_mutex_t mutex; // over all that follows
    pthread_cond_t freed;  // a slot is, or it is over
    struct slot *slots;
    uint64_t read, written;
    uint64_t held_bytes; // of chunks in the ring
    bool writing;        // a thread does
    bool ended;          // nothing more is read
    struct error error;  // the first
};

struct thread {
    pthread_t id;
    struct encoder *encoder;
    struct tokenizing *tokenizing;
};

// Reading -------------------------------------------------------------------------------------------------------------

// With the mutex.
static bool is_full(const struct tokenizing *tokenizing)
{
    return tokenizing->read - tokenizing->written == tokenizing->slot_count ||
           tokenizing->held_bytes >= tokenizing->slot_count * INPUT_CHUNK_BYTES;
}

// Reads the next chunk into a slot; NULL: there is none. What cannot be read is a chunk, too, the last one. With the
// mutex.
static struct slot *read_slot(struct tokenizing *tokenizing)
{
    while (!tokenizing->ended && is_full(tokenizing)) {
        pthread_cond_wait(&tokenizing->freed, &tokenizing->mutex);
    }
    if (tokenizing->ended) {
        return NULL;
    }
    struct slot *slot = &tokenizing->slots[tokenizing->read % tokenizing->slot_count];
    *slot = (struct slot){0};
    enum status status = input_next(tokenizing->input, &slot->chunk, &slot->error);
    tokenizing->ended = status != STATUS_OK || slot->chunk.bytes == NULL;
    if (status == STATUS_OK && slot->chunk.bytes == NULL) {
        return NULL;
    }
    tokenizing->read++;
    tokenizing->held_bytes += slot->chunk.count;
    return slot;
}

// Encoding ------------------------------------------------------------------------------------------------------------

static void encode_slot(struct slot *slot, struct encoder *encoder)
{
    if (slot->error.status == STATUS_OK) {
        encoder_run(encoder, &slot->chunk, &slot->encoded, &slot->error);
    }
    free(slot->chunk.bytes);
    slot->chunk.bytes = NULL;
}

// Writing -------------------------------------------------------------------------------------------------------------

static enum status write_slot(struct tokenizing *tokenizing, const struct slot *slot, struct error *error)
{
    struct tokenize_totals *totals = &tokenizing->totals;
    if (slot->error.status != STATUS_OK) {
        *error = slot->error;
        return error->status;
    }
    if (signal_came(SIGINT) || signal_came(SIGTERM)) {
        return error_set(error, STATUS_ERROR, "stopped by a signal: no shard was written");
    }
    enum status status = shards_write(tokenizing->shards, slot->encoded.tokens, slot->encoded.count, error);
    totals->bytes_read += slot->chunk.count;
    totals->documents += slot->encoded.documents;
    totals->tokens += slot->encoded.count;
    totals->shards = shards_count(tokenizing->shards);
    if (status == STATUS_OK) {
        tokenizing->job->progress(tokenizing->job->context, totals);
    }
    return status;
}

static bool is_next_done(const struct tokenizing *tokenizing)
{
    return tokenizing->written < tokenizing->read &&
           tokenizing->slots[tokenizing->written % tokenizing->slot_count].done;
}

// Writes what is next, as far as it is done, if no thread does. With the mutex, but not while it writes.
static void write_slots(struct tokenizing *tokenizing)
{
    if (tokenizing->writing) {
        return;
    }
    tokenizing->writing = true;
    while (is_next_done(tokenizing)) {
        struct slot *slot = &tokenizing->slots[tokenizing->written % tokenizing->slot_count];
        if (tokenizing->error.status == STATUS_OK) {
            struct error error = {0};
            pthread_mutex_unlock(&tokenizing->mutex);
            write_slot(tokenizing, slot, &error);
            pthread_mutex_lock(&tokenizing->mutex);
            tokenizing->error = error;
        }
        free(slot->encoded.tokens);
        tokenizing->ended = tokenizing->ended || tokenizing->error.status != STATUS_OK;
        tokenizing->held_bytes -= slot->chunk.count;
        tokenizing->written++;
        pthread_cond_broadcast(&tokenizing->freed);
    }
    tokenizing->writing = false;
}

// Threads -------------------------------------------------------------------------------------------------------------

static void *work(void *argument)
{
    const struct thread *thread = argument;
    struct tokenizing *tokenizing = thread->tokenizing;
    struct slot *slot;
    pthread_mutex_lock(&tokenizing->mutex);
    while ((slot = read_slot(tokenizing)) != NULL) {
        pthread_mutex_unlock(&tokenizing->mutex);
        encode_slot(slot, thread->encoder);
        pthread_mutex_lock(&tokenizing->mutex);
        slot->done = true;
        write_slots(tokenizing);
    }
    pthread_mutex_unlock(&tokenizing->mutex);
    return NULL;
}

static enum status create_encoders(struct thread *threads, struct tokenizing *tokenizing, struct error *error)
{
    enum status status = STATUS_OK;
    for (uint64_t i = 0; i < tokenizing->job->threads && status == STATUS_OK; i++) {
        threads[i].tokenizing = tokenizing;
        status = encoder_create(tokenizing->job->vocabulary, &threads[i].encoder, error);
    }
    return status;
}

// This thread is one of them, and the others need not all be had.
static void run_threads(struct thread *threads, uint64_t count)
{
    uint64_t started = 1;
    while (started < count && pthread_create(&threads[started].id, NULL, work, &threads[started]) == 0) {
        started++;
    }
    work(&threads[0]);
    while (--started > 0) {
        pthread_join(threads[started].id, NULL);
    }
}

static enum status run(struct tokenizing *tokenizing, struct error *error)
{
    const uint64_t count = tokenizing->job->threads;
    struct thread *threads = calloc(count, sizeof(*threads));
    if (threads == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = create_encoders(threads, tokenizing, error);
    if (status == STATUS_OK) {
        run_threads(threads, count);
        *error = tokenizing->error;
        status = error->status;
    }
    for (uint64_t i = 0; i < count; i++) {
        encoder_destroy(threads[i].encoder);
    }
    free(threads);
    return status;
}

static enum status commit(struct tokenizing *tokenizing, struct error *error)
{
    if (tokenizing->totals.documents == 0) {
        return error_set(error, STATUS_INVALID, "%s: has no document%s", tokenizing->job->inputs[0],
                         tokenizing->job->input_count > 1 ? ", and no other input has one" : "");
    }
    return shards_commit(tokenizing->shards, error);
}

enum status tokenize(const struct tokenize_job *job, struct tokenize_totals *totals_p, struct error *error)
{
    struct tokenizing tokenizing = {
        .job = job,
        .slot_count = SLOTS_PER_THREAD * job->threads,
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .freed = PTHREAD_COND_INITIALIZER,
    };
    enum status status = input_open(job->inputs, job->input_count, job->vocabulary != NULL, &tokenizing.input, error);
    if (status == STATUS_OK) {
        tokenizing.totals.bytes = input_bytes(tokenizing.input);
        status = shards_create(job->prefix, job->shard_tokens, &tokenizing.shards, error);
    }
    if (status == STATUS_OK) {
        tokenizing.slots = calloc(tokenizing.slot_count, sizeof(*tokenizing.slots));
        status = tokenizing.slots == NULL ? error_out_of_host_memory(error) : run(&tokenizing, error);
    }
    if (status == STATUS_OK) {
        status = commit(&tokenizing, error);
    }
    free(tokenizing.slots);
    shards_destroy(tokenizing.shards);
    input_close(tokenizing.input);
    *totals_p = tokenizing.totals;
    return status;
}
