// SPDX-License-Identifier: Apache-2.0
#include "worker/doctor/examine.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

#include "worker/regular_file.h"
#include "worker/run/history.h"
#include "worker/run/run_folder.h"

#define PATH_SIZE (RUN_FOLDER_MAX + 64)

static enum status read_line(struct examination *examination, const struct history_line *line, struct error *error)
{
    if (line->kind == HISTORY_STEP) {
        examination->steps++;
        return doctor_step(examination->doctor, &line->step) ? STATUS_OK : error_out_of_host_memory(error);
    }
    if (line->kind == HISTORY_RESUME) {
        doctor_begin(examination->doctor);
    } else if (line->kind == HISTORY_END) {
        doctor_end(examination->doctor, &line->end);
        examination->status = line->end.status;
    }
    examination->ended = line->kind == HISTORY_END;
    return STATUS_OK;
}

static enum status read_history(const char *folder, struct examination *examination, struct error *error)
{
    struct history *history;
    struct history_line line = {.kind = HISTORY_OTHER};
    enum status status = history_open(folder, &history, error);
    if (status != STATUS_OK) {
        return status;
    }
    while (status == STATUS_OK && line.kind != HISTORY_NOTHING) {
        status = history_next(history, &line, error);
        if (status == STATUS_OK && line.kind != HISTORY_NOTHING) {
            status = read_line(examination, &line, error);
        }
    }
    history_close(history);
    return status;
}

static void tell_tags(const json_t *array, uint32_t rank, struct doctor *doctor)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        const char *tag;
        json_int_t bytes;
        if (json_unpack(json_array_get(array, i), "{s:s, s:I}", "tag", &tag, "bytes", &bytes) == 0) {
            doctor_tag(doctor, rank, tag, (uint64_t)bytes);
        }
    }
}

// What stays on the rank. Where no file tells, the doctor finds that something does without a name for it.
static void read_tags(const char *folder, uint32_t rank, struct doctor *doctor)
{
    char path[PATH_SIZE];
    int descriptor;
    uint64_t bytes;
    snprintf(path, sizeof(path), "%s/memory/rank_%" PRIu32 ".kept.json", folder, rank);
    if (regular_file_open(path, &descriptor, &bytes, NULL) == STATUS_OK) {
        json_t *array = json_loadfd(descriptor, 0, NULL);
        close(descriptor);
        tell_tags(array, rank, doctor);
        json_decref(array);
    }
}

static enum status examine(const char *folder, struct examination *examination, struct error *error)
{
    examination->doctor = doctor_create(&examination->config);
    if (examination->doctor == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = read_history(folder, examination, error);
    for (uint32_t i = 0; status == STATUS_OK && i < examination->ranks; i++) {
        read_tags(folder, i, examination->doctor);
    }
    return status;
}

enum status examine_run(const char *folder, struct examination *examination, struct error *error)
{
    char path[PATH_SIZE];
    *examination = (struct examination){0};
    enum status status = run_folder_ranks(folder, &examination->ranks, error);
    if (status == STATUS_OK) {
        snprintf(path, sizeof(path), "%s/resolved.yaml", folder);
        status = config_read(&examination->config, path, NULL, 0, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
    status = examine(folder, examination, error);
    if (status != STATUS_OK) {
        examine_finish(examination);
    }
    return status;
}

void examine_finish(struct examination *examination)
{
    doctor_destroy(examination->doctor);
    config_finish(&examination->config);
}
