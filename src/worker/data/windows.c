// SPDX-License-Identifier: Apache-2.0
#include "worker/data/windows.h"

#include <inttypes.h>
#include <stdlib.h>

#include "worker/data/kinds.h"

struct window_set {
    struct data_set set;
    struct token_files *files;
    uint64_t first_samples[]; // of each file
};

void windows_close(struct data_set *set)
{
    struct window_set *windows = (struct window_set *)set;
    token_files_destroy(windows->files);
    free(windows);
}

static struct window_set *create(const struct data_ops *ops, const struct config *config, struct token_files *files)
{
    struct window_set *windows = malloc(sizeof(*windows) + files->count * sizeof(windows->first_samples[0]));
    if (windows == NULL) {
        return NULL;
    }
    *windows = (struct window_set){
        .set = {.ops = ops, .shape = token_files_shape(files, config)},
        .files = files,
    };
    return windows;
}

static void number_samples(struct window_set *windows)
{
    for (size_t i = 0; i < windows->files->count; i++) {
        uint64_t count = windows->files->file[i].count;
        windows->first_samples[i] = windows->set.samples;
        windows->set.samples += count > 0 ? (count - 1) / windows->set.shape.input_count : 0;
    }
}

static enum status check_samples(const struct window_set *windows, const struct config *config, enum data_split split,
                                 struct error *error)
{
    if (windows->set.samples > 0) {
        return STATUS_OK;
    }
    uint64_t tokens = 0;
    for (size_t i = 0; i < windows->files->count; i++) {
        tokens += windows->files->file[i].count;
    }
    return error_set(error, STATUS_INVALID,
                     "%s: too short: %" PRIu64 " tokens for %s, but a sample takes %" PRIu64 " (model.seq_len and one)",
                     token_files_path(config, split), tokens, data_split_name(split),
                     windows->set.shape.input_count + 1);
}

enum status windows_open(const struct data_ops *ops, const struct config *config, enum data_split split,
                         struct token_files *files, struct data_set **set_p, struct error *error)
{
    if (files == NULL) {
        *set_p = NULL;
        return STATUS_OK;
    }
    struct window_set *windows = create(ops, config, files);
    if (windows == NULL) {
        token_files_destroy(files);
        return error_out_of_host_memory(error);
    }
    number_samples(windows);
    enum status status = check_samples(windows, config, split, error);
    if (status == STATUS_OK) {
        status = token_files_check(files, error);
    }
    if (status != STATUS_OK) {
        windows_close(&windows->set);
        return status;
    }
    *set_p = &windows->set;
    return STATUS_OK;
}

// The file that holds the sample: the last that starts at or before it, for files without samples start where the next
// one does.
static size_t find_file(const struct window_set *windows, uint64_t sample)
{
    size_t low = 0, high = windows->files->count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (windows->first_samples[middle] <= sample) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

enum status windows_read(const struct data_set *set, uint64_t index, void *input, int32_t *targets, struct error *error)
{
    const struct window_set *windows = (const struct window_set *)set;
    size_t number = find_file(windows, index);
    const struct token_file *file = &windows->files->file[number];
    uint64_t length = set->shape.input_count, first = file->first + (index - windows->first_samples[number]) * length;
    return token_file_read_sample(windows->files, file, first, length, input, targets, error);
}
