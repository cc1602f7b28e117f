// SPDX-License-Identifier: Apache-2.0
//
// headroom limit: tells ranks of a run that is under way how much they may hold, by files that they look at.
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mem/pool.h"
#include "mem/whole_file.h"
#include "worker/commands/commands.h"
#include "worker/config/value.h"
#include "worker/run/history.h"
#include "worker/run/limit_file.h"

// As a person wrote it; NULL: not given.
struct request {
    const char *folder, *rank, *bytes;
};

struct limit {
    const char *folder;
    uint64_t bytes;       // 0: none
    uint32_t first, last; // ranks
};

static enum status parse(char *const *arguments, struct request *request, struct error *error)
{
    const struct command_argument takes[] = {
        {"RUN_DIR", .text = &request->folder, .needed = true},
        {"--rank", .text = &request->rank},
        {"--bytes", .text = &request->bytes, .needed = true},
    };
    return command_parse("limit", takes, sizeof(takes) / sizeof(takes[0]), arguments, error);
}

static enum status scan_ranks(const struct request *request, struct limit *limit, struct error *error)
{
    uint32_t ranks;
    enum status status = run_folder_ranks(request->folder, &ranks, error);
    if (status != STATUS_OK) {
        return status;
    }
    limit->last = ranks - 1;
    if (request->rank == NULL) {
        return STATUS_OK;
    }
    char last[16];
    uint64_t rank = 0;
    snprintf(last, sizeof(last), "%" PRIu32, limit->last);
    const struct config_key key = {.type = CONFIG_TYPE_COUNT, .min = "0", .max = last};
    status = command_scan("--rank", &key, request->rank, &rank, error);
    limit->first = limit->last = (uint32_t)rank;
    return status;
}

static enum status read_request(char *const *arguments, struct limit *limit, struct error *error)
{
    struct request request = {0};
    enum status status = parse(arguments, &request, error);
    if (status == STATUS_OK) {
        status = command_scan("--bytes", &limit_file_key, request.bytes, &limit->bytes, error);
    }
    limit->folder = request.folder;
    return status == STATUS_OK ? scan_ranks(&request, limit, error) : status;
}

static enum status make_folder(const struct limit *limit, struct error *error)
{
    char path[LIMIT_FILE_PATH_MAX];
    snprintf(path, sizeof(path), "%s/" LIMIT_FILE_FOLDER, limit->folder);
    if (limit->bytes != 0 && mkdir(path, 0777) != 0 && errno != EEXIST) {
        return error_set(error, STATUS_ERROR, "%s: cannot make this folder: %s", path, strerror(errno));
    }
    return STATUS_OK;
}

static bool put_size(FILE *file, const void *bytes)
{
    config_value_print(&limit_file_key, bytes, file);
    fputc('\n', file);
    return true;
}

static bool put_file(const char *path, uint64_t bytes)
{
    return bytes == 0 ? unlink(path) == 0 || errno == ENOENT : whole_file_write(path, put_size, &bytes);
}

static enum status put_files(const struct limit *limit, struct error *error)
{
    for (uint32_t rank = limit->first; rank <= limit->last; rank++) {
        char path[LIMIT_FILE_PATH_MAX];
        limit_file_name(limit->folder, rank, path);
        if (!put_file(path, limit->bytes)) {
            return error_set(error, STATUS_ERROR, "%s: cannot %s: %s", path, limit->bytes == 0 ? "remove" : "write",
                             strerror(errno));
        }
    }
    return STATUS_OK;
}

// By its last line; of a run that was killed it is not known.
static bool has_ended(const char *folder)
{
    struct history *history = NULL;
    struct history_line line = {.kind = HISTORY_OTHER};
    bool ended = false;
    enum status status = history_open(folder, &history, NULL);
    while (status == STATUS_OK && line.kind != HISTORY_NOTHING) {
        ended = line.kind == HISTORY_END;
        status = history_next(history, &line, NULL);
    }
    history_close(history);
    return ended;
}

static void print_outcome(const struct limit *limit)
{
    const char *when = has_ended(limit->folder) ? "once the run, which has ended, goes on" : "from its next report on";
    char size[MEM_SIZE_TEXT_MAX], most[MEM_SIZE_TEXT_MAX + 16] = "all that its device leaves";
    if (limit->bytes > 0) {
        snprintf(most, sizeof(most), "at most %s", mem_size_text(limit->bytes, size));
    }
    if (limit->first == limit->last) {
        printf("rank %" PRIu32 " counts on %s %s\n", limit->first, most, when);
    } else {
        printf("each of ranks %" PRIu32 " to %" PRIu32 " counts on %s %s\n", limit->first, limit->last, most, when);
    }
}

static enum status set_limit(char *const *arguments, struct error *error)
{
    struct limit limit = {0};
    enum status status = read_request(arguments, &limit, error);
    if (status == STATUS_OK) {
        status = make_folder(&limit, error);
    }
    if (status == STATUS_OK) {
        status = put_files(&limit, error);
    }
    if (status == STATUS_OK) {
        print_outcome(&limit);
    }
    return status;
}

int command_limit(char *const *arguments)
{
    struct error error = {0};
    return command_finish(set_limit(arguments, &error), &error);
}
