// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/folder.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mem/whole_file.h"
#include "worker/regular_file.h"
#include "worker/whole_folder.h"

#define STEP_NAME "step_%08" PRIu64

static const char part_suffix[] = ".part";

static void checkpoints_path(const char *run, char path[CHECKPOINT_PATH_MAX])
{
    snprintf(path, CHECKPOINT_PATH_MAX, "%s/checkpoints", run);
}

static void checkpoint_path(const char *run, uint64_t step, char path[CHECKPOINT_PATH_MAX])
{
    snprintf(path, CHECKPOINT_PATH_MAX, "%s/checkpoints/" STEP_NAME, run, step);
}

void checkpoint_part_path(const char *run, uint64_t step, char part[CHECKPOINT_PATH_MAX])
{
    snprintf(part, CHECKPOINT_PATH_MAX, "%s/checkpoints/" STEP_NAME "%s", run, step, part_suffix);
}

void checkpoint_optimizer_name(uint32_t number, uint32_t count, char *name)
{
    if (count == 1) {
        snprintf(name, CHECKPOINT_NAME_MAX, "optimizer.safetensors");
    } else {
        snprintf(name, CHECKPOINT_NAME_MAX, "optimizer-%05" PRIu32 "-of-%05" PRIu32 ".safetensors", number + 1, count);
    }
}

// "step_N"
static bool parse_name(const char *name, uint64_t *step_p)
{
    char written[32];
    if (sscanf(name, "step_%" SCNu64, step_p) != 1) {
        return false;
    }
    snprintf(written, sizeof(written), STEP_NAME, *step_p);
    return strcmp(name, written) == 0;
}

static void discard(const char *run, uint64_t step)
{
    char path[CHECKPOINT_PATH_MAX], part[CHECKPOINT_PATH_MAX];
    checkpoint_path(run, step, path);
    checkpoint_part_path(run, step, part);
    whole_folder_remove(part);
    if (rename(path, part) == 0) {
        whole_folder_remove(part);
    }
}

void checkpoint_discard_parts(const char *run)
{
    char path[CHECKPOINT_PATH_MAX];
    checkpoints_path(run, path);
    DIR *folder = opendir(path);
    if (folder == NULL) {
        return;
    }
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        size_t length = strlen(entry->d_name), suffix = strlen(part_suffix);
        char part[CHECKPOINT_PATH_MAX + sizeof(entry->d_name)];
        if (length > suffix && strcmp(entry->d_name + length - suffix, part_suffix) == 0) {
            snprintf(part, sizeof(part), "%s/%s", path, entry->d_name);
            if (unlink(part) != 0) {
                whole_folder_remove(part);
            }
        }
    }
    closedir(folder);
}

static int newest_first(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

// The steps of all checkpoints, newest first, for the caller to free.
static enum status list_steps(const char *run, uint64_t **steps_p, size_t *count_p, struct error *error)
{
    char path[CHECKPOINT_PATH_MAX];
    uint64_t step;
    checkpoints_path(run, path);
    DIR *folder = opendir(path);
    *steps_p = NULL;
    *count_p = 0;
    if (folder == NULL) {
        return errno == ENOENT ? STATUS_OK : regular_file_refuse(path, "read this folder", error);
    }
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (parse_name(entry->d_name, &step)) {
            uint64_t *more = realloc(*steps_p, (*count_p + 1) * sizeof(*more));
            if (more == NULL) {
                free(*steps_p);
                *steps_p = NULL;
                *count_p = 0;
                closedir(folder);
                return error_out_of_host_memory(error);
            }
            *steps_p = more;
            more[(*count_p)++] = step;
        }
    }
    closedir(folder);
    if (*count_p > 0) {
        qsort(*steps_p, *count_p, sizeof(**steps_p), newest_first);
    }
    return STATUS_OK;
}

void checkpoint_prune(const char *run, uint64_t newest, uint64_t last, uint64_t every)
{
    size_t count;
    uint64_t *steps, kept = 0;
    if (list_steps(run, &steps, &count, NULL) != STATUS_OK) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        bool stays = kept < last || (every > 0 && steps[i] % every == 0);
        if (steps[i] <= newest && !stays) {
            discard(run, steps[i]);
        }
        kept += steps[i] <= newest;
    }
    free(steps);
}

void checkpoint_set_aside(const char *run, uint64_t step)
{
    size_t count;
    uint64_t *steps;
    if (list_steps(run, &steps, &count, NULL) != STATUS_OK) {
        return;
    }
    for (size_t i = 0; i < count && steps[i] > step; i++) {
        char path[CHECKPOINT_PATH_MAX], aside[CHECKPOINT_PATH_MAX + 16];
        checkpoint_path(run, steps[i], path);
        snprintf(aside, sizeof(aside), "%s.damaged", path);
        whole_folder_remove(aside);
        (void)!rename(path, aside);
    }
    free(steps);
}

// Writing a checkpoint ------------------------------------------------------------------------------------------------

enum status checkpoint_begin(const char *run, uint64_t step, struct error *error)
{
    char folder[CHECKPOINT_PATH_MAX], part[CHECKPOINT_PATH_MAX];
    checkpoints_path(run, folder);
    checkpoint_part_path(run, step, part);
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        return regular_file_refuse(folder, "make this folder", error);
    }
    whole_folder_remove(part);
    return mkdir(part, 0777) == 0 ? STATUS_OK : regular_file_refuse(part, "make this folder", error);
}

static bool move_latest(const char *folder, uint64_t step)
{
    char latest[CHECKPOINT_PATH_MAX + 16], moved[CHECKPOINT_PATH_MAX + 16], target[32];
    snprintf(latest, sizeof(latest), "%s/latest", folder);
    snprintf(moved, sizeof(moved), "%s/latest%s", folder, part_suffix);
    snprintf(target, sizeof(target), STEP_NAME, step);
    unlink(moved);
    return symlink(target, moved) == 0 && rename(moved, latest) == 0 && whole_folder_sync(folder);
}

// Gives the folder its name, in place of one of the same step. False with errno set.
static bool name_folder(const char *folder, const char *part, const char *path)
{
    char old[CHECKPOINT_PATH_MAX + 16];
    snprintf(old, sizeof(old), "%s.old%s", path, part_suffix);
    if (rename(path, old) != 0 && errno != ENOENT) {
        return false;
    }
    if (rename(part, path) != 0) {
        int failure = errno;
        (void)!rename(old, path);
        errno = failure;
        return false;
    }
    whole_folder_remove(old);
    return whole_folder_sync(folder);
}

enum status checkpoint_end(const char *run, const struct checkpoint_state *state, const struct checkpoint_file *files,
                           size_t count, struct error *error)
{
    char folder[CHECKPOINT_PATH_MAX], part[CHECKPOINT_PATH_MAX], path[CHECKPOINT_PATH_MAX];
    char file[CHECKPOINT_PATH_MAX + NAME_MAX];
    checkpoints_path(run, folder);
    checkpoint_part_path(run, state->step, part);
    checkpoint_path(run, state->step, path);
    snprintf(file, sizeof(file), "%s/" CHECKPOINT_STATE, part);
    char *text = checkpoint_state_print(state, files, count);
    if (text == NULL) {
        return error_out_of_host_memory(error);
    }
    bool written = whole_file_write_text(file, text) && whole_folder_sync(part);
    free(text);
    if (!written) {
        return regular_file_refuse(file, "write", error);
    }
    return name_folder(folder, part, path) && move_latest(folder, state->step)
               ? STATUS_OK
               : regular_file_refuse(path, "write", error);
}

// Finding one ---------------------------------------------------------------------------------------------------------

static bool is_there(const char *path, const char *name)
{
    char file[CHECKPOINT_PATH_MAX + NAME_MAX];
    snprintf(file, sizeof(file), "%s/%s", path, name);
    return access(file, F_OK) == 0;
}

enum status checkpoint_find_newest(const char *run, FILE *warnings, char found[CHECKPOINT_PATH_MAX],
                                   struct checkpoint_state *state, struct error *error)
{
    size_t count;
    uint64_t *steps;
    enum status status = list_steps(run, &steps, &count, error);
    if (status != STATUS_OK) {
        return status;
    }
    found[0] = '\0';
    for (size_t i = 0; i < count && (i == 0 || status != STATUS_OK); i++) {
        checkpoint_path(run, steps[i], found);
        status = checkpoint_state_read(found, state, error);
        if (status != STATUS_OK) {
            fprintf(warnings, "headroom: warning: %s\n", error->text);
        }
    }
    free(steps);
    if (status != STATUS_OK) {
        return error_set(error, status, "%s: none of its %zu checkpoints is sound", run, count);
    }
    return status;
}

enum status checkpoint_find(const char *path, FILE *warnings, char found[CHECKPOINT_PATH_MAX],
                            struct checkpoint_state *state, struct error *error)
{
    if (strlen(path) > RUN_FOLDER_MAX) {
        return error_set(error, STATUS_INVALID, "a path of %zu bytes is too long for a checkpoint", strlen(path));
    }
    if (is_there(path, "checkpoints")) {
        enum status status = checkpoint_find_newest(path, warnings, found, state, error);
        bool none = status == STATUS_OK && found[0] == '\0';
        return none ? error_set(error, STATUS_INVALID, "%s: there is no checkpoint in this folder", path) : status;
    }
    if (!is_there(path, CHECKPOINT_STATE)) {
        return error_set(error, STATUS_INVALID, "%s: is neither a checkpoint nor a run's folder with checkpoints",
                         path);
    }
    snprintf(found, CHECKPOINT_PATH_MAX, "%s", path);
    return checkpoint_state_read(path, state, error);
}

enum status checkpoint_find_folder(const char *path, FILE *warnings, char found[CHECKPOINT_PATH_MAX],
                                   struct error *error)
{
    struct checkpoint_state state = {0};
    enum status status = checkpoint_find(path, warnings, found, &state, error);
    free(state.plan);
    return status;
}

enum status checkpoint_read_config(const char *found, char *path, struct config *config, struct error *error)
{
    static char any_device[] = "device.kind=auto";
    char *const overrides[] = {any_device};
    snprintf(path, CHECKPOINT_FILE_MAX, "%s/" CHECKPOINT_CONFIG, found);
    return config_read(config, path, overrides, 1, error);
}
