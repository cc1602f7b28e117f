// SPDX-License-Identifier: Apache-2.0
#include "worker/run/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/whole_file.h"
#include "worker/regular_file.h"
#include "worker/run/run_folder.h"

struct metrics {
    int file;
    char path[RUN_FOLDER_MAX + 16];
};

static enum status cannot_write(const struct metrics *metrics, struct error *error)
{
    return regular_file_refuse(metrics->path, "write", error);
}

// Whether a line tells of what is done before step `first_step`. One that was written in part does not.
static bool is_before(const char *line, size_t length, uint64_t first_step)
{
    json_t *object = json_loadb(line, length, 0, NULL);
    const json_t *step = json_object_get(object, "step");
    uint64_t number = (uint64_t)json_integer_value(step);
    bool counts = json_object_get(object, "event") != NULL; // an event's is a number of steps done
    bool before = json_is_integer(step) && number + !counts <= first_step;
    json_decref(object);
    return before;
}

struct earlier {
    FILE *file;
    uint64_t first_step;
};

// The lines that tell of what is done before the step.
static void put_lines(FILE *to, const void *contents)
{
    const struct earlier *earlier = contents;
    char *line = NULL;
    size_t room = 0;
    for (ssize_t length; (length = getline(&line, &room, earlier->file)) > 0;) {
        if (line[length - 1] == '\n' && is_before(line, (size_t)length, earlier->first_step)) {
            fputs(line, to);
        }
    }
    free(line);
}

// Where a run goes on, what an earlier process has written of steps that are done again goes.
static bool drop_later_lines(const char *path, uint64_t first_step)
{
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return errno == ENOENT;
    }
    bool written = whole_file_write(path, put_lines, &(struct earlier){file, first_step});
    fclose(file);
    return written;
}

enum status metrics_open(const char *folder, uint64_t first_step, struct metrics **metrics_p, struct error *error)
{
    struct metrics *metrics = calloc(1, sizeof(*metrics));
    if (metrics == NULL) {
        return error_out_of_host_memory(error);
    }
    snprintf(metrics->path, sizeof(metrics->path), "%s/metrics.jsonl", folder);
    metrics->file = -1;
    if (drop_later_lines(metrics->path, first_step)) {
        metrics->file = open(metrics->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    }
    if (metrics->file < 0) {
        enum status status = cannot_write(metrics, error);
        metrics_close(metrics);
        return status;
    }
    *metrics_p = metrics;
    return STATUS_OK;
}

void metrics_close(struct metrics *metrics)
{
    if (metrics != NULL) {
        if (metrics->file >= 0) {
            close(metrics->file);
        }
        free(metrics);
    }
}

// Writes and frees the object. A line that could be written only in part is taken back.
static enum status write_line(struct metrics *metrics, json_t *object, struct error *error)
{
    char *text = object == NULL ? NULL : json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(object);
    if (text == NULL) {
        return error_out_of_host_memory(error);
    }
    size_t length = strlen(text);
    text[length] = '\n'; // in place of the terminator
    off_t before = lseek(metrics->file, 0, SEEK_END);
    enum status status = STATUS_OK;
    if (!regular_file_write(metrics->file, text, length + 1)) {
        status = cannot_write(metrics, error);
        (void)!ftruncate(metrics->file, before); // where that fails too, the first complaint is the one to read
    }
    free(text);
    return status;
}

static json_t *rank_object(uint32_t rank, const struct step_message *message)
{
    return json_pack(
        "{sI sI sI sI ss sI sI sI sI sI sI sI}", "rank", (json_int_t)rank, "share", (json_int_t)message->samples,
        "micro_batch", (json_int_t)message->micro_batch, "accumulation_steps", (json_int_t)message->accumulation_steps,
        "levers", offers_levers_name(message->levers), "limit_bytes", (json_int_t)message->limit_bytes,
        "headroom_bytes", (json_int_t)message->report.headroom_bytes, "allocated_peak_bytes",
        (json_int_t)message->allocated_peak_bytes, "reserved_peak_bytes", (json_int_t)message->reserved_peak_bytes,
        "predicted_peak_bytes", (json_int_t)message->predicted_peak_bytes, "oom_retries",
        (json_int_t)message->oom_retries, "handed_back", (json_int_t)message->handed_back);
}

static json_t *rank_objects(const struct step_message *messages, uint32_t count)
{
    json_t *ranks = json_array();
    for (uint32_t i = 0; i < count; i++) {
        json_array_append_new(ranks, rank_object(i, &messages[i]));
    }
    return ranks;
}

static double milliseconds(uint64_t ns)
{
    return (double)ns / 1e6;
}

// The longest that any rank waited for data.
static uint64_t data_wait_ns(const struct step_message *messages, uint32_t count)
{
    uint64_t longest = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t waited = messages[i].data_wait_ns;
        longest = waited > longest ? waited : longest;
    }
    return longest;
}

enum status metrics_step(struct metrics *metrics, const struct worker *worker, const struct step_result *result,
                         struct error *error)
{
    double seconds = (double)result->step_ns / 1e9;
    uint32_t ranks = worker->comm->size;
    json_t *predicted = result->predicted_ns == 0 ? json_null() : json_real(milliseconds(result->predicted_ns));
    json_t *object = json_pack(
        "{sI sI sf sI sI sf sf sf so sf sf sf sf sf so}", "step", (json_int_t)result->step, "epoch",
        (json_int_t)result->epoch, "loss", result->loss, "samples", (json_int_t)result->samples, "tokens",
        (json_int_t)result->tally.count, "lr", result->learning_rate, "grad_norm", result->gradient_norm, "step_ms",
        milliseconds(result->step_ns), "predicted_ms", predicted, "samples_per_s", (double)result->samples / seconds,
        "tokens_per_s", result->tally.count / seconds, "data_wait_ms",
        milliseconds(data_wait_ns(result->messages, ranks)), "comm_ms", milliseconds(result->comm_ns),
        "coordination_ms", milliseconds(result->coordination_ns), "ranks", rank_objects(result->messages, ranks));
    return write_line(metrics, object, error);
}

enum status metrics_evaluation(struct metrics *metrics, const struct worker *worker, uint64_t steps_done,
                               const struct evaluation *evaluation, struct error *error)
{
    json_t *object =
        json_pack("{ss sI sf sf sI so}", "event", "eval", "step", (json_int_t)steps_done, "loss", evaluation->loss,
                  "accuracy", evaluation->accuracy, "samples", (json_int_t)evaluation->samples, "ranks",
                  rank_objects(worker->messages, worker->comm->size));
    return write_line(metrics, object, error);
}

enum status metrics_resume(struct metrics *metrics, const struct worker *worker, const char *found, struct error *error)
{
    return write_line(metrics,
                      json_pack("{ss sI sI ss}", "event", "resume", "step", (json_int_t)worker->first_step, "ranks",
                                (json_int_t)worker->comm->size, "from", found),
                      error);
}

enum status metrics_checkpoint(struct metrics *metrics, const struct checkpoint_report *checkpoint, struct error *error)
{
    bool written = checkpoint->error.status == STATUS_OK;
    json_t *object = json_pack("{ss sI sb sI sf sf}", "event", "checkpoint", "step", (json_int_t)checkpoint->step,
                               "written", (int)written, "bytes", (json_int_t)checkpoint->bytes, "pause_ms",
                               milliseconds(checkpoint->pause_ns), "write_ms", milliseconds(checkpoint->write_ns));
    if (object != NULL && !written) {
        json_object_set_new(object, "error", json_string(checkpoint->error.text));
    }
    return write_line(metrics, object, error);
}

enum status metrics_end(struct metrics *metrics, const struct run_end *end, struct error *error)
{
    json_t *object = json_pack("{ss sI sf si}", "event", "end", "step", (json_int_t)end->steps_done, "seconds",
                               end->seconds, "status", (int)end->status);
    if (object != NULL && end->checksum_p != NULL) {
        json_object_set_new(object, "weights", json_sprintf("%016" PRIx64, *end->checksum_p));
    }
    return write_line(metrics, object, error);
}
