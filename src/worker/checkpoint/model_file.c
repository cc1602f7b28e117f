// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/model_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct safetensors_item *model_file_items(const struct model *model)
{
    struct safetensors_item *items = calloc(model->parameter_count, sizeof(*items));
    for (size_t i = 0; items != NULL && i < model->parameter_count; i++) {
        items[i].name = model->parameters[i].name;
        items[i].dimensions = model_parameter_shape(&model->parameters[i], items[i].shape);
    }
    return items;
}

static enum status differs(const struct safetensors *file, const char *tensor, const char *found, const char *expected,
                           struct error *error)
{
    return error_set(error, STATUS_INVALID, "%s: is of another model: %s is %s, the configuration's is %s",
                     safetensors_path(file), tensor, found, expected);
}

#define SHAPE_TEXT_MAX (SAFETENSORS_DIMENSIONS_MAX * 22 + 3)

static void print_shape(size_t dimensions, const uint64_t *shape, char text[SHAPE_TEXT_MAX])
{
    size_t used = (size_t)snprintf(text, SHAPE_TEXT_MAX, "[");
    for (size_t i = 0; i < dimensions; i++) {
        used += (size_t)snprintf(text + used, SHAPE_TEXT_MAX - used, "%s%" PRIu64, i == 0 ? "" : ", ", shape[i]);
    }
    snprintf(text + used, SHAPE_TEXT_MAX - used, "]");
}

enum status model_file_check_tensor(const struct safetensors *file, const struct safetensors_tensor *tensor,
                                    const struct safetensors_item *expected, struct error *error)
{
    char found[SHAPE_TEXT_MAX], shape[SHAPE_TEXT_MAX];
    print_shape(expected->dimensions, expected->shape, shape);
    if (tensor == NULL) {
        return differs(file, expected->name, "not there", shape, error);
    }
    print_shape(tensor->dimensions, tensor->shape, found);
    if (strcmp(found, shape) != 0) {
        return differs(file, expected->name, found, shape, error);
    }
    if (tensor->type == SAFETENSORS_OTHER) {
        return differs(file, expected->name, "of a type that is no real number", "F32, F16 or BF16", error);
    }
    return STATUS_OK;
}

enum status model_file_check(const struct safetensors *file, const struct model *model, struct error *error)
{
    struct safetensors_item *items = model_file_items(model);
    enum status status = STATUS_OK;
    if (items == NULL) {
        return error_out_of_host_memory(error);
    }
    for (size_t i = 0; i < model->parameter_count && status == STATUS_OK; i++) {
        status = model_file_check_tensor(file, safetensors_find(file, items[i].name), &items[i], error);
    }
    free(items);
    if (status == STATUS_OK && safetensors_count(file) > model->parameter_count) {
        return error_set(error, STATUS_INVALID, "%s: is of another model: it has %zu tensors, the configuration's %zu",
                         safetensors_path(file), safetensors_count(file), model->parameter_count);
    }
    return status;
}
