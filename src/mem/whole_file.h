// SPDX-License-Identifier: Apache-2.0
//
// A file that is written under another name, PATH.N.part with the number of the writing thread, and moved into place
// when it is on the disk, so it is whole or what it was before. Of several writers the last to be done wins.
//
// Only regular files are replaced. A link stays, and the file that it points to is replaced; a link to nothing, a
// folder, a device, a pipe and a socket are refused, and stay as they are.
//
// Threads: any.
#ifndef HEADROOM_MEM_WHOLE_FILE_H
#define HEADROOM_MEM_WHOLE_FILE_H

#include <stdbool.h>
#include <stdio.h>

// `put` writes the contents; false, with errno set, where it does not have them all. What fails to be written is seen
// by ferror. False with errno set where the file could not be written.
bool whole_file_write(const char *path, bool (*put)(FILE *file, const void *contents), const void *contents);
// The same for what is of use while the machine is up, and nobody waits for the disk: after a crash of the machine it
// may be cut short.
bool whole_file_show(const char *path, bool (*put)(FILE *file, const void *contents), const void *contents);
// Whether `path` is that of a regular file, maybe by a link, or nothing can be seen there.
bool whole_file_is_free(const char *path);
// The first, of a text.
bool whole_file_write_text(const char *path, const char *text);

#endif
