// SPDX-License-Identifier: Apache-2.0
//
// A file whose bytes are the tokens, cut into windows; data_lines.c cuts it into lines.
#include "worker/data_kinds.h"
#include "worker/data_windows.h"

static enum status text_open(const struct config *config, enum data_split split, struct data_set **set_p,
                             struct error *error)
{
    const char *path = window_path(config, split);
    if (path == NULL) {
        *set_p = NULL;
        return STATUS_OK;
    }
    struct window_set *windows = window_set_create(&data_text, config, 1, 1);
    if (windows == NULL) {
        return data_out_of_memory(error);
    }
    windows->set.shape.classes = 256;
    enum status status = window_set_open(windows, 0, path, 0, error);
    if (status == STATUS_OK) {
        status = window_set_cut(windows, config, split, error);
    }
    if (status != STATUS_OK) {
        window_set_close(&windows->set);
        return status;
    }
    *set_p = &windows->set;
    return STATUS_OK;
}

const struct data_ops data_text = {
    .name = "text", .open = text_open, .close = window_set_close, .read = window_set_read};
