// SPDX-License-Identifier: Apache-2.0
//
// headroom export: a checkpoint's weights as files of other programs; and headroom import: the other way round.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "worker/commands/commands.h"
#include "worker/exchange/weights.h"
#include "worker/progress.h"

// Weights that are read, and counted.
struct counted {
    const struct weights *weights;
    struct progress progress;
};

static enum status read_counted(void *context, size_t number, uint64_t first, uint64_t count, float *values,
                                struct error *error)
{
    struct counted *counted = context;
    enum status status = counted->weights->read(counted->weights->context, number, first, count, values, error);
    progress_add(&counted->progress, count * sizeof(*values));
    return status;
}

static enum status write_counted(const struct exchange_format *to, const char *target, const struct weights *weights,
                                 struct error *error)
{
    struct counted counted = {.weights = weights};
    struct weights read = *weights;
    read.read = read_counted;
    read.context = &counted;
    progress_begin(&counted.progress, "writing weights", PROGRESS_BYTES, weights->model->weights * sizeof(float), 0);
    enum status status = to->write(target, &read, error);
    progress_end(&counted.progress);
    return status;
}

static enum status convert(const struct exchange_format *from, const char *source, const struct exchange_format *to,
                           const char *target, struct error *error)
{
    struct weights weights;
    enum status status = from->open(source, &weights, error);
    if (status != STATUS_OK) {
        return status;
    }
    status = write_counted(to, target, &weights, error);
    if (status == STATUS_OK) {
        printf("%s: %" PRIu64 " weights\n", target, weights.model->weights);
    }
    weights_close(&weights);
    return status;
}

static const struct exchange_format *format_by_ending(const char *path)
{
    const char *ending = strrchr(path, '.');
    return ending != NULL && strcmp(ending, ".bin") == 0 ? &exchange_llmc : &exchange_huggingface;
}

static const struct exchange_format *format_by_kind(const char *path)
{
    struct stat about;
    return stat(path, &about) == 0 && S_ISDIR(about.st_mode) ? &exchange_huggingface : &exchange_llmc;
}

static enum status run_export(char *const *arguments, struct error *error)
{
    const char *checkpoint = NULL, *target = NULL;
    const struct command_argument takes[] = {{"CHECKPOINT", .text = &checkpoint, .needed = true},
                                             {"DIR or FILE.bin", .text = &target, .needed = true}};
    enum status status = command_parse("export", takes, sizeof(takes) / sizeof(takes[0]), arguments, error);
    return status == STATUS_OK ? convert(&exchange_checkpoint, checkpoint, format_by_ending(target), target, error)
                               : status;
}

static enum status run_import(char *const *arguments, struct error *error)
{
    const char *source = NULL, *checkpoint = NULL;
    const struct command_argument takes[] = {{"DIR or FILE.bin", .text = &source, .needed = true},
                                             {"CHECKPOINT", .text = &checkpoint, .needed = true}};
    enum status status = command_parse("import", takes, sizeof(takes) / sizeof(takes[0]), arguments, error);
    return status == STATUS_OK ? convert(format_by_kind(source), source, &exchange_checkpoint, checkpoint, error)
                               : status;
}

int command_export(char *const *arguments)
{
    struct error error = {0};
    return command_finish(run_export(arguments, &error), &error);
}

int command_import(char *const *arguments)
{
    struct error error = {0};
    return command_finish(run_import(arguments, &error), &error);
}
