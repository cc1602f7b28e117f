// SPDX-License-Identifier: Apache-2.0
#include "worker/tokenize/encoder.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "worker/tokenize/bpe.h"

#define BYTES_END_OF_TEXT 256

struct encoder {
    uint16_t end_of_text;
    struct bpe *bpe; // NULL: tokens are bytes
};

uint32_t encoder_vocab_size(const struct vocabulary *vocabulary)
{
    return vocabulary == NULL ? BYTES_END_OF_TEXT + 1 : vocabulary_size(vocabulary);
}

uint16_t encoder_end_of_text(const struct vocabulary *vocabulary)
{
    return vocabulary == NULL ? BYTES_END_OF_TEXT : vocabulary_end_of_text(vocabulary);
}

enum status encoder_create(const struct vocabulary *vocabulary, struct encoder **encoder_p, struct error *error)
{
    struct encoder *encoder = calloc(1, sizeof(*encoder));
    if (encoder == NULL) {
        return error_out_of_host_memory(error);
    }
    encoder->end_of_text = encoder_end_of_text(vocabulary);
    enum status status = vocabulary == NULL ? STATUS_OK : bpe_create(vocabulary, &encoder->bpe, error);
    if (status != STATUS_OK) {
        free(encoder);
        return status;
    }
    *encoder_p = encoder;
    return STATUS_OK;
}

void encoder_destroy(struct encoder *encoder)
{
    if (encoder != NULL) {
        bpe_destroy(encoder->bpe);
        free(encoder);
    }
}

static void begin_document(const struct encoder *encoder, struct encoded *encoded)
{
    encoded->tokens[encoded->count++] = encoder->end_of_text;
    encoded->documents++;
}

static enum status refuse_text(const struct input_chunk *chunk, size_t place, struct error *error)
{
    uint64_t line = chunk->line;
    for (size_t i = 0; i < place; i++) {
        line += chunk->bytes[i] == '\n';
    }
    return error_set(error, STATUS_INVALID, "%s:%" PRIu64 ": byte %" PRIu64 " of the file, counted from 0, is no UTF-8",
                     chunk->path, line, chunk->offset + place);
}

// STATUS_INVALID: byte *wrong_p is no UTF-8.
static enum status encode(const struct encoder *encoder, const char *text, size_t bytes, struct encoded *encoded,
                          size_t *wrong_p)
{
    uint16_t *tokens = encoded->tokens + encoded->count;
    size_t count = bytes;
    if (encoder->bpe == NULL) {
        for (size_t i = 0; i < bytes; i++) {
            tokens[i] = (uint8_t)text[i];
        }
    } else {
        enum status status = bpe_encode(encoder->bpe, text, bytes, tokens, &count);
        if (status != STATUS_OK) {
            *wrong_p = count;
            return status;
        }
    }
    encoded->count += count;
    return STATUS_OK;
}

// Lines of JSON -------------------------------------------------------------------------------------------------------

struct line {
    const char *text;
    size_t bytes;
    uint64_t number;
};

static bool is_blank(const struct line *line)
{
    bool blank = true;
    for (size_t i = 0; i < line->bytes && blank; i++) {
        blank = line->text[i] == ' ' || line->text[i] == '\t' || line->text[i] == '\r';
    }
    return blank;
}

static enum status encode_object(const struct encoder *encoder, const char *path, const struct line *line,
                                 const json_t *object, struct encoded *encoded, struct error *error)
{
    const json_t *text = json_object_get(object, "text");
    size_t wrong;
    if (!json_is_string(text)) {
        return error_set(error, STATUS_INVALID, "%s:%" PRIu64 ": is no object with a field \"text\" that is a string",
                         path, line->number);
    }
    begin_document(encoder, encoded);
    enum status status = encode(encoder, json_string_value(text), json_string_length(text), encoded, &wrong);
    return status == STATUS_OK ? STATUS_OK : error_out_of_host_memory(error); // jansson has checked that it is UTF-8
}

static enum status encode_line(const struct encoder *encoder, const char *path, const struct line *line,
                               struct encoded *encoded, struct error *error)
{
    json_error_t fault;
    json_t *object =
        json_loadb(line->text, line->bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &fault);
    if (object == NULL) {
        return json_error_code(&fault) == json_error_out_of_memory
                   ? error_out_of_host_memory(error)
                   : error_set(error, STATUS_INVALID, "%s:%" PRIu64 ":%d: %s", path, line->number, fault.column,
                               fault.text);
    }
    enum status status = encode_object(encoder, path, line, object, encoded, error);
    json_decref(object);
    return status;
}

static enum status encode_lines(const struct encoder *encoder, const struct input_chunk *chunk, struct encoded *encoded,
                                struct error *error)
{
    const char *end = chunk->bytes + chunk->count;
    struct line line = {.text = chunk->bytes, .number = chunk->line};
    enum status status = STATUS_OK;
    for (; line.text < end && status == STATUS_OK; line.number++) {
        const char *newline = memchr(line.text, '\n', (size_t)(end - line.text));
        line.bytes = (size_t)((newline == NULL ? end : newline) - line.text);
        status = is_blank(&line) ? STATUS_OK : encode_line(encoder, chunk->path, &line, encoded, error);
        line.text += line.bytes + 1;
    }
    return status;
}

static enum status encode_part(const struct encoder *encoder, const struct input_chunk *chunk, struct encoded *encoded,
                               struct error *error)
{
    size_t wrong;
    if (chunk->begins) {
        begin_document(encoder, encoded);
    }
    enum status status = encode(encoder, chunk->bytes, chunk->count, encoded, &wrong);
    if (status == STATUS_INVALID) {
        return refuse_text(chunk, wrong, error);
    }
    return status == STATUS_OK ? STATUS_OK : error_out_of_host_memory(error);
}

enum status encoder_run(struct encoder *encoder, const struct input_chunk *chunk, struct encoded *encoded_p,
                        struct error *error)
{
    // No token has less than a byte, and a line of JSON has more of them than its document, with what stands before it.
    struct encoded encoded = {.tokens = malloc((chunk->count + 1) * sizeof(*encoded.tokens))};
    if (encoded.tokens == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = (chunk->lines ? encode_lines : encode_part)(encoder, chunk, &encoded, error);
    if (status != STATUS_OK) {
        free(encoded.tokens);
        return status;
    }
    *encoded_p = encoded;
    return STATUS_OK;
}
