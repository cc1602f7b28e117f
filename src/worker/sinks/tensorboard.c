// SPDX-License-Identifier: Apache-2.0
//
// TensorBoard's event files: a file for each process of a run, of records that hold one event each. An event is a
// protobuf message, tensorflow.Event; of a record either all is written or nothing.
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <isa-l/crc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "worker/regular_file.h"
#include "worker/run/run_folder.h"
#include "worker/sinks/protobuf.h"
#include "worker/sinks/sink.h"

// Numbers of fields, from TensorFlow's event.proto and summary.proto.
enum { EVENT_WALL_TIME = 1, EVENT_STEP = 2, EVENT_FILE_VERSION = 3, EVENT_SUMMARY = 5, EVENT_SESSION_LOG = 7 };
enum { SUMMARY_VALUE = 1 };
enum { VALUE_TAG = 1, VALUE_SIMPLE_VALUE = 2 };
enum { SESSION_LOG_STATUS = 1, SESSION_START = 1 };

#define FILE_VERSION "brain.Event:2"
#define TAG_MAX      64

// A message in the making. What it holds is there after message_end.
struct message {
    FILE *to; // NULL: the host's memory has run out
    char *bytes;
    size_t count;
};

static bool message_begin(struct message *message)
{
    *message = (struct message){0};
    message->to = open_memstream(&message->bytes, &message->count);
    return message->to != NULL;
}

// False where the host's memory has run out. The bytes are to be freed in any case.
static bool message_end(struct message *message)
{
    bool whole = ferror(message->to) == 0;
    return fclose(message->to) == 0 && whole;
}

static uint32_t masked_checksum(void *bytes, size_t count)
{
    uint32_t checksum = ~crc32_iscsi(bytes, (int)count, ~UINT32_C(0));
    return htole32((checksum >> 15 | checksum << 17) + UINT32_C(0xa282ead8));
}

static void put_record(FILE *to, void *event, size_t count)
{
    uint64_t length = htole64(count);
    uint32_t length_checksum = masked_checksum(&length, sizeof(length)), checksum = masked_checksum(event, count);
    fwrite(&length, sizeof(length), 1, to);
    fwrite(&length_checksum, sizeof(length_checksum), 1, to);
    fwrite(event, 1, count, to);
    fwrite(&checksum, sizeof(checksum), 1, to);
}

// Frees the event. One that is not `whole` is lost.
static void write_record(struct line_file *file, struct message *event, bool whole)
{
    struct message record = {0};
    if (whole && message_begin(&record)) {
        put_record(record.to, event->bytes, event->count);
        whole = message_end(&record);
    }
    line_file_write_bytes(file, whole ? record.bytes : NULL, record.count);
    free(record.bytes);
    free(event->bytes);
}

static double wall_time(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

// An event at the step, with one field more.
static void write_event(struct line_file *file, uint64_t step, uint32_t field, const void *bytes, size_t count)
{
    struct message event;
    bool begun = message_begin(&event);
    if (begun) {
        protobuf_put_double(event.to, EVENT_WALL_TIME, wall_time());
        protobuf_put_count(event.to, EVENT_STEP, step);
        protobuf_put_bytes(event.to, field, bytes, count);
    }
    write_record(file, &event, begun && message_end(&event));
}

// TensorBoard forgets what earlier files say of the event's step and of those after it.
static void put_start(FILE *session_log, const void *record)
{
    (void)record;
    protobuf_put_count(session_log, SESSION_LOG_STATUS, SESSION_START);
}

static void put_scalar(FILE *summary, const char *tag, double value)
{
    size_t length = strlen(tag); // at most TAG_MAX, so it and the keys take a byte each
    if (!isnan(value)) {
        protobuf_put_message(summary, SUMMARY_VALUE, 2 + length + 1 + sizeof(float));
        protobuf_put_bytes(summary, VALUE_TAG, tag, length);
        protobuf_put_float(summary, VALUE_SIMPLE_VALUE, (float)value);
    }
}

// All that are numbers.
static void put_fields(FILE *summary, const char *prefix, const struct record_field *field, const void *record)
{
    for (; field->name != NULL; field++) {
        char tag[TAG_MAX];
        snprintf(tag, sizeof(tag), "%s%s", prefix, field->name);
        if (field->type == RECORD_COUNT) {
            put_scalar(summary, tag, (double)record_count(field, record));
        } else if (field->type == RECORD_REAL) {
            put_scalar(summary, tag, record_real(field, record));
        }
    }
}

static void put_step(FILE *summary, const void *record)
{
    const struct record_step *step = record;
    put_fields(summary, "", record_step_fields + 1, step); // the first is the step itself
    for (size_t i = 0; i < step->ranks.count; i++) {
        char prefix[TAG_MAX / 2];
        snprintf(prefix, sizeof(prefix), "rank_%zu/", i);
        put_fields(summary, prefix, record_rank_fields, &step->ranks.rank[i]);
    }
}

static void put_evaluation(FILE *summary, const void *record)
{
    const struct record_evaluation *evaluation = record;
    put_scalar(summary, "validation/loss", evaluation->loss);
    put_scalar(summary, "validation/accuracy", evaluation->accuracy);
}

// An event with a message in it.
static void write_message(struct line_file *file, uint64_t step, uint32_t field,
                          void (*put)(FILE *to, const void *record), const void *record)
{
    struct message message;
    bool begun = message_begin(&message);
    if (begun) {
        put(message.to, record);
    }
    if (begun && message_end(&message)) {
        write_event(file, step, field, message.bytes, message.count);
    } else {
        line_file_write_bytes(file, NULL, 0);
    }
    free(message.bytes);
}

static void write_step(void *sink, const struct record_step *step)
{
    write_message(sink, step->step, EVENT_SUMMARY, put_step, step);
}

// At the last step that was done, as its loss is.
static void write_evaluation(void *sink, const struct record_evaluation *evaluation)
{
    write_message(sink, evaluation->step - 1, EVENT_SUMMARY, put_evaluation, evaluation);
}

// TensorBoard reads files in the order of their names.
static void file_name(const struct sink_place *place, char path[RUN_FOLDER_MAX + 384])
{
    char host[256] = "localhost";
    gethostname(host, sizeof(host) - 1);
    snprintf(path, RUN_FOLDER_MAX + 384, "%s/tensorboard/events.out.tfevents.%010jd.%010" PRIu64 ".%s.%jd",
             place->folder, (intmax_t)time(NULL), place->first_step, host, (intmax_t)getpid());
}

static enum status open_tensorboard(const struct sink_place *place, void **sink_p, struct error *error)
{
    char folder[RUN_FOLDER_MAX + 16], path[RUN_FOLDER_MAX + 384];
    snprintf(folder, sizeof(folder), "%s/tensorboard", place->folder);
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        return regular_file_refuse(folder, "make this folder", error);
    }
    file_name(place, path);
    struct line_file *file = line_file_open(path, true);
    if (file == NULL) {
        return regular_file_refuse(path, "write", error);
    }
    write_event(file, 0, EVENT_FILE_VERSION, FILE_VERSION, strlen(FILE_VERSION));
    if (place->first_step > 0) {
        write_message(file, place->first_step, EVENT_SESSION_LOG, put_start, NULL);
    }
    *sink_p = file;
    return STATUS_OK;
}

static void close_tensorboard(void *sink)
{
    line_file_close(sink);
}

static bool news(void *sink, char text[LINE_FILE_WARNING_MAX])
{
    return line_file_news(sink, text);
}

static bool losses(void *sink, char text[LINE_FILE_WARNING_MAX])
{
    return line_file_losses(sink, text);
}

static bool is_chosen(const struct config *config)
{
    return config->metrics.tensorboard;
}

const struct sink_ops sink_tensorboard = {
    .key = "metrics.tensorboard",
    .is_chosen = is_chosen,
    .open = open_tensorboard,
    .step = write_step,
    .evaluation = write_evaluation,
    .close = close_tensorboard,
    .news = news,
    .losses = losses,
};
