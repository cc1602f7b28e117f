// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/hashed_file.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "mem/uint64.h"
#include "worker/regular_file.h"

#define PIECE_BYTES (1 << 20)

struct hashed_file {
    char *path;
    int descriptor;
    uint64_t bytes;
    XXH3_state_t *hash;
};

static void destroy(struct hashed_file *file)
{
    if (file->descriptor >= 0) {
        close(file->descriptor);
    }
    XXH3_freeState(file->hash);
    free(file->path);
    free(file);
}

enum status hashed_file_create(const char *path, struct hashed_file **file_p, struct error *error)
{
    struct hashed_file *file = calloc(1, sizeof(*file));
    if (file == NULL) {
        return error_out_of_host_memory(error);
    }
    file->descriptor = -1;
    file->path = strdup(path);
    file->hash = XXH3_createState();
    if (file->path == NULL || file->hash == NULL) {
        destroy(file);
        return error_out_of_host_memory(error);
    }
    XXH3_64bits_reset(file->hash);
    file->descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file->descriptor < 0) {
        enum status status = regular_file_refuse(path, "write", error);
        destroy(file);
        return status;
    }
    *file_p = file;
    return STATUS_OK;
}

enum status hashed_file_write(struct hashed_file *file, const void *bytes, size_t count, struct error *error)
{
    XXH3_64bits_update(file->hash, bytes, count);
    file->bytes += count;
    return regular_file_write(file->descriptor, bytes, count) ? STATUS_OK
                                                              : regular_file_refuse(file->path, "write", error);
}

enum status hashed_file_finish(struct hashed_file *file, struct file_sum *sum_p, struct error *error)
{
    bool written = fsync(file->descriptor) == 0;
    int descriptor = file->descriptor;
    file->descriptor = -1;
    written = close(descriptor) == 0 && written;
    *sum_p = (struct file_sum){.bytes = file->bytes, .xxh3 = XXH3_64bits_digest(file->hash)};
    enum status status = written ? STATUS_OK : regular_file_refuse(file->path, "write", error);
    destroy(file);
    return status;
}

void hashed_file_abandon(struct hashed_file *file)
{
    destroy(file);
}

enum status hashed_file_write_text(const char *path, const char *text, struct file_sum *sum_p, struct error *error)
{
    struct hashed_file *file = NULL;
    enum status status = hashed_file_create(path, &file, error);
    if (file == NULL) {
        return status;
    }
    status = hashed_file_write(file, text, strlen(text), error);
    if (status != STATUS_OK) {
        hashed_file_abandon(file);
        return status;
    }
    return hashed_file_finish(file, sum_p, error);
}

static enum status sum_pieces(int descriptor, uint64_t bytes, const char *path, void *piece, XXH3_state_t *hash,
                              struct progress *progress, struct file_sum *sum_p, struct error *error)
{
    XXH3_64bits_reset(hash);
    *sum_p = (struct file_sum){0};
    for (uint64_t found = 1; sum_p->bytes < bytes && found > 0; sum_p->bytes += found) {
        uint64_t most = uint64_min(PIECE_BYTES, bytes - sum_p->bytes);
        if (!regular_file_read(descriptor, sum_p->bytes, most, piece, &found)) {
            return regular_file_refuse(path, "read", error);
        }
        XXH3_64bits_update(hash, piece, found);
        progress_add(progress, found);
    }
    sum_p->xxh3 = XXH3_64bits_digest(hash);
    return STATUS_OK;
}

enum status file_sum(const char *path, struct progress *progress, struct file_sum *sum_p, struct error *error)
{
    int descriptor;
    uint64_t bytes;
    enum status status = regular_file_open(path, &descriptor, &bytes, error);
    if (status != STATUS_OK) {
        return status;
    }
    void *piece = malloc(PIECE_BYTES);
    XXH3_state_t *hash = XXH3_createState();
    status = piece == NULL || hash == NULL ? error_out_of_host_memory(error)
                                           : sum_pieces(descriptor, bytes, path, piece, hash, progress, sum_p, error);
    XXH3_freeState(hash);
    free(piece);
    close(descriptor);
    return status;
}
