// SPDX-License-Identifier: Apache-2.0
//
// NumPy's .npy files (numpy.lib.format, versions 1 to 3): a magic string, the header's length, the header, a Python
// dictionary in text, and the values in C order. One file holds the inputs, an array of two or more dimensions of
// float32, float64 or uint8 (which counts in 255ths), the other the labels, one integer for each. Inputs are read when
// they are asked for, so a set may be larger than memory; labels are kept.
#include <assert.h>
#include <endian.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/data/files.h"
#include "worker/data/kinds.h"

#define DIMENSIONS_MAX 32
#define HEADER_MAX     65536 // far more than an array of numbers needs
#define CHUNK_ELEMENTS 4096

static const struct element {
    const char *descr;
    uint64_t bytes;
    bool integer;
} elements[] = {
    {"<f4", 4, false}, {"<f8", 8, false}, {"|u1", 1, true}, {"|i1", 1, true}, {"<i2", 2, true},
    {"<u2", 2, true},  {"<i4", 4, true},  {"<u4", 4, true}, {"<i8", 8, true}, {"<u8", 8, true},
};

struct npy_file {
    struct token_file file; // path, descriptor, bytes, header_bytes
    struct element element;
    uint64_t shape[DIMENSIONS_MAX];
    size_t dimensions;
};

struct npy_set {
    struct data_set set;
    struct npy_file inputs;
    int32_t *labels;
};

// The header ---------------------------------------------------------------------------------------------------------

static enum status refuse(const struct npy_file *npy, const char *what, struct error *error)
{
    return error_set(error, STATUS_INVALID, "%s: %s", npy->file.path, what);
}

// Behind the key's colon and spaces; NULL: there is no such key.
static const char *find_value(const char *header, const char *key)
{
    const char *found = strstr(header, key);
    if (found == NULL) {
        return NULL;
    }
    found += strlen(key);
    found += strspn(found, " ");
    return *found == ':' ? found + 1 + strspn(found + 1, " ") : NULL;
}

static const struct element *parse_descr(const char *value)
{
    for (size_t i = 0; value != NULL && i < sizeof(elements) / sizeof(elements[0]); i++) {
        size_t length = strlen(elements[i].descr);
        bool quoted = (*value == '\'' || *value == '"') && value[1 + strnlen(value + 1, length)] == *value;
        if (quoted && strncmp(value + 1, elements[i].descr, length) == 0) {
            return &elements[i];
        }
    }
    return NULL;
}

// "(60000, 28, 28)", "(60000,)"
static bool parse_shape(const char *value, struct npy_file *npy)
{
    if (value == NULL || *value != '(') {
        return false;
    }
    const char *next = value + 1 + strspn(value + 1, " ");
    while (*next >= '0' && *next <= '9' && npy->dimensions < DIMENSIONS_MAX) {
        char *end;
        npy->shape[npy->dimensions++] = strtoull(next, &end, 10);
        next = end + strspn(end, " ,");
    }
    return *next == ')';
}

static enum status parse_header(struct npy_file *npy, const char *header, struct error *error)
{
    const char *order = find_value(header, "'fortran_order'");
    const struct element *element = parse_descr(find_value(header, "'descr'"));
    if (element == NULL) {
        return refuse(npy, "holds values of another type; allowed: little-endian float32, float64, and integers",
                      error);
    }
    npy->element = *element;
    if (order == NULL || strncmp(order, "False", strlen("False")) != 0) {
        return refuse(npy, "is in Fortran's order; allowed: C's (numpy.ascontiguousarray)", error);
    }
    if (!parse_shape(find_value(header, "'shape'"), npy)) {
        return refuse(npy, "is no .npy file: its header tells no shape", error);
    }
    return STATUS_OK;
}

// Of a whole array; 0 where it has none, or they are absurd.
static uint64_t array_bytes(const struct npy_file *npy)
{
    uint64_t bytes = npy->element.bytes;
    for (size_t i = 0; i < npy->dimensions; i++) {
        if (__builtin_mul_overflow(bytes, npy->shape[i], &bytes)) {
            return 0;
        }
    }
    return npy->dimensions == 0 ? 0 : bytes;
}

// Of one sample.
static uint64_t sample_elements(const struct npy_file *npy)
{
    uint64_t count = 1;
    for (size_t i = 1; i < npy->dimensions; i++) {
        count *= npy->shape[i];
    }
    return count;
}

static enum status check_size(const struct npy_file *npy, struct error *error)
{
    uint64_t promised = array_bytes(npy), found = npy->file.bytes - npy->file.header_bytes;
    if (promised == 0) {
        return refuse(npy, "absurd sizes, or no values", error);
    }
    if (promised != found) {
        return error_set(error, STATUS_INVALID, "%s: %s: header promises %" PRIu64 " bytes of values, found %" PRIu64,
                         npy->file.path, found < promised ? "truncated" : "trailing bytes", promised, found);
    }
    return STATUS_OK;
}

static enum status read_header(struct npy_file *npy, char *header, struct error *error)
{
    uint8_t start[12];
    if (npy->file.bytes < sizeof(start)) {
        return refuse(npy, "is no .npy file: it is too short", error);
    }
    enum status status = token_file_read_bytes(&npy->file, 0, sizeof(start), start, error);
    if (status != STATUS_OK) {
        return status;
    }
    bool narrow = start[6] == 1;
    if (memcmp(start, "\x93NUMPY", 6) != 0 || start[6] < 1 || start[6] > 3) {
        return refuse(npy, "is no .npy file: it does not begin as one", error);
    }
    uint64_t length = start[8] | (uint64_t)start[9] << 8;
    length |= narrow ? 0 : (uint64_t)start[10] << 16 | (uint64_t)start[11] << 24;
    npy->file.header_bytes = (narrow ? 10 : 12) + length;
    if (length >= HEADER_MAX || npy->file.header_bytes > npy->file.bytes) {
        return refuse(npy, "truncated: it ends within its header", error);
    }
    header[length] = '\0';
    return token_file_read_bytes(&npy->file, npy->file.header_bytes - length, length, header, error);
}

static enum status read_start(struct npy_file *npy, struct error *error)
{
    char *header = malloc(HEADER_MAX);
    if (header == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = read_header(npy, header, error);
    if (status == STATUS_OK) {
        status = parse_header(npy, header, error);
    }
    free(header);
    return status;
}

static enum status open_file(struct npy_file *npy, const char *path, struct error *error)
{
    npy->file.path = strdup(path);
    if (npy->file.path == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = data_open_file(path, &npy->file.descriptor, &npy->file.bytes, error);
    if (status == STATUS_OK) {
        status = read_start(npy, error);
    }
    return status == STATUS_OK ? check_size(npy, error) : status;
}

static void close_file(struct npy_file *npy)
{
    if (npy->file.descriptor >= 0) {
        close(npy->file.descriptor);
    }
    free(npy->file.path);
}

// Values -------------------------------------------------------------------------------------------------------------

static uint64_t bits_at(const struct element *element, const uint8_t *raw)
{
    uint64_t bits = 0;
    for (uint64_t i = 0; i < element->bytes; i++) {
        bits |= (uint64_t)raw[i] << (8 * i);
    }
    return bits;
}

static int64_t integer_at(const struct element *element, const uint8_t *raw)
{
    bool negative = element->descr[1] == 'i' && (raw[element->bytes - 1] & 0x80) != 0;
    uint64_t sign = negative && element->bytes < 8 ? ~UINT64_C(0) << (8 * element->bytes) : 0;
    return (int64_t)(bits_at(element, raw) | sign);
}

static float real_at(const struct element *element, const uint8_t *raw, uint64_t i)
{
    union {
        uint32_t bits;
        float real;
    } narrow;
    union {
        uint64_t bits;
        double real;
    } wide;
    if (element->bytes == 1) {
        return (float)raw[i] / 255.0f;
    }
    if (element->bytes == sizeof(narrow)) {
        memcpy(&narrow, raw + sizeof(narrow) * i, sizeof(narrow));
        narrow.bits = le32toh(narrow.bits);
        return narrow.real;
    }
    memcpy(&wide, raw + sizeof(wide) * i, sizeof(wide));
    wide.bits = le64toh(wide.bits);
    return (float)wide.real;
}

static bool all_finite(const float *values, uint64_t count)
{
    int finite = 1; // compilers make no vectors of a bool
    for (uint64_t i = 0; i < count; i++) {
        finite &= isfinite(values[i]) ? 1 : 0;
    }
    return finite != 0;
}

// Writes the values of a chunk and answers whether each is a number.
static bool convert(const struct element *element, const uint8_t *raw, uint64_t count, float *values)
{
    for (uint64_t i = 0; i < count; i++) {
        values[i] = real_at(element, raw, i);
    }
    return all_finite(values, count);
}

static enum status refuse_value(const struct npy_file *npy, uint64_t sample, const float *values, struct error *error)
{
    uint64_t i = 0;
    while (isfinite(values[i])) {
        i++;
    }
    return error_set(error, STATUS_INVALID, "%s: value %" PRIu64 " of sample %" PRIu64 " is not finite", npy->file.path,
                     i, sample);
}

static enum status read_labels(const struct npy_file *npy, uint64_t classes, int32_t *labels, struct error *error)
{
    uint8_t raw[CHUNK_ELEMENTS * 8];
    uint64_t bytes = npy->element.bytes, count = npy->shape[0];
    for (uint64_t i = 0; i < count; i++) {
        if (i % CHUNK_ELEMENTS == 0) {
            uint64_t chunk = count - i < CHUNK_ELEMENTS ? count - i : CHUNK_ELEMENTS;
            enum status status =
                token_file_read_bytes(&npy->file, npy->file.header_bytes + i * bytes, chunk * bytes, raw, error);
            if (status != STATUS_OK) {
                return status;
            }
        }
        int64_t label = integer_at(&npy->element, raw + i % CHUNK_ELEMENTS * bytes);
        if (label < 0 || (uint64_t)label >= classes) {
            return error_set(error, STATUS_INVALID,
                             "%s: label %" PRIu64 " is %" PRIi64 ", but model.layers ends with %" PRIu64
                             " classes (labels count from 0)",
                             npy->file.path, i, label, classes);
        }
        labels[i] = (int32_t)label;
    }
    return STATUS_OK;
}

static enum status npy_read(const struct data_set *set, uint64_t index, void *input, int32_t *targets,
                            struct error *error)
{
    const struct npy_set *npy = (const struct npy_set *)set;
    const struct element *element = &npy->inputs.element;
    uint64_t count = set->shape.input_count, bytes = element->bytes;
    float *values = input;
    for (uint64_t done = 0; done < count; done += CHUNK_ELEMENTS) {
        uint8_t raw[CHUNK_ELEMENTS * 8];
        uint64_t chunk = count - done < CHUNK_ELEMENTS ? count - done : CHUNK_ELEMENTS;
        uint64_t offset = npy->inputs.file.header_bytes + (index * count + done) * bytes;
        enum status status = token_file_read_bytes(&npy->inputs.file, offset, chunk * bytes, raw, error);
        if (status != STATUS_OK) {
            return status;
        }
        if (!convert(element, raw, chunk, values + done)) {
            return refuse_value(&npy->inputs, index, values, error);
        }
    }
    *targets = npy->labels[index];
    return STATUS_OK;
}

// The set ------------------------------------------------------------------------------------------------------------

static void npy_close(struct data_set *set)
{
    struct npy_set *npy = (struct npy_set *)set;
    close_file(&npy->inputs);
    free(npy->labels);
    free(npy);
}

static enum status check_inputs(const struct npy_file *inputs, struct error *error)
{
    if (inputs->dimensions < 2) {
        return refuse(inputs, "holds no inputs: it has one dimension; allowed: samples first, then their values",
                      error);
    }
    if (inputs->element.integer && strcmp(inputs->element.descr, "|u1") != 0) {
        return refuse(inputs, "holds integers; allowed for inputs: float32, float64, uint8", error);
    }
    return STATUS_OK;
}

static enum status check_labels(const struct npy_file *labels, const struct npy_file *inputs, struct error *error)
{
    if (labels->dimensions != 1 || !labels->element.integer) {
        return refuse(labels, "holds no labels: allowed is one dimension of integers", error);
    }
    if (labels->shape[0] != inputs->shape[0]) {
        return error_set(error, STATUS_INVALID, "%s: %" PRIu64 " labels, but %s has %" PRIu64 " samples",
                         labels->file.path, labels->shape[0], inputs->file.path, inputs->shape[0]);
    }
    return STATUS_OK;
}

static enum status load_labels(struct npy_set *npy, const char *path, uint64_t classes, struct error *error)
{
    struct npy_file labels = {.file.descriptor = -1};
    enum status status = open_file(&labels, path, error);
    if (status == STATUS_OK) {
        status = check_labels(&labels, &npy->inputs, error);
    }
    if (status == STATUS_OK) {
        npy->labels = calloc(labels.shape[0] + 1, sizeof(*npy->labels));
        status =
            npy->labels == NULL ? error_out_of_host_memory(error) : read_labels(&labels, classes, npy->labels, error);
    }
    close_file(&labels);
    return status;
}

static enum status open_set(const char *inputs_path, const char *labels_path, uint64_t classes, struct data_set **set_p,
                            struct error *error)
{
    struct npy_set *npy = calloc(1, sizeof(*npy));
    if (npy == NULL) {
        return error_out_of_host_memory(error);
    }
    npy->inputs.file.descriptor = -1;
    enum status status = open_file(&npy->inputs, inputs_path, error);
    if (status == STATUS_OK) {
        status = check_inputs(&npy->inputs, error);
    }
    if (status == STATUS_OK) {
        status = load_labels(npy, labels_path, classes, error);
    }
    if (status != STATUS_OK) {
        npy_close(&npy->set);
        return status;
    }
    npy->set = (struct data_set){
        .ops = &data_npy,
        .shape = {.input = DATA_INPUT_FLOAT32,
                  .input_count = sample_elements(&npy->inputs),
                  .target_count = 1,
                  .classes = classes},
        .samples = npy->inputs.shape[0],
    };
    *set_p = &npy->set;
    return STATUS_OK;
}

static enum status npy_open(const struct config *config, enum data_split split, struct data_set **set_p,
                            struct error *error)
{
    assert(config->model.kind == CONFIG_MODEL_MLP);
    uint64_t classes = config->model.layers[config->model.layers_count - 1];
    if (split == DATA_TRAIN) {
        return open_set(config->data.images, config->data.labels, classes, set_p, error);
    }
    if (config->data.validation_images == NULL) {
        *set_p = NULL;
        return STATUS_OK;
    }
    return open_set(config->data.validation_images, config->data.validation_labels, classes, set_p, error);
}

const struct data_ops data_npy = {.name = "npy", .open = npy_open, .close = npy_close, .read = npy_read};
