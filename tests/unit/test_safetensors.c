// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "worker/checkpoint/safetensors.h"

static char path[] = "/tmp/headroom-safetensors-XXXXXX";

static int make_path(void **state)
{
    (void)state;
    int file = mkstemp(path);
    return file < 0 || close(file) != 0 || unlink(path) != 0;
}

static int remove_path(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

static float value_of(size_t number, uint64_t element)
{
    return (float)(1000000 * number + element);
}

static enum status give(void *context, size_t number, uint64_t first, uint64_t count, float *values,
                        struct error *error)
{
    (void)context;
    (void)error;
    for (uint64_t i = 0; i < count; i++) {
        values[i] = value_of(number, first + i);
    }
    return STATUS_OK;
}

// One larger than a piece of the writer.
static const struct safetensors_item items[] = {
    {.name = "a", .dimensions = 2, .shape = {700, 500}},
    {.name = "b.\"quoted\"", .dimensions = 1, .shape = {3}},
    {.name = "scalar", .dimensions = 0},
    {.name = "none", .dimensions = 2, .shape = {0, 7}},
};

static void test_what_was_written_is_read(void **state)
{
    (void)state;
    struct file_sum sum, again;
    struct error error;
    assert_int_equal(safetensors_write(path, items, 4, give, NULL, &sum, &error), STATUS_OK);
    assert_int_equal(file_sum(path, &(struct progress){0}, &again, &error), STATUS_OK);
    assert_memory_equal(&sum, &again, sizeof(sum));
    struct safetensors *file;
    assert_int_equal(safetensors_open(path, &file, &error), STATUS_OK);
    assert_int_equal(safetensors_count(file), 4);
    for (size_t i = 0; i < 4; i++) {
        const struct safetensors_tensor *tensor = safetensors_find(file, items[i].name);
        assert_ptr_equal(tensor, safetensors_at(file, i));
        assert_int_equal(tensor->type, SAFETENSORS_F32);
        assert_int_equal(tensor->dimensions, items[i].dimensions);
        assert_memory_equal(tensor->shape, items[i].shape, items[i].dimensions * sizeof(tensor->shape[0]));
        float *values = malloc((tensor->elements + 1) * sizeof(*values));
        assert_non_null(values);
        uint64_t first = tensor->elements / 3;
        assert_int_equal(safetensors_read(file, tensor, first, tensor->elements - first, values, &error), STATUS_OK);
        for (uint64_t k = first; k < tensor->elements; k++) {
            assert_true(values[k - first] == value_of(i, k));
        }
        free(values);
    }
    assert_null(safetensors_find(file, "c"));
    safetensors_close(file);
    assert_int_equal(safetensors_write(path, items, 4, give, NULL, &sum, &error), STATUS_ERROR); // it is there
    assert_non_null(strstr(error.text, "File exists"));
    unlink(path);
}

static void write_file(const char *header, const void *data, size_t bytes)
{
    uint64_t length = strlen(header);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(&length, 1, sizeof(length), file), sizeof(length));
    assert_int_equal(fwrite(header, 1, length, file), length);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static void test_narrow_reals_are_widened(void **state)
{
    (void)state;
    static const uint16_t data[] = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x8000, 0x3f80, 0xc000, 0x0001};
    static const float expected[] = {1, -2, 0x1p-24f, 65504, -0.0f, 1, -2, 0x1p-133f};
    struct safetensors *file;
    struct error error;
    float values[8];
    write_file("{\"half\":{\"dtype\":\"F16\",\"shape\":[5],\"data_offsets\":[0,10]},"
               "\"brain\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[10,16]}}",
               data, sizeof(data));
    assert_int_equal(safetensors_open(path, &file, &error), STATUS_OK);
    assert_int_equal(safetensors_read(file, safetensors_find(file, "half"), 0, 5, values, &error), STATUS_OK);
    assert_int_equal(safetensors_read(file, safetensors_find(file, "brain"), 0, 3, values + 5, &error), STATUS_OK);
    assert_memory_equal(values, expected, sizeof(expected));
    safetensors_close(file);
}

static void refuses(const char *header, size_t bytes, const char *complaint)
{
    static const char data[64];
    struct safetensors *file = NULL;
    struct error error;
    write_file(header, data, bytes);
    assert_int_equal(safetensors_open(path, &file, &error), STATUS_INVALID);
    if (strstr(error.text, complaint) == NULL) {
        fail_msg("'%s' gives '%s', not '%s'", header, error.text, complaint);
    }
}

static void test_what_is_wrong_is_named(void **state)
{
    (void)state;
    refuses("[]", 0, "no JSON object");
    refuses("{", 0, "no JSON object");
    refuses("{\"a\":1}", 0, "'a': its dtype is not known");
    refuses("{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'a': its dtype is not known");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "'a': its shape makes no sense");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905,4],\"data_offsets\":[0,16]}}", 16,
            "'a': its shape makes no sense");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}}", 4,
            "'a': its shape makes no sense");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
            "'a': its shape makes no sense");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "'a': its data_offsets do not fit");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "'a': its data_offsets do not fit");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 8,
            "'a': its data_offsets do not fit");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 4, "'a': its data_offsets do not fit");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8,
            "promises 4 bytes of tensors, found 8");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
            "does not begin where another one ends");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
            "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
            4, "does not begin where another one ends");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
            "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
            8, "no JSON object");
}

static void test_files_that_are_cut_short(void **state)
{
    (void)state;
    struct safetensors *file = NULL;
    struct error error;
    struct file_sum sum;
    unlink(path);
    assert_int_equal(safetensors_write(path, items + 1, 1, give, NULL, &sum, &error), STATUS_OK);
    for (uint64_t bytes = sum.bytes; bytes-- > 0;) {
        assert_int_equal(truncate(path, (off_t)bytes), 0);
        assert_int_equal(safetensors_open(path, &file, &error), STATUS_INVALID);
    }
    unlink(path);
    assert_int_equal(safetensors_open(path, &file, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "No such file"));
    assert_int_equal(safetensors_open("/dev/zero", &file, &error), STATUS_INVALID);
    assert_string_equal(error.text, "/dev/zero: is not a regular file");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_written_is_read),
        cmocka_unit_test(test_narrow_reals_are_widened),
        cmocka_unit_test(test_what_is_wrong_is_named),
        cmocka_unit_test(test_files_that_are_cut_short),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
