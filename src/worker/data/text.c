// SPDX-License-Identifier: Apache-2.0
//
// A file whose bytes are the tokens, cut into windows or into lines.
#include "worker/data/kinds.h"
#include "worker/data/pieces.h"
#include "worker/data/windows.h"

static enum status open_file(const struct config *config, enum data_split split, struct token_files **files_p,
                             struct error *error)
{
    const char *path = token_files_path(config, split);
    if (path == NULL) {
        *files_p = NULL;
        return STATUS_OK;
    }
    struct token_files *files = token_files_create(1, 256, 1);
    if (files == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = token_files_open(files, 0, path, 0, error);
    if (status != STATUS_OK) {
        token_files_destroy(files);
        return status;
    }
    token_files_keep(files, config, split);
    *files_p = files;
    return STATUS_OK;
}

static enum status text_open(const struct config *config, enum data_split split, struct data_set **set_p,
                             struct error *error)
{
    struct token_files *files = NULL;
    enum status status = open_file(config, split, &files, error);
    return status == STATUS_OK ? windows_open(&data_text, config, split, files, set_p, error) : status;
}

static enum status lines_open(const struct config *config, enum data_split split, struct data_set **set_p,
                              struct error *error)
{
    const struct passage_rule rule = {.name = "line", .end = '\n', .blank = '\r'};
    struct token_files *files = NULL;
    enum status status = open_file(config, split, &files, error);
    return status == STATUS_OK ? pieces_open(&data_lines, config, split, files, &rule, set_p, error) : status;
}

const struct data_ops data_text = {.name = "text", .open = text_open, .close = windows_close, .read = windows_read};
const struct data_ops data_lines = {
    .name = "text", .open = lines_open, .close = pieces_close, .length = pieces_length, .read = pieces_read};
