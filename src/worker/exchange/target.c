// SPDX-License-Identifier: Apache-2.0
#include "worker/exchange/target.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/regular_file.h"
#include "worker/whole_folder.h"

static void remove_part(const struct target *target)
{
    unlink(target->part);
    whole_folder_remove(target->part);
}

static void finish(struct target *target)
{
    free(target->path);
    free(target->part);
}

static bool is_empty_folder(const char *path)
{
    DIR *folder = opendir(path);
    size_t entries = 0;
    while (folder != NULL && readdir(folder) != NULL) {
        entries++;
    }
    if (folder != NULL) {
        closedir(folder);
    }
    return entries == 2; // "." and ".."
}

// What is empty may be replaced, and is no link.
static enum status check_free(const char *path, bool is_folder, struct error *error)
{
    struct stat about;
    if (lstat(path, &about) != 0) {
        return errno == ENOENT ? STATUS_OK : regular_file_refuse(path, "write", error);
    }
    bool is_free =
        is_folder ? S_ISDIR(about.st_mode) && is_empty_folder(path) : S_ISREG(about.st_mode) && about.st_size == 0;
    return is_free ? STATUS_OK
                   : error_set(error, STATUS_INVALID, "%s: is there already; allowed: a new name, or an empty %s", path,
                               is_folder ? "folder" : "file");
}

// Where it is there it may be of another process, or something else.
static enum status make_part(const struct target *target, struct error *error)
{
    if (access(target->part, F_OK) == 0) {
        return error_set(error, STATUS_INVALID,
                         "%s: is there already: another process writes it, or was killed; then remove it",
                         target->part);
    }
    bool made = !target->is_folder || mkdir(target->part, 0777) == 0;
    return made ? STATUS_OK : regular_file_refuse(target->part, "make this folder", error);
}

enum status target_begin(const char *path, bool is_folder, struct target *target, struct error *error)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') {
        length--;
    }
    *target = (struct target){.path = strndup(path, length), .is_folder = is_folder};
    if (target->path == NULL || asprintf(&target->part, "%s.part", target->path) < 0) {
        free(target->path);
        return error_out_of_host_memory(error);
    }
    enum status status = check_free(target->path, is_folder, error);
    if (status == STATUS_OK) {
        status = make_part(target, error);
    }
    if (status != STATUS_OK) {
        finish(target);
    }
    return status;
}

static bool sync_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *parent = slash == NULL ? strdup(".") : strndup(path, (size_t)(slash - path) + 1);
    bool synced = parent != NULL && whole_folder_sync(parent);
    free(parent);
    return synced;
}

static bool give_name(const struct target *target)
{
    return (!target->is_folder || whole_folder_sync(target->part)) && rename(target->part, target->path) == 0 &&
           sync_parent(target->path);
}

enum status target_end(struct target *target, enum status status, struct error *error)
{
    if (status == STATUS_OK && !give_name(target)) {
        status = regular_file_refuse(target->path, "write", error);
    }
    if (status != STATUS_OK) {
        remove_part(target);
    }
    finish(target);
    return status;
}

char *target_file(const struct target *target, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", target->part, name) < 0 ? NULL : path;
}
