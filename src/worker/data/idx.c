// SPDX-License-Identifier: Apache-2.0
//
// Images and labels in the IDX format of MNIST: a big-endian header of a magic number, whose third byte 8 stands for
// unsigned bytes and whose last byte counts dimensions, and the size of each dimension; then the bytes. Files may be
// compressed with gzip. The set lives in memory as the files have it.
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "worker/data/kinds.h"

#define DIMENSIONS_MAX    3
#define CHUNK_BYTES       (UINT64_C(1) << 30)
#define FIRST_GUESS_BYTES (UINT64_C(1) << 16)

struct idx_file {
    gzFile stream; // only while it is read
    const char *path;
    uint32_t sizes[DIMENSIONS_MAX]; // the first counts images or labels
    uint32_t dimensions;
    uint64_t bytes; // of values
    uint8_t *values;
};

struct idx_format { // what a file should hold
    const char *noun;
    uint32_t dimensions_min, dimensions_max;
};

static const struct idx_format images_format = {"images", 2, 3};
static const struct idx_format labels_format = {"labels", 1, 1};

struct idx_set {
    struct data_set set;
    uint8_t *images, *labels;
};

static enum status refuse_stream(const struct idx_file *file, struct error *error)
{
    int code, errno_value = errno;
    const char *complaint = gzerror(file->stream, &code); // "<fd:7>: incorrect data check"
    if (code == Z_ERRNO) {
        return data_refuse_file(file->path, errno_value, error);
    }
    if (code == Z_MEM_ERROR) {
        return error_out_of_host_memory(error);
    }
    const char *separator = strstr(complaint, ": ");
    return error_set(error, STATUS_INVALID, "%s%s (the file is damaged)", file->path,
                     separator != NULL ? separator : ": cannot be decompressed");
}

// Reads up to `bytes`; fewer are found only where the file ends.
static enum status read_up_to(const struct idx_file *file, void *to, uint64_t bytes, uint64_t *found_p,
                              struct error *error)
{
    uint64_t found = 0;
    while (found < bytes) {
        uint64_t chunk = bytes - found < CHUNK_BYTES ? bytes - found : CHUNK_BYTES;
        int got = gzread(file->stream, (uint8_t *)to + found, (unsigned)chunk);
        if (got < 0) {
            return refuse_stream(file, error);
        }
        if (got == 0) {
            break;
        }
        found += (uint64_t)got;
    }
    *found_p = found;
    return STATUS_OK;
}

// "60000 images of 28x28"
static void describe(const struct idx_file *file, const struct idx_format *format, char *text, size_t size)
{
    int length = snprintf(text, size, "%" PRIu32 " %s", file->sizes[0], format->noun);
    for (uint32_t i = 1; i < file->dimensions; i++) {
        length += snprintf(text + length, size - (size_t)length, "%s%" PRIu32, i == 1 ? " of " : "x", file->sizes[i]);
    }
}

static enum status check_magic(const struct idx_file *file, uint32_t magic, const struct idx_format *format,
                               struct error *error)
{
    uint32_t low = 0x800 + format->dimensions_min, high = 0x800 + format->dimensions_max;
    if (low <= magic && magic <= high) {
        return STATUS_OK;
    }
    char either[32] = "";
    if (low != high) {
        snprintf(either, sizeof(either), " or 0x%08" PRIx32, low);
    }
    return error_set(error, STATUS_INVALID, "%s: holds no %s: magic number 0x%08" PRIx32 ", expected 0x%08" PRIx32 "%s",
                     file->path, format->noun, magic, high, either);
}

static enum status read_words(const struct idx_file *file, uint32_t *words, size_t count, struct error *error)
{
    uint64_t bytes = count * sizeof(*words), found = 0;
    enum status status = read_up_to(file, words, bytes, &found, error);
    if (status == STATUS_OK && found < bytes) {
        status = error_set(error, STATUS_INVALID, "%s: truncated: the file ends within its header", file->path);
    }
    for (size_t i = 0; i < count && status == STATUS_OK; i++) {
        words[i] = be32toh(words[i]);
    }
    return status;
}

static enum status read_header(struct idx_file *file, const struct idx_format *format, struct error *error)
{
    uint32_t magic;
    enum status status = read_words(file, &magic, 1, error);
    if (status == STATUS_OK) {
        status = check_magic(file, magic, format, error);
    }
    if (status == STATUS_OK) {
        file->dimensions = magic & 0xff;
        status = read_words(file, file->sizes, file->dimensions, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
    bool overflow = false;
    file->bytes = 1;
    for (uint32_t i = 0; i < file->dimensions; i++) {
        overflow |= __builtin_mul_overflow(file->bytes, file->sizes[i], &file->bytes);
    }
    if (overflow || file->bytes == 0) {
        char text[64];
        describe(file, format, text, sizeof(text));
        return error_set(error, STATUS_INVALID, "%s: absurd sizes: header promises %s", file->path, text);
    }
    return STATUS_OK;
}

// Doubles the room for values, up to what the header promises.
static enum status grow(struct idx_file *file, uint64_t *capacity, struct error *error)
{
    uint64_t larger = *capacity > 0 ? 2 * *capacity : FIRST_GUESS_BYTES;
    larger = larger < file->bytes ? larger : file->bytes;
    uint8_t *values = realloc(file->values, larger);
    if (values == NULL) {
        return error_out_of_host_memory(error);
    }
    file->values = values;
    *capacity = larger;
    return STATUS_OK;
}

// Memory follows what the file holds: its header may promise anything.
static enum status read_values(struct idx_file *file, const struct idx_format *format, struct error *error)
{
    uint64_t capacity = 0, found = 0, part = 0;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && found == capacity && found < file->bytes) {
        status = grow(file, &capacity, error);
        if (status == STATUS_OK) {
            status = read_up_to(file, file->values + found, capacity - found, &part, error);
        }
        found += part;
    }
    if (status == STATUS_OK && found < file->bytes) {
        char text[64];
        describe(file, format, text, sizeof(text));
        status = error_set(error, STATUS_INVALID,
                           "%s: truncated: header promises %s (%" PRIu64 " bytes), found %" PRIu64 " bytes", file->path,
                           text, file->bytes, found);
    }
    return status;
}

// Reading on to the end also makes zlib compare its checksum.
static enum status check_end(const struct idx_file *file, const struct idx_format *format, struct error *error)
{
    uint8_t rest[4096];
    uint64_t trailing = 0, found = 0;
    do {
        enum status status = read_up_to(file, rest, sizeof(rest), &found, error);
        if (status != STATUS_OK) {
            return status;
        }
        trailing += found;
    } while (found == sizeof(rest));
    if (trailing == 0) {
        return STATUS_OK;
    }
    char text[64];
    describe(file, format, text, sizeof(text));
    return error_set(error, STATUS_INVALID, "%s: trailing bytes: %" PRIu64 " more after %s (%" PRIu64 " bytes)",
                     file->path, trailing, text, file->bytes);
}

static enum status read_contents(struct idx_file *file, const struct idx_format *format, struct error *error)
{
    enum status status = read_header(file, format, error);
    if (status != STATUS_OK) {
        return status;
    }
    status = read_values(file, format, error);
    return status == STATUS_OK ? check_end(file, format, error) : status;
}

// Fills in all but the path. The caller frees the values, also on failure.
static enum status read_file(struct idx_file *file, const struct idx_format *format, struct error *error)
{
    int opened;
    enum status status = data_open_file(file->path, &opened, NULL, error);
    if (status != STATUS_OK) {
        return status;
    }
    file->stream = gzdopen(opened, "rb");
    if (file->stream == NULL) {
        close(opened);
        return error_out_of_host_memory(error);
    }
    status = read_contents(file, format, error);
    bool complete = gzclose_r(file->stream) == Z_OK;
    if (status == STATUS_OK && !complete) {
        return error_set(error, STATUS_INVALID, "%s: truncated: the compressed data have no end", file->path);
    }
    return status;
}

static enum status check_labels(const struct idx_file *images, const struct idx_file *labels, uint64_t classes,
                                struct error *error)
{
    if (labels->sizes[0] != images->sizes[0]) {
        return error_set(error, STATUS_INVALID, "%s: %" PRIu32 " labels, but %s has %" PRIu32 " images", labels->path,
                         labels->sizes[0], images->path, images->sizes[0]);
    }
    for (uint32_t i = 0; i < labels->sizes[0]; i++) {
        if (labels->values[i] >= classes) {
            return error_set(error, STATUS_INVALID,
                             "%s: label %" PRIu32 " is %d, but model.layers ends with %" PRIu64
                             " classes (labels count from 0)",
                             labels->path, i, labels->values[i], classes);
        }
    }
    return STATUS_OK;
}

// Takes over the values of both files.
static enum status make_set(const struct idx_file *images, const struct idx_file *labels, uint64_t classes,
                            struct data_set **set_p, struct error *error)
{
    assert(images->sizes[0] > 0);
    struct idx_set *idx = malloc(sizeof(*idx));
    if (idx == NULL) {
        return error_out_of_host_memory(error);
    }
    *idx = (struct idx_set){
        .set = {.ops = &data_idx,
                .shape = {.input = DATA_INPUT_FLOAT32,
                          .input_count = images->bytes / images->sizes[0],
                          .target_count = 1,
                          .classes = classes},
                .samples = images->sizes[0]},
        .images = images->values,
        .labels = labels->values,
    };
    *set_p = &idx->set;
    return STATUS_OK;
}

static enum status open_files(const char *images_path, const char *labels_path, uint64_t classes,
                              struct data_set **set_p, struct error *error)
{
    struct idx_file images = {.path = images_path}, labels = {.path = labels_path};
    enum status status = read_file(&images, &images_format, error);
    if (status == STATUS_OK) {
        status = read_file(&labels, &labels_format, error);
    }
    if (status == STATUS_OK) {
        status = check_labels(&images, &labels, classes, error);
    }
    if (status == STATUS_OK) {
        status = make_set(&images, &labels, classes, set_p, error);
    }
    if (status != STATUS_OK) {
        free(labels.values);
        free(images.values);
    }
    return status;
}

static enum status idx_open(const struct config *config, enum data_split split, struct data_set **set_p,
                            struct error *error)
{
    assert(config->model.kind == CONFIG_MODEL_MLP);
    uint64_t classes = config->model.layers[config->model.layers_count - 1];
    if (split == DATA_TRAIN) {
        return open_files(config->data.images, config->data.labels, classes, set_p, error);
    }
    if (config->data.validation_images == NULL) {
        *set_p = NULL;
        return STATUS_OK;
    }
    return open_files(config->data.validation_images, config->data.validation_labels, classes, set_p, error);
}

static void idx_close(struct data_set *set)
{
    struct idx_set *idx = (struct idx_set *)set;
    free(idx->images);
    free(idx->labels);
    free(idx);
}

static enum status idx_read(const struct data_set *set, uint64_t index, void *input, int32_t *targets,
                            struct error *error)
{
    (void)error;
    const struct idx_set *idx = (const struct idx_set *)set;
    uint64_t count = set->shape.input_count;
    const uint8_t *image = idx->images + index * count;
    float *values = input;
    for (uint64_t i = 0; i < count; i++) {
        values[i] = (float)image[i] / 255.0f;
    }
    *targets = idx->labels[index];
    return STATUS_OK;
}

const struct data_ops data_idx = {.name = "idx", .open = idx_open, .close = idx_close, .read = idx_read};
