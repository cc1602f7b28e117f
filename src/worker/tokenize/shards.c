// SPDX-License-Identifier: Apache-2.0
#include "worker/tokenize/shards.h"

#include <assert.h>
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "mem/uint64.h"
#include "worker/regular_file.h"
#include "worker/whole_folder.h"

#define NAME       "%s_%06" PRIu64 ".bin"
#define PART       NAME ".part"
#define NUMBER_MAX 999999
#define NAME_BYTES 32 // what a name has beside the prefix

#define HEADER_FIELDS 256
#define MAGIC         20240520
#define VERSION       1

static_assert(BYTE_ORDER == LITTLE_ENDIAN, "tokens are written as they lie in memory");

struct shards {
    char *prefix, *folder;
    char *name, *part; // of the shard that was named last
    uint64_t tokens_max;
    uint64_t count;  // begun
    uint64_t named;  // with their names
    uint64_t filled; // tokens of the last one
    int descriptor;  // of the last one; negative: it is complete, or there is none
    int claim;       // of the first one, as long as this process writes shards of the prefix; negative: it does not
    bool committed;
};

static void name_shard(struct shards *shards, uint64_t number)
{
    size_t size = strlen(shards->prefix) + NAME_BYTES;
    snprintf(shards->name, size, NAME, shards->prefix, number);
    snprintf(shards->part, size, PART, shards->prefix, number);
}

// "BASE_NNNNNN.bin"
static bool is_shard(const char *name, const char *base)
{
    size_t length = strlen(base);
    uint64_t number;
    char written[NAME_BYTES];
    if (strncmp(name, base, length) != 0 || sscanf(name + length, "_%6" SCNu64, &number) != 1) {
        return false;
    }
    snprintf(written, sizeof(written), NAME, "", number);
    return strcmp(name + length, written) == 0;
}

static enum status check_folder(const struct shards *shards, const char *base, struct error *error)
{
    DIR *folder = opendir(shards->folder);
    if (folder == NULL) {
        return errno == ENOENT || errno == ENOTDIR
                   ? error_set(error, STATUS_INVALID, "%s: there is no such folder", shards->folder)
                   : regular_file_refuse(shards->folder, "read this folder", error);
    }
    enum status status = STATUS_OK;
    for (struct dirent *entry; status == STATUS_OK && (entry = readdir(folder)) != NULL;) {
        if (is_shard(entry->d_name, base)) {
            status = error_set(error, STATUS_INVALID,
                               "%s%s: is there already; remove the shards of this prefix, or choose another",
                               shards->prefix, entry->d_name + strlen(base));
        }
    }
    closedir(folder);
    return status;
}

static const char *base_of(const char *prefix)
{
    const char *slash = strrchr(prefix, '/');
    return slash == NULL ? prefix : slash + 1;
}

static bool make_names(struct shards *shards, const char *prefix)
{
    size_t size = strlen(prefix) + NAME_BYTES, folder = (size_t)(base_of(prefix) - prefix);
    shards->prefix = strdup(prefix);
    shards->folder = folder == 0 ? strdup(".") : strndup(prefix, folder > 1 ? folder - 1 : 1);
    shards->name = malloc(size);
    shards->part = malloc(size);
    return shards->prefix != NULL && shards->folder != NULL && shards->name != NULL && shards->part != NULL;
}

// No other process writes shards of the prefix as long as this one has the first one's lock. What a killed process has
// left there has none.
static enum status claim(struct shards *shards, struct error *error)
{
    name_shard(shards, 0);
    int descriptor = open(shards->part, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor < 0) {
        return regular_file_refuse(shards->part, "write", error);
    }
    if (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
        close(descriptor);
        return error_set(error, STATUS_INVALID, "%s: another process writes it", shards->part);
    }
    shards->claim = descriptor;
    return STATUS_OK;
}

enum status shards_create(const char *prefix, uint64_t tokens_max, struct shards **shards_p, struct error *error)
{
    struct shards *shards = calloc(1, sizeof(*shards));
    if (shards == NULL) {
        return error_out_of_host_memory(error);
    }
    shards->tokens_max = tokens_max;
    shards->descriptor = shards->claim = -1;
    enum status status = make_names(shards, prefix) ? STATUS_OK : error_out_of_host_memory(error);
    if (status == STATUS_OK) {
        status = check_folder(shards, base_of(prefix), error);
    }
    if (status == STATUS_OK) {
        status = claim(shards, error);
    }
    if (status == STATUS_OK) { // one that had the claim before may have named its shards since
        status = check_folder(shards, base_of(prefix), error);
    }
    if (status != STATUS_OK) {
        shards_destroy(shards);
        return status;
    }
    *shards_p = shards;
    return STATUS_OK;
}

static void remove_all(struct shards *shards)
{
    for (uint64_t i = 0; i < uint64_max(shards->count, 1) && shards->claim >= 0; i++) {
        name_shard(shards, i);
        unlink(i < shards->named ? shards->name : shards->part);
    }
}

void shards_destroy(struct shards *shards)
{
    if (shards == NULL) {
        return;
    }
    if (shards->descriptor >= 0) {
        close(shards->descriptor);
    }
    if (!shards->committed) {
        remove_all(shards);
    }
    if (shards->claim >= 0) {
        close(shards->claim);
    }
    free(shards->prefix);
    free(shards->folder);
    free(shards->name);
    free(shards->part);
    free(shards);
}

static enum status write_header(const struct shards *shards, struct error *error)
{
    const uint32_t header[HEADER_FIELDS] = {MAGIC, VERSION, (uint32_t)shards->filled};
    return lseek(shards->descriptor, 0, SEEK_SET) == 0 && regular_file_write(shards->descriptor, header, sizeof(header))
               ? STATUS_OK
               : regular_file_refuse(shards->part, "write", error);
}

static enum status begin_shard(struct shards *shards, struct error *error)
{
    if (shards->count > NUMBER_MAX) {
        return error_set(error, STATUS_INVALID, "%s: more than %d shards: each must have more tokens", shards->prefix,
                         NUMBER_MAX + 1);
    }
    name_shard(shards, shards->count);
    shards->descriptor = shards->count == 0 ? fcntl(shards->claim, F_DUPFD_CLOEXEC, 0)
                                            : open(shards->part, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (shards->descriptor < 0 || ftruncate(shards->descriptor, 0) != 0) {
        return regular_file_refuse(shards->part, "write", error);
    }
    shards->count++;
    shards->filled = 0;
    return write_header(shards, error);
}

// With the count that is known now.
static enum status end_shard(struct shards *shards, struct error *error)
{
    enum status status = write_header(shards, error);
    if (status == STATUS_OK && fsync(shards->descriptor) != 0) {
        status = regular_file_refuse(shards->part, "write", error);
    }
    int closed = close(shards->descriptor);
    shards->descriptor = -1;
    return status == STATUS_OK && closed != 0 ? regular_file_refuse(shards->part, "write", error) : status;
}

enum status shards_write(struct shards *shards, const uint16_t *tokens, uint64_t count, struct error *error)
{
    enum status status = STATUS_OK;
    while (count > 0 && status == STATUS_OK) {
        status = shards->descriptor < 0 ? begin_shard(shards, error) : STATUS_OK;
        if (status != STATUS_OK) {
            return status;
        }
        uint64_t fits = uint64_min(count, shards->tokens_max - shards->filled);
        if (!regular_file_write(shards->descriptor, tokens, fits * sizeof(*tokens))) {
            return regular_file_refuse(shards->part, "write", error);
        }
        shards->filled += fits;
        tokens += fits;
        count -= fits;
        status = shards->filled == shards->tokens_max ? end_shard(shards, error) : STATUS_OK;
    }
    return status;
}

enum status shards_commit(struct shards *shards, struct error *error)
{
    enum status status = shards->descriptor < 0 ? STATUS_OK : end_shard(shards, error);
    while (shards->named < shards->count && status == STATUS_OK) {
        name_shard(shards, shards->named);
        if (rename(shards->part, shards->name) == 0) {
            shards->named++;
        } else {
            status = regular_file_refuse(shards->name, "write", error);
        }
    }
    if (status == STATUS_OK && !whole_folder_sync(shards->folder)) {
        status = regular_file_refuse(shards->folder, "write this folder", error);
    }
    shards->committed = status == STATUS_OK;
    return status;
}

uint64_t shards_count(const struct shards *shards)
{
    return shards->count;
}
