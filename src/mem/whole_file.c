// SPDX-License-Identifier: Apache-2.0
#include "mem/whole_file.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static bool write_part(const char *path, void (*put)(FILE *file, const void *contents), const void *contents,
                       bool on_disk)
{
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        return false;
    }
    put(file, contents);
    bool written = ferror(file) == 0 && fflush(file) == 0 && (!on_disk || fsync(fileno(file)) == 0);
    int failure = errno;
    if (fclose(file) != 0 && written) {
        return false;
    }
    errno = failure;
    return written;
}

static bool replace(const char *path, void (*put)(FILE *file, const void *contents), const void *contents, bool on_disk)
{
    char *part = NULL;
    if (asprintf(&part, "%s.part", path) < 0) {
        errno = ENOMEM;
        return false;
    }
    bool moved = write_part(part, put, contents, on_disk) && rename(part, path) == 0;
    int failure = errno;
    if (!moved) {
        unlink(part);
    }
    free(part);
    errno = failure;
    return moved;
}

bool whole_file_write(const char *path, void (*put)(FILE *file, const void *contents), const void *contents)
{
    return replace(path, put, contents, true);
}

bool whole_file_show(const char *path, void (*put)(FILE *file, const void *contents), const void *contents)
{
    return replace(path, put, contents, false);
}

static void put_text(FILE *file, const void *text)
{
    fputs(text, file);
}

bool whole_file_write_text(const char *path, const char *text)
{
    return whole_file_write(path, put_text, text);
}
