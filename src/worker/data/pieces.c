// SPDX-License-Identifier: Apache-2.0
#include "worker/data/pieces.h"

#include <inttypes.h>
#include <stdlib.h>

#include "kernels/kernels.h"
#include "mem/uint64.h"
#include "worker/data/kinds.h"

struct piece {
    uint64_t first; // input, in tokens from the header's end
    uint32_t length;
    uint32_t file;
};

struct piece_set {
    struct data_set set;
    struct token_files *files;
    struct passage_rule rule;
    uint64_t end_tokens;  // found
    struct piece *pieces; // one is one sample
    uint64_t capacity;
};

void pieces_close(struct data_set *set)
{
    struct piece_set *pieces = (struct piece_set *)set;
    token_files_destroy(pieces->files);
    free(pieces->pieces);
    free(pieces);
}

static bool make_room(struct piece_set *set)
{
    if (set->set.samples < set->capacity) {
        return true;
    }
    uint64_t capacity = set->capacity == 0 ? 1024 : 2 * set->capacity;
    struct piece *pieces = realloc(set->pieces, capacity * sizeof(*pieces));
    if (pieces == NULL) {
        return false;
    }
    set->pieces = pieces;
    set->capacity = capacity;
    return true;
}

// The passage's tokens are [first, end), its end token included.
static bool add_passage(struct piece_set *set, uint32_t file, uint64_t first, uint64_t end)
{
    uint64_t length_max = set->set.shape.input_count;
    for (; first + 1 < end; first += length_max) {
        if (!make_room(set)) {
            return false;
        }
        set->pieces[set->set.samples++] =
            (struct piece){.first = first, .length = (uint32_t)uint64_min(length_max, end - 1 - first), .file = file};
    }
    return true;
}

// Adds the passages that begin in what the file has of the split. The token before it tells whether one begins there.
static enum status find_passages(struct piece_set *set, uint32_t number, struct error *error)
{
    uint8_t raw[CHUNK_BYTES];
    const struct token_files *files = set->files;
    const struct token_file *file = &files->file[number];
    const int32_t end = set->rule.end, blank = set->rule.blank;
    const uint64_t size = token_file_size(files, file), split_end = file->first + file->count;
    uint64_t begin = file->first > 0 ? file->first - 1 : 0, first = begin;
    bool made = true, empty = true;
    for (uint64_t at = begin; at < size && first < split_end && made; at++) {
        uint64_t place = (at - begin) % CHUNK_TOKENS;
        if (place == 0) {
            enum status status = token_file_read(files, file, at, uint64_min(CHUNK_TOKENS, size - at), raw, error);
            if (status != STATUS_OK) {
                return status;
            }
        }
        int32_t token = (int32_t)token_at(files, raw, place);
        empty = empty && (token == end || token == blank);
        if (token == end || at + 1 == size) {
            made = empty || first < file->first || add_passage(set, number, first, at + 1);
            set->end_tokens += token == end;
            first = at + 1;
            empty = true;
        }
    }
    return made ? STATUS_OK : error_out_of_host_memory(error);
}

static enum status check_passages(const struct piece_set *set, const struct config *config, enum data_split split,
                                  struct error *error)
{
    const char *path = token_files_path(config, split), *use = data_split_name(split);
    if (set->set.samples == 0) {
        return error_set(error, STATUS_INVALID, "%s: no %s for %s has anything to predict", path, set->rule.name, use);
    }
    if (set->end_tokens == 0 && set->rule.endless != NULL) {
        return error_set(error, STATUS_INVALID, "%s: no token for %s is %" PRId32 ": %s", path, use, set->rule.end,
                         set->rule.endless);
    }
    return STATUS_OK;
}

static enum status index_passages(struct piece_set *set, const struct config *config, enum data_split split,
                                  struct error *error)
{
    enum status status = STATUS_OK;
    for (size_t i = 0; i < set->files->count && status == STATUS_OK; i++) {
        status = find_passages(set, (uint32_t)i, error);
    }
    return status == STATUS_OK ? check_passages(set, config, split, error) : status;
}

enum status pieces_open(const struct data_ops *ops, const struct config *config, enum data_split split,
                        struct token_files *files, const struct passage_rule *rule, struct data_set **set_p,
                        struct error *error)
{
    if (files == NULL) {
        *set_p = NULL;
        return STATUS_OK;
    }
    struct piece_set *pieces = malloc(sizeof(*pieces));
    if (pieces == NULL) {
        token_files_destroy(files);
        return error_out_of_host_memory(error);
    }
    *pieces = (struct piece_set){
        .set = {.ops = ops, .shape = token_files_shape(files, config)},
        .files = files,
        .rule = *rule,
    };
    enum status status = index_passages(pieces, config, split, error);
    if (status != STATUS_OK) {
        pieces_close(&pieces->set);
        return status;
    }
    *set_p = &pieces->set;
    return STATUS_OK;
}

uint64_t pieces_length(const struct data_set *set, uint64_t index)
{
    return ((const struct piece_set *)set)->pieces[index].length;
}

// An end token among the inputs was not there when the passages were found.
static enum status check_unchanged(const struct piece_set *set, const struct piece *piece, const int32_t *tokens,
                                   struct error *error)
{
    for (uint64_t t = 0; t < piece->length; t++) {
        if (tokens[t] == set->rule.end) {
            return error_set(error, STATUS_INVALID, "%s: its %ss are no longer those that it was opened with",
                             set->files->file[piece->file].path, set->rule.name);
        }
    }
    return STATUS_OK;
}

enum status pieces_read(const struct data_set *set, uint64_t index, void *input, int32_t *targets, struct error *error)
{
    const struct piece_set *pieces = (const struct piece_set *)set;
    const struct piece *piece = &pieces->pieces[index];
    const struct token_file *file = &pieces->files->file[piece->file];
    int32_t *tokens = input;
    enum status status =
        token_file_read_sample(pieces->files, file, piece->first, piece->length, tokens, targets, error);
    if (status == STATUS_OK) {
        status = check_unchanged(pieces, piece, tokens, error);
    }
    for (uint64_t t = piece->length; t < set->shape.input_count && status == STATUS_OK; t++) {
        tokens[t] = 0;
        targets[t] = KERNEL_TARGET_NONE;
    }
    return status;
}
