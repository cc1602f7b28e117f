// SPDX-License-Identifier: Apache-2.0
#include "worker/regular_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mem/whole_file.h"

enum status regular_file_refuse(const char *path, const char *what, struct error *error)
{
    return error_set(error, STATUS_ERROR, "%s: cannot %s: %s", path, what, strerror(errno));
}

enum status regular_file_open(const char *path, int *descriptor_p, uint64_t *bytes_p, struct error *error)
{
    int descriptor = open(path, REGULAR_FILE_FLAGS);
    if (descriptor < 0) {
        enum status status = errno == ENOENT || errno == ENOTDIR ? STATUS_INVALID : STATUS_ERROR;
        return error_set(error, status, "%s: cannot read: %s", path, strerror(errno));
    }
    *descriptor_p = descriptor;
    return regular_file_check(path, descriptor, bytes_p, error);
}

enum status regular_file_check(const char *path, int descriptor, uint64_t *bytes_p, struct error *error)
{
    struct stat about;
    enum status status = STATUS_OK;
    if (fstat(descriptor, &about) != 0) {
        status = regular_file_refuse(path, "read", error);
    } else if (!S_ISREG(about.st_mode)) {
        status = error_set(error, STATUS_INVALID, "%s: is not a regular file", path);
    }
    if (status != STATUS_OK) {
        close(descriptor);
        return status;
    }
    fcntl(descriptor, F_SETFL, 0); // there are file systems that refuse to read what they would wait for
    *bytes_p = (uint64_t)about.st_size;
    return STATUS_OK;
}

enum status regular_file_check_target(const char *name, const char *path, struct error *error)
{
    return whole_file_is_free(path)
               ? STATUS_OK
               : error_set(error, STATUS_INVALID, "%s %s: is not a regular file; allowed: one, or a new name", name,
                           path);
}

bool regular_file_read(int descriptor, uint64_t offset, uint64_t bytes, void *to, uint64_t *found_p)
{
    ssize_t got = 1;
    *found_p = 0;
    while (*found_p < bytes && got != 0) {
        got = pread(descriptor, (char *)to + *found_p, bytes - *found_p, (off_t)(offset + *found_p));
        if (got < 0 && errno != EINTR) {
            return false;
        }
        *found_p += got > 0 ? (uint64_t)got : 0;
    }
    return true;
}

bool regular_file_write(int descriptor, const void *bytes, size_t count)
{
    const char *next = bytes;
    while (count > 0) {
        ssize_t written = write(descriptor, next, count);
        if (written < 0 && errno != EINTR) {
            return false;
        }
        next += written > 0 ? written : 0;
        count -= written > 0 ? (size_t)written : 0;
    }
    return true;
}
