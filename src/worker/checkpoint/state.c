// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/state.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "worker/checkpoint/folder.h"
#include "worker/regular_file.h"

#define FORMAT_VERSION  1
#define STATE_BYTES_MAX (64 << 20) // a hundred bytes for each rank

// Writing ------------------------------------------------------------------------------------------------------------

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

static json_t *describe_state(const struct checkpoint_state *state, const struct checkpoint_file *files, size_t count)
{
    return json_pack("{si sI sI so si sb sI so so}", "version", FORMAT_VERSION, "step", (json_int_t)state->step,
                     "samples", (json_int_t)state->samples, "seed", json_sprintf("%" PRIu64, state->seed),
                     "sum_exponent", state->sum_exponent, "evaluation_due", (int)state->evaluation_due, "ranks",
                     (json_int_t)state->ranks, "plan", describe_plan(state), "files", describe_files(files, count));
}

char *checkpoint_state_print(const struct checkpoint_state *state, const struct checkpoint_file *files, size_t count)
{
    json_t *object = describe_state(state, files, count);
    json_t *sum = object == NULL ? NULL : sum_state(object);
    json_t *whole = sum == NULL ? NULL : json_pack("{sO so}", "state", object, "xxh3", sum);
    char *text = whole == NULL ? NULL : json_dumps(whole, JSON_INDENT(2));
    json_decref(whole);
    json_decref(object);
    return text;
}

// Reading ------------------------------------------------------------------------------------------------------------

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

// Whether a coordinator could have made it: a share begins where the one before ends, and is cut in as many micro-steps
// as it takes.
static bool makes_sense(const struct sched_share *share, uint64_t first)
{
    uint64_t end;
    if (share->first != first || share->levers >= SCHED_LEVERS_MAX ||
        __builtin_add_overflow(first, share->samples, &end)) {
        return false;
    }
    if (share->samples == 0) {
        return true;
    }
    return share->micro_batch > 0 && share->micro_batch <= share->samples &&
           share->accumulation_steps == (share->samples - 1) / share->micro_batch + 1;
}

static bool parse_plan(const json_t *plan, struct checkpoint_state *state)
{
    uint64_t first = 0;
    for (uint32_t i = 0; i < state->ranks; i++) {
        if (!parse_share(json_array_get(plan, i), &state->plan[i]) || !makes_sense(&state->plan[i], first)) {
            return false;
        }
        first += state->plan[i].samples;
    }
    return true;
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
    state->evaluation_due = json_is_true(json_object_get(object, "evaluation_due"));
    state->ranks = (uint32_t)ranks;
    state->plan = calloc(ranks + 1, sizeof(*state->plan));
    return state->plan != NULL && parse_plan(plan, state);
}

static enum status damaged(const char *folder, const char *file, const char *what, struct error *error)
{
    return error_set(error, STATUS_INVALID, "%s/%s: damaged: %s", folder, file, what);
}

static enum status check_file(const char *folder, const char *name, const json_t *entry, struct progress *progress,
                              struct error *error)
{
    char path[CHECKPOINT_PATH_MAX + NAME_MAX];
    struct file_sum sum;
    uint64_t bytes;
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    enum status status = file_sum(path, progress, &sum, error);
    const char *expected = json_string_value(json_object_get(entry, "xxh3"));
    if (status != STATUS_OK) {
        return status;
    }
    if (!get_uint64(entry, "bytes", &bytes) || bytes != sum.bytes) {
        return damaged(folder, name, sum.bytes < bytes ? "truncated" : "of another length", error);
    }
    if (expected == NULL || strtoull(expected, NULL, 16) != sum.xxh3) {
        return damaged(folder, name, "its checksum is another one", error);
    }
    return STATUS_OK;
}

// As they are told to have.
static uint64_t bytes_of_files(json_t *files)
{
    uint64_t sum = 0, bytes;
    const char *name;
    json_t *entry;
    json_object_foreach(files, name, entry)
    {
        sum += get_uint64(entry, "bytes", &bytes) ? bytes : 0;
    }
    return sum;
}

// Those of the optimizer's state are as many as there are beside the two that are always there.
static enum status check_files(const char *folder, json_t *files, uint32_t *optimizer_files_p, struct error *error)
{
    static const char *const known[] = {CHECKPOINT_MODEL, CHECKPOINT_CONFIG};
    const size_t always = sizeof(known) / sizeof(known[0]);
    size_t count = json_object_size(files);
    *optimizer_files_p = count > always ? (uint32_t)(count - always) : 0;
    enum status status = STATUS_OK;
    struct progress progress;
    progress_begin(&progress, "checking the checkpoint", PROGRESS_BYTES, bytes_of_files(files), 0);
    for (size_t i = 0; i < always + *optimizer_files_p && status == STATUS_OK; i++) {
        char name[CHECKPOINT_NAME_MAX];
        if (i < always) {
            snprintf(name, sizeof(name), "%s", known[i]);
        } else {
            checkpoint_optimizer_name((uint32_t)(i - always), *optimizer_files_p, name);
        }
        const json_t *entry = json_object_get(files, name);
        status = entry == NULL ? damaged(folder, CHECKPOINT_STATE, "it names not all files", error)
                               : check_file(folder, name, entry, &progress, error);
    }
    progress_end(&progress);
    return status;
}

static enum status check_state(const char *folder, const json_t *whole, struct checkpoint_state *state,
                               struct error *error)
{
    const json_t *object = json_object_get(whole, "state");
    json_t *sum = object == NULL ? NULL : sum_state(object);
    bool agrees = sum != NULL && json_equal(sum, json_object_get(whole, "xxh3"));
    json_decref(sum);
    if (!agrees) {
        return damaged(folder, CHECKPOINT_STATE, "its checksum is another one", error);
    }
    if (!parse_state(object, state)) {
        return damaged(folder, CHECKPOINT_STATE, "it is of another version, or makes no sense", error);
    }
    return check_files(folder, json_object_get(object, "files"), &state->optimizer_files, error);
}

static enum status load(const char *folder, json_t **whole_p, struct error *error)
{
    char path[CHECKPOINT_PATH_MAX + NAME_MAX];
    json_error_t fault;
    int descriptor;
    uint64_t bytes;
    snprintf(path, sizeof(path), "%s/" CHECKPOINT_STATE, folder);
    enum status status = regular_file_open(path, &descriptor, &bytes, error);
    if (status != STATUS_OK) {
        return status;
    }
    bool absurd = bytes > STATE_BYTES_MAX;
    *whole_p = absurd ? NULL : json_loadfd(descriptor, JSON_REJECT_DUPLICATES, &fault);
    close(descriptor);
    return *whole_p != NULL ? STATUS_OK : damaged(folder, CHECKPOINT_STATE, absurd ? "too large" : fault.text, error);
}

enum status checkpoint_state_read(const char *folder, struct checkpoint_state *state, struct error *error)
{
    json_t *whole;
    *state = (struct checkpoint_state){0};
    enum status status = load(folder, &whole, error);
    if (status != STATUS_OK) {
        return status;
    }
    status = check_state(folder, whole, state, error);
    json_decref(whole);
    if (status != STATUS_OK) {
        free(state->plan);
        *state = (struct checkpoint_state){0};
    }
    return status;
}
