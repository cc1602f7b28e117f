// SPDX-License-Identifier: Apache-2.0
//
// What reads files, from bytes that libFuzzer finds: each of the readers below in a program of its own, which READER
// names. A file is refused with one line, or it is read to its end.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include <jansson.h>

#include "require.h"
#include "worker/checkpoint/folder.h"
#include "worker/checkpoint/safetensors.h"
#include "worker/data/data.h"
#include "worker/exchange/weights.h"

#define PATH_MAX_BYTES 64

struct require_place require_place = {.name = "a reader"};

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

// A file in memory, with a path while its descriptor is open.
struct file {
    int descriptor;
    char path[PATH_MAX_BYTES];
};

static struct file make_file(const uint8_t *bytes, size_t size)
{
    struct file file = {.descriptor = memfd_create("fuzz", MFD_CLOEXEC)};
    require(file.descriptor >= 0);
    require(write(file.descriptor, bytes, size) == (ssize_t)size);
    snprintf(file.path, sizeof(file.path), "/proc/self/fd/%d", file.descriptor);
    return file;
}

static void require_line(const struct error *error, enum status status)
{
    require(error->status == status && status != STATUS_OK);
    require(error->text[0] != '\0' && strchr(error->text, '\n') == NULL);
}

static void read_all(const struct data_set *set)
{
    struct error error;
    void *input = malloc(set->shape.input_count * 4);
    int32_t *targets = malloc(set->shape.target_count * sizeof(*targets));
    require(input != NULL && targets != NULL);
    for (uint64_t i = 0; i < set->samples && i < 100; i++) {
        uint64_t index = i < 50 ? i : set->samples - 1 - (i - 50) % set->samples;
        enum status status = set->ops->read(set, index, input, targets, &error);
        if (status != STATUS_OK) {
            require_line(&error, status);
        }
        require(set->ops->length == NULL || set->ops->length(set, index) >= 1);
    }
    free(targets);
    free(input);
}

static void open_data(const struct config *config)
{
    struct data_set *set = NULL;
    struct error error;
    enum status status = data_open(config, DATA_TRAIN, &set, &error);
    if (status == STATUS_OK) {
        read_all(set);
        data_close(set);
    } else {
        require_line(&error, status);
    }
}

// Two files, of which the first two bytes tell the length of the first.
static void read_pair(enum config_data kind, const uint8_t *bytes, size_t size)
{
    size_t start = size < 2 ? size : 2, promised = size < 2 ? 0 : bytes[0] + 256 * (size_t)bytes[1];
    size_t first = promised < size - start ? promised : size - start;
    struct file images = make_file(bytes + start, first);
    struct file labels = make_file(bytes + start + first, size - start - first);
    struct config config = {
        .model = {.kind = CONFIG_MODEL_MLP, .layers = {6, 10}, .layers_count = 2},
        .data = {.kind = kind, .images = images.path, .labels = labels.path, .pack = true},
    };
    open_data(&config);
    close(images.descriptor);
    close(labels.descriptor);
}

static void __attribute__((unused)) read_idx(const uint8_t *bytes, size_t size)
{
    read_pair(CONFIG_DATA_IDX, bytes, size);
}

static void __attribute__((unused)) read_npy(const uint8_t *bytes, size_t size)
{
    read_pair(CONFIG_DATA_NPY, bytes, size);
}

// Windows, and documents.
static void __attribute__((unused)) read_tokens(const uint8_t *bytes, size_t size)
{
    struct file file = make_file(bytes, size);
    struct config config = {
        .model = {.kind = CONFIG_MODEL_GPT, .vocab_size = 1000, .seq_len = 4},
        .data = {.kind = CONFIG_DATA_TOKENS, .path = file.path, .pack = true, .end_of_text = 7},
    };
    open_data(&config);
    config.data.pack = false;
    open_data(&config);
    close(file.descriptor);
}

static void __attribute__((unused)) read_text(const uint8_t *bytes, size_t size)
{
    struct file file = make_file(bytes, size);
    struct config config = {
        .model = {.kind = CONFIG_MODEL_GPT, .vocab_size = 256, .seq_len = 4},
        .data = {.kind = CONFIG_DATA_TEXT, .path = file.path, .pack = size % 2 == 0, .validation_fraction = 0.25},
    };
    open_data(&config);
    close(file.descriptor);
}

static void __attribute__((unused)) read_safetensors(const uint8_t *bytes, size_t size)
{
    struct file file = make_file(bytes, size);
    struct safetensors *tensors;
    struct error error;
    enum status status = safetensors_open(file.path, &tensors, &error);
    if (status != STATUS_OK) {
        require_line(&error, status);
        close(file.descriptor);
        return;
    }
    for (size_t i = 0; i < safetensors_count(tensors); i++) {
        const struct safetensors_tensor *tensor = safetensors_at(tensors, i);
        float values[16];
        uint64_t count = tensor->elements < 16 ? tensor->elements : 16;
        require(safetensors_find(tensors, tensor->name) != NULL);
        if (tensor->type != SAFETENSORS_OTHER) {
            require(safetensors_read(tensors, tensor, tensor->elements - count, count, values, &error) == STATUS_OK);
        }
    }
    safetensors_close(tensors);
    close(file.descriptor);
}

// With a sum that is right, where it is a state at all.
static char *sum_state(const uint8_t *bytes, size_t size)
{
    json_t *state = json_loadb((const char *)bytes, size, 0, NULL);
    char *compact = state == NULL ? NULL : json_dumps(state, JSON_COMPACT | JSON_SORT_KEYS), *text = NULL;
    if (compact != NULL) {
        unsigned long long sum = XXH3_64bits(compact, strlen(compact));
        require(asprintf(&text, "{\"state\": %s, \"xxh3\": \"%016llx\"}", compact, sum) > 0);
    }
    free(compact);
    json_decref(state);
    return text != NULL ? text : strndup((const char *)bytes, size);
}

// state.json of a checkpoint without files.
static void __attribute__((unused)) read_state(const uint8_t *bytes, size_t size)
{
    static char folder[] = "/tmp/headroom-fuzz-XXXXXX";
    static bool made;
    char path[PATH_MAX_BYTES], found[CHECKPOINT_PATH_MAX];
    struct checkpoint_state state;
    struct error error;
    made = made || mkdtemp(folder) != NULL;
    snprintf(path, sizeof(path), "%s/state.json", folder);
    FILE *file = fopen(path, "w");
    char *text = sum_state(bytes, size);
    require(file != NULL && text != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
    free(text);
    enum status status = checkpoint_find(folder, stderr, found, &state, &error);
    if (status == STATUS_OK) {
        free(state.plan);
    } else {
        require_line(&error, status);
    }
    unlink(path);
}

static void open_weights(const struct exchange_format *format, const char *path)
{
    struct weights weights;
    struct error error;
    enum status status = format->open(path, &weights, &error);
    if (status != STATUS_OK) {
        require_line(&error, status);
        return;
    }
    for (size_t i = 0; i < weights.model->parameter_count; i++) {
        const struct parameter *parameter = &weights.model->parameters[i];
        uint64_t elements = parameter->rows_used * parameter->columns, count = elements < 16 ? elements : 16;
        float values[16];
        require(weights.read(weights.context, i, elements - count, count, values, &error) == STATUS_OK);
    }
    weights_close(&weights);
}

static void write_in(const char *folder, const char *name, const uint8_t *bytes, size_t size)
{
    char path[PATH_MAX_BYTES];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    require(file != NULL && fwrite(bytes, 1, size, file) == size && fclose(file) == 0);
}

// config.json, and either the weights or, where it is JSON, the index of files that are not there. The first two bytes
// tell the length of the first.
static void __attribute__((unused)) read_huggingface(const uint8_t *bytes, size_t size)
{
    static char folder[] = "/tmp/headroom-fuzz-XXXXXX";
    static bool made;
    size_t start = size < 2 ? size : 2, promised = size < 2 ? 0 : bytes[0] + 256 * (size_t)bytes[1];
    size_t first = promised < size - start ? promised : size - start;
    const uint8_t *second = bytes + start + first;
    bool is_index = start + first < size && second[0] == '{';
    char path[PATH_MAX_BYTES];
    made = made || mkdtemp(folder) != NULL;
    write_in(folder, "config.json", bytes + start, first);
    write_in(folder, is_index ? "model.safetensors.index.json" : "model.safetensors", second, size - start - first);
    open_weights(&exchange_huggingface, folder);
    snprintf(path, sizeof(path), "%s/model.safetensors", folder);
    unlink(path);
}

static void __attribute__((unused)) read_llmc(const uint8_t *bytes, size_t size)
{
    struct file file = make_file(bytes, size);
    open_weights(&exchange_llmc, file.path);
    close(file.descriptor);
}

static void __attribute__((unused)) read_yaml(const uint8_t *bytes, size_t size)
{
    char *text = malloc(size + 1);
    struct config config;
    struct error error;
    require(text != NULL);
    memcpy(text, bytes, size);
    text[size] = '\0';
    enum status status = config_parse(&config, text, "fuzz.yaml", NULL, 0, &error);
    if (status == STATUS_OK) {
        char *printed = config_print(&config);
        require(printed != NULL);
        free(printed);
        config_finish(&config);
    } else {
        require_line(&error, status);
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    READER(bytes, size);
    return 0;
}
