// SPDX-License-Identifier: Apache-2.0
//
// Files of named tensors in the safetensors format (https://github.com/huggingface/safetensors, "Format"): the length
// of the header as a little-endian uint64, the header in JSON, then the tensors' bytes one after the other.
//
// Threads: a file that was opened may be read by any number of threads. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_CHECKPOINT_SAFETENSORS_H
#define HEADROOM_WORKER_CHECKPOINT_SAFETENSORS_H

#include <stdbool.h>

#include "worker/checkpoint/hashed_file.h"

#define SAFETENSORS_DIMENSIONS_MAX 8

enum safetensors_type { SAFETENSORS_F32, SAFETENSORS_F16, SAFETENSORS_BF16, SAFETENSORS_OTHER };

struct safetensors_tensor {
    char *name;
    enum safetensors_type type;
    size_t dimensions;
    uint64_t shape[SAFETENSORS_DIMENSIONS_MAX];
    uint64_t elements;             // the product of the shape
    uint64_t first_byte, end_byte; // behind the header
};

struct safetensors;

// Checks the whole header: lengths and shapes agree, tensors lie side by side and fill the file, no name is there
// twice. STATUS_INVALID with a line naming file and fault where that is not so or there is no such file, STATUS_ERROR
// where it cannot be read. The caller closes what was opened; close accepts NULL.
enum status safetensors_open(const char *path, struct safetensors **file_p, struct error *error);
void safetensors_close(struct safetensors *file);
const char *safetensors_path(const struct safetensors *file);

size_t safetensors_count(const struct safetensors *file);
// In the order of the header.
const struct safetensors_tensor *safetensors_at(const struct safetensors *file, size_t number);
// NULL: there is no such tensor.
const struct safetensors_tensor *safetensors_find(const struct safetensors *file, const char *name);

// Reads elements [first, first + count) of a tensor of F32, F16 or BF16, as float32. STATUS_ERROR where the file has
// become shorter or cannot be read.
enum status safetensors_read(const struct safetensors *file, const struct safetensors_tensor *tensor, uint64_t first,
                             uint64_t count, float *values, struct error *error);

// What is to be written: a tensor of float32.
struct safetensors_item {
    const char *name;
    size_t dimensions;
    uint64_t shape[SAFETENSORS_DIMENSIONS_MAX];
};
// Gives elements [first, first + count) of item `number`; of an item they are asked for in order. On failure nothing
// more is.
typedef enum status safetensors_source(void *context, size_t number, uint64_t first, uint64_t count, float *values,
                                       struct error *error);

// Writes a file that is not there yet, and waits until it is on the disk. On failure what there is of it is of no use.
enum status safetensors_write(const char *path, const struct safetensors_item *items, size_t count,
                              safetensors_source *source, void *context, struct file_sum *sum_p, struct error *error);

#endif
