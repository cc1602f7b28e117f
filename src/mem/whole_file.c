// SPDX-License-Identifier: Apache-2.0
#include "mem/whole_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool whole_file_is_free(const char *path)
{
    struct stat about;
    return stat(path, &about) != 0 || S_ISREG(about.st_mode);
}

// Where the file is, behind links. NULL with errno set where what is there is not to be replaced.
static char *find_place(const char *path)
{
    struct stat about;
    if (lstat(path, &about) != 0) {
        return errno == ENOENT ? strdup(path) : NULL;
    }
    if (stat(path, &about) == 0 && !S_ISREG(about.st_mode)) {
        errno = S_ISDIR(about.st_mode) ? EISDIR : ENOTSUP;
        return NULL;
    }
    return realpath(path, NULL);
}

// What is there of that name was left by a process that was killed.
static FILE *open_part(const char *part)
{
    FILE *file = fopen(part, "wxe"); // follows no link, and waits for no pipe
    if (file == NULL && errno == EEXIST && unlink(part) == 0) {
        file = fopen(part, "wxe");
    }
    return file;
}

static bool write_part(FILE *file, bool (*put)(FILE *file, const void *contents), const void *contents, bool on_disk)
{
    bool written =
        put(file, contents) && ferror(file) == 0 && fflush(file) == 0 && (!on_disk || fsync(fileno(file)) == 0);
    int failure = errno;
    if (fclose(file) != 0 && written) {
        return false;
    }
    errno = failure;
    return written;
}

static bool replace_place(const char *place, bool (*put)(FILE *file, const void *contents), const void *contents,
                          bool on_disk)
{
    char *part = NULL;
    if (asprintf(&part, "%s.%d.part", place, (int)gettid()) < 0) {
        return false;
    }
    FILE *file = open_part(part);
    bool moved = file != NULL && write_part(file, put, contents, on_disk) && rename(part, place) == 0;
    if (file != NULL && !moved) {
        int failure = errno;
        unlink(part);
        errno = failure;
    }
    free(part);
    return moved;
}

static bool replace(const char *path, bool (*put)(FILE *file, const void *contents), const void *contents, bool on_disk)
{
    char *place = find_place(path);
    bool replaced = place != NULL && replace_place(place, put, contents, on_disk);
    free(place);
    return replaced;
}

bool whole_file_write(const char *path, bool (*put)(FILE *file, const void *contents), const void *contents)
{
    return replace(path, put, contents, true);
}

bool whole_file_show(const char *path, bool (*put)(FILE *file, const void *contents), const void *contents)
{
    return replace(path, put, contents, false);
}

static bool put_text(FILE *file, const void *text)
{
    return fputs(text, file) >= 0;
}

bool whole_file_write_text(const char *path, const char *text)
{
    return whole_file_write(path, put_text, text);
}
