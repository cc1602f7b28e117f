// SPDX-License-Identifier: Apache-2.0
#include "worker/run/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "mem/whole_file.h"
#include "worker/regular_file.h"
#include "worker/run/run_folder.h"

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

enum status metrics_open(const char *folder, uint64_t first_step, struct line_file **metrics_p, struct error *error)
{
    char path[RUN_FOLDER_MAX + 16];
    snprintf(path, sizeof(path), "%s/metrics.jsonl", folder);
    struct line_file *metrics = drop_later_lines(path, first_step) ? line_file_open(path, false) : NULL;
    if (metrics == NULL) {
        return regular_file_refuse(path, "write", error);
    }
    *metrics_p = metrics;
    return STATUS_OK;
}

// Writes and frees the object.
static void write_line(struct line_file *metrics, json_t *object)
{
    line_file_write(metrics, object == NULL ? NULL : json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)));
    json_decref(object);
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

void metrics_step(struct line_file *metrics, const struct worker *worker, const struct step_result *result)
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
    write_line(metrics, object);
}

void metrics_evaluation(struct line_file *metrics, const struct worker *worker, uint64_t steps_done,
                        const struct evaluation *evaluation)
{
    json_t *object =
        json_pack("{ss sI sf sf sI so}", "event", "eval", "step", (json_int_t)steps_done, "loss", evaluation->loss,
                  "accuracy", evaluation->accuracy, "samples", (json_int_t)evaluation->samples, "ranks",
                  rank_objects(worker->messages, worker->comm->size));
    write_line(metrics, object);
}

void metrics_resume(struct line_file *metrics, const struct worker *worker, const char *found)
{
    write_line(metrics, json_pack("{ss sI sI ss}", "event", "resume", "step", (json_int_t)worker->first_step, "ranks",
                                  (json_int_t)worker->comm->size, "from", found));
}

void metrics_checkpoint(struct line_file *metrics, const struct checkpoint_report *checkpoint)
{
    bool written = checkpoint->error.status == STATUS_OK;
    json_t *object = json_pack("{ss sI sb sI sf sf}", "event", "checkpoint", "step", (json_int_t)checkpoint->step,
                               "written", (int)written, "bytes", (json_int_t)checkpoint->bytes, "pause_ms",
                               milliseconds(checkpoint->pause_ns), "write_ms", milliseconds(checkpoint->write_ns));
    if (object != NULL && !written) {
        json_object_set_new(object, "error", json_string(checkpoint->error.text));
    }
    write_line(metrics, object);
}

void metrics_end(struct line_file *metrics, const struct run_end *end)
{
    json_t *object = json_pack("{ss sI sf si}", "event", "end", "step", (json_int_t)end->steps_done, "seconds",
                               end->seconds, "status", (int)end->status);
    if (object != NULL && end->checksum_p != NULL) {
        json_object_set_new(object, "weights", json_sprintf("%016" PRIx64, *end->checksum_p));
    }
    write_line(metrics, object);
}
