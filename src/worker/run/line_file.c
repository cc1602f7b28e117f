// SPDX-License-Identifier: Apache-2.0
#include "worker/run/line_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/regular_file.h"

struct line_file {
    int descriptor;
    off_t bytes;      // of whole lines
    bool fails, told; // the latest line was lost; that was asked for
    int failure;      // errno of the latest one that was
    uint64_t lines_lost;
    char path[];
};

struct line_file *line_file_open(const char *path, bool anew)
{
    size_t length = strlen(path);
    struct line_file *file = calloc(1, sizeof(*file) + length + 1);
    if (file == NULL) {
        return NULL;
    }
    memcpy(file->path, path, length);
    file->descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (anew ? O_TRUNC : 0), 0666);
    if (file->descriptor < 0) {
        free(file);
        return NULL;
    }
    file->bytes = lseek(file->descriptor, 0, SEEK_END);
    return file;
}

void line_file_close(struct line_file *file)
{
    if (file != NULL) {
        close(file->descriptor);
        free(file);
    }
}

// Takes back what was written of a line. Where that fails too it is tried again before the next one.
static void cut(const struct line_file *file)
{
    (void)!ftruncate(file->descriptor, file->bytes);
}

static bool append(struct line_file *file, const void *bytes, size_t count)
{
    if (bytes == NULL) {
        file->failure = ENOMEM;
        return false;
    }
    if (file->fails) {
        cut(file);
    }
    if (!regular_file_write(file->descriptor, bytes, count)) {
        file->failure = errno;
        cut(file);
        return false;
    }
    file->bytes += (off_t)count;
    return true;
}

void line_file_write_bytes(struct line_file *file, const void *bytes, size_t count)
{
    file->fails = !append(file, bytes, count);
    file->lines_lost += file->fails;
}

void line_file_write(struct line_file *file, char *text)
{
    size_t length = text == NULL ? 0 : strlen(text);
    if (text != NULL) {
        text[length] = '\n'; // in place of the terminator
    }
    line_file_write_bytes(file, text, length + 1);
    free(text);
}

static const char *lines(uint64_t count)
{
    return count == 1 ? "line" : "lines";
}

bool line_file_news(struct line_file *file, char text[LINE_FILE_WARNING_MAX])
{
    if (file->fails == file->told) {
        return false;
    }
    file->told = file->fails;
    if (file->fails) {
        snprintf(text, LINE_FILE_WARNING_MAX, "%s: cannot write: %s; the run goes on, and lines are missing there",
                 file->path, strerror(file->failure));
    } else {
        snprintf(text, LINE_FILE_WARNING_MAX, "%s: can be written again, without %" PRIu64 " %s", file->path,
                 file->lines_lost, lines(file->lines_lost));
    }
    return true;
}

bool line_file_losses(const struct line_file *file, char text[LINE_FILE_WARNING_MAX])
{
    snprintf(text, LINE_FILE_WARNING_MAX, "%s: %" PRIu64 " %s could not be written: %s", file->path, file->lines_lost,
             lines(file->lines_lost), strerror(file->failure));
    return file->lines_lost > 0;
}
