// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/safetensors.h"

#include <endian.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/bfloat16.h"
#include "mem/uint64.h"
#include "worker/regular_file.h"

#define HEADER_MAX     100000000 // as the reference implementation has it
#define HEADER_ALIGNED 8
#define PIECE          (UINT64_C(1) << 18) // elements

struct safetensors {
    char *path;
    int descriptor;
    uint64_t data_offset; // of the tensors, in the file
    uint64_t data_bytes;
    size_t count;
    struct safetensors_tensor *tensors;
};

static const struct {
    const char *name;
    enum safetensors_type type;
    uint64_t bytes;
} types[] = {{"F32", SAFETENSORS_F32, 4},   {"F16", SAFETENSORS_F16, 2},   {"BF16", SAFETENSORS_BF16, 2},
             {"F64", SAFETENSORS_OTHER, 8}, {"I64", SAFETENSORS_OTHER, 8}, {"I32", SAFETENSORS_OTHER, 4},
             {"I16", SAFETENSORS_OTHER, 2}, {"I8", SAFETENSORS_OTHER, 1},  {"U64", SAFETENSORS_OTHER, 8},
             {"U32", SAFETENSORS_OTHER, 4}, {"U16", SAFETENSORS_OTHER, 2}, {"U8", SAFETENSORS_OTHER, 1},
             {"BOOL", SAFETENSORS_OTHER, 1}};

// Reading ------------------------------------------------------------------------------------------------------------

static enum status read_bytes(const struct safetensors *file, uint64_t offset, uint64_t bytes, void *to,
                              struct error *error)
{
    uint64_t found;
    if (!regular_file_read(file->descriptor, offset, bytes, to, &found)) {
        return regular_file_refuse(file->path, "read", error);
    }
    return found == bytes ? STATUS_OK
                          : error_set(error, STATUS_ERROR, "%s: truncated: it ends after %" PRIu64 " bytes", file->path,
                                      offset + found);
}

static enum status refuse(const struct safetensors *file, const char *tensor, const char *what, struct error *error)
{
    return error_set(error, STATUS_INVALID, "%s: is no safetensors file: tensor '%.200s': %s", file->path, tensor,
                     what);
}

static bool get_uint64(const json_t *value, uint64_t *number_p)
{
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : -1;
    *number_p = number < 0 ? 0 : (uint64_t)number;
    return number >= 0;
}

// False where it is no list of sizes, or their product is too large.
static bool parse_shape(const json_t *shape, struct safetensors_tensor *tensor)
{
    tensor->dimensions = json_array_size(shape);
    tensor->elements = 1;
    if (!json_is_array(shape) || tensor->dimensions > SAFETENSORS_DIMENSIONS_MAX) {
        return false;
    }
    for (size_t i = 0; i < tensor->dimensions; i++) {
        if (!get_uint64(json_array_get(shape, i), &tensor->shape[i]) ||
            __builtin_mul_overflow(tensor->elements, tensor->shape[i], &tensor->elements)) {
            return false;
        }
    }
    return true;
}

static enum status parse_tensor(const struct safetensors *file, const char *name, const json_t *entry,
                                struct safetensors_tensor *tensor, struct error *error)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const char *type_name = json_string_value(json_object_get(entry, "dtype"));
    uint64_t bytes = 0, element_bytes = 0;
    for (size_t i = 0; type_name != NULL && i < sizeof(types) / sizeof(types[0]); i++) {
        if (strcmp(types[i].name, type_name) == 0) {
            tensor->type = types[i].type;
            element_bytes = types[i].bytes;
        }
    }
    if (element_bytes == 0) {
        return refuse(file, name, "its dtype is not known", error);
    }
    if (!parse_shape(json_object_get(entry, "shape"), tensor) ||
        __builtin_mul_overflow(tensor->elements, element_bytes, &bytes)) {
        return refuse(file, name, "its shape makes no sense", error);
    }
    if (json_array_size(offsets) != 2 || !get_uint64(json_array_get(offsets, 0), &tensor->first_byte) ||
        !get_uint64(json_array_get(offsets, 1), &tensor->end_byte) || tensor->end_byte < tensor->first_byte ||
        tensor->end_byte > file->data_bytes || tensor->end_byte - tensor->first_byte != bytes) {
        return refuse(file, name, "its data_offsets do not fit its shape and the file", error);
    }
    tensor->name = strdup(name);
    return tensor->name == NULL ? error_out_of_host_memory(error) : STATUS_OK;
}

static int order_places(const void *a, const void *b)
{
    const struct safetensors_tensor *const *x = a, *const *y = b;
    uint64_t left = (*x)->first_byte, right = (*y)->first_byte;
    return left != right ? (left > right) - (left < right)
                         : ((*x)->end_byte > (*y)->end_byte) - ((*x)->end_byte < (*y)->end_byte);
}

// Side by side, from the header's end to the file's.
static enum status check_places(const struct safetensors *file, struct error *error)
{
    const struct safetensors_tensor **order = calloc(file->count + 1, sizeof(const struct safetensors_tensor *));
    enum status status = STATUS_OK;
    uint64_t end = 0;
    if (order == NULL) {
        return error_out_of_host_memory(error);
    }
    for (size_t i = 0; i < file->count; i++) {
        order[i] = &file->tensors[i];
    }
    qsort(order, file->count, sizeof(const struct safetensors_tensor *), order_places);
    for (size_t i = 0; i < file->count && status == STATUS_OK; i++) {
        if (order[i]->first_byte != end) {
            status = refuse(file, order[i]->name, "it does not begin where another one ends", error);
        }
        end = order[i]->end_byte;
    }
    free(order);
    if (status == STATUS_OK && end != file->data_bytes) {
        return error_set(error, STATUS_INVALID,
                         "%s: is no safetensors file: the header promises %" PRIu64 " bytes of tensors, found %" PRIu64,
                         file->path, end, file->data_bytes);
    }
    return status;
}

static enum status parse_tensors(struct safetensors *file, json_t *header, struct error *error)
{
    json_t *entry;
    const char *name;
    file->tensors = calloc(json_object_size(header) + 1, sizeof(*file->tensors));
    if (file->tensors == NULL) {
        return error_out_of_host_memory(error);
    }
    json_object_foreach(header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) {
            continue;
        }
        enum status status = parse_tensor(file, name, entry, &file->tensors[file->count], error);
        if (status != STATUS_OK) {
            return status;
        }
        file->count++;
    }
    return check_places(file, error);
}

static enum status parse_header(struct safetensors *file, const char *text, size_t length, struct error *error)
{
    json_error_t fault;
    json_t *header = json_loadb(text, length, JSON_REJECT_DUPLICATES, &fault);
    enum status status = STATUS_INVALID;
    if (json_is_object(header)) {
        status = parse_tensors(file, header, error);
    } else {
        error_set(error, status, "%s: is no safetensors file: its header is no JSON object: %s", file->path,
                  header == NULL ? fault.text : "it is something else");
    }
    json_decref(header);
    return status;
}

static enum status read_header(struct safetensors *file, uint64_t file_bytes, struct error *error)
{
    uint64_t length;
    if (file_bytes < sizeof(length)) {
        return error_set(error, STATUS_INVALID, "%s: is no safetensors file: it has only %" PRIu64 " bytes", file->path,
                         file_bytes);
    }
    enum status status = read_bytes(file, 0, sizeof(length), &length, error);
    if (status != STATUS_OK) {
        return status;
    }
    length = le64toh(length);
    if (length > HEADER_MAX || length > file_bytes - sizeof(length)) {
        return error_set(error, STATUS_INVALID,
                         "%s: is no safetensors file, or truncated: the header takes %" PRIu64
                         " bytes, the file has %" PRIu64,
                         file->path, length, file_bytes);
    }
    file->data_offset = sizeof(length) + length;
    file->data_bytes = file_bytes - file->data_offset;
    char *text = malloc(length + 1);
    status = text == NULL ? error_out_of_host_memory(error) : read_bytes(file, sizeof(length), length, text, error);
    if (status == STATUS_OK) {
        status = parse_header(file, text, length, error);
    }
    free(text);
    return status;
}

static enum status open_file(struct safetensors *file, const char *path, struct error *error)
{
    uint64_t bytes;
    file->path = strdup(path);
    if (file->path == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = regular_file_open(path, &file->descriptor, &bytes, error);
    return status == STATUS_OK ? read_header(file, bytes, error) : status;
}

enum status safetensors_open(const char *path, struct safetensors **file_p, struct error *error)
{
    struct safetensors *file = calloc(1, sizeof(*file));
    if (file == NULL) {
        return error_out_of_host_memory(error);
    }
    file->descriptor = -1;
    enum status status = open_file(file, path, error);
    if (status != STATUS_OK) {
        safetensors_close(file);
        return status;
    }
    *file_p = file;
    return STATUS_OK;
}

void safetensors_close(struct safetensors *file)
{
    if (file == NULL) {
        return;
    }
    for (size_t i = 0; i < file->count; i++) {
        free(file->tensors[i].name);
    }
    if (file->descriptor >= 0) {
        close(file->descriptor);
    }
    free(file->tensors);
    free(file->path);
    free(file);
}

const char *safetensors_path(const struct safetensors *file)
{
    return file->path;
}

size_t safetensors_count(const struct safetensors *file)
{
    return file->count;
}

const struct safetensors_tensor *safetensors_at(const struct safetensors *file, size_t number)
{
    return &file->tensors[number];
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *file, const char *name)
{
    for (size_t i = 0; i < file->count; i++) {
        if (strcmp(file->tensors[i].name, name) == 0) {
            return &file->tensors[i];
        }
    }
    return NULL;
}

// IEEE 754 binary16.
static float from_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half >> 15), exponent = half >> 10 & 0x1f, fraction = half & 0x3ff;
    if (exponent == 0) { // zero, or subnormal
        return (sign ? -1.0f : 1.0f) * (float)fraction * 0x1p-24f;
    }
    uint32_t bits = sign << 31 | (exponent == 0x1f ? UINT32_C(0xff) : exponent + 112) << 23 | fraction << 13;
    return float_of_bits(bits);
}

// Two-byte values at the end of the buffer that they fill with four bytes each.
static void widen(enum safetensors_type type, uint64_t count, float *values)
{
    const char *from = (const char *)values + count * sizeof(uint16_t);
    for (uint64_t i = 0; i < count; i++) {
        uint16_t value;
        memcpy(&value, from + i * sizeof(value), sizeof(value));
        value = le16toh(value);
        values[i] = type == SAFETENSORS_F16 ? from_half(value) : bfloat16_to_float(value);
    }
}

enum status safetensors_read(const struct safetensors *file, const struct safetensors_tensor *tensor, uint64_t first,
                             uint64_t count, float *values, struct error *error)
{
    uint64_t element_bytes = tensor->type == SAFETENSORS_F32 ? sizeof(float) : sizeof(uint16_t);
    char *to = (char *)values + count * (sizeof(float) - element_bytes);
    enum status status = read_bytes(file, file->data_offset + tensor->first_byte + first * element_bytes,
                                    count * element_bytes, to, error);
    if (status == STATUS_OK && element_bytes < sizeof(float)) {
        widen(tensor->type, count, values);
    }
    return status;
}

// Writing ------------------------------------------------------------------------------------------------------------

static uint64_t item_elements(const struct safetensors_item *item)
{
    uint64_t elements = 1;
    for (size_t i = 0; i < item->dimensions; i++) {
        elements *= item->shape[i];
    }
    return elements;
}

static json_t *describe(const struct safetensors_item *item, uint64_t first_byte, uint64_t end_byte)
{
    json_t *shape = json_array();
    for (size_t i = 0; i < item->dimensions; i++) {
        json_array_append_new(shape, json_integer((json_int_t)item->shape[i]));
    }
    return json_pack("{ss so s[II]}", "dtype", "F32", "shape", shape, "data_offsets", (json_int_t)first_byte,
                     (json_int_t)end_byte);
}

// NULL where the host's memory runs out.
static char *make_header(const struct safetensors_item *items, size_t count)
{
    json_t *header = json_pack("{s{ss}}", "__metadata__", "format", "pt");
    uint64_t end = 0;
    bool made = header != NULL;
    for (size_t i = 0; made && i < count; i++) {
        uint64_t bytes = item_elements(&items[i]) * sizeof(float);
        made = json_object_set_new(header, items[i].name, describe(&items[i], end, end + bytes)) == 0;
        end += bytes;
    }
    char *text = made ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    return text;
}

static enum status write_header(struct hashed_file *file, const char *text, struct error *error)
{
    static const char spaces[HEADER_ALIGNED] = "        ";
    size_t length = strlen(text), padded = uint64_round_up(length, HEADER_ALIGNED);
    uint64_t field = htole64(padded);
    enum status status = hashed_file_write(file, &field, sizeof(field), error);
    if (status == STATUS_OK) {
        status = hashed_file_write(file, text, length, error);
    }
    return status == STATUS_OK ? hashed_file_write(file, spaces, padded - length, error) : status;
}

static enum status write_items(struct hashed_file *file, const struct safetensors_item *items, size_t count,
                               safetensors_source *source, void *context, float *piece, struct error *error)
{
    enum status status = STATUS_OK;
    for (size_t i = 0; i < count && status == STATUS_OK; i++) {
        uint64_t elements = item_elements(&items[i]);
        for (uint64_t first = 0; first < elements && status == STATUS_OK; first += PIECE) {
            uint64_t length = uint64_min(PIECE, elements - first);
            status = source(context, i, first, length, piece, error);
            if (status == STATUS_OK) {
                status = hashed_file_write(file, piece, length * sizeof(*piece), error);
            }
        }
    }
    return status;
}

static enum status write_file(const char *path, const char *header, const struct safetensors_item *items, size_t count,
                              safetensors_source *source, void *context, float *piece, struct file_sum *sum_p,
                              struct error *error)
{
    struct hashed_file *file;
    enum status status = hashed_file_create(path, &file, error);
    if (status != STATUS_OK) {
        return status;
    }
    status = write_header(file, header, error);
    if (status == STATUS_OK) {
        status = write_items(file, items, count, source, context, piece, error);
    }
    if (status != STATUS_OK) {
        hashed_file_abandon(file);
        return status;
    }
    return hashed_file_finish(file, sum_p, error);
}

enum status safetensors_write(const char *path, const struct safetensors_item *items, size_t count,
                              safetensors_source *source, void *context, struct file_sum *sum_p, struct error *error)
{
    char *header = make_header(items, count);
    float *piece = malloc(PIECE * sizeof(*piece));
    enum status status = header == NULL || piece == NULL
                             ? error_out_of_host_memory(error)
                             : write_file(path, header, items, count, source, context, piece, sum_p, error);
    free(piece);
    free(header);
    return status;
}
