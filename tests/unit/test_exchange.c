// SPDX-License-Identifier: Apache-2.0
//
// Weights of other programs: what tests/parity/make_huggingface.py has saved gives the logits that Hugging Face's
// transformers have found, on every device, by way of every format; and what fails half way leaves nothing behind.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <unistd.h>

#include "every_target.h"
#include "host_memory.h"
#include "kernels/bfloat16.h"
#include "model/ops.h"
#include "worker/exchange/weights.h"
#include "worker/whole_folder.h"

#define SAVED   "tests/parity/huggingface"
#define LOGITS  SAVED "/logits.txt"
#define SAMPLES 2
#define LENGTH  12
#define VOCAB   61

// They are up to 4.5 away from 0. What float32 gives; bfloat16 has 16 bits less.
static const double tolerances[] = {[KERNEL_FP32] = 1e-5, [KERNEL_BF16] = 2e-1};

static char folder[] = "/tmp/headroom-exchange-XXXXXX";
static char checkpoint_path[64], huggingface_path[64], llmc_path[64];

static int open_all(void **state)
{
    if (mkdtemp(folder) == NULL) {
        return -1;
    }
    snprintf(checkpoint_path, sizeof(checkpoint_path), "%s/checkpoint", folder);
    snprintf(huggingface_path, sizeof(huggingface_path), "%s/huggingface", folder);
    snprintf(llmc_path, sizeof(llmc_path), "%s/llmc.bin", folder);
    return open_every_target(state);
}

static int close_all(void **state)
{
    whole_folder_remove(checkpoint_path);
    whole_folder_remove(huggingface_path);
    whole_folder_remove(folder);
    return close_every_target(state);
}

static void open_weights(const struct exchange_format *format, const char *path, struct weights *weights)
{
    struct error error;
    if (format->open(path, weights, &error) != STATUS_OK) {
        fail_msg("%s", error.text);
    }
}

// In the places that the model's buffer has for them.
static float *read_weights(const struct weights *weights, const struct model *model)
{
    float *values = host_array(model->elements * sizeof(*values), 0);
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *parameter = &model->parameters[i];
        struct error error;
        assert_int_equal(weights->read(weights->context, i, 0, parameter->rows_used * parameter->columns,
                                       values + parameter->offset, &error),
                         STATUS_OK);
    }
    return values;
}

// The logits
// -----------------------------------------------------------------------------------------------------------

static device_address zeros(struct target *target, uint64_t bytes)
{
    device_address address;
    assert_int_equal(mem_pool_alloc(target->pool, bytes, target->stream, "zeros", &address), STATUS_OK);
    target->device->ops->fill_zero(target->device, target->stream, address, bytes);
    return address;
}

static void write_tokens(struct target *target, const struct list *list, device_address inputs)
{
    char *slot = host_array(list->inputs_bytes, 0);
    int32_t *tokens = (void *)(slot + list->tensors[list->inputs].offset_bytes);
    for (int32_t i = 0; i < SAMPLES * LENGTH; i++) {
        int32_t sample = i / LENGTH, place = i % LENGTH;
        tokens[i] = (7 * place * place + 3 * place + 31 * sample + 1) % VOCAB;
    }
    target->device->ops->copy_to_device(target->device, target->stream, inputs, slot, list->inputs_bytes);
    target->device->ops->stream_synchronize(target->device, target->stream);
    free(slot);
}

// Up to and with the operation that makes the logits: the loss is written over them.
static void run_to_logits(const struct list *list, struct target *target, const struct list_memory *memory)
{
    size_t end = 0;
    while (!op_mentions(&list->ops[end], list->logits)) {
        end++;
    }
    list_run(list, 0, end + 1, target->context, memory);
}

static double real_at(const void *reals, enum kernel_precision precision, size_t place)
{
    return precision == KERNEL_FP32 ? (double)((const float *)reals)[place]
                                    : (double)bfloat16_to_float(((const uint16_t *)reals)[place]);
}

static void compare_logits(struct target *target, const void *logits, size_t stride)
{
    double expected, largest = 0;
    FILE *file = fopen(LOGITS, "r");
    assert_non_null(file);
    for (size_t row = 0; row < SAMPLES * LENGTH; row++) {
        for (size_t token = 0; token < VOCAB; token++) {
            assert_int_equal(fscanf(file, "%lf", &expected), 1);
            double found = real_at(logits, target_precision(target), row * stride + token);
            largest = fmax(largest, fabs(found - expected));
        }
    }
    fclose(file);
    printf("    logits differ by at most %.1e\n", largest);
    assert_true(largest <= tolerances[target_precision(target)]);
}

static void check_logits(struct target *target, const struct weights *weights)
{
    struct model_config config = weights->model->config;
    struct model *model;
    struct list list;
    config.precision = target_precision(target);
    assert_int_equal(model_create(&config, &model, NULL), STATUS_OK);
    assert_true(model_list(model, model_shape_max(model, SAMPLES), LIST_TRAIN, &list));
    float *values = read_weights(weights, model);
    device_address parameters = target_copy_in(target, values, model->elements * sizeof(*values));
    device_address copy = zeros(target, model->elements * sizeof(*values));
    struct list_memory memory = {
        .parameters = parameters,
        .tally = zeros(target, sizeof(struct kernel_tally)),
        .inputs = zeros(target, list.inputs_bytes),
        .locals = zeros(target, list.locals_bytes),
    };
    if (model_copy_bytes(model) > 0) {
        target->context->kernels->convert(target->context, copy, parameters, model->elements);
        memory.parameters = copy;
    }
    write_tokens(target, &list, memory.inputs);
    run_to_logits(&list, target, &memory);
    uint64_t bytes = list_tensor_bytes(&list, list.logits);
    void *logits = host_array(bytes, 0);
    struct error error;
    target->device->ops->copy_to_host(target->device, target->stream, logits, list_address(&list, &memory, list.logits),
                                      bytes);
    target->device->ops->stream_synchronize(target->device, target->stream);
    assert_int_equal(target->device->ops->check(target->device, &error), STATUS_OK);
    compare_logits(target, logits, model->parameters[0].rows);
    const device_address addresses[] = {parameters, copy, memory.tally, memory.inputs, memory.locals};
    for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
        mem_pool_free(target->pool, addresses[i], target->stream);
    }
    free(logits);
    free(values);
    list_finish(&list);
    model_destroy(model);
}

static void check_saved(struct target *target)
{
    struct weights weights;
    open_weights(&exchange_huggingface, SAVED, &weights);
    assert_int_equal(weights.end_of_text, 60);
    check_logits(target, &weights);
    weights_close(&weights);
}

static void test_logits_are_those_of_transformers(void **state)
{
    (void)state;
    on_every_target(check_saved);
}

// From format to format
// ------------------------------------------------------------------------------------------------

static void assert_same_weights(const struct exchange_format *format, const char *path)
{
    struct weights saved, weights;
    open_weights(&exchange_huggingface, SAVED, &saved);
    open_weights(format, path, &weights);
    float *expected = read_weights(&saved, saved.model), *found = read_weights(&weights, saved.model);
    assert_int_equal(weights.model->elements, saved.model->elements);
    assert_memory_equal(found, expected, saved.model->elements * sizeof(*found));
    free(expected);
    free(found);
    weights_close(&saved);
    weights_close(&weights);
}

static void convert(const struct exchange_format *from, const char *source, const struct exchange_format *to,
                    const char *target)
{
    struct weights weights;
    struct error error;
    open_weights(from, source, &weights);
    if (to->write(target, &weights, &error) != STATUS_OK) {
        fail_msg("%s", error.text);
    }
    weights_close(&weights);
    assert_same_weights(to, target);
}

static void test_every_format_has_the_same_bits(void **state)
{
    (void)state;
    convert(&exchange_huggingface, SAVED, &exchange_checkpoint, checkpoint_path);
    convert(&exchange_checkpoint, checkpoint_path, &exchange_llmc, llmc_path);
    convert(&exchange_llmc, llmc_path, &exchange_huggingface, huggingface_path);
    whole_folder_remove(checkpoint_path);
    convert(&exchange_huggingface, huggingface_path, &exchange_checkpoint, checkpoint_path);
}

static void test_pieces_are_as_the_whole(void **state)
{
    (void)state;
    struct weights weights;
    open_weights(&exchange_huggingface, SAVED, &weights);
    float *whole = read_weights(&weights, weights.model), piece[7];
    for (size_t i = 0; i < weights.model->parameter_count; i++) {
        const struct parameter *parameter = &weights.model->parameters[i];
        uint64_t elements = parameter->rows_used * parameter->columns;
        for (uint64_t first = 0, count; first < elements; first += count) {
            struct error error;
            count = elements - first < 7 ? elements - first : 7;
            assert_int_equal(weights.read(weights.context, i, first, count, piece, &error), STATUS_OK);
            assert_memory_equal(piece, whole + parameter->offset + first, count * sizeof(*piece));
        }
    }
    free(whole);
    weights_close(&weights);
}

// Failures
// -------------------------------------------------------------------------------------------------------------

static size_t entries(void)
{
    DIR *opened = opendir(folder);
    size_t count = 0;
    assert_non_null(opened);
    while (readdir(opened) != NULL) {
        count++;
    }
    closedir(opened);
    return count;
}

// The last parameter cannot be read.
static enum status read_broken(void *context, size_t number, uint64_t first, uint64_t count, float *values,
                               struct error *error)
{
    const struct weights *weights = context;
    return number + 1 == weights->model->parameter_count
               ? error_set(error, STATUS_ERROR, "the disk is gone")
               : weights->read(weights->context, number, first, count, values, error);
}

static void test_what_fails_leaves_nothing(void **state)
{
    (void)state;
    const struct exchange_format *const formats[] = {&exchange_checkpoint, &exchange_huggingface, &exchange_llmc};
    struct weights weights;
    open_weights(&exchange_huggingface, SAVED, &weights);
    const struct weights source = {.model = weights.model, .read = read_broken, .context = &weights};
    char path[64];
    snprintf(path, sizeof(path), "%s/new", folder);
    size_t before = entries();
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        struct error error;
        assert_int_equal(formats[i]->write(path, &source, &error), STATUS_ERROR);
        assert_string_equal(error.text, "the disk is gone");
        assert_int_equal(entries(), before);
    }
    weights_close(&weights);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_are_those_of_transformers),
        cmocka_unit_test(test_every_format_has_the_same_bits),
        cmocka_unit_test(test_pieces_are_as_the_whole),
        cmocka_unit_test(test_what_fails_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
