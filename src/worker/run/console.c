// SPDX-License-Identifier: Apache-2.0
#include "worker/run/console.h"

#include <inttypes.h>
#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mem/clock.h"
#include "mem/printable.h"
#include "mem/uint64.h"
#include "worker/comm/launcher.h"
#include "worker/duration.h"
#include "worker/figures.h"
#include "worker/job.h"
#include "worker/run/line_file.h"
#include "worker/terminal.h"
#include "worker/version.h"

#define SECOND_NS      UINT64_C(1000000000)
#define LINE_PERIOD_NS (SECOND_NS / 10) // the changing line changes at most ten times a second
#define BARS_MAX       32               // ranks whose memory it shows
#define LEVELS         8                // of a bar

struct range {
    uint64_t least, most;
    bool seen; // a value
};

struct rank_summary { // over all steps
    struct range share, micro_batch;
    uint64_t allocated_peak_bytes, reserved_peak_bytes, limit_bytes, oom_retries;
};

struct console {
    FILE *file;
    bool terminal;
    bool line_open;  // the changing line is on the screen
    bool has_blocks; // the terminal shows UTF-8
    const struct worker *worker;
    uint64_t steps_ns, line_ns; // when the steps began, and when the latest line came
    struct sched_share *plan;   // that was shown last
    uint64_t plan_ns;           // when; 0: none was
    struct rank_summary *ranks;
    struct evaluation last_evaluation;
    bool evaluated;
};

struct console *console_create(FILE *file, bool terminal, const struct worker *worker)
{
    struct console *console = calloc(1, sizeof(*console));
    if (console == NULL) {
        return NULL;
    }
    *console = (struct console){.file = file, .terminal = terminal, .worker = worker, .steps_ns = clock_ns()};
    console->has_blocks = setlocale(LC_CTYPE, "") != NULL && strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    console->ranks = calloc(worker->comm->size, sizeof(*console->ranks));
    console->plan = calloc(worker->comm->size, sizeof(*console->plan));
    if (console->ranks == NULL || console->plan == NULL) {
        console_destroy(console);
        return NULL;
    }
    return console;
}

void console_destroy(struct console *console)
{
    if (console != NULL) {
        free(console->plan);
        free(console->ranks);
        free(console);
    }
}

static void close_line(struct console *console)
{
    if (console->line_open) {
        fputs(TERMINAL_CLEAR_LINE, console->file);
        console->line_open = false;
    }
}

static const char *plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}

static void print_steps_done(struct console *console, uint64_t steps)
{
    fprintf(console->file, "after %" PRIu64 " step%s: ", steps, plural(steps));
}

// A rank's share is of another kind than the one that was shown: what changes now and then, not by a few samples.
static bool is_news(const struct console *console, const struct sched_share *plan, uint32_t rank)
{
    const struct sched_share *share = &plan[rank], *shown = &console->plan[rank];
    if (console->plan_ns == 0 || (share->samples == 0) != (shown->samples == 0)) {
        return true;
    }
    return share->samples > 0 && share->levers != shown->levers;
}

static bool is_alike(const struct console *console, const struct sched_share *a, const struct sched_share *b)
{
    const struct config *config = console->worker->config;
    return job_share_samples(config, a) == job_share_samples(config, b) && a->micro_batch == b->micro_batch &&
           a->levers == b->levers;
}

static void print_share(const struct console *console, const struct sched_share *share, uint32_t first, uint32_t last)
{
    fprintf(console->file, first == last ? " rank %" PRIu32 : " ranks %" PRIu32 "-%" PRIu32, first, last);
    if (share->samples == 0) {
        fputs(" rests", console->file);
        return;
    }
    fprintf(console->file, " %" PRIu64 " = %" PRIu64 " x %" PRIu64, job_share_samples(console->worker->config, share),
            share->micro_batch * console->worker->grain, share->accumulation_steps);
    if (share->levers != MODEL_LEVERS_NONE || console->plan_ns > 0) { // a later plan is of them
        fprintf(console->file, " (levers %s)", offers_levers_name(share->levers));
    }
}

// Of a plan what is news, in a line; neighbouring ranks that do the same are named together.
static void print_plan(struct console *console, uint64_t steps_done, const struct sched_share *plan, uint64_t now_ns)
{
    uint32_t ranks = console->worker->comm->size;
    char before = ':';
    close_line(console);
    print_steps_done(console, steps_done);
    fputs("plan (samples = micro-batch x steps)", console->file);
    for (uint32_t first = 0, end; first < ranks; first = end) {
        bool news = is_news(console, plan, first);
        end = first + 1;
        while (end < ranks && is_alike(console, &plan[end], &plan[first]) && is_news(console, plan, end) == news) {
            end++;
        }
        if (news) {
            fputc(before, console->file);
            print_share(console, &plan[first], first, end - 1);
            before = ',';
        }
    }
    fputc('\n', console->file);
    memcpy(console->plan, plan, ranks * sizeof(*plan));
    console->plan_ns = now_ns;
}

// What "auto" became where that is not what a person with GPUs hopes for, and what is not Headroom's to choose.
static void print_choices(const struct console *console)
{
    const struct worker *worker = console->worker;
    if (worker->place.instead.text[0] != '\0') {
        fprintf(console->file, "device.kind auto: on the CPU, because %s\n", worker->place.instead.text);
    }
    if (worker->usage.library_bytes > 0) {
        char bytes[MEM_SIZE_TEXT_MAX];
        fprintf(console->file, "of rank 0's device, CUDA, cuBLASLt and NCCL hold %s beside the plan\n",
                mem_size_text(worker->usage.library_bytes, bytes));
    }
    if (worker->comm->size > 1 && reduce_between(worker->place.ops->name) != NULL && worker->place.shared) {
        fprintf(console->file, "several ranks share a GPU: gradients are added up by %s\n", worker->reducer->ops->name);
    }
}

void console_start(struct console *console, const char *folder, const struct resume *resume)
{
    char name[RUN_FOLDER_MAX], found[sizeof(resume->found)], weights[sizeof(resume->weights)];
    const struct worker *worker = console->worker;
    uint64_t global_batch = worker->config->train.global_batch_size;
    fprintf(console->file,
            "headroom %s: %s with %" PRIu64 " weights, %" PRIu32 " rank%s (%s) on %s, %" PRIu64 " step%s of %" PRIu64
            " sample%s, run folder %s\n",
            HEADROOM_VERSION, worker->config->model.kind == CONFIG_MODEL_MLP ? "mlp" : "gpt", worker->model->weights,
            worker->comm->size, plural(worker->comm->size), worker->comm->ops->name,
            worker->device->ops->description(worker->device), worker->steps, plural(worker->steps), global_batch,
            plural(global_batch), printable(folder, name, sizeof(name)));
    print_choices(console);
    if (resume->found[0] != '\0') {
        fprintf(console->file, "goes on after %" PRIu64 " step%s, from %s\n", worker->first_step,
                plural(worker->first_step), printable(resume->found, found, sizeof(found)));
    } else if (resume->weights[0] != '\0') {
        fprintf(console->file, "begins with the weights of %s\n", printable(resume->weights, weights, sizeof(weights)));
    }
    print_plan(console, worker->first_step, worker->plan, clock_ns());
    fflush(console->file);
}

static void widen(struct range *range, uint64_t value)
{
    range->least = range->seen ? uint64_min(range->least, value) : value;
    range->most = uint64_max(range->most, value);
    range->seen = true;
}

static void note_shares(struct console *console, const struct step_message *messages)
{
    for (uint32_t i = 0; i < console->worker->comm->size; i++) {
        widen(&console->ranks[i].share, messages[i].samples);
        widen(&console->ranks[i].micro_batch, messages[i].micro_batch);
    }
}

static void note_memory(struct console *console, const struct step_message *messages)
{
    for (uint32_t i = 0; i < console->worker->comm->size; i++) {
        const struct step_message *message = &messages[i];
        struct rank_summary *rank = &console->ranks[i];
        rank->allocated_peak_bytes = uint64_max(rank->allocated_peak_bytes, message->allocated_peak_bytes);
        rank->reserved_peak_bytes = uint64_max(rank->reserved_peak_bytes, message->reserved_peak_bytes);
        rank->limit_bytes = message->limit_bytes;
        rank->oom_retries += message->oom_retries;
    }
}

// A bar for each rank: the part of what it may hold that its step took, and what others hold.
static void add_bars(const struct console *console, const struct step_message *messages, struct figures *line)
{
    static const char *const blocks[LEVELS] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char *const digits[LEVELS] = {"1", "2", "3", "4", "5", "6", "7", "8"};
    const char *const *levels = console->has_blocks ? blocks : digits;
    char bars[BARS_MAX * sizeof("█")];
    size_t used = 0, room = line->room - uint64_min(line->room, strlen("  memory ..."));
    uint64_t ranks = console->worker->comm->size, shown = uint64_min(uint64_min(ranks, BARS_MAX), room);
    for (size_t i = 0; i < shown; i++) {
        uint64_t limit = uint64_max(messages[i].limit_bytes, 1);
        double taken = (double)messages[i].allocated_peak_bytes + (double)messages[i].others_bytes;
        double level = fmin(taken / (double)limit * LEVELS, LEVELS - 1);
        used += (size_t)snprintf(bars + used, sizeof(bars) - used, "%s", levels[(size_t)level]);
    }
    if (shown > 0) {
        figures_add(line, "  memory %s%s", bars, shown < ranks ? "..." : "");
    }
}

// What matters most comes first.
static struct figures make_line(const struct console *console, const struct step_result *result, double saved)
{
    struct figures line = figures_begin(console->terminal ? launcher_columns() - 1 : SIZE_MAX);
    uint64_t done = result->step + 1, left = console->worker->steps - done;
    double mean_seconds = (double)(clock_ns() - console->steps_ns) / 1e9 / (double)(done - console->worker->first_step);
    bool tokens = console->worker->train->shape.input == DATA_INPUT_TOKENS;
    double work = tokens ? result->tally.count : (double)result->samples;
    char left_text[DURATION_TEXT_MAX];
    figures_add(&line, "step %" PRIu64 "/%" PRIu64, done, console->worker->steps);
    figures_add(&line, "  left %s", duration_text(mean_seconds * (double)left, left_text));
    figures_add(&line, "  loss %.4f", result->loss);
    figures_add(&line, "  %.0f %s/s", work / ((double)result->step_ns / 1e9), tokens ? "tokens" : "samples");
    if (saved >= 0) {
        figures_add(&line, "  saving %.0f %%", 100 * saved);
    }
    if (console->terminal) {
        add_bars(console, result->messages, &line);
    }
    figures_add(&line, "  %.1f ms/step", (double)result->step_ns / 1e6);
    figures_add(&line, "  grad norm %.3f", result->gradient_norm);
    figures_add(&line, "  lr %.2e", result->learning_rate);
    return line;
}

static void print_progress(struct console *console, const struct step_result *result, double saved, uint64_t now_ns)
{
    struct figures line = make_line(console, result, saved);
    close_line(console);
    fprintf(console->file, "%s%s", line.text, console->terminal ? "" : "\n");
    console->line_open = console->terminal;
    console->line_ns = now_ns;
}

static bool line_due(const struct console *console, uint64_t done, uint64_t now_ns)
{
    const struct config *config = console->worker->config;
    if (console->terminal) {
        return now_ns - console->line_ns >= LINE_PERIOD_NS;
    }
    if (done == console->worker->steps) {
        return true;
    }
    if (config->run.log_seconds > 0) {
        return now_ns - uint64_max(console->line_ns, console->steps_ns) >= config->run.log_seconds * SECOND_NS;
    }
    return done % config->run.log_every == 0;
}

static bool plan_due(const struct console *console, const struct sched_share *plan, uint64_t now_ns)
{
    bool news = false;
    for (uint32_t i = 0; i < console->worker->comm->size; i++) {
        news = news || is_news(console, plan, i);
    }
    return news && now_ns - console->plan_ns >= console->worker->config->run.log_seconds * SECOND_NS;
}

void console_step(struct console *console, const struct step_result *result, double saved)
{
    uint64_t done = result->step + 1, now_ns = clock_ns();
    note_shares(console, result->messages);
    note_memory(console, result->messages);
    if (line_due(console, done, now_ns)) {
        print_progress(console, result, saved, now_ns);
    }
    if (done < console->worker->steps && plan_due(console, result->next_plan, now_ns)) {
        print_plan(console, done, result->next_plan, now_ns);
    }
    fflush(console->file);
}

void console_evaluation(struct console *console, uint64_t steps_done, const struct evaluation *evaluation)
{
    close_line(console);
    print_steps_done(console, steps_done);
    fprintf(console->file, "validation loss %.4f, accuracy %.2f %%\n", evaluation->loss, 100 * evaluation->accuracy);
    fflush(console->file);
    note_memory(console, console->worker->messages);
    console->last_evaluation = *evaluation;
    console->evaluated = true;
}

void console_warning(struct console *console, const char *text)
{
    char warning[LINE_FILE_WARNING_MAX];
    if (console != NULL) {
        close_line(console);
        fflush(console->file);
    }
    fprintf(stderr, "headroom: warning: %s\n", printable(text, warning, sizeof(warning)));
}

void console_checkpoint(struct console *console, const struct checkpoint_report *checkpoint)
{
    if (checkpoint->error.status != STATUS_OK) {
        char text[sizeof(checkpoint->error.text) + 64];
        snprintf(text, sizeof(text), "no checkpoint after %" PRIu64 " step%s: %s", checkpoint->step,
                 plural(checkpoint->step), checkpoint->error.text);
        console_warning(console, text);
    }
}

static const char *format_range(const struct range *range, char *buffer, size_t size)
{
    if (range->least == range->most) {
        snprintf(buffer, size, "%" PRIu64, range->most);
    } else {
        snprintf(buffer, size, "%" PRIu64 "..%" PRIu64, range->least, range->most);
    }
    return buffer;
}

static void print_ranks(const struct console *console)
{
    fprintf(console->file, "\n%-5s %12s %14s %14s %12s %12s %8s\n", "rank", "limit", "peak allocated", "peak reserved",
            "share", "micro-batch", "retries");
    for (uint32_t i = 0; i < console->worker->comm->size; i++) {
        const struct rank_summary *rank = &console->ranks[i];
        char limit[MEM_SIZE_TEXT_MAX], allocated[MEM_SIZE_TEXT_MAX], reserved[MEM_SIZE_TEXT_MAX];
        char share[48], micro_batch[48];
        fprintf(console->file, "%-5" PRIu32 " %12s %14s %14s %12s %12s %8" PRIu64 "\n", i,
                mem_size_text(rank->limit_bytes, limit), mem_size_text(rank->allocated_peak_bytes, allocated),
                mem_size_text(rank->reserved_peak_bytes, reserved), format_range(&rank->share, share, sizeof(share)),
                format_range(&rank->micro_batch, micro_batch, sizeof(micro_batch)), rank->oom_retries);
    }
    fputc('\n', console->file);
}

void console_end(struct console *console, const char *folder, const struct record_end *end)
{
    char name[RUN_FOLDER_MAX];
    close_line(console);
    if (console->ranks[0].share.seen) { // a step was done
        print_ranks(console);
    }
    fprintf(console->file, "%.1f seconds", end->seconds);
    if (console->evaluated) {
        fprintf(console->file, ", final validation loss %.4f, accuracy %.2f %%", console->last_evaluation.loss,
                100 * console->last_evaluation.accuracy);
    }
    if (end->status == STATUS_STOPPED) {
        fprintf(console->file,
                ", stopped after %" PRIu64 " of %" PRIu64 " steps as it was told: goes on with "
                "checkpoint.resume=auto",
                end->step, console->worker->steps);
    }
    fprintf(console->file, "\nrun folder: %s\n", printable(folder, name, sizeof(name)));
    fflush(console->file);
}
