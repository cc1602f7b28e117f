// SPDX-License-Identifier: Apache-2.0
#include "worker/run/memory_files.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

#include "mem/whole_file.h"
#include "worker/regular_file.h"
#include "worker/run/run_folder.h"
#include "worker/signals.h"

#define TAGS_TOLD   64
#define EVENTS_KEPT 32768 // of what snapshots show, in about 3 MiB

struct memory_files {
    const char *folder;
    struct mem_recorder *recorder;
    uint64_t step;
    bool refused;        // a snapshot shows it
    uint64_t kept_bytes; // that a file tells of
};

static void name_file(const struct worker *worker, const char *suffix, char *path, size_t size)
{
    snprintf(path, size, "%s/memory/rank_%" PRIu32 "%s", worker->memory_files->folder, worker->comm->rank, suffix);
}

enum status memory_files_open(struct worker *worker, const char *folder, struct error *error)
{
    char path[RUN_FOLDER_MAX + 64];
    struct memory_files *files = calloc(1, sizeof(*files));
    if (files == NULL) {
        return error_out_of_host_memory(error);
    }
    files->folder = folder;
    worker->memory_files = files;
    name_file(worker, ".kept.json", path, sizeof(path));
    remove(path); // of a process before
    name_file(worker, ".csv", path, sizeof(path));
    enum status status =
        mem_recorder_create(EVENTS_KEPT, worker->config->run.memory_trace ? path : NULL, &files->recorder, error);
    if (status == STATUS_OK) {
        mem_pool_record(worker->pool, files->recorder);
    }
    return status;
}

static bool write_snapshot(struct worker *worker, const char *what)
{
    char path[RUN_FOLDER_MAX + 64], suffix[64];
    struct error error;
    snprintf(suffix, sizeof(suffix), ".step_%" PRIu64 "%s.pickle", worker->memory_files->step, what);
    name_file(worker, suffix, path, sizeof(path));
    if (mem_pool_snapshot(worker->pool, worker->place.index, path, &error) != STATUS_OK) {
        worker_log(worker, "step %" PRIu64 ": no memory snapshot: %s", worker->memory_files->step, error.text);
        return false;
    }
    worker_log(worker, "step %" PRIu64 ": memory snapshot %s", worker->memory_files->step, path);
    return true;
}

static json_t *kept_object(const struct mem_pool_kept *kept)
{
    return json_pack("{ss sI sI sI sI}", "tag", kept->tag, "blocks", (json_int_t)kept->blocks, "bytes",
                     (json_int_t)kept->bytes, "first_step", (json_int_t)kept->first_step, "last_step",
                     (json_int_t)kept->last_step);
}

static enum status write_kept(struct worker *worker, struct error *error)
{
    struct mem_pool_kept kept[TAGS_TOLD];
    char path[RUN_FOLDER_MAX + 64];
    size_t count = mem_pool_kept(worker->pool, kept, TAGS_TOLD);
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        json_array_append_new(array, kept_object(&kept[i]));
    }
    char *text = json_dumps(array, JSON_INDENT(1));
    json_decref(array);
    if (text == NULL) {
        return error_out_of_host_memory(error);
    }
    name_file(worker, ".kept.json", path, sizeof(path));
    bool written = whole_file_write_text(path, text);
    free(text);
    return written ? STATUS_OK : regular_file_refuse(path, "write", error);
}

// Each time that it has doubled.
static void tell_kept(struct worker *worker)
{
    struct memory_files *files = worker->memory_files;
    struct error error;
    if (worker->message.kept_bytes <= 2 * files->kept_bytes) {
        return;
    }
    files->kept_bytes = worker->message.kept_bytes;
    worker_log(worker, "step %" PRIu64 ": %" PRIu64 " bytes of blocks stay after it", files->step, files->kept_bytes);
    if (write_kept(worker, &error) != STATUS_OK) {
        worker_log(worker, "%s", error.text);
    }
}

void memory_files_after_step(struct worker *worker, uint64_t step)
{
    worker->memory_files->step = step;
    tell_kept(worker);
    if (signal_came(SIGUSR2) || step == worker->config->run.snapshot_step) {
        write_snapshot(worker, "");
    }
    worker->memory_files->step = step + 1;
}

void memory_files_out_of_memory(struct worker *worker, bool for_good)
{
    struct memory_files *files = worker->memory_files;
    if (files != NULL && (for_good || !files->refused)) {
        files->refused = write_snapshot(worker, ".out_of_memory");
    }
}

static void set_statistic(void *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

static enum status write_statistics(struct worker *worker, struct error *error)
{
    struct mem_pool_stats stats;
    json_t *object = json_object();
    mem_pool_stats(worker->pool, &stats);
    mem_pool_stats_visit(&stats, set_statistic, object);
    char *text = json_dumps(object, JSON_INDENT(2));
    json_decref(object);
    if (text == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = run_folder_write_rank(worker->memory_files->folder, "memory", worker->comm->rank, text, error);
    free(text);
    return status;
}

enum status memory_files_end(struct worker *worker, struct error *error)
{
    if (signal_came(SIGUSR2)) {
        write_snapshot(worker, "");
    }
    if (worker->memory_files->kept_bytes > 0) {
        write_kept(worker, NULL);
    }
    enum status flushed = mem_recorder_flush(worker->memory_files->recorder, error);
    enum status written = write_statistics(worker, flushed == STATUS_OK ? error : NULL);
    return flushed == STATUS_OK ? written : flushed;
}

void memory_files_close(struct worker *worker)
{
    if (worker->memory_files == NULL) {
        return;
    }
    mem_pool_record(worker->pool, NULL);
    mem_recorder_destroy(worker->memory_files->recorder);
    free(worker->memory_files);
    worker->memory_files = NULL;
}
