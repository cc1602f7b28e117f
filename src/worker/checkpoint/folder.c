// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/folder.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "mem/whole_file.h"

#define FORMAT_VERSION 1

static const char part_suffix[] = ".part";

static enum status cannot(const char *what, const char *path, struct error *error)
{
    return error_set(error, STATUS_ERROR, "%s: cannot %s: %s", path, what, strerror(errno));
}

static enum status out_of_memory(struct error *error)
{
    return error_set(error, STATUS_ERROR, "out of host memory");
}

static void checkpoints_path(const char *run, char path[CHECKPOINT_PATH_MAX])
{
    snprintf(path, CHECKPOINT_PATH_MAX, "%s/checkpoints", run);
}

void checkpoint_path(const char *run, uint64_t step, char path[CHECKPOINT_PATH_MAX])
{
    snprintf(path, CHECKPOINT_PATH_MAX, "%s/checkpoints/step_%08" PRIu64, run, step);
}

static void part_path(const char *run, uint64_t step, char path[CHECKPOINT_PATH_MAX])
{
    snprintf(path, CHECKPOINT_PATH_MAX, "%s/checkpoints/step_%08" PRIu64 "%s", run, step, part_suffix);
}

// "step_N"
static bool parse_name(const char *name, uint64_t *step_p)
{
    static const char prefix[] = "step_";
    const char *digits = name + strlen(prefix);
    if (strncmp(name, prefix, strlen(prefix)) != 0 || !isdigit((unsigned char)*digits)) {
        return false;
    }
    char *end;
    errno = 0;
    *step_p = strtoull(digits, &end, 10);
    return *end == '\0' && errno == 0;
}

// Files -------------------------------------------------------------------------------------------------------------

static bool sync_folder(const char *path)
{
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) {
        return false;
    }
    bool synced = fsync(folder) == 0;
    close(folder);
    return synced;
}

// The folder with all files in it; what is not there, or cannot go, stays so.
static void remove_folder(const char *path)
{
    DIR *folder = opendir(path);
    if (folder == NULL) {
        return;
    }
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        unlinkat(dirfd(folder), entry->d_name, 0);
    }
    closedir(folder);
    rmdir(path);
}

static void discard(const char *run, uint64_t step)
{
    char path[CHECKPOINT_PATH_MAX], part[CHECKPOINT_PATH_MAX];
    checkpoint_path(run, step, path);
    part_path(run, step, part);
    remove_folder(part);
    if (rename(path, part) == 0) {
        remove_folder(part);
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
                remove_folder(part);
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

// The steps of all checkpoints, newest first; the caller frees them. NULL where there are none or memory runs out.
static uint64_t *list_steps(const char *run, size_t *count_p)
{
    char path[CHECKPOINT_PATH_MAX];
    uint64_t *steps = NULL, step;
    checkpoints_path(run, path);
    DIR *folder = opendir(path);
    *count_p = 0;
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
        if (parse_name(entry->d_name, &step)) {
            uint64_t *more = realloc(steps, (*count_p + 1) * sizeof(*steps));
            if (more == NULL) {
                break;
            }
            steps = more;
            steps[(*count_p)++] = step;
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
    if (steps != NULL) {
        qsort(steps, *count_p, sizeof(*steps), newest_first);
    }
    return steps;
}

bool checkpoint_exists(const char *run)
{
    size_t count;
    free(list_steps(run, &count));
    return count > 0;
}

void checkpoint_prune(const char *run, uint64_t newest, uint64_t last, uint64_t every)
{
    size_t count;
    uint64_t *steps = list_steps(run, &count), kept = 0;
    for (size_t i = 0; i < count; i++) {
        bool stays = kept < last || (every > 0 && steps[i] % every == 0);
        if (steps[i] <= newest && !stays) {
            discard(run, steps[i]);
        }
        kept += steps[i] <= newest;
    }
    free(steps);
}

// state.json ----------------------------------------------------------------------------------------------------------

static json_t *describe_plan(const struct checkpoint_state *state)
{
    json_t *plan = json_array();
    for (uint32_t i = 0; i < state->ranks; i++) {
        const struct sched_share *share = &state->plan[i];
        json_array_append_new(plan, json_pack("{sI sI sI sI sI}", "first", (json_int_t)share->first, "samples",
                                              (json_int_t)share->samples, "micro_batch", (json_int_t)share->micro_batch,
                                              "accumulation_steps", (json_int_t)share->accumulation_steps, "levers",
                                              (json_int_t)share->levers));
    }
    return plan;
}

static json_t *describe_files(const struct checkpoint_file *files, size_t count)
{
    json_t *object = json_object();
    for (size_t i = 0; i < count; i++) {
        json_object_set_new(object, files[i].name,
                            json_pack("{sI so}", "bytes", (json_int_t)files[i].sum.bytes, "xxh3",
                                      json_sprintf("%016" PRIx64, files[i].sum.xxh3)));
    }
    return object;
}

// Of the state in one fixed form, whatever the file has between its words.
static json_t *sum_state(const json_t *state)
{
    char *text = json_dumps(state, JSON_COMPACT | JSON_SORT_KEYS);
    json_t *sum = text == NULL ? NULL : json_sprintf("%016" PRIx64, (uint64_t)XXH3_64bits(text, strlen(text)));
    free(text);
    return sum;
}

// NULL where the host's memory runs out.
static char *print_state(const struct checkpoint_state *state, const struct checkpoint_file *files, size_t count)
{
    json_t *object = json_pack("{si sI sI so si sI so so}", "version", FORMAT_VERSION, "step", (json_int_t)state->step,
                               "samples", (json_int_t)state->samples, "seed", json_sprintf("%" PRIu64, state->seed),
                               "sum_exponent", state->sum_exponent, "ranks", (json_int_t)state->ranks, "plan",
                               describe_plan(state), "files", describe_files(files, count));
    json_t *sum = object == NULL ? NULL : sum_state(object);
    json_t *whole = sum == NULL ? NULL : json_pack("{sO so}", "state", object, "xxh3", sum);
    char *text = whole == NULL ? NULL : json_dumps(whole, JSON_INDENT(2));
    json_decref(whole);
    json_decref(object);
    return text;
}

static bool get_uint64(const json_t *object, const char *key, uint64_t *number_p)
{
    const json_t *value = json_object_get(object, key);
    *number_p = (uint64_t)json_integer_value(value);
    return json_is_integer(value) && json_integer_value(value) >= 0;
}

static bool parse_share(const json_t *object, struct sched_share *share)
{
    return get_uint64(object, "first", &share->first) && get_uint64(object, "samples", &share->samples) &&
           get_uint64(object, "micro_batch", &share->micro_batch) &&
           get_uint64(object, "accumulation_steps", &share->accumulation_steps) &&
           get_uint64(object, "levers", &share->levers);
}

// state->plan is the caller's, whatever is answered.
static bool parse_state(const json_t *object, struct checkpoint_state *state)
{
    uint64_t version, ranks;
    const json_t *plan = json_object_get(object, "plan");
    const char *seed = json_string_value(json_object_get(object, "seed"));
    if (!get_uint64(object, "version", &version) || version != FORMAT_VERSION ||
        !get_uint64(object, "step", &state->step) || !get_uint64(object, "samples", &state->samples) || seed == NULL ||
        !get_uint64(object, "ranks", &ranks) || ranks > UINT32_MAX || json_array_size(plan) != ranks) {
        return false;
    }
    state->seed = strtoull(seed, NULL, 10);
    state->sum_exponent = (int)json_integer_value(json_object_get(object, "sum_exponent"));
    state->ranks = (uint32_t)ranks;
    state->plan = calloc(ranks + 1, sizeof(*state->plan));
    bool parsed = state->plan != NULL;
    for (uint32_t i = 0; parsed && i < ranks; i++) {
        parsed = parse_share(json_array_get(plan, i), &state->plan[i]);
    }
    return parsed;
}

static enum status damaged(const char *path, const char *file, const char *what, struct error *error)
{
    return error_set(error, STATUS_INVALID, "%s/%s: damaged: %s", path, file, what);
}

static enum status check_file(const char *path, const char *name, const json_t *entry, struct error *error)
{
    char file[CHECKPOINT_PATH_MAX + NAME_MAX];
    struct file_sum sum;
    uint64_t bytes;
    snprintf(file, sizeof(file), "%s/%s", path, name);
    enum status status = file_sum(file, &sum, error);
    const char *expected = json_string_value(json_object_get(entry, "xxh3"));
    if (status != STATUS_OK) {
        return status;
    }
    if (!get_uint64(entry, "bytes", &bytes) || bytes != sum.bytes) {
        return damaged(path, name, sum.bytes < bytes ? "truncated" : "of another length", error);
    }
    if (expected == NULL || strtoull(expected, NULL, 16) != sum.xxh3) {
        return damaged(path, name, "its checksum is another one", error);
    }
    return STATUS_OK;
}

static enum status check_state(const char *path, const json_t *whole, struct checkpoint_state *state,
                               struct error *error)
{
    json_t *object = json_object_get(whole, "state"), *sum = sum_state(object), *entry;
    bool agrees = json_equal(sum, json_object_get(whole, "xxh3"));
    const char *name;
    json_decref(sum);
    if (!agrees || !parse_state(object, state)) {
        return damaged(path, "state.json", agrees ? "of another version" : "its checksum is another one", error);
    }
    json_object_foreach(json_object_get(object, "files"), name, entry)
    {
        enum status status = check_file(path, name, entry, error);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

// Reads and checks the whole checkpoint.
static enum status check_checkpoint(const char *path, struct checkpoint_state *state, struct error *error)
{
    char file[CHECKPOINT_PATH_MAX + NAME_MAX];
    json_error_t fault;
    snprintf(file, sizeof(file), "%s/state.json", path);
    *state = (struct checkpoint_state){0};
    json_t *whole = json_load_file(file, JSON_REJECT_DUPLICATES, &fault);
    if (whole == NULL) {
        return damaged(path, "state.json", fault.text, error);
    }
    enum status status = check_state(path, whole, state, error);
    json_decref(whole);
    if (status != STATUS_OK) {
        free(state->plan);
        *state = (struct checkpoint_state){0};
    }
    return status;
}

// Writing a checkpoint ------------------------------------------------------------------------------------------------

enum status checkpoint_begin(const char *run, uint64_t step, char part[CHECKPOINT_PATH_MAX], struct error *error)
{
    char folder[CHECKPOINT_PATH_MAX];
    checkpoints_path(run, folder);
    part_path(run, step, part);
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        return cannot("make this folder", folder, error);
    }
    remove_folder(part);
    return mkdir(part, 0777) == 0 ? STATUS_OK : cannot("make this folder", part, error);
}

static void put_text(FILE *file, const void *text)
{
    fputs(text, file);
}

static bool move_latest(const char *folder, uint64_t step)
{
    char latest[CHECKPOINT_PATH_MAX + 16], moved[CHECKPOINT_PATH_MAX + 16], target[32];
    snprintf(latest, sizeof(latest), "%s/latest", folder);
    snprintf(moved, sizeof(moved), "%s/latest%s", folder, part_suffix);
    snprintf(target, sizeof(target), "step_%08" PRIu64, step);
    unlink(moved);
    return symlink(target, moved) == 0 && rename(moved, latest) == 0 && sync_folder(folder);
}

// Gives the folder its name, in place of a damaged one of the same step.
static bool name_folder(const char *folder, const char *part, const char *path)
{
    char old[CHECKPOINT_PATH_MAX + 16];
    snprintf(old, sizeof(old), "%s.old%s", path, part_suffix);
    if (rename(path, old) != 0 && errno != ENOENT) {
        return false;
    }
    bool named = rename(part, path) == 0 && sync_folder(folder);
    remove_folder(old);
    return named;
}

enum status checkpoint_end(const char *run, const struct checkpoint_state *state, const struct checkpoint_file *files,
                           size_t count, struct error *error)
{
    char folder[CHECKPOINT_PATH_MAX], part[CHECKPOINT_PATH_MAX], path[CHECKPOINT_PATH_MAX];
    char file[CHECKPOINT_PATH_MAX + NAME_MAX];
    checkpoints_path(run, folder);
    part_path(run, state->step, part);
    checkpoint_path(run, state->step, path);
    snprintf(file, sizeof(file), "%s/state.json", part);
    char *text = print_state(state, files, count);
    if (text == NULL) {
        return out_of_memory(error);
    }
    bool written = whole_file_write(file, put_text, text) && sync_folder(part);
    free(text);
    if (!written) {
        return cannot("write", file, error);
    }
    return name_folder(folder, part, path) && move_latest(folder, state->step) ? STATUS_OK
                                                                               : cannot("write", path, error);
}

// Finding one ---------------------------------------------------------------------------------------------------------

static bool is_there(const char *path, const char *name)
{
    char file[CHECKPOINT_PATH_MAX + NAME_MAX];
    snprintf(file, sizeof(file), "%s/%s", path, name);
    return access(file, F_OK) == 0;
}

static enum status find_in_run(const char *run, FILE *warnings, char found[CHECKPOINT_PATH_MAX],
                               struct checkpoint_state *state, struct error *error)
{
    size_t count;
    uint64_t *steps = list_steps(run, &count);
    enum status status = error_set(error, STATUS_INVALID, "%s: there is no checkpoint in this folder", run);
    for (size_t i = 0; i < count && status != STATUS_OK; i++) {
        checkpoint_path(run, steps[i], found);
        status = check_checkpoint(found, state, error);
        if (status != STATUS_OK) {
            fprintf(warnings, "headroom: warning: %s\n", error->text);
        }
    }
    free(steps);
    if (status != STATUS_OK && count > 0) {
        return error_set(error, STATUS_INVALID, "%s: none of its %zu checkpoints is sound", run, count);
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
        return find_in_run(path, warnings, found, state, error);
    }
    if (!is_there(path, "state.json")) {
        return error_set(error, STATUS_INVALID, "%s: is neither a checkpoint nor a run's folder with checkpoints",
                         path);
    }
    snprintf(found, CHECKPOINT_PATH_MAX, "%s", path);
    return check_checkpoint(path, state, error);
}
