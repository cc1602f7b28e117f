// SPDX-License-Identifier: Apache-2.0
//
// Lines of a text, whose bytes are the tokens: data.kind text where data.pack is false.
//
// A line's last token is its newline, which is only ever a target; the file's last line may have none. A line with more
// inputs than model.seq_len is cut into samples side by side: each byte but a line's first is a target once. A line
// without anything but carriage returns is none. A line belongs to the split that its first byte is in.
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "mem/uint64.h"
#include "worker/data_kinds.h"
#include "worker/data_windows.h"

#define CHUNK_BYTES 65536 // of the file that is read from end to end

struct piece {
    uint64_t first; // input, in bytes from the file's begin
    uint64_t length;
};

struct line_set {
    struct data_set set;
    struct token_file file;
    struct piece *pieces; // one is one sample
    uint64_t capacity;
};

static void lines_close(struct data_set *set)
{
    struct line_set *lines = (struct line_set *)set;
    token_file_close(&lines->file);
    free(lines->pieces);
    free(lines);
}

static bool make_room(struct line_set *lines)
{
    if (lines->set.samples < lines->capacity) {
        return true;
    }
    uint64_t capacity = lines->capacity == 0 ? 1024 : 2 * lines->capacity;
    struct piece *pieces = realloc(lines->pieces, capacity * sizeof(*pieces));
    if (pieces == NULL) {
        return false;
    }
    lines->pieces = pieces;
    lines->capacity = capacity;
    return true;
}

// The line's bytes are [first, end).
static bool add_line(struct line_set *lines, uint64_t first, uint64_t end)
{
    uint64_t length_max = lines->set.shape.input_count;
    for (; first + 1 < end; first += length_max) {
        if (!make_room(lines)) {
            return false;
        }
        lines->pieces[lines->set.samples++] =
            (struct piece){.first = first, .length = uint64_min(length_max, end - 1 - first)};
    }
    return true;
}

// Adds the lines that begin in the range.
static enum status find_lines(struct line_set *lines, struct token_range range, struct error *error)
{
    uint8_t bytes[CHUNK_BYTES];
    uint64_t first = 0, size = lines->file.bytes;
    bool made = true, empty = true;
    for (uint64_t at = 0; at < size && first < range.end && made; at++) {
        if (at % CHUNK_BYTES == 0) {
            enum status status = window_file_read(&lines->file, at, uint64_min(CHUNK_BYTES, size - at), bytes, error);
            if (status != STATUS_OK) {
                return status;
            }
        }
        uint8_t byte = bytes[at % CHUNK_BYTES];
        empty = empty && (byte == '\n' || byte == '\r');
        if (byte == '\n' || at + 1 == size) {
            made = empty || first < range.first || add_line(lines, first, at + 1);
            first = at + 1;
            empty = true;
        }
    }
    return made ? STATUS_OK : data_out_of_memory(error);
}

static enum status index_lines(struct line_set *lines, const struct config *config, enum data_split split,
                               struct error *error)
{
    enum status status = token_file_open(&lines->file, window_path(config, split), 0, error);
    if (status == STATUS_OK) {
        status = find_lines(lines, window_range(config, split, lines->file.bytes), error);
    }
    if (status == STATUS_OK && lines->set.samples == 0) {
        return error_set(error, STATUS_INVALID, "%s: no line for %s has anything to predict", lines->file.path,
                         split == DATA_TRAIN ? "training" : "validation");
    }
    return status;
}

static enum status lines_open(const struct config *config, enum data_split split, struct data_set **set_p,
                              struct error *error)
{
    if (window_path(config, split) == NULL) {
        *set_p = NULL;
        return STATUS_OK;
    }
    struct line_set *lines = malloc(sizeof(*lines));
    if (lines == NULL) {
        return data_out_of_memory(error);
    }
    uint64_t length_max = config->model.seq_len;
    *lines = (struct line_set){
        .set = {.ops = &data_lines,
                .shape = {.input = DATA_INPUT_TOKENS,
                          .input_count = length_max,
                          .target_count = length_max,
                          .classes = 256}},
        .file = {.descriptor = -1},
    };
    enum status status = index_lines(lines, config, split, error);
    if (status != STATUS_OK) {
        lines_close(&lines->set);
        return status;
    }
    *set_p = &lines->set;
    return STATUS_OK;
}

static uint64_t lines_length(const struct data_set *set, uint64_t index)
{
    return ((const struct line_set *)set)->pieces[index].length;
}

static enum status lines_read(const struct data_set *set, uint64_t index, void *input, int32_t *targets,
                              struct error *error)
{
    const struct line_set *lines = (const struct line_set *)set;
    const struct piece *piece = &lines->pieces[index];
    uint8_t *raw = (uint8_t *)targets; // length + 1 bytes fit where `length` of four bytes go
    int32_t *tokens = input;
    enum status status = window_file_read(&lines->file, piece->first, piece->length + 1, raw, error);
    if (status != STATUS_OK) {
        return status;
    }
    if (memchr(raw, '\n', piece->length) != NULL) {
        return error_set(error, STATUS_INVALID, "%s: its lines are no longer those that it was opened with",
                         lines->file.path);
    }
    int32_t last = raw[piece->length];
    for (uint64_t t = 0; t < set->shape.input_count; t++) {
        tokens[t] = t < piece->length ? raw[t] : 0;
    }
    memcpy(targets, tokens + 1, (piece->length - 1) * sizeof(*targets));
    targets[piece->length - 1] = last;
    for (uint64_t t = piece->length; t < set->shape.target_count; t++) {
        targets[t] = KERNEL_TARGET_NONE;
    }
    return STATUS_OK;
}

const struct data_ops data_lines = {
    .name = "text", .open = lines_open, .close = lines_close, .length = lines_length, .read = lines_read};
