// SPDX-License-Identifier: Apache-2.0
#include "worker/tokenize/vocabulary.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/random.h"
#include "worker/regular_file.h"

#define TOKENS_MAX     65536 // a shard's tokens are uint16
#define FILE_BYTES_MAX (64 << 20)
#define SLOTS          (1 << 17) // twice as many as there can be merges
#define BYTES          256
#define CHARACTERS     (BYTES + 68) // that stand for bytes: 68 of these are not printable

static const char end_of_text[] = "<|endoftext|>";

struct token {
    uint32_t first, bytes; // of vocabulary.bytes; 0 bytes: the number is no token's
};

struct slot {
    uint16_t left, right, rank; // VOCABULARY_NO_RANK: the slot is free
};

struct vocabulary {
    uint32_t size;
    uint16_t end_of_text;
    uint16_t of_byte[BYTES];
    uint16_t merged[TOKENS_MAX]; // by rank
    struct token tokens[TOKENS_MAX];
    struct slot slots[SLOTS]; // open addressing
    uint8_t *bytes;           // of all tokens, one after the other
};

// Both files while they are read.
struct reading {
    struct vocabulary *vocabulary;
    const char *encoder_path, *merges_path;
    json_t *encoder;
    uint32_t bytes_used, merges;
    int16_t byte_of[CHARACTERS]; // by code point; negative: none
    bool made[TOKENS_MAX];       // a byte, or what a line of merges makes
};

uint32_t vocabulary_size(const struct vocabulary *vocabulary)
{
    return vocabulary->size;
}

uint16_t vocabulary_end_of_text(const struct vocabulary *vocabulary)
{
    return vocabulary->end_of_text;
}

uint16_t vocabulary_byte(const struct vocabulary *vocabulary, uint8_t byte)
{
    return vocabulary->of_byte[byte];
}

uint16_t vocabulary_merged(const struct vocabulary *vocabulary, uint16_t rank)
{
    return vocabulary->merged[rank];
}

const uint8_t *vocabulary_text(const struct vocabulary *vocabulary, uint32_t token, size_t *bytes_p)
{
    if (token >= vocabulary->size || vocabulary->tokens[token].bytes == 0) {
        return NULL;
    }
    *bytes_p = vocabulary->tokens[token].bytes;
    return vocabulary->bytes + vocabulary->tokens[token].first;
}

// The pair's slot, or the free one where it belongs.
static size_t find_slot(const struct vocabulary *vocabulary, uint16_t left, uint16_t right)
{
    size_t place = random_mix((uint64_t)left << 16 | right) % SLOTS;
    const struct slot *slot = &vocabulary->slots[place];
    while (slot->rank != VOCABULARY_NO_RANK && (slot->left != left || slot->right != right)) {
        place = (place + 1) % SLOTS;
        slot = &vocabulary->slots[place];
    }
    return place;
}

uint16_t vocabulary_rank(const struct vocabulary *vocabulary, uint16_t left, uint16_t right)
{
    return vocabulary->slots[find_slot(vocabulary, left, right)].rank;
}

// The whole file, for the caller to free.
static enum status read_file(const char *path, char **text_p, size_t *bytes_p, struct error *error)
{
    int descriptor;
    uint64_t bytes, found = 0;
    enum status status = regular_file_open(path, &descriptor, &bytes, error);
    if (status != STATUS_OK) {
        return status;
    }
    char *text = bytes <= FILE_BYTES_MAX ? malloc(bytes + 1) : NULL;
    if (bytes > FILE_BYTES_MAX) {
        status = error_set(error, STATUS_INVALID, "%s: is too large for a vocabulary", path);
    } else if (text == NULL) {
        status = error_out_of_host_memory(error);
    } else if (!regular_file_read(descriptor, 0, bytes, text, &found)) {
        status = regular_file_refuse(path, "read", error);
    }
    close(descriptor);
    if (status != STATUS_OK) {
        free(text);
        return status;
    }
    *text_p = text;
    *bytes_p = found;
    return STATUS_OK;
}

// encoder.json --------------------------------------------------------------------------------------------------------

static bool is_printable(unsigned byte)
{
    return (byte > ' ' && byte <= '~') || (byte > 0xa0 && byte != 0xad);
}

static void map_characters(int16_t byte_of[CHARACTERS])
{
    unsigned next = BYTES;
    memset(byte_of, -1, CHARACTERS * sizeof(*byte_of));
    for (unsigned byte = 0; byte < BYTES; byte++) {
        byte_of[is_printable(byte) ? byte : next++] = (int16_t)byte;
    }
}

// The byte that the character at *text_p stands for, and the place behind it. Negative where it stands for none.
static int read_byte(const struct reading *reading, const char **text_p)
{
    const unsigned char *text = (const unsigned char *)*text_p;
    unsigned character = text[0];
    if (character >= 0x80) { // jansson has checked that it is UTF-8; those that matter take two bytes
        character = (character & 0xe0) == 0xc0 ? (character & 0x1f) << 6 | (text[1] & 0x3f) : CHARACTERS;
    }
    *text_p += text[0] >= 0x80 ? 2 : 1;
    return character < CHARACTERS ? reading->byte_of[character] : -1;
}

static enum status add_token(struct reading *reading, const char *name, const json_t *value, struct error *error)
{
    struct vocabulary *vocabulary = reading->vocabulary;
    const char *path = reading->encoder_path;
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : -1;
    if (number < 0 || number >= TOKENS_MAX) {
        return error_set(error, STATUS_INVALID, "%s: '%s': its number must be one from 0 to %d", path, name,
                         TOKENS_MAX - 1);
    }
    struct token *token = &vocabulary->tokens[number];
    if (token->bytes > 0) {
        return error_set(error, STATUS_INVALID, "%s: '%s': another token has the number %d too", path, name,
                         (int)number);
    }
    token->first = reading->bytes_used;
    for (const char *next = name; *next != '\0';) {
        int byte = read_byte(reading, &next);
        if (byte < 0) {
            return error_set(error, STATUS_INVALID, "%s: '%s': has a character that stands for no byte", path, name);
        }
        vocabulary->bytes[reading->bytes_used++] = (uint8_t)byte;
    }
    token->bytes = reading->bytes_used - token->first;
    if (token->bytes == 0) {
        return error_set(error, STATUS_INVALID, "%s: the token with the number %d is empty", path, (int)number);
    }
    if (token->bytes == 1) {
        vocabulary->of_byte[vocabulary->bytes[token->first]] = (uint16_t)number;
        reading->made[number] = true;
    }
    vocabulary->size = (uint32_t)number >= vocabulary->size ? (uint32_t)number + 1 : vocabulary->size;
    return STATUS_OK;
}

static enum status check_tokens(struct reading *reading, struct error *error)
{
    struct vocabulary *vocabulary = reading->vocabulary;
    for (unsigned byte = 0; byte < BYTES; byte++) {
        const struct token *token = &vocabulary->tokens[vocabulary->of_byte[byte]];
        if (token->bytes != 1 || vocabulary->bytes[token->first] != byte) {
            return error_set(error, STATUS_INVALID, "%s: no token is the byte %u", reading->encoder_path, byte);
        }
    }
    const json_t *end = json_object_get(reading->encoder, end_of_text);
    if (end == NULL) {
        return error_set(error, STATUS_INVALID, "%s: has no token %s", reading->encoder_path, end_of_text);
    }
    vocabulary->end_of_text = (uint16_t)json_integer_value(end);
    return STATUS_OK;
}

static enum status add_tokens(struct reading *reading, struct error *error)
{
    const char *name;
    json_t *number;
    enum status status = STATUS_OK;
    json_object_foreach(reading->encoder, name, number)
    {
        status = status == STATUS_OK ? add_token(reading, name, number, error) : status;
    }
    return status == STATUS_OK ? check_tokens(reading, error) : status;
}

static enum status parse_encoder(struct reading *reading, const char *text, size_t bytes, struct error *error)
{
    json_error_t fault;
    const char *path = reading->encoder_path;
    reading->encoder = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &fault);
    if (reading->encoder == NULL) {
        return error_set(error, STATUS_INVALID, "%s:%d:%d: %s", path, fault.line, fault.column, fault.text);
    }
    if (!json_is_object(reading->encoder)) {
        return error_set(error, STATUS_INVALID, "%s: is no object of tokens and their numbers", path);
    }
    reading->vocabulary->bytes = malloc(bytes); // the file has more than its tokens
    return reading->vocabulary->bytes == NULL ? error_out_of_host_memory(error) : add_tokens(reading, error);
}

// vocab.bpe -----------------------------------------------------------------------------------------------------------

struct word {
    const char *text;
    size_t bytes;
};

static enum status refuse_merge(const struct reading *reading, size_t line, struct word word, const char *what,
                                struct error *error)
{
    return error_set(error, STATUS_INVALID, "%s:%zu: '%.*s' %s", reading->merges_path, line, (int)word.bytes, word.text,
                     what);
}

static const json_t *find_token(const struct reading *reading, struct word word)
{
    return json_object_getn(reading->encoder, word.text, word.bytes);
}

static enum status find_part(const struct reading *reading, size_t line, struct word word, uint16_t *token_p,
                             struct error *error)
{
    const json_t *token = find_token(reading, word);
    if (token == NULL) {
        return refuse_merge(reading, line, word, "is no token of the vocabulary", error);
    }
    *token_p = (uint16_t)json_integer_value(token);
    return reading->made[*token_p] ? STATUS_OK
                                   : refuse_merge(reading, line, word, "is not made by a line before", error);
}

static enum status find_whole(const struct reading *reading, size_t line, struct word left, struct word right,
                              uint16_t *token_p, struct error *error)
{
    char *text = malloc(left.bytes + right.bytes);
    if (text == NULL) {
        return error_out_of_host_memory(error);
    }
    memcpy(text, left.text, left.bytes);
    memcpy(text + left.bytes, right.text, right.bytes);
    struct word whole = {text, left.bytes + right.bytes};
    const json_t *token = find_token(reading, whole);
    *token_p = (uint16_t)json_integer_value(token);
    enum status status = STATUS_OK;
    if (token == NULL) {
        status = refuse_merge(reading, line, whole, "is no token of the vocabulary", error);
    } else if (reading->made[*token_p]) {
        status = refuse_merge(reading, line, whole, "is made by a line before, too", error);
    }
    free(text);
    return status;
}

static enum status add_merge(struct reading *reading, size_t line, struct word left, struct word right,
                             struct error *error)
{
    struct vocabulary *vocabulary = reading->vocabulary;
    uint16_t first = 0, second = 0, whole = 0;
    enum status status = find_part(reading, line, left, &first, error);
    if (status == STATUS_OK) {
        status = find_part(reading, line, right, &second, error);
    }
    if (status == STATUS_OK) {
        status = find_whole(reading, line, left, right, &whole, error);
    }
    if (status == STATUS_OK) {
        reading->made[whole] = true;
        vocabulary->merged[reading->merges] = whole;
        vocabulary->slots[find_slot(vocabulary, first, second)] =
            (struct slot){.left = first, .right = second, .rank = (uint16_t)reading->merges++};
    }
    return status;
}

static enum status parse_merge(struct reading *reading, size_t line, struct word text, struct error *error)
{
    const char *end = text.text + text.bytes, *space = memchr(text.text, ' ', text.bytes);
    if (space == NULL || space == text.text || space + 1 == end ||
        memchr(space + 1, ' ', (size_t)(end - space) - 1) != NULL) {
        return refuse_merge(reading, line, text, "is not two tokens with one space between them", error);
    }
    struct word left = {text.text, (size_t)(space - text.text)}, right = {space + 1, (size_t)(end - space) - 1};
    return add_merge(reading, line, left, right, error);
}

static enum status parse_merges(struct reading *reading, const char *text, size_t bytes, struct error *error)
{
    static const char version[] = "#version";
    const char *end = text + bytes;
    enum status status = STATUS_OK;
    for (size_t line = 1; text < end && status == STATUS_OK; line++) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const char *line_end = newline == NULL ? end : newline;
        struct word words = {text, (size_t)(line_end - text)};
        if (line > 1 || words.bytes < strlen(version) || memcmp(text, version, strlen(version)) != 0) {
            status = parse_merge(reading, line, words, error);
        }
        text = line_end + 1;
    }
    return status;
}

static enum status parse_file(struct reading *reading, const char *path,
                              enum status (*parse)(struct reading *, const char *, size_t, struct error *),
                              struct error *error)
{
    char *text;
    size_t bytes;
    enum status status = read_file(path, &text, &bytes, error);
    if (status == STATUS_OK) {
        status = parse(reading, text, bytes, error);
        free(text);
    }
    return status;
}

enum status vocabulary_read(const char *encoder_path, const char *merges_path, struct vocabulary **vocabulary_p,
                            struct error *error)
{
    struct reading *reading = calloc(1, sizeof(*reading));
    struct vocabulary *vocabulary = calloc(1, sizeof(*vocabulary));
    if (reading == NULL || vocabulary == NULL) {
        free(reading);
        free(vocabulary);
        return error_out_of_host_memory(error);
    }
    for (size_t i = 0; i < SLOTS; i++) {
        vocabulary->slots[i].rank = VOCABULARY_NO_RANK;
    }
    reading->vocabulary = vocabulary;
    reading->encoder_path = encoder_path;
    reading->merges_path = merges_path;
    map_characters(reading->byte_of);
    enum status status = parse_file(reading, encoder_path, parse_encoder, error);
    if (status == STATUS_OK) {
        status = parse_file(reading, merges_path, parse_merges, error);
    }
    json_decref(reading->encoder);
    free(reading);
    if (status != STATUS_OK) {
        vocabulary_destroy(vocabulary);
        return status;
    }
    *vocabulary_p = vocabulary;
    return STATUS_OK;
}

void vocabulary_destroy(struct vocabulary *vocabulary)
{
    if (vocabulary != NULL) {
        free(vocabulary->bytes);
        free(vocabulary);
    }
}
