// SPDX-License-Identifier: Apache-2.0
//
// A model's file of llm.c (https://github.com/karpathy/llm.c, write_model in train_gpt2.py): a header of 256
// little-endian int32, which begins with the magic number, the version, and the sizes, then the tensors in the order of
// gpt2_tensors, as float32 in version 3 or bfloat16 in version 5. Matrices are [out, in] as ours; the vocabulary is
// padded with zeros.
#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/bfloat16.h"
#include "mem/uint64.h"
#include "worker/exchange/gpt2.h"
#include "worker/exchange/target.h"
#include "worker/exchange/weights.h"
#include "worker/regular_file.h"

#define MAGIC            20240326
#define VERSION_FLOAT32  3
#define VERSION_BFLOAT16 5
#define HEADER_LENGTH    256
#define HEADER_BYTES     (HEADER_LENGTH * sizeof(uint32_t))
#define VOCAB_MULTIPLE   128
#define PIECE            (UINT64_C(1) << 18) // elements

enum { MAGIC_NUMBER, VERSION, SEQ_LEN, VOCAB_SIZE, BLOCKS, HEADS, CHANNELS, PADDED_VOCAB_SIZE };

struct llmc {
    const char *path;
    int descriptor;
    uint32_t header[HEADER_LENGTH];
    const struct model *model;
    uint64_t *first_elements; // of each parameter
};

// Rows of a parameter in the file.
static uint64_t file_rows(const struct parameter *parameter, uint64_t padded_vocab_size)
{
    return gpt2_find(parameter->name) == &gpt2_tensors[0] ? padded_vocab_size : parameter->rows;
}

// The number of the parameter that is at place `place` in the file, for each.
static size_t *file_order(const struct model *model)
{
    size_t *order = calloc(model->parameter_count, sizeof(*order)), place = 0;
    for (size_t i = 0; i < GPT2_TENSORS && order != NULL; i++) {
        for (size_t number = 0; number < model->parameter_count; number++) {
            if (gpt2_find(model->parameters[number].name) == &gpt2_tensors[i]) {
                order[place++] = number;
            }
        }
    }
    return order;
}

// Reading ------------------------------------------------------------------------------------------------------------

static enum status read_bytes(const struct llmc *source, uint64_t offset, uint64_t bytes, void *to, struct error *error)
{
    uint64_t found;
    if (!regular_file_read(source->descriptor, offset, bytes, to, &found)) {
        return regular_file_refuse(source->path, "read", error);
    }
    return found == bytes ? STATUS_OK
                          : error_set(error, STATUS_INVALID, "%s: truncated: it ends after %" PRIu64 " bytes",
                                      source->path, offset + found);
}

static uint64_t element_bytes(const struct llmc *source)
{
    return source->header[VERSION] == VERSION_FLOAT32 ? sizeof(float) : sizeof(uint16_t);
}

static enum status read_header(struct llmc *source, struct error *error)
{
    enum status status = read_bytes(source, 0, HEADER_BYTES, source->header, error);
    for (size_t i = 0; i < HEADER_LENGTH; i++) {
        source->header[i] = le32toh(source->header[i]);
    }
    if (status != STATUS_OK) {
        return status;
    }
    if (source->header[MAGIC_NUMBER] != MAGIC) {
        return error_set(error, STATUS_INVALID,
                         "%s: is no model's file of llm.c: magic number %" PRIu32 ", expected %d", source->path,
                         source->header[MAGIC_NUMBER], MAGIC);
    }
    if (source->header[VERSION] != VERSION_FLOAT32 && source->header[VERSION] != VERSION_BFLOAT16) {
        return error_set(error, STATUS_INVALID,
                         "%s: version %" PRIu32 " of the format; allowed: %d (float32), %d (bfloat16)", source->path,
                         source->header[VERSION], VERSION_FLOAT32, VERSION_BFLOAT16);
    }
    return STATUS_OK;
}

static enum status make_model(const struct llmc *source, struct model **model_p, struct error *error)
{
    static const struct {
        size_t place;
        const char *name;
    } fields[WEIGHTS_SIZES] = {
        [WEIGHTS_VOCAB_SIZE] = {VOCAB_SIZE, "header's vocab_size"},
        [WEIGHTS_SEQ_LEN] = {SEQ_LEN, "header's max_seq_len"},
        [WEIGHTS_BLOCKS] = {BLOCKS, "header's num_layers"},
        [WEIGHTS_HEADS] = {HEADS, "header's num_heads"},
        [WEIGHTS_CHANNELS] = {CHANNELS, "header's channels"},
    };
    struct weights_size sizes[WEIGHTS_SIZES];
    char texts[WEIGHTS_SIZES][16];
    for (size_t i = 0; i < WEIGHTS_SIZES; i++) {
        snprintf(texts[i], sizeof(texts[i]), "%" PRIu32, source->header[fields[i].place]);
        sizes[i] = (struct weights_size){.name = fields[i].name, .text = texts[i]};
    }
    uint32_t vocab_size = source->header[VOCAB_SIZE], padded = source->header[PADDED_VOCAB_SIZE];
    enum status status = weights_make_model(source->path, sizes, model_p, error);
    if (status == STATUS_OK && padded < vocab_size) {
        model_destroy(*model_p);
        return error_set(error, STATUS_INVALID,
                         "%s: header's padded_vocab_size: %" PRIu32 "; allowed: no less than vocab_size, %" PRIu32,
                         source->path, padded, vocab_size);
    }
    return status;
}

static enum status check_bytes(const struct llmc *source, uint64_t bytes, struct error *error)
{
    uint64_t elements = 0, promised;
    for (size_t i = 0; i < source->model->parameter_count; i++) {
        const struct parameter *parameter = &source->model->parameters[i];
        elements += file_rows(parameter, source->header[PADDED_VOCAB_SIZE]) * parameter->columns;
    }
    promised = HEADER_BYTES + elements * element_bytes(source);
    return bytes == promised
               ? STATUS_OK
               : error_set(error, STATUS_INVALID, "%s: %s: the header promises %" PRIu64 " bytes, found %" PRIu64,
                           source->path, bytes < promised ? "truncated" : "trailing bytes", promised, bytes);
}

static enum status place_parameters(struct llmc *source, struct error *error)
{
    const struct model *model = source->model;
    size_t *order = file_order(model);
    source->first_elements = calloc(model->parameter_count, sizeof(*source->first_elements));
    if (order == NULL || source->first_elements == NULL) {
        free(order);
        return error_out_of_host_memory(error);
    }
    uint64_t element = 0;
    for (size_t place = 0; place < model->parameter_count; place++) {
        const struct parameter *parameter = &model->parameters[order[place]];
        source->first_elements[order[place]] = element;
        element += file_rows(parameter, source->header[PADDED_VOCAB_SIZE]) * parameter->columns;
    }
    free(order);
    return STATUS_OK;
}

// Values of two bytes at the end of the buffer that they fill with four bytes each.
static void widen(uint64_t count, float *values)
{
    const char *from = (const char *)values + count * sizeof(uint16_t);
    for (uint64_t i = 0; i < count; i++) {
        uint16_t value;
        memcpy(&value, from + i * sizeof(value), sizeof(value));
        values[i] = bfloat16_to_float(le16toh(value));
    }
}

static enum status read_parameter(void *context, size_t number, uint64_t first, uint64_t count, float *values,
                                  struct error *error)
{
    const struct llmc *source = context;
    uint64_t bytes = element_bytes(source), element = source->first_elements[number] + first;
    char *to = (char *)values + count * (sizeof(float) - bytes);
    enum status status = read_bytes(source, HEADER_BYTES + element * bytes, count * bytes, to, error);
    if (status == STATUS_OK && bytes < sizeof(float)) {
        widen(count, values);
    }
    return status;
}

static void close_source(void *context)
{
    struct llmc *source = context;
    close(source->descriptor);
    free(source->first_elements);
    free(source);
}

// Of a file that was opened.
static enum status open_source(struct llmc *source, uint64_t bytes, struct model **model_p, struct error *error)
{
    enum status status = read_header(source, error);
    if (status == STATUS_OK) {
        status = make_model(source, model_p, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
    source->model = *model_p;
    status = check_bytes(source, bytes, error);
    if (status == STATUS_OK) {
        status = place_parameters(source, error);
    }
    if (status != STATUS_OK) {
        model_destroy(*model_p);
    }
    return status;
}

static enum status open_path(const char *path, struct weights *weights, struct error *error)
{
    struct llmc *source = calloc(1, sizeof(*source));
    uint64_t bytes;
    if (source == NULL) {
        return error_out_of_host_memory(error);
    }
    source->path = path;
    enum status status = regular_file_open(path, &source->descriptor, &bytes, error);
    if (status != STATUS_OK) {
        free(source);
        return status;
    }
    struct model *model;
    status = open_source(source, bytes, &model, error);
    if (status != STATUS_OK) {
        close_source(source);
        return status;
    }
    *weights = (struct weights){
        .model = model, .end_of_text = UINT64_MAX, .read = read_parameter, .context = source, .close = close_source};
    return STATUS_OK;
}

// Writing ------------------------------------------------------------------------------------------------------------

static uint64_t padded_vocab(const struct model *model)
{
    return uint64_round_up(model->config.gpt.vocab_size, VOCAB_MULTIPLE);
}

static enum status write_header(struct hashed_file *file, const struct model *model, struct error *error)
{
    uint32_t header[HEADER_LENGTH] = {
        [MAGIC_NUMBER] = MAGIC,
        [VERSION] = VERSION_FLOAT32,
        [SEQ_LEN] = (uint32_t)model->config.gpt.seq_len,
        [VOCAB_SIZE] = (uint32_t)model->config.gpt.vocab_size,
        [BLOCKS] = (uint32_t)model->config.gpt.blocks,
        [HEADS] = (uint32_t)model->config.gpt.heads,
        [CHANNELS] = (uint32_t)model->config.gpt.channels,
        [PADDED_VOCAB_SIZE] = (uint32_t)padded_vocab(model),
    };
    for (size_t i = 0; i < HEADER_LENGTH; i++) {
        header[i] = htole32(header[i]);
    }
    return hashed_file_write(file, header, sizeof(header), error);
}

static enum status write_parameter(struct hashed_file *file, const struct weights *weights, size_t number, float *piece,
                                   struct error *error)
{
    const struct parameter *parameter = &weights->model->parameters[number];
    uint64_t elements = file_rows(parameter, padded_vocab(weights->model)) * parameter->columns;
    uint64_t used = parameter->rows_used * parameter->columns, count;
    enum status status = STATUS_OK;
    for (uint64_t first = 0; first < elements && status == STATUS_OK; first += count) {
        count = uint64_min(PIECE, (first < used ? used : elements) - first);
        if (first < used) {
            status = weights->read(weights->context, number, first, count, piece, error);
        } else {
            memset(piece, 0, count * sizeof(*piece));
        }
        if (status == STATUS_OK) {
            status = hashed_file_write(file, piece, count * sizeof(*piece), error);
        }
    }
    return status;
}

static enum status write_in_order(struct hashed_file *file, const struct weights *weights, const size_t *order,
                                  struct error *error)
{
    float *piece = malloc(PIECE * sizeof(*piece));
    enum status status = STATUS_OK;
    if (piece == NULL) {
        return error_out_of_host_memory(error);
    }
    for (size_t place = 0; place < weights->model->parameter_count && status == STATUS_OK; place++) {
        status = write_parameter(file, weights, order[place], piece, error);
    }
    free(piece);
    return status;
}

static enum status write_parameters(struct hashed_file *file, const struct weights *weights, struct error *error)
{
    size_t *order = file_order(weights->model);
    if (order == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = write_in_order(file, weights, order, error);
    free(order);
    return status;
}

static enum status write_file(const char *path, const struct weights *weights, struct error *error)
{
    struct hashed_file *file;
    struct file_sum sum;
    enum status status = hashed_file_create(path, &file, error);
    if (status != STATUS_OK) {
        return status;
    }
    status = write_header(file, weights->model, error);
    if (status == STATUS_OK) {
        status = write_parameters(file, weights, error);
    }
    if (status != STATUS_OK) {
        hashed_file_abandon(file);
        return status;
    }
    return hashed_file_finish(file, &sum, error);
}

static enum status write_path(const char *path, const struct weights *weights, struct error *error)
{
    struct target target;
    enum status status = target_begin(path, false, &target, error);
    return status == STATUS_OK ? target_end(&target, write_file(target.part, weights, error), error) : status;
}

const struct exchange_format exchange_llmc = {.open = open_path, .write = write_path};
