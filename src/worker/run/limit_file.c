// SPDX-License-Identifier: Apache-2.0
#include "worker/run/limit_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "worker/config/value.h"

const struct config_key limit_file_key = {
    .type = CONFIG_TYPE_BYTES, .min = "1", .max = CONFIG_BYTES_MAX, .word = "none"};

void limit_file_name(const char *folder, uint32_t rank, char path[LIMIT_FILE_PATH_MAX])
{
    snprintf(path, LIMIT_FILE_PATH_MAX, "%s/" LIMIT_FILE_FOLDER "/rank_%" PRIu32, folder, rank);
}

static bool is_same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           is_same_time(a->st_mtim, b->st_mtim) && is_same_time(a->st_ctim, b->st_ctim);
}

// NULL, or what is wrong. Whatever kind of file it is, nobody is waited for.
static const char *read_size(const char *path, uint64_t *bytes_p)
{
    char text[64];
    int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (file < 0) {
        return strerror(errno);
    }
    ssize_t length = read(file, text, sizeof(text));
    int failure = errno;
    close(file);
    if (length < 0) {
        return strerror(failure);
    }
    char *end = memchr(text, '\n', (size_t)length);
    if (end == NULL || end + 1 != text + length) {
        return "is not one whole line";
    }
    *end = '\0';
    return config_value_scan(&limit_file_key, text, false, bytes_p);
}

static enum limit_news forget(struct limit_file *file)
{
    bool limited = file->bytes != 0;
    file->bytes = 0;
    file->complaint = NULL;
    file->seen = (struct stat){0};
    return limited ? LIMIT_CHANGED : LIMIT_STAYS;
}

static enum limit_news complain(struct limit_file *file, const char *complaint)
{
    bool known = file->complaint != NULL && strcmp(file->complaint, complaint) == 0;
    file->complaint = complaint;
    file->seen = (struct stat){0};
    return known ? LIMIT_STAYS : LIMIT_UNCLEAR;
}

enum limit_news limit_file_follow(struct limit_file *file)
{
    struct stat now;
    if (stat(file->path, &now) != 0) {
        return errno == ENOENT || errno == ENOTDIR ? forget(file) : complain(file, strerror(errno));
    }
    if (is_same(&file->seen, &now)) {
        return LIMIT_STAYS;
    }
    uint64_t before = file->bytes;
    const char *complaint = read_size(file->path, &file->bytes);
    if (complaint != NULL) {
        return complain(file, complaint);
    }
    file->complaint = NULL;
    file->seen = now;
    return file->bytes == before ? LIMIT_STAYS : LIMIT_CHANGED;
}
