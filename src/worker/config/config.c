// SPDX-License-Identifier: Apache-2.0
#include "worker/config/config.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "worker/config/check.h"
#include "worker/config/schema.h"
#include "worker/config/value.h"
#include "worker/config/yaml.h"

// "configs/quick.yaml" runs in "runs/quick".
static enum status name_run_folder(struct config *config, struct error *error)
{
    if (config->run.folder != NULL) {
        return STATUS_OK;
    }
    const char *slash = strrchr(config->name, '/');
    const char *base = slash != NULL ? slash + 1 : config->name;
    const char *point = strrchr(base, '.');
    int length = (int)(point != NULL && point != base ? (size_t)(point - base) : strlen(base));
    if (asprintf(&config->run.folder, "runs/%.*s", length, base) < 0) {
        config->run.folder = NULL;
        return error_set(error, STATUS_ERROR, "out of memory");
    }
    return STATUS_OK;
}

enum status config_parse(struct config *config, const char *text, const char *name, char *const *overrides,
                         size_t count, struct error *error)
{
    *config = (struct config){.name = name};
    struct config_reader reader = {&config_schema, config, config->places, error};
    enum status status = config_yaml_defaults(&reader);
    if (status == STATUS_OK) {
        status = config_yaml_file(&reader, name, text);
    }
    for (size_t i = 0; status == STATUS_OK && i < count; i++) {
        status = config_yaml_override(&reader, overrides[i]);
    }
    if (status == STATUS_OK) {
        status = config_check(config, error);
    }
    if (status == STATUS_OK) {
        status = name_run_folder(config, error);
    }
    if (status != STATUS_OK) {
        config_finish(config);
    }
    return status;
}

enum status config_read(struct config *config, const char *path, char *const *overrides, size_t count,
                        struct error *error)
{
    char *text = NULL;
    enum status status = config_yaml_read(path, &text, error);
    if (status != STATUS_OK) {
        return status;
    }
    status = config_parse(config, text, path, overrides, count, error);
    free(text);
    return status;
}

void config_finish(struct config *config)
{
    for (size_t i = 0; i < config_keys_count; i++) {
        if (config_keys[i].type == CONFIG_TYPE_TEXT) {
            char **text = (void *)((char *)config + config_keys[i].offset);
            free(*text);
        }
    }
    *config = (struct config){0};
}

static void print_list(const struct config_key *key, const struct config *config, FILE *file)
{
    const char *values = (const char *)config + key->offset;
    size_t count;
    memcpy(&count, (const char *)config + key->count_offset, sizeof(count));
    fputc('[', file);
    for (size_t i = 0; i < count; i++) {
        fputs(i > 0 ? ", " : "", file);
        config_value_print(key, values + i * config_value_size(key), file);
    }
    fputc(']', file);
}

// Writes a line for the section where `key` is its first.
static void print_section(const struct config_key *key, FILE *file)
{
    int length = (int)(config_key_name(key) - key->path) - 1;
    if (key == config_keys || strncmp(key->path, key[-1].path, (size_t)length + 1) != 0) {
        fprintf(file, "%.*s:\n", length, key->path);
    }
}

static void print_value(const struct config_key *key, const struct config *config, FILE *file)
{
    if (key->list_max != 0) {
        print_list(key, config, file);
    } else {
        config_value_print(key, (const char *)config + key->offset, file);
    }
}

char *config_print(const struct config *config)
{
    char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    if (file == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < config_keys_count; i++) {
        const struct config_key *key = &config_keys[i];
        print_section(key, file);
        fprintf(file, "  %s: ", config_key_name(key));
        print_value(key, config, file);
        fputc('\n', file);
    }
    bool failed = ferror(file) != 0;
    if (fclose(file) != 0 || failed) {
        free(text);
        return NULL;
    }
    return text;
}

void config_print_help(const struct config_schema *schema, FILE *file)
{
    for (size_t i = 0; i < schema->count; i++) {
        const struct config_key *key = &schema->keys[i];
        fprintf(file, "%-29s %s (%s: ", key->path, key->help, config_type_name(key->type));
        config_value_print_allowed(key, file);
        fprintf(file, "; %s%s)\n", key->fallback != NULL ? "default " : "required",
                key->fallback != NULL ? key->fallback : "");
    }
}

static const struct config_key *find_key(const char *path)
{
    size_t i = 0;
    while (i < config_keys_count && strcmp(config_keys[i].path, path) != 0) {
        i++;
    }
    assert(i < config_keys_count);
    return &config_keys[i];
}

static bool says_otherwise(const struct config *a, const struct config *b, const struct config_key *key)
{
    char *texts[2] = {NULL, NULL};
    const struct config *configs[2] = {a, b};
    for (size_t i = 0; i < 2; i++) {
        size_t size;
        FILE *file = open_memstream(&texts[i], &size);
        if (file != NULL) {
            print_value(key, configs[i], file);
            fclose(file);
        }
    }
    bool differs = texts[0] != NULL && texts[1] != NULL && strcmp(texts[0], texts[1]) != 0;
    free(texts[0]);
    free(texts[1]);
    return differs;
}

const char *config_difference(const struct config *a, const struct config *b, const char *const *paths)
{
    while (*paths != NULL && !says_otherwise(a, b, find_key(*paths))) {
        paths++;
    }
    return *paths;
}

enum config_recompute config_all_levers(const struct config *config)
{
    bool rounds_anew = config->train.reproducible && config->train.precision == CONFIG_BF16;
    if (config->model.kind != CONFIG_MODEL_GPT || config->train.recompute == CONFIG_RECOMPUTE_OFFLOAD) {
        return config->train.recompute;
    }
    return rounds_anew ? CONFIG_RECOMPUTE_OFFLOAD : CONFIG_RECOMPUTE_AUTO;
}
