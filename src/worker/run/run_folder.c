// SPDX-License-Identifier: Apache-2.0
#include "worker/run/run_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "kernels/kernels.h"
#include "mem/whole_file.h"
#include "worker/comm/reduce.h"
#include "worker/regular_file.h"
#include "worker/version.h"

#define FOLDERS_TRIED 10000
#define RANKS_LINE    "ranks "

// A full or broken disk is nobody's mistake in the configuration.
static enum status cannot(struct error *error, const char *what, const char *path)
{
    bool disk = errno == ENOSPC || errno == EDQUOT || errno == EFBIG || errno == EIO;
    return error_set(error, disk ? STATUS_ERROR : STATUS_INVALID,
                     "%s: cannot %s: %s (run.folder says where a run writes)", path, what, strerror(errno));
}

const char *run_folder_name(const char *folder)
{
    const char *slash = strrchr(folder, '/');
    return slash == NULL ? folder : slash + 1;
}

// run.folder without slashes at its end, so that a number can be appended.
static enum status wanted_path(const char *folder, char wanted[RUN_FOLDER_MAX], struct error *error)
{
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/') {
        length--;
    }
    if (length > RUN_FOLDER_MAX - 64) {
        return error_set(error, STATUS_INVALID, "run.folder: a path of %zu bytes is too long; allowed: up to %d",
                         length, RUN_FOLDER_MAX - 64);
    }
    snprintf(wanted, RUN_FOLDER_MAX, "%.*s", (int)length, folder);
    const char *last = run_folder_name(wanted);
    if (strcmp(last, "") == 0 || strcmp(last, ".") == 0 || strcmp(last, "..") == 0) {
        return error_set(error, STATUS_INVALID, "run.folder: '%s' does not end with the name of a folder to make",
                         folder);
    }
    return STATUS_OK;
}

static enum status make_parents(const char *path, struct error *error)
{
    char parent[RUN_FOLDER_MAX];
    snprintf(parent, sizeof(parent), "%s", path);
    for (char *slash = strchr(parent + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(parent, 0777) != 0 && errno != EEXIST) {
            return cannot(error, "make this folder", parent);
        }
        *slash = '/';
    }
    return STATUS_OK;
}

// Makes the first of wanted, wanted-2, wanted-3, ... that does not exist. mkdir decides, so two runs never share one.
static enum status make_new(const char *wanted, char path[RUN_FOLDER_MAX], struct error *error)
{
    for (unsigned i = 1; i < FOLDERS_TRIED; i++) {
        char suffix[16] = "";
        if (i > 1) {
            snprintf(suffix, sizeof(suffix), "-%u", i);
        }
        snprintf(path, RUN_FOLDER_MAX, "%s%s", wanted, suffix);
        if (mkdir(path, 0777) == 0) {
            return STATUS_OK;
        }
        if (errno != EEXIST) {
            return cannot(error, "make this folder", path);
        }
    }
    return cannot(error, "make another such folder", wanted);
}

enum status run_folder_write(const char *folder, const char *name, const char *text, struct error *error)
{
    char path[RUN_FOLDER_MAX + 64];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return whole_file_write_text(path, text) ? STATUS_OK : cannot(error, "write this file", path);
}

void run_folder_versions(FILE *file)
{
    char mpi[COMM_VERSION_MAX], kernels[64], reduce[64];
    fprintf(file, "headroom %s (%s; %s%s)\n", HEADROOM_VERSION, comm_mpi_version(mpi),
            kernels_library_versions(kernels, sizeof(kernels)), reduce_library_versions(reduce, sizeof(reduce)));
}

// What earlier processes of the run have written.
static void repeat_environment(const char *folder, FILE *to)
{
    char path[RUN_FOLDER_MAX + 64];
    snprintf(path, sizeof(path), "%s/env.txt", folder);
    FILE *file = fopen(path, "r");
    for (int byte; file != NULL && (byte = fgetc(file)) != EOF;) {
        fputc(byte, to);
    }
    if (file != NULL) {
        fclose(file);
    }
}

static enum status write_environment(const char *folder, uint32_t ranks, char *const *argv, struct error *error)
{
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);
    if (file == NULL) {
        return error_out_of_host_memory(error);
    }
    struct utsname host = {0};
    char folder_now[PATH_MAX] = "?", started[64] = "?";
    time_t now = time(NULL);
    struct tm utc;
    uname(&host);
    if (gmtime_r(&now, &utc) != NULL) {
        strftime(started, sizeof(started), "%Y-%m-%dT%H:%M:%SZ", &utc);
    }
    repeat_environment(folder, file);
    run_folder_versions(file);
    fprintf(file, "started %s\nhost %s\nsystem %s %s %s\n" RANKS_LINE "%" PRIu32 "\nfolder %s\ncommand", started,
            host.nodename, host.sysname, host.release, host.machine, ranks,
            getcwd(folder_now, sizeof(folder_now)) == NULL ? "?" : folder_now);
    for (; *argv != NULL; argv++) {
        fprintf(file, " %s", *argv);
    }
    fputc('\n', file);
    fclose(file);
    enum status status = run_folder_write(folder, "env.txt", text, error);
    free(text);
    return status;
}

enum status run_folder_write_rank(const char *path, const char *part, uint32_t rank, const char *text,
                                  struct error *error)
{
    char folder[RUN_FOLDER_MAX + 8], name[32];
    snprintf(folder, sizeof(folder), "%s/%s", path, part);
    snprintf(name, sizeof(name), "rank_%" PRIu32 ".json", rank);
    return run_folder_write(folder, name, text, error);
}

// "ranks N", as the environment tells.
static enum status scan_ranks(const char *path, const char *line, uint32_t *ranks_p, struct error *error)
{
    char *end;
    const char *text = line + strlen(RANKS_LINE);
    unsigned long long ranks = strtoull(text, &end, 10);
    if (*text < '1' || *text > '9' || *end != '\n' || ranks > RUN_FOLDER_RANKS_MAX) {
        return error_set(error, STATUS_INVALID, "%s: ranks %.*s: is no number of ranks; allowed: 1 to %d", path,
                         (int)strcspn(text, "\n"), text, RUN_FOLDER_RANKS_MAX);
    }
    *ranks_p = (uint32_t)ranks;
    return STATUS_OK;
}

// Of the latest process; 0: the file does not say.
static enum status find_ranks(const char *path, FILE *environment, uint32_t *ranks_p, struct error *error)
{
    enum status status = STATUS_OK;
    char *line = NULL;
    size_t room = 0;
    *ranks_p = 0;
    while (status == STATUS_OK && getline(&line, &room, environment) > 0) {
        if (strncmp(line, RANKS_LINE, strlen(RANKS_LINE)) == 0) {
            status = scan_ranks(path, line, ranks_p, error);
        }
    }
    free(line);
    return status;
}

enum status run_folder_ranks(const char *folder, uint32_t *ranks_p, struct error *error)
{
    char path[RUN_FOLDER_MAX + 64];
    struct stat found;
    if (stat(folder, &found) != 0) {
        return error_set(error, STATUS_INVALID, "%s: %s; allowed: the folder of a run", folder, strerror(errno));
    }
    snprintf(path, sizeof(path), "%s/env.txt", folder);
    int descriptor;
    uint64_t bytes;
    bool is_there = regular_file_open(path, &descriptor, &bytes, NULL) == STATUS_OK;
    FILE *file = is_there ? fdopen(descriptor, "r") : NULL;
    *ranks_p = 0;
    enum status status = file == NULL ? STATUS_OK : find_ranks(path, file, ranks_p, error);
    if (file != NULL) {
        fclose(file);
    } else if (is_there) {
        close(descriptor);
    }
    if (status == STATUS_OK && *ranks_p == 0) {
        return error_set(error, STATUS_INVALID, "%s: no run's folder: it has no env.txt that tells a number of ranks",
                         folder);
    }
    return status;
}

static bool goes_on(const struct config *config)
{
    return config->checkpoint.resume != NULL && strcmp(config->checkpoint.resume, "auto") == 0;
}

// Makes the folder, or takes the one that is there.
static enum status make_or_take(const char *wanted, char path[RUN_FOLDER_MAX], bool *made_p, struct error *error)
{
    snprintf(path, RUN_FOLDER_MAX, "%s", wanted);
    *made_p = mkdir(path, 0777) == 0;
    return *made_p || errno == EEXIST ? STATUS_OK : cannot(error, "make this folder", path);
}

// The lock goes when the process ends. A file system without locks has none.
static enum status lock(struct run_folder *folder, struct error *error)
{
    char path[RUN_FOLDER_MAX + 8];
    snprintf(path, sizeof(path), "%s/lock", folder->path);
    folder->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (folder->lock < 0) {
        return cannot(error, "write this file", path);
    }
    if (flock(folder->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        folder->made = false; // but the other's
        return error_set(error, STATUS_ERROR, "%s: another process trains there (run.folder says where a run writes)",
                         folder->path);
    }
    return STATUS_OK;
}

static enum status take(const struct config *config, struct run_folder *folder, struct error *error)
{
    char wanted[RUN_FOLDER_MAX];
    enum status status = wanted_path(config->run.folder, wanted, error);
    if (status == STATUS_OK) {
        status = make_parents(wanted, error);
    }
    if (status == STATUS_OK) {
        folder->made = true;
        status = goes_on(config) ? make_or_take(wanted, folder->path, &folder->made, error)
                                 : make_new(wanted, folder->path, error);
    }
    return status == STATUS_OK ? lock(folder, error) : status;
}

enum status run_folder_take(const struct config *config, struct comm *comm, struct run_folder *folder,
                            struct error *error)
{
    enum status status = STATUS_OK;
    *folder = (struct run_folder){.lock = -1};
    if (comm->rank == 0) {
        status = take(config, folder, error);
    }
    comm->ops->broadcast(comm, &status, sizeof(status));
    comm->ops->broadcast(comm, folder->path, RUN_FOLDER_MAX);
    return status;
}

enum status run_folder_fill(const struct run_folder *folder, const struct config *config, uint32_t ranks,
                            char *const *argv, struct error *error)
{
    static const char *const folders[] = {"logs", "memory", "costs"};
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        char path[RUN_FOLDER_MAX + 8];
        snprintf(path, sizeof(path), "%s/%s", folder->path, folders[i]);
        if (mkdir(path, 0777) != 0 && errno != EEXIST) {
            return cannot(error, "make this folder", path);
        }
    }
    char *resolved = config_print(config);
    if (resolved == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = run_folder_write(folder->path, "resolved.yaml", resolved, error);
    free(resolved);
    return status == STATUS_OK ? write_environment(folder->path, ranks, argv, error) : status;
}

void run_folder_give_up(const struct run_folder *folder)
{
    static const char *const names[] = {"resolved.yaml", "env.txt", "logs", "memory", "costs", "lock"};
    for (size_t i = 0; folder->made && i < sizeof(names) / sizeof(names[0]); i++) {
        char name[RUN_FOLDER_MAX + 64];
        snprintf(name, sizeof(name), "%s/%s", folder->path, names[i]);
        remove(name);
    }
    if (folder->made) {
        rmdir(folder->path);
    }
}

enum status run_folder_open_log(const char *path, uint32_t rank, bool goes_on, struct line_file **log_p,
                                struct error *error)
{
    char name[RUN_FOLDER_MAX + 64];
    snprintf(name, sizeof(name), "%s/logs/rank_%" PRIu32 ".log", path, rank);
    struct line_file *log = line_file_open(name, !goes_on);
    if (log == NULL) {
        return cannot(error, "write this file", name);
    }
    *log_p = log;
    return STATUS_OK;
}
