// SPDX-License-Identifier: Apache-2.0
#include "worker/regular_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum status regular_file_open(const char *path, int *descriptor_p, uint64_t *bytes_p, struct error *error)
{
    struct stat about;
    int descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (descriptor < 0 || fstat(descriptor, &about) != 0) {
        enum status status = error_set(error, errno == ENOENT || errno == ENOTDIR ? STATUS_INVALID : STATUS_ERROR,
                                       "%s: cannot read: %s", path, strerror(errno));
        if (descriptor >= 0) {
            close(descriptor);
        }
        return status;
    }
    if (!S_ISREG(about.st_mode)) {
        close(descriptor);
        return error_set(error, STATUS_INVALID, "%s: is not a regular file", path);
    }
    fcntl(descriptor, F_SETFL, 0); // there are file systems that refuse to read what they would wait for
    *descriptor_p = descriptor;
    *bytes_p = (uint64_t)about.st_size;
    return STATUS_OK;
}
