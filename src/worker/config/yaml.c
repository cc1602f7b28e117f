// SPDX-License-Identifier: Apache-2.0
#include "worker/config/yaml.h"

#include <errno.h>
#include <fcntl.h>
#include <libfyaml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/config/config.h"
#include "worker/config/document.h"
#include "worker/config/value.h"

// The keys of one mapping, and where their values go.
struct group {
    const char *section; // the path of the keys up to their last point
    const struct config_key *keys;
    size_t count;
    void *values;                // offsets of keys count from here
    struct config_place *places; // of each key, noted when it is read
};

static enum status refuse_file(const char *path, struct error *error)
{
    return error_set(error, errno == ENOENT ? STATUS_INVALID : STATUS_ERROR, "%s: %s", path, strerror(errno));
}

// Does not wait for a FIFO.
static enum status open_file(const char *path, FILE **file_p, struct error *error)
{
    int opened = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (opened < 0) {
        return refuse_file(path, error);
    }
    struct stat about;
    if (fstat(opened, &about) == 0 && !S_ISREG(about.st_mode)) {
        close(opened);
        return error_set(error, STATUS_INVALID, "%s: is not a regular file", path);
    }
    fcntl(opened, F_SETFL, 0);
    *file_p = fdopen(opened, "r");
    if (*file_p == NULL) {
        enum status status = refuse_file(path, error);
        close(opened);
        return status;
    }
    return STATUS_OK;
}

enum status config_yaml_read(const char *path, char **text_p, struct error *error)
{
    FILE *file = NULL;
    enum status status = open_file(path, &file, error);
    if (status != STATUS_OK) {
        return status;
    }
    char *text = NULL;
    size_t capacity = 0;
    errno = 0;
    ssize_t length = getdelim(&text, &capacity, '\0', file);
    if (length < 0 && !feof(file)) {
        status = refuse_file(path, error);
    } else if (length <= 0) {
        status = error_set(error, STATUS_INVALID, "%s: the file is empty", path);
    } else if (text[length - 1] == '\0') {
        status = error_set(error, STATUS_INVALID, "%s: a configuration is text, but byte %zd is zero", path, length);
    }
    fclose(file);
    if (status != STATUS_OK) {
        free(text);
        return status;
    }
    *text_p = text;
    return STATUS_OK;
}

static bool in_section(const struct config_key *key, const char *section)
{
    size_t length = strlen(section);
    return strncmp(key->path, section, length) == 0 && config_key_name(key) == key->path + length + 1;
}

static enum status refuse_key(struct error *error, const struct config_place *place, const struct group *group,
                              const char *name)
{
    const char *names[CONFIG_KEYS_MAX + 1] = {NULL};
    size_t count = 0;
    for (size_t i = 0; i < group->count; i++) {
        if (in_section(&group->keys[i], group->section)) {
            names[count++] = config_key_name(&group->keys[i]);
        }
    }
    return config_refuse_name(error, place, group->section, "key", name, names);
}

static enum status refuse_section(const struct config_reader *reader, const struct config_place *place,
                                  const char *name)
{
    return config_refuse_name(reader->error, place, NULL, "section", name, reader->schema->sections);
}

static bool is_section(const struct config_schema *schema, const char *name)
{
    const char *const *section = schema->sections;
    while (*section != NULL && strcmp(*section, name) != 0) {
        section++;
    }
    return *section != NULL;
}

static struct group section_group(struct config_reader *reader, const char *section)
{
    return (struct group){section, reader->schema->keys, reader->schema->count, reader->values, reader->places};
}

static const struct config_key *find_key(const struct group *group, const char *name)
{
    for (size_t i = 0; i < group->count; i++) {
        const struct config_key *key = &group->keys[i];
        if (in_section(key, group->section) && strcmp(config_key_name(key), name) == 0) {
            return key;
        }
    }
    return NULL;
}

// The node's own place where the parser knows one, else that of the key it belongs to.
static struct config_place node_place(struct fy_node *node, const struct config_place *key_place)
{
    struct config_place place = *key_place;
    const struct fy_mark *mark = NULL;
    if (place.override == NULL && fy_node_is_scalar(node)) {
        mark = fy_token_start_mark(fy_node_get_scalar_token(node));
    }
    if (mark != NULL) {
        place.line = (unsigned)mark->line + 1;
        place.column = (unsigned)mark->column + 1;
    }
    return place;
}

// The node's text, or NULL where it has none that a C string can hold. The document owns it.
static const char *node_text(struct fy_node *node)
{
    size_t length = 0;
    if (!fy_node_is_scalar(node) || fy_node_is_alias(node) || fy_node_is_null(node) ||
        fy_node_get_scalar(node, &length) == NULL) {
        return NULL;
    }
    const char *text = fy_node_get_scalar0(node);
    return text != NULL && strlen(text) == length ? text : NULL;
}

static const char *describe_node(struct fy_node *node)
{
    if (fy_node_is_null(node)) {
        return "nothing";
    }
    if (fy_node_is_alias(node)) {
        return "an alias";
    }
    if (!fy_node_is_scalar(node)) {
        return fy_node_is_mapping(node) ? "a mapping" : "a list";
    }
    return node_text(node) != NULL ? "one value" : "a text with a zero byte";
}

static enum status read_scalar(struct config_reader *reader, const struct config_key *key, struct fy_node *node,
                               void *value, const struct config_place *key_place)
{
    struct config_place place = node_place(node, key_place);
    const char *text = node_text(node);
    if (text == NULL) {
        return config_refuse_value(reader->error, &place, key, describe_node(node),
                                   "stands where one value is expected");
    }
    bool quoted = fy_node_get_style(node) != FYNS_PLAIN;
    const char *complaint = config_value_scan(key, text, quoted, value);
    if (complaint == NULL) {
        return STATUS_OK;
    }
    char quotation[84];
    snprintf(quotation, sizeof(quotation), "'%.76s'", text);
    return config_refuse_value(reader->error, &place, key, quotation, complaint);
}

static enum status read_value(struct config_reader *reader, const struct config_key *key, struct fy_node *node,
                              void *values, const struct config_place *place);

static enum status read_mapping(struct config_reader *reader, const struct group *group, struct fy_node *node,
                                const struct config_place *outer)
{
    void *position = NULL;
    for (struct fy_node_pair *pair; (pair = fy_node_mapping_iterate(node, &position)) != NULL;) {
        struct config_place place = node_place(fy_node_pair_key(pair), outer);
        const char *name = node_text(fy_node_pair_key(pair));
        const struct config_key *key = name != NULL ? find_key(group, name) : NULL;
        if (key == NULL) {
            return refuse_key(reader->error, &place, group, name != NULL ? name : "?");
        }
        enum status status = read_value(reader, key, fy_node_pair_value(pair), group->values, &place);
        if (status != STATUS_OK) {
            return status;
        }
        group->places[key - group->keys] = place;
    }
    return STATUS_OK;
}

static enum status read_neighbour(struct config_reader *reader, const struct config_key *list, struct fy_node *node,
                                  void *value, const struct config_place *place)
{
    if (!fy_node_is_mapping(node)) {
        return config_refuse_value(reader->error, place, list, describe_node(node),
                                   "stands where a mapping is expected");
    }
    struct config_place places[CONFIG_NEIGHBOUR_KEYS_MAX] = {0};
    struct group group = {list->path, config_neighbour_keys, CONFIG_NEIGHBOUR_KEYS_MAX, value, places};
    enum status status = read_mapping(reader, &group, node, place);
    for (size_t i = 0; status == STATUS_OK && i < group.count; i++) {
        if (places[i].file == NULL && places[i].override == NULL) {
            status = config_refuse_value(reader->error, place, &group.keys[i], config_key_name(&group.keys[i]),
                                         "is missing");
        }
    }
    return status;
}

static enum status read_one(struct config_reader *reader, const struct config_key *key, struct fy_node *node,
                            void *value, const struct config_place *place)
{
    if (key->type == CONFIG_TYPE_NEIGHBOUR) {
        return read_neighbour(reader, key, node, value, place);
    }
    return read_scalar(reader, key, node, value, place);
}

// A list of one may be written as the value alone.
static enum status read_list(struct config_reader *reader, const struct config_key *key, struct fy_node *node,
                             char *values, size_t *count_p, const struct config_place *place)
{
    size_t size = config_value_size(key);
    size_t count = fy_node_is_sequence(node) ? (size_t)fy_node_sequence_item_count(node) : 1;
    if (count > key->list_max) {
        return config_refuse_value(reader->error, place, key, "a list", "is too long");
    }
    memset(values, 0, key->list_max * size);
    for (size_t i = 0; i < count; i++) {
        struct fy_node *item = fy_node_is_sequence(node) ? fy_node_sequence_get_by_index(node, (int)i) : node;
        enum status status = read_one(reader, key, item, values + i * size, place);
        if (status != STATUS_OK) {
            return status;
        }
    }
    *count_p = count;
    return STATUS_OK;
}

static enum status read_value(struct config_reader *reader, const struct config_key *key, struct fy_node *node,
                              void *values, const struct config_place *place)
{
    char *value = (char *)values + key->offset;
    if (key->list_max == 0) {
        return read_one(reader, key, node, value, place);
    }
    void *count = (char *)values + key->count_offset;
    return read_list(reader, key, node, value, count, place);
}

static enum status read_section(struct config_reader *reader, struct fy_node *name_node, struct fy_node *node,
                                const struct config_place *file_place)
{
    struct config_place place = node_place(name_node, file_place);
    const char *name = node_text(name_node);
    if (name == NULL || !is_section(reader->schema, name)) {
        return refuse_section(reader, &place, name != NULL ? name : "?");
    }
    if (fy_node_is_null(node)) {
        return STATUS_OK; // all its keys are commented out
    }
    if (!fy_node_is_mapping(node)) {
        return config_refuse(reader->error, &place, name, "a section is a mapping of keys to values");
    }
    struct group group = section_group(reader, name);
    return read_mapping(reader, &group, node, &place);
}

static enum status read_sections(struct config_reader *reader, struct fy_node *root, const struct config_place *place)
{
    if (fy_node_is_null(root)) {
        return STATUS_OK; // an empty file
    }
    if (!fy_node_is_mapping(root)) {
        return config_refuse(reader->error, place, NULL, "a configuration is a mapping of sections");
    }
    void *position = NULL;
    enum status status = STATUS_OK;
    for (struct fy_node_pair *pair; status == STATUS_OK && (pair = fy_node_mapping_iterate(root, &position)) != NULL;) {
        status = read_section(reader, fy_node_pair_key(pair), fy_node_pair_value(pair), place);
    }
    return status;
}

enum status config_yaml_file(struct config_reader *reader, const char *name, const char *text)
{
    struct config_place place = {.file = name};
    struct config_document document;
    enum status status = config_document_open(&document, text, &place, reader->error);
    if (status == STATUS_OK) {
        status = read_sections(reader, document.root, &place);
    }
    config_document_close(&document);
    return status;
}

static enum status read_text(struct config_reader *reader, const struct config_key *key, const char *text,
                             const struct config_place *place)
{
    struct config_document document;
    enum status status = config_document_open(&document, text, place, reader->error);
    if (status == STATUS_OK) {
        status = read_value(reader, key, document.root, reader->values, place);
    }
    config_document_close(&document);
    return status;
}

enum status config_yaml_override(struct config_reader *reader, const char *override)
{
    struct config_place place = {.override = override};
    char path[64]; // longer than any key's
    const char *value = strchr(override, '=');
    int path_length = value != NULL ? (int)(value - override) : 0;
    snprintf(path, sizeof(path), "%.*s", path_length, override);
    char *point = strchr(path, '.');
    if (point == NULL) {
        return config_refuse(reader->error, &place, NULL, "an override is written section.key=value");
    }
    *point = '\0';
    if (!is_section(reader->schema, path)) {
        return refuse_section(reader, &place, path);
    }
    struct group group = section_group(reader, path);
    const struct config_key *key = find_key(&group, point + 1);
    if (key == NULL) {
        return refuse_key(reader->error, &place, &group, point + 1);
    }
    reader->places[key - reader->schema->keys] = place;
    return read_text(reader, key, value + 1, &place);
}

enum status config_yaml_defaults(struct config_reader *reader)
{
    struct config_place place = {.file = "defaults"};
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < reader->schema->count; i++) {
        const struct config_key *key = &reader->schema->keys[i];
        if (key->fallback != NULL) {
            status = read_text(reader, key, key->fallback, &place);
        }
    }
    return status;
}
