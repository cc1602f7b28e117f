// SPDX-License-Identifier: Apache-2.0
//
// headroom export: a checkpoint's weights as files of other programs; and headroom import: the other way round.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "worker/comm/launcher.h"
#include "worker/commands/commands.h"
#include "worker/exchange/weights.h"

static enum status convert(const struct exchange_format *from, const char *source, const struct exchange_format *to,
                           const char *target, struct error *error)
{
    struct weights weights;
    enum status status = from->open(source, &weights, error);
    if (status != STATUS_OK) {
        return status;
    }
    status = to->write(target, &weights, error);
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

static enum status check(const char *name, const char *takes, char *const *arguments, struct error *error)
{
    size_t count = 0;
    while (arguments[count] != NULL && arguments[count][0] != '-') {
        count++;
    }
    if (launcher_started_several()) {
        return error_set(error, STATUS_INVALID, "%s runs without a launcher", name);
    }
    return count == 2 && arguments[2] == NULL
               ? STATUS_OK
               : error_set(error, STATUS_INVALID, "%s takes: %s; see headroom --help", name, takes);
}

int command_export(char *const *arguments)
{
    struct error error = {0};
    if (check("export", "CHECKPOINT DIR, or CHECKPOINT FILE.bin", arguments, &error) != STATUS_OK) {
        return command_misused(&error);
    }
    return command_finish(
        convert(&exchange_checkpoint, arguments[0], format_by_ending(arguments[1]), arguments[1], &error), &error);
}

int command_import(char *const *arguments)
{
    struct error error = {0};
    if (check("import", "SOURCE CHECKPOINT", arguments, &error) != STATUS_OK) {
        return command_misused(&error);
    }
    return command_finish(
        convert(format_by_kind(arguments[0]), arguments[0], &exchange_checkpoint, arguments[1], &error), &error);
}
