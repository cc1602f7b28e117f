// SPDX-License-Identifier: Apache-2.0
#include "mem/event_log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HEADER "Thread,Time,Action,Pointer,Size,Stream,Tag\n"

enum { BUFFER_BYTES = 65536, LINE_MAX_BYTES = 256 };

struct event_log {
    int file;
    int failure; // errno of the first one
    bool failure_told;
    off_t written_bytes; // whole lines
    size_t used_bytes;   // of the buffer: whole lines
    char buffer[BUFFER_BYTES];
    char path[];
};

static void write_buffer(struct event_log *log)
{
    size_t done = 0;
    while (done < log->used_bytes && log->failure == 0) {
        ssize_t written = write(log->file, log->buffer + done, log->used_bytes - done);
        if (written >= 0) {
            done += (size_t)written;
        } else if (errno != EINTR) {
            log->failure = errno;
        }
    }
    if (log->failure == 0) {
        log->written_bytes += (off_t)done;
    } else if (done > 0) {
        (void)!ftruncate(log->file, log->written_bytes); // where that fails too, the first failure is the one to tell
    }
    log->used_bytes = 0;
}

enum status event_log_create(const char *path, struct event_log **log_p, struct error *error)
{
    size_t length = strlen(path);
    struct event_log *log = calloc(1, sizeof(*log) + length + 1);
    if (log == NULL) {
        return error_out_of_host_memory(error);
    }
    memcpy(log->path, path, length);
    log->file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (log->file < 0) {
        enum status status = error_set(error, STATUS_ERROR, "%s: %s", path, strerror(errno));
        free(log);
        return status;
    }
    log->used_bytes = strlen(HEADER);
    memcpy(log->buffer, HEADER, log->used_bytes);
    enum status status = event_log_flush(log, error);
    if (status != STATUS_OK) {
        event_log_destroy(log);
        return status;
    }
    *log_p = log;
    return STATUS_OK;
}

void event_log_destroy(struct event_log *log)
{
    if (log != NULL) {
        write_buffer(log);
        close(log->file);
        free(log);
    }
}

// RMM's word; NULL where it has none.
static const char *action_word(enum mem_action action)
{
    switch (action) {
    case MEM_ACTION_ALLOC:
        return "allocate";
    case MEM_ACTION_ALLOC_FAILED:
        return "allocate failure";
    case MEM_ACTION_FREE:
        return "free";
    default:
        return NULL;
    }
}

// As it can stand in a column.
static void copy_tag(char column[32], const char *tag)
{
    size_t i = 0;
    for (; i < 31 && tag[i] != '\0'; i++) {
        bool plain = tag[i] >= ' ' && tag[i] <= '~' && tag[i] != ',' && tag[i] != '"';
        column[i] = plain ? tag[i] : '_';
    }
    column[i] = '\0';
}

void event_log_append(struct event_log *log, const struct mem_event *event, uint64_t wall_ns)
{
    const char *word = action_word(event->action);
    if (word == NULL || log->failure != 0) {
        return;
    }
    if (BUFFER_BYTES - log->used_bytes < LINE_MAX_BYTES) {
        write_buffer(log);
    }
    time_t seconds = (time_t)(wall_ns / 1000000000);
    struct tm local;
    char tag[32];
    localtime_r(&seconds, &local);
    copy_tag(tag, event->tag);
    log->used_bytes +=
        (size_t)snprintf(log->buffer + log->used_bytes, LINE_MAX_BYTES,
                         "%d,%02d:%02d:%02d.%06d,%s,0x%" PRIx64 ",%" PRIu64 ",%" PRIu64 ",%s\n", (int)gettid(),
                         local.tm_hour, local.tm_min, local.tm_sec, (int)(wall_ns % 1000000000 / 1000), word,
                         event->address, event->requested_bytes, event->stream, tag);
}

enum status event_log_flush(struct event_log *log, struct error *error)
{
    write_buffer(log);
    if (log->failure == 0 || log->failure_told) {
        return STATUS_OK;
    }
    log->failure_told = true;
    return error_set(error, STATUS_ERROR, "%s: cannot write: %s", log->path, strerror(log->failure));
}
