// SPDX-License-Identifier: Apache-2.0
#include "worker/sinks/sinks.h"

#include <stdlib.h>

#include "mem/clock.h"
#include "mem/uint64.h"
#include "worker/sinks/sink.h"

static const struct sink_ops *const all_sinks[] = {&sink_tensorboard, &sink_csv, &sink_prometheus_file, &sink_http};

#define SINKS_MAX (sizeof(all_sinks) / sizeof(all_sinks[0]))

struct chosen {
    const struct sink_ops *ops;
    void *sink;
    uint64_t spent_ns, longest_ns; // beside the steps: in all, and at a time
};

struct sinks {
    struct worker *worker;
    struct console *console;
    struct sink_place place;
    struct chosen chosen[SINKS_MAX];
    size_t count;
};

static void open_sink(struct sinks *sinks, const struct sink_ops *ops)
{
    struct error error;
    char text[sizeof(error.text) + 96];
    struct chosen *chosen = &sinks->chosen[sinks->count];
    *chosen = (struct chosen){.ops = ops};
    if (ops->open(&sinks->place, &chosen->sink, &error) == STATUS_OK) {
        sinks->count++;
        return;
    }
    snprintf(text, sizeof(text), "%s; the run goes on without %s", error.text, ops->key);
    console_warning(sinks->console, text);
}

struct sinks *sinks_open(struct worker *worker, const char *folder, struct console *console)
{
    struct sinks *sinks = calloc(1, sizeof(*sinks));
    if (sinks == NULL) {
        return NULL;
    }
    sinks->worker = worker;
    sinks->console = console;
    sinks->place = (struct sink_place){worker->config, folder, worker->first_step, worker->steps, worker->comm->size};
    for (size_t i = 0; i < SINKS_MAX; i++) {
        if (all_sinks[i]->is_chosen(worker->config)) {
            open_sink(sinks, all_sinks[i]);
        }
    }
    return sinks;
}

static void warn(struct sinks *sinks, const struct chosen *chosen,
                 bool (*asked)(void *sink, char text[LINE_FILE_WARNING_MAX]))
{
    char text[LINE_FILE_WARNING_MAX];
    if (asked != NULL && asked(chosen->sink, text)) {
        console_warning(sinks->console, text);
    }
}

void sinks_close(struct sinks *sinks)
{
    if (sinks == NULL) {
        return;
    }
    for (size_t i = 0; i < sinks->count; i++) {
        struct chosen *chosen = &sinks->chosen[i];
        warn(sinks, chosen, chosen->ops->losses);
        worker_log(sinks->worker, "%s took %.3f ms in all, at most %.3f ms at a time", chosen->ops->key,
                   (double)chosen->spent_ns / 1e6, (double)chosen->longest_ns / 1e6);
        chosen->ops->close(chosen->sink);
    }
    free(sinks);
}

// What was done since then, and what there is to warn of.
static void account(struct sinks *sinks, struct chosen *chosen, uint64_t begin_ns)
{
    uint64_t spent_ns = clock_ns() - begin_ns;
    chosen->spent_ns += spent_ns;
    chosen->longest_ns = uint64_max(chosen->longest_ns, spent_ns);
    warn(sinks, chosen, chosen->ops->news);
}

void sinks_step(struct sinks *sinks, const struct record_step *step)
{
    for (size_t i = 0; i < sinks->count; i++) {
        struct chosen *chosen = &sinks->chosen[i];
        uint64_t begin_ns = clock_ns();
        chosen->ops->step(chosen->sink, step);
        account(sinks, chosen, begin_ns);
    }
}

void sinks_evaluation(struct sinks *sinks, const struct record_evaluation *evaluation)
{
    for (size_t i = 0; i < sinks->count; i++) {
        struct chosen *chosen = &sinks->chosen[i];
        if (chosen->ops->evaluation != NULL) {
            uint64_t begin_ns = clock_ns();
            chosen->ops->evaluation(chosen->sink, evaluation);
            account(sinks, chosen, begin_ns);
        }
    }
}
