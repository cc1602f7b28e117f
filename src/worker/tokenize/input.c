// SPDX-License-Identifier: Apache-2.0
#include "worker/tokenize/input.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/uint64.h"
#include "worker/regular_file.h"

struct input {
    char *const *paths;
    size_t count, next; // files, and that to open next
    bool words;
    uint64_t bytes; // of all files
    // of the file that is read
    const char *path;
    int descriptor; // negative: none
    bool lines, begins;
    uint64_t file_bytes, offset, line;
};

// Whether the text ends with white space (Unicode's property), if it is UTF-8.
static bool ends_with_space(const char *text, uint64_t bytes)
{
    static const char wide[][4] = {
        "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81", "\xe2\x80\x82", "\xe2\x80\x83",
        "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86", "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a",
        "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80",
    };
    const char *end = text + bytes;
    if (bytes == 0 || (unsigned char)end[-1] < 0x80) {
        return bytes > 0 && strchr(" \t\n\v\f\r", end[-1]) != NULL && end[-1] != '\0';
    }
    for (size_t i = 0; i < sizeof(wide) / sizeof(wide[0]); i++) {
        size_t length = strlen(wide[i]);
        if (bytes >= length && memcmp(end - length, wide[i], length) == 0) {
            return true;
        }
    }
    return false;
}

// Rules: each answers the last place to cut in; 0: there is none.

static uint64_t cut_words(const char *text, uint64_t bytes)
{
    for (uint64_t place = bytes - 1; place > 0; place--) {
        bool space = (unsigned char)text[place] < 0x80 && ends_with_space(text, place + 1);
        if (space && !ends_with_space(text, place)) {
            return place;
        }
    }
    return 0;
}

static uint64_t cut_lines(const char *text, uint64_t bytes)
{
    const char *newline = memrchr(text, '\n', bytes);
    return newline == NULL ? 0 : (uint64_t)(newline - text) + 1;
}

static uint64_t cut_anywhere(const char *text, uint64_t bytes)
{
    (void)text;
    return bytes;
}

static bool has_suffix(const char *path, const char *suffix)
{
    size_t length = strlen(path), end = strlen(suffix);
    return length >= end && strcmp(path + length - end, suffix) == 0;
}

static void close_file(struct input *input)
{
    if (input->descriptor >= 0) {
        close(input->descriptor);
        input->descriptor = -1;
    }
}

static enum status open_file(struct input *input, const char *path, struct error *error)
{
    enum status status = regular_file_open(path, &input->descriptor, &input->file_bytes, error);
    if (status != STATUS_OK) {
        input->descriptor = -1;
        return status;
    }
    input->path = path;
    input->lines = has_suffix(path, ".jsonl");
    input->begins = !input->lines;
    input->offset = 0;
    input->line = 1;
    return STATUS_OK;
}

enum status input_open(char *const *paths, size_t count, bool words, struct input **input_p, struct error *error)
{
    struct input *input = calloc(1, sizeof(*input));
    if (input == NULL) {
        return error_out_of_host_memory(error);
    }
    *input = (struct input){.paths = paths, .count = count, .words = words, .descriptor = -1};
    for (size_t i = 0; i < count; i++) {
        enum status status = open_file(input, paths[i], error);
        if (status != STATUS_OK) {
            input_close(input);
            return status;
        }
        input->bytes += input->file_bytes;
        close_file(input);
    }
    *input_p = input;
    return STATUS_OK;
}

void input_close(struct input *input)
{
    if (input != NULL) {
        close_file(input);
        free(input);
    }
}

uint64_t input_bytes(const struct input *input)
{
    return input->bytes;
}

// Bytes [found, size) of what comes next in the file.
static enum status read_more(const struct input *input, char *bytes, uint64_t found, uint64_t size, struct error *error)
{
    uint64_t got;
    if (!regular_file_read(input->descriptor, input->offset + found, size - found, bytes + found, &got)) {
        return regular_file_refuse(input->path, "read", error);
    }
    return got == size - found
               ? STATUS_OK
               : error_set(error, STATUS_ERROR, "%s: has become shorter while it was read", input->path);
}

static enum status refuse_endless(const struct input *input, struct error *error)
{
    return input->lines
               ? error_set(error, STATUS_INVALID, "%s:%" PRIu64 ": the line is longer than %" PRIu64 " MiB",
                           input->path, input->line, INPUT_LINE_MAX >> 20)
               : error_set(error, STATUS_INVALID,
                           "%s:%" PRIu64 ": from byte %" PRIu64 " of the file on there is no place to cut in %" PRIu64
                           " MiB: no white space behind anything else",
                           input->path, input->line, input->offset, INPUT_WORD_MAX >> 20);
}

// Reads on until there is a place to cut, or the file ends. The bytes are the caller's, whatever is answered.
static enum status read_chunk(const struct input *input, char **bytes_p, uint64_t *count_p, struct error *error)
{
    uint64_t (*cut)(const char *, uint64_t) = input->lines ? cut_lines : input->words ? cut_words : cut_anywhere;
    const uint64_t most = input->lines ? INPUT_LINE_MAX : INPUT_WORD_MAX;
    const uint64_t left = input->file_bytes - input->offset;
    uint64_t found = 0, place = 0;
    for (uint64_t size = INPUT_CHUNK_BYTES; size <= most && place == 0 && found < left; size *= 2) {
        uint64_t wanted = uint64_min(size, left);
        char *bytes = realloc(*bytes_p, wanted);
        if (bytes == NULL) {
            return error_out_of_host_memory(error);
        }
        *bytes_p = bytes;
        enum status status = read_more(input, bytes, found, wanted, error);
        if (status != STATUS_OK) {
            return status;
        }
        found = wanted;
        place = found == left ? left : cut(bytes, found);
    }
    *count_p = place;
    return place > 0 || left == 0 ? STATUS_OK : refuse_endless(input, error);
}

static uint64_t count_newlines(const char *bytes, uint64_t count)
{
    uint64_t newlines = 0;
    for (uint64_t i = 0; i < count; i++) {
        newlines += bytes[i] == '\n';
    }
    return newlines;
}

// Goes on to a file with something to read, which an empty text has: a document begins there.
static enum status find_file(struct input *input, struct error *error)
{
    enum status status = STATUS_OK;
    while (status == STATUS_OK && (input->descriptor < 0 || (input->offset == input->file_bytes && !input->begins))) {
        close_file(input);
        if (input->next == input->count) {
            return STATUS_OK;
        }
        status = open_file(input, input->paths[input->next++], error);
    }
    return status;
}

enum status input_next(struct input *input, struct input_chunk *chunk_p, struct error *error)
{
    *chunk_p = (struct input_chunk){0};
    enum status status = find_file(input, error);
    if (status != STATUS_OK || input->descriptor < 0) {
        return status;
    }
    uint64_t count = 0;
    char *bytes = malloc(1);
    status = bytes == NULL ? error_out_of_host_memory(error) : read_chunk(input, &bytes, &count, error);
    if (status != STATUS_OK) {
        free(bytes);
        return status;
    }
    *chunk_p = (struct input_chunk){
        .path = input->path,
        .lines = input->lines,
        .begins = input->begins,
        .offset = input->offset,
        .line = input->line,
        .bytes = bytes,
        .count = count,
    };
    input->begins = false;
    input->offset += count;
    input->line += count_newlines(bytes, count);
    return STATUS_OK;
}
