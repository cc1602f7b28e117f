// SPDX-License-Identifier: Apache-2.0
//
// A file that grows by lines, or by pieces of bytes, while a run goes on, each whole or absent. A disk that is full, or
// fails, is not the run's end: a line that cannot be written then is lost and counted, and the next one is tried again.
//
// Threads: one at a time. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_RUN_LINE_FILE_H
#define HEADROOM_WORKER_RUN_LINE_FILE_H

#include <stdbool.h>
#include <stddef.h>

struct line_file;

// Opens the file for lines behind those that it has, or (`anew`) in their place. The caller owns it. NULL with errno
// set where it cannot be written.
struct line_file *line_file_open(const char *path, bool anew);
// Accepts NULL.
void line_file_close(struct line_file *file);

// Adds the line, and frees it: `text` has no newline at its end, and NULL stands for one that the host had no memory
// for. May block on the disk.
void line_file_write(struct line_file *file, char *text);
// The same of bytes as they are, which stay the caller's. Where they are lost they count as a line.
void line_file_write_bytes(struct line_file *file, const void *bytes, size_t count);

// Each writes what there is to warn of, at most LINE_FILE_WARNING_MAX bytes, and answers whether there is something:
// that the file has begun or ceased to lose lines since this was asked,
#define LINE_FILE_WARNING_MAX 4352
bool line_file_news(struct line_file *file, char text[LINE_FILE_WARNING_MAX]);
// and how many it has lost.
bool line_file_losses(const struct line_file *file, char text[LINE_FILE_WARNING_MAX]);

#endif
