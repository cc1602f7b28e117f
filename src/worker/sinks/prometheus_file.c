// SPDX-License-Identifier: Apache-2.0
//
// A file for the textfile collector of Prometheus's node_exporter, replaced now and then.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mem/clock.h"
#include "mem/whole_file.h"
#include "worker/run/run_folder.h"
#include "worker/sinks/exposition.h"
#include "worker/sinks/sink.h"

#define PERIOD_NS UINT64_C(5000000000) // collectors do not look more often

struct prometheus_file {
    const char *path;
    struct exposition *exposition;
    uint64_t written_ns; // when it was, or would have been
    int failure;         // errno of the latest time; 0: it was written
    bool told;           // that it failed
};

static enum status open_file(const struct sink_place *place, void **sink_p, struct error *error)
{
    struct prometheus_file *file = calloc(1, sizeof(*file));
    if (file == NULL) {
        return error_out_of_host_memory(error);
    }
    file->path = place->config->metrics.prometheus_file;
    file->exposition = exposition_create(run_folder_name(place->folder), place->ranks);
    if (file->exposition == NULL) {
        free(file);
        return error_out_of_host_memory(error);
    }
    *sink_p = file;
    return STATUS_OK;
}

static bool put(FILE *to, const void *exposition)
{
    exposition_put(to, exposition);
    return true;
}

static void replace(struct prometheus_file *file)
{
    file->failure = whole_file_show(file->path, put, file->exposition) ? 0 : errno;
    file->written_ns = clock_ns();
}

static void step(void *sink, const struct record_step *step)
{
    struct prometheus_file *file = sink;
    exposition_step(file->exposition, step);
    if (file->written_ns == 0 || clock_ns() - file->written_ns >= PERIOD_NS) {
        replace(file);
    }
}

static void evaluation(void *sink, const struct record_evaluation *evaluation)
{
    exposition_evaluation(((struct prometheus_file *)sink)->exposition, evaluation);
}

static void close_file(void *sink)
{
    struct prometheus_file *file = sink;
    replace(file);
    exposition_destroy(file->exposition);
    free(file);
}

static bool news(void *sink, char text[LINE_FILE_WARNING_MAX])
{
    struct prometheus_file *file = sink;
    bool fails = file->failure != 0;
    if (fails == file->told) {
        return false;
    }
    file->told = fails;
    if (fails) {
        snprintf(text, LINE_FILE_WARNING_MAX, "%s: cannot write: %s; the run goes on", file->path,
                 strerror(file->failure));
    } else {
        snprintf(text, LINE_FILE_WARNING_MAX, "%s: can be written again", file->path);
    }
    return true;
}

static bool is_chosen(const struct config *config)
{
    return config->metrics.prometheus_file != NULL;
}

const struct sink_ops sink_prometheus_file = {
    .key = "metrics.prometheus_file",
    .is_chosen = is_chosen,
    .open = open_file,
    .step = step,
    .evaluation = evaluation,
    .close = close_file,
    .news = news,
};
